"""A selection in the forms of trainers, loaded as they load it: by `datasets`, all turns, no other field."""

from __future__ import annotations

import json

import pytest

from gateau_lib import export

SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "A key lies <b>here</b>.\n\nWhere is it?"},
    {"from": "gpt", "value": "Here \u2028 é."},
]
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
# Fields of other types in other records, which no table could hold.
RECORDS = [
    {"id": "a", "conversations": SHAREGPT, "meta": 1},
    {"id": "b", "messages": CHAT, "meta": {"deep": [None]}},
    {"id": 3, "messages": CHAT[:2], "meta": "x", "length": 7},
]
TURNS = [
    [("system", SHAREGPT[0]["value"]), ("user", SHAREGPT[1]["value"]), ("assistant", SHAREGPT[2]["value"])],
    [(turn["role"], turn["content"]) for turn in CHAT],
    [(turn["role"], turn["content"]) for turn in CHAT[:2]],
]


@pytest.fixture
def selected(tmp_path):
    path = tmp_path / "selected.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


def loaded(path, cache):
    return pytest.importorskip("datasets").load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(cache)
    )


def test_trl_gets_messages(selected, tmp_path, capsys):
    out = tmp_path / "train" / "trl.jsonl"
    assert export.main([str(selected), "--to", "trl", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"written: {out}\n"
    table = loaded(out, tmp_path / "cache")
    assert table.column_names == ["messages"]
    assert [[(t["role"], t["content"]) for t in row["messages"]] for row in table] == TURNS


def test_llama_factory_gets_sharegpt_beside_its_other_data(selected, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    other = {"identity": {"file_name": "identity.json"}}
    (folder / "dataset_info.json").write_text(json.dumps(other))
    line = [str(selected), "--to", "llama-factory", "--out", str(folder)]
    for _ in range(2):  # a second time is no other data set
        assert export.main(line) == 0
    index = json.loads((folder / "dataset_info.json").read_text())
    columns = {"messages": "conversations"}
    entry = {"file_name": "selected.json", "formatting": "sharegpt", "columns": columns}
    assert index == other | {"selected": entry}
    table = loaded(folder / "selected.json", tmp_path / "cache")
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    wanted = [[(names[role], text) for role, text in turns] for turns in TURNS]
    assert [[(t["from"], t["value"]) for t in row["conversations"]] for row in table] == wanted


@pytest.mark.parametrize(
    ("to", "out", "more", "says"),
    [
        ("trl", "train.json", [], "end the name in .jsonl"),
        ("trl", "selected.jsonl", [], "this is an input"),
        ("llama-factory", "selected.jsonl", [], "is a file where a folder is needed"),
        (
            "llama-factory",
            "data",
            ["--name", "identity"],
            "holds another data set 'identity'; give another --name",
        ),
        ("llama-factory", "bad", [], "not a JSON object"),
    ],
)
def test_nothing_is_replaced(selected, tmp_path, monkeypatch, capsys, to, out, more, says):
    monkeypatch.chdir(tmp_path)
    for name, text in (("data", '{"identity": {"file_name": "identity.json"}}'), ("bad", "[1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text(text)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert export.main(["selected.jsonl", "--to", to, "--out", out, *more]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_record_that_is_no_conversation_is_named(selected, tmp_path, capsys):
    selected.write_text(json.dumps(RECORDS[1]) + '\n{"id": "z", "messages": [{"role": "tool"}]}\n')
    assert export.main([str(selected), "--to", "trl", "--out", str(tmp_path / "t.jsonl")]) == 2
    assert "selected.jsonl, line 2: no usable 'messages'" in capsys.readouterr().err
    assert not (tmp_path / "t.jsonl").exists()
