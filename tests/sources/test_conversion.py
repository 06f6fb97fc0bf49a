"""Published records turned into samples: by hand, as properties, and with every kind of damage."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.data.longalign import read_samples
from gateau_lib.sources import conversion
from gateau_lib.study.errors import DataError


def convert(records: list[Any], kind: str, name: str = "set.json") -> tuple[list[Any], dict[str, Any]]:
    """The samples of records, and the counts."""
    with TemporaryDirectory() as folder:
        path, out = Path(folder) / name, Path(folder) / "samples.jsonl"
        path.write_text(json.dumps(records))
        counts = conversion.convert([path], kind, "set", out)
        return (read_samples(out) if counts["kept"] else []), counts


def long_record(
    user: str = "A document.\n\nA question?", answer: str = "An answer.", **more: Any
) -> dict[str, Any]:
    return {
        "id": "a",
        "length": 9,
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
    } | more


def talk(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"id": "a", "conversations": [{"from": role, "value": text} for role, text in turns]} | more


def test_longalign_record_by_hand():
    (sample,), counts = convert([long_record("One.\n\nTwo.\n\nWhat?", "That.")], "long")
    assert (sample.id, sample.context, sample.instruction, sample.response) == (
        "a",
        "One.\n\nTwo.",
        "What?",
        "That.",
    )
    assert sample.source == "set" and counts == {
        "read": 1,
        "kept": 1,
        "cut to first exchange": 0,
        "dropped": {},
    }


def test_sharegpt_conversation_by_hand():
    record = talk(("human", "Hello?\n\nWell?"), ("gpt", "Hi."), ("human", "And?"), ("gpt", "No."))
    (sample,), counts = convert([record], "short")
    assert (sample.context, sample.instruction, sample.response) == ("", "Hello?\n\nWell?", "Hi.")
    assert counts["kept"] == counts["cut to first exchange"] == 1


def test_long_conversations_are_cut_to_their_first_exchange_and_counted():
    """LongAlign's records have one exchange; what else is read as one must be known."""
    follow_up = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]
    first, system = long_record()["messages"], [{"role": "system", "content": "Be brief."}]
    talks = [
        first + follow_up,
        system + first + follow_up[:1],
        first,
        system + first,
        first + [{"role": "user"}],
        follow_up[1:],
    ]
    samples, counts = convert([{"id": f"t{n}", "messages": turns} for n, turns in enumerate(talks)], "long")
    assert [s.id for s in samples] == ["t0", "t1", "t2", "t3"]
    assert {(s.context, s.instruction, s.response) for s in samples} == {
        ("A document.", "A question?", "An answer.")
    }
    assert (
        counts["cut to first exchange"] == 2 and counts["kept"] == 4 and sum(counts["dropped"].values()) == 2
    )


def test_conversations_as_messages_without_ids_are_read_too():
    record = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}
    samples, _ = convert([record, record], "short")
    assert [s.id for s in samples] == ["set-000001", "set-000002"]


def test_language_stays_with_its_sample(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(long_record(language="zh", length=5)) + "\n")
    conversion.convert([tmp_path / "a.jsonl"], "long", "set", tmp_path / "out.jsonl")
    record = json.loads((tmp_path / "out.jsonl").read_text())
    assert record["language"] == "zh" and record["length"] == len("A document.\n\nA question?") + len(
        "An answer."
    )


@pytest.mark.parametrize(
    ("kind", "record", "reason"),
    [
        ("long", "text", "expected a JSON object"),
        ("long", {"id": "a"}, "no usable 'messages'"),
        ("long", long_record(answer="  "), "empty response"),
        (
            "long",
            {"id": "a", "messages": long_record()["messages"][::-1]},
            "messages must begin with a user turn and an assistant turn",
        ),
        ("short", [], "not a JSON object"),
        ("short", {"id": "a"}, "no usable turns"),
        ("short", {"conversations": [{"from": "human"}]}, "no usable turns"),
        ("short", talk(), "no turns"),
        ("short", talk(("system", "Be brief."), ("human", "Q?"), ("gpt", "A.")), "a turn by 'system'"),
        ("short", talk(("human", "Q?"), ("gpt", "A."), ("bing", "B.")), "a turn by 'bing'"),
        ("short", talk(("gpt", "A.")), "it does not begin with the user's turn"),
        ("short", talk(("human", "Q?")), "the first question has no answer"),
        ("short", talk(("human", "Q?"), ("human", "R?")), "the first question has no answer"),
        ("short", talk(("human", " "), ("gpt", "A.")), "empty question"),
        ("short", talk(("human", "Q?"), ("gpt", "\n")), "empty response"),
        (
            "short",
            talk(("human", "Q?"), ("gpt", "\ud83d")),
            "half a character (a lone surrogate) in its text",
        ),
    ],
)
def test_what_is_dropped_is_counted_by_reason(kind, record, reason):
    good = long_record() if kind == "long" else talk(("human", "Q?"), ("gpt", "A."))
    samples, counts = convert([record, good | {"id": "b"}, record, good | {"id": "b"}], kind)
    assert [s.id for s in samples] == ["b"]
    dropped = {reason: 2, "its id was already used": 1}
    assert counts == {"read": 4, "kept": 1, "cut to first exchange": 0, "dropped": dropped}


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "chatgpt", "user", "system", "bard"]), "value": TEXT}
)
CONVERSATION = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c", None, ""]), "conversations": st.lists(TURN, max_size=4)}
)
RECORDS = st.lists(
    st.one_of(CONVERSATION, st.none(), st.integers(), st.fixed_dictionaries({"conversations": TEXT})),
    max_size=8,
)


@given(RECORDS)
def test_every_conversation_is_kept_or_counted(records):
    samples, counts = convert(records, "short")
    assert counts["read"] == len(records) == counts["kept"] + sum(counts["dropped"].values())
    assert len(samples) == counts["kept"] == len({s.id for s in samples})
    talks = [record["conversations"] for record in records if isinstance(record, dict)]
    firsts = [tuple(turn["value"] for turn in turns[:2]) for turns in talks if isinstance(turns, list)]
    assert all((s.instruction, s.response) in firsts and not s.context for s in samples)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5))
def test_long_text_comes_through_unchanged(parts):
    records = [
        long_record(f"{document}\n\n{question}", answer, id=str(n))
        for n, (document, question, answer) in enumerate(parts)
    ]
    samples, counts = convert(records, "long")
    assert counts["kept"] + sum(counts["dropped"].values()) == len(records)
    for sample in samples:
        document, question, answer = parts[int(sample.id)]
        assert sample.response == answer
        read = sample.context + "\n\n" + sample.instruction if sample.context else sample.instruction
        assert read.strip() == f"{document}\n\n{question}".strip()


def test_records_come_in_the_order_of_the_files(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps([talk(("human", "Q?"), ("gpt", "A."), id=name)]))
    conversion.convert([tmp_path / "b.json", tmp_path / "a.json"], "short", "set", tmp_path / "out.jsonl")
    assert [s.id for s in read_samples(tmp_path / "out.jsonl")] == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id"', "a.jsonl, line 2: not valid JSON"),
        ("a.json", b'[{"id": 1}', "a.json: not valid JSON .* fetch the file again"),
        ("a.json", b'{"id": 1}', "a.json: expected a list of records, got dict"),
        ("a.json", b"\xff\xfe", "a.json: not valid JSON"),
        ("a.jsonl", b"", "a.jsonl: holds no records"),
    ],
)
def test_a_broken_file_is_an_error_with_its_place(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        conversion.convert([tmp_path / name], "long", "set", tmp_path / "out.jsonl")


def test_tasks_come_out_of_an_archive_or_a_folder_as_published(tmp_path):
    lines = '{"_id": "1"}\n{"_id": "2"}\n'
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qasper.jsonl", lines)
        archive.writestr("data/qasper_e.jsonl", "other")
    (tmp_path / "out").mkdir()
    assert conversion.unpack([tmp_path / "data.zip"], ["qasper"], tmp_path / "out") == {"qasper": 2}
    assert (tmp_path / "out" / "qasper.jsonl").read_text() == lines
    assert conversion.unpack([tmp_path / "out" / "qasper.jsonl"], ["qasper"], tmp_path) == {"qasper": 2}


def test_a_missing_task_and_a_broken_archive_are_named(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="data.zip: broken archive .* fetch it again"):
        conversion.unpack([tmp_path / "data.zip"], ["qasper"], tmp_path)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/notqasper.jsonl", "")
    with pytest.raises(DataError, match="qasper.jsonl is not in .*data.zip"):
        conversion.unpack([tmp_path / "data.zip"], ["qasper"], tmp_path)


def test_texts_of_files_and_tables(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.txt").write_text("  ")
    (tmp_path / "c.csv").write_text('title,date,text\nEssay,"May 2024","Two,\n""quoted"""\n')
    assert conversion.texts([tmp_path / name for name in ("a.txt", "b.txt", "c.csv")]) == [
        "One.",
        'Two,\n"quoted"',
    ]
    with pytest.raises(DataError, match="no text in .*b.txt"):
        conversion.texts([tmp_path / "b.txt"])
    (tmp_path / "c.csv").write_text("title\nEssay\n")
    with pytest.raises(DataError, match="c.csv, row 1: no column 'text'"):
        conversion.texts([tmp_path / "c.csv"])
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="a.txt: not UTF-8"):
        conversion.texts([tmp_path / "a.txt"])
