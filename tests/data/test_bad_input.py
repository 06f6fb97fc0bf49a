"""Bad input gives one line that names the place and the fix, or a row that says why;
never a zero, a lost or a reused row."""

import io
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import random_llama
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from gateau_lib import score, select
from gateau_lib.scoring import score_table
from gateau_lib.study import profiles


def record(name, user="A key lies under the mill.\n\nWhere is it?", answer="Under the mill."):
    return {
        "id": name,
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}],
    }


def write(path, records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run_score(data, pair, out, *more):
    short, long = pair
    return score.main(
        [str(data), "--short", str(short), "--long", str(long), "--out", str(out), "--device", "cpu", *more]
    )


def one_line(capsys):
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.out == ""
    return said.err


def test_malformed_line_is_named_and_nothing_written(tmp_path, saved_pair, capsys):
    data = write(tmp_path / "d.jsonl", [record("a"), '{"id": "b", ', record("c")])
    assert run_score(data, saved_pair, tmp_path / "s.parquet") == 2
    assert "d.jsonl, line 2: not valid JSON" in one_line(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]


def test_bad_records_are_rows_with_a_reason(tmp_path, saved_pair):
    bad = [
        record("good"),
        {"id": "no-messages"},
        record("empty-response", answer="  "),
        record("too-long", answer="x" * 2000),
        record("good"),
        [1, 2],
        {"messages": record("x")["messages"]},
        record("long-context", user="word " * 900 + "\n\nWhere?"),
        {"id": "odd", "messages": [{"role": "assistant", "content": "y"}]},
        {"id": 17, "messages": record("x")["messages"]},
    ]
    data, out = write(tmp_path / "d.jsonl", bad), tmp_path / "s.parquet"
    assert run_score(data, saved_pair, out) == 0
    rows = pq.read_table(out).to_pylist()
    reasons = [
        (None, "good"),
        ("line 2: none of the known fields; it has 'id'", "no-messages"),
        ("line 3: empty response", "empty-response"),
        ("instruction and response alone take", "too-long"),
        ("line 5: id 'good' was already used at line 1", "good"),
        ("line 6: expected a JSON object", None),
        ("line 7: no 'id'", None),
        (None, "long-context"),
        ("line 9: messages must begin with a user turn", "odd"),
        (None, "17"),
    ]
    assert [row["id"] for row in rows] == [name for _, name in reasons]
    for row, (reason, _) in zip(rows, reasons, strict=True):
        if reason is None:
            assert row["error"] is None and row["hmg"] is not None and row["cam"] is not None
        else:
            assert reason in row["error"] and all(row[column] is None for column in score_table.SCORES)
    assert (
        rows[7]["n_dropped"] > 0
        and rows[7]["n_context"] + rows[7]["n_instruction"] + rows[7]["n_response"] == 1023
    )
    # The selection takes what can be used and keeps the records as they were.
    assert (
        select.main([str(out), "--data", str(data), "--out", str(tmp_path / "sel.jsonl"), "--fraction", "1"])
        == 0
    )
    chosen = [json.loads(line) for line in (tmp_path / "sel.jsonl").read_text().splitlines()]
    assert sorted(str(r["id"]) for r in chosen) == ["17", "good", "long-context"] and bad[9] in chosen


def test_a_conversation_is_never_scored_as_its_first_exchange(tmp_path, saved_pair, capsys):
    """A greeting before the document would be the sample, the best one of the file by its gap."""
    talk, greeting = record("talk"), record("talk", "Hi", "Hello! Send the document.")
    talk["messages"] = greeting["messages"] + talk["messages"]
    asked = record("asked")
    asked["messages"] += [{"role": "user", "content": "And who put it there?"}]
    system = record("system")
    system["messages"].insert(0, {"role": "system", "content": "Answer briefly."})
    data, out = write(tmp_path / "d.jsonl", [record("plain"), talk, asked, system]), tmp_path / "s.parquet"
    assert run_score(data, saved_pair, out) == 0
    said = capsys.readouterr().out
    assert "4 rows, 1 with an error" in said and "\nread as: 4 messages\n" in said
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}
    assert rows["asked"]["error"] == (
        "line 3: the last turn is no answer, but of user; --turn N takes the N-th of 1 answers"
    )
    assert all(rows["asked"][column] is None for column in (*score_table.SCORES, *score_table.LENGTHS))
    assert rows["talk"]["n_context"] > rows["plain"]["n_context"] == rows["system"]["n_context"]
    assert rows["talk"]["n_response"] == rows["plain"]["n_response"]
    assert rows["talk"]["hmg"] is not None and rows["system"]["hmg"] != rows["plain"]["hmg"]
    assert chosen(out, data) == {"plain", "talk", "system"}
    assert "left out: 1 with an error in scoring" in capsys.readouterr().out
    assert "1 of these not usable" in plan(data, saved_pair, capsys)
    assert run_score(data, saved_pair, out, "--turn", "1") == 0
    rows = {row["id"]: row for row in pq.read_table(out).to_pylist()}
    assert rows["asked"]["hmg"] == rows["plain"]["hmg"] and rows["talk"]["n_context"] == 0


def chosen(scores, data, *more):
    """Ids of the whole selection."""
    out = scores.parent / "sel.jsonl"
    assert select.main([str(scores), "--data", str(data), "--out", str(out), "--fraction", "1", *more]) == 0
    return {json.loads(line).get("id") for line in out.read_text().splitlines()}


CONTEXT, QUESTION, ANSWER = "A key lies under the mill.", "Where is it?", "Under the mill."
SAME = {  # one sample, as people write it down
    "messages": record("x"),
    "sharegpt": {"conversations": [
        {"from": "human", "value": f"{CONTEXT}\n\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}
    ]},
    "alpaca": {"instruction": QUESTION, "input": CONTEXT, "output": ANSWER},
    "longbench": {"context": CONTEXT, "input": QUESTION, "answers": [ANSWER]},
    "prompt": {"prompt": f"{CONTEXT}\n\n{QUESTION}", "completion": ANSWER},
}  # fmt: skip


def test_every_form_is_scored_as_the_same_sample_and_selected_as_it_is(tmp_path, saved_pair, capsys):
    records = [sample | {"id": form} for form, sample in SAME.items()]
    data, out = (
        write(tmp_path / "d.jsonl", [*records, {"id": "text", "text": CONTEXT * 9}]),
        tmp_path / "s.parquet",
    )
    assert run_score(data, saved_pair, out, "--methods", "hmg,cam,prolong", "--segment-length", "8") == 0
    said = capsys.readouterr().out
    assert "6 rows, 0 with an error" in said
    assert "read as: 1 alpaca, 1 longbench, 1 messages, 1 prompt, 1 sharegpt, 1 text" in said
    *rows, text = pq.read_table(out).to_pylist()
    assert len({tuple(row[column] for column in ("hmg", "cam", *score_table.LENGTHS)) for row in rows}) == 1
    assert text["error"] is None and text["prolong"] is not None and text["hmg"] is text["cam"] is None
    assert chosen(out, data) == set(SAME)
    assert "left out: 1 with no response, as documents" in capsys.readouterr().out
    assert chosen(out, data, "--score", "prolong") == {*SAME, "text"}
    selected = set((tmp_path / "sel.jsonl").read_text().splitlines())
    assert selected == set(data.read_text().splitlines())
    assert run_score(data, saved_pair, out, "--methods", "hmg") == 0
    assert "a document without a response" in pq.read_table(out).to_pylist()[-1]["error"]


def test_selecting_reads_as_scoring_did(tmp_path, saved_pair, capsys):
    data, out = tmp_path / "d.json", tmp_path / "s.parquet"
    records = [{"chat": record(None)["messages"], "n": 1.10}, {"chat": record(None)["messages"]}]
    data.write_text(json.dumps(records, indent=1))
    assert run_score(data, saved_pair, out) == 2
    assert "none of the known fields; it has 'chat', 'n'; --rename chat=messages reads its turns" in one_line(
        capsys
    )
    assert run_score(data, saved_pair, out, "--rename", "chat=messages") == 2
    assert "no record has an 'id'; --ids line takes line numbers" in one_line(capsys)
    words = ["--rename", "chat=messages", "--ids", "line"]
    assert run_score(data, saved_pair, out, *words) == 0
    assert [row["id"] for row in pq.read_table(out).to_pylist()] == ["1", "2"]
    assert chosen(out, data, *words) == chosen(out, data) == {None}
    lines = (tmp_path / "sel.jsonl").read_text().splitlines()
    assert sorted(map(json.loads, lines), key=len) == records[::-1]
    capsys.readouterr()
    other = [str(out), "--data", str(data), "--out", str(tmp_path / "o.jsonl"), "--ids", "field"]
    assert select.main(other) == 2 and "its data were read otherwise; leave out --format" in one_line(capsys)


def test_a_folder_is_scored_and_selected_and_nothing_is_written_into_it(tmp_path, saved_pair, capsys):
    folder, out = tmp_path / "data", tmp_path / "s.parquet"
    folder.mkdir()
    write(folder / "b.jsonl", [record("b1"), record("b2")])
    times = pa.array([0, 1], pa.timestamp("s"))
    pq.write_table(
        pa.table({"id": ["a1", "a2"], "text": ["A key.", "A mill."], "at": times}), folder / "a.parquet"
    )
    assert run_score(folder, saved_pair, folder / "s.parquet") == 2
    assert "lies in the input" in one_line(capsys)
    assert run_score(folder, saved_pair, out, "--methods", "gzip_ratio") == 0
    assert [row["id"] for row in pq.read_table(out).to_pylist()] == ["a1", "a2", "b1", "b2"]
    capsys.readouterr()
    assert chosen(out, folder, "--score", "gzip_ratio") == {"a1", "a2", "b1", "b2"}
    assert "a.parquet: no type of JSON, selected as text: at (timestamp[ms])" in capsys.readouterr().err


def plan(data, pair, capsys):
    assert score.main([str(data), "--short", str(pair[0]), "--long", str(pair[1]), "--plan"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--long", "./nowhere"], "./nowhere: no config.json there; give a folder"),
        (["--methods", "hgm"], "unknown method 'hgm'; choose from hmg"),
        (["--methods", ","], "none given"),
        (["--max-length", "0"], "--max-length must be at least 1"),
        (["--segment-length", "0"], "--segment-length must be at least 1, got 0"),
        (["--shard-size", "0"], "--shard-size must be at least 1"),
        (["--segment-length", "1", "--methods", "prolong"], "at least 2 for prolong"),
        (["--device", "warp"], "--device warp: cannot be used here"),
        (["--out", "scores.csv"], "give a name that ends in .parquet"),
    ],
)
def test_bad_options_are_one_line(tmp_path, saved_pair, capsys, more, message):
    data = write(tmp_path / "d.jsonl", [record("a")])
    assert run_score(data, saved_pair, tmp_path / "s.parquet", *more) == 2
    assert message in one_line(capsys) and not (tmp_path / "s.parquet").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("e.jsonl", "", "holds no records"),
        ("d.csv", "a,b", "unknown suffix '.csv'"),
    ],
)
def test_bad_files_are_one_line(tmp_path, saved_pair, capsys, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert run_score(tmp_path / name, saved_pair, tmp_path / "s.parquet") == 2
    assert message in one_line(capsys)


def test_models_of_two_families_are_refused(tmp_path, saved_pair, capsys):
    stranger = tmp_path / "stranger"
    random_llama().save_pretrained(stranger)
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "mill": 3}, unk_token="<unk>"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(stranger)
    data = write(tmp_path / "d.jsonl", [record("a")])
    assert run_score(data, (stranger, saved_pair[1]), tmp_path / "s.parquet") == 2
    assert "not homologous: their vocabularies differ in" in one_line(capsys)


def rows(**change):
    empty = dict.fromkeys(score_table.COLUMNS) | dict.fromkeys(score_table.LENGTHS, 9)
    made = [empty | {"id": f"r{i}", "nll_long": 1.0 + i} for i in range(4)]
    made[2] |= change
    return made


@pytest.mark.parametrize(
    ("table", "names", "more", "message"),
    [
        (rows(nll_long=float("nan")), 4, [], "row 3, id 'r2': nll_long is nan; score this sample again"),
        (rows(), 3, [], "1 scored ids are not in it (first 'r3')"),
        (rows(), 5, [], "1 records of"),
        (rows(id="r1"), 4, [], "id 'r1' stands twice"),
        (rows(), 4, ["--score", "cam"], "no cam in it; score with --methods cam"),
        (rows(), 4, ["--top", "9"], "only 4 samples are usable"),
        (rows(), 4, ["--fraction", "1.5"], "--fraction 1.5: must lie in (0, 1]"),
        ([{"id": "r0", "x": 1}], 1, [], "not a score table"),
        (
            [row | {"error": "bad"} for row in rows()],
            4,
            [],
            "none of its 4 records could be scored: 4 × bad (first: id 'r0')",
        ),
    ],
)
def test_bad_score_tables_are_one_line(tmp_path, capsys, table, names, more, message):
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "s.parquet")
    data = write(tmp_path / "d.jsonl", [record(f"r{i}") for i in range(names)])
    command = [str(tmp_path / "s.parquet"), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]
    assert select.main([*command, *(["--score", "perplexity"] if "--score" not in more else []), *more]) == 2
    assert message in one_line(capsys) and not (tmp_path / "o.jsonl").exists()


def test_not_a_table_and_no_table(tmp_path, capsys):
    data = write(tmp_path / "d.jsonl", [record("a")])
    (tmp_path / "s.parquet").write_text("words")
    for name, message in (("s.parquet", "not a Parquet file"), ("t.parquet", "no such file")):
        assert (
            select.main([str(tmp_path / name), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]) == 2
        )
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("tiny", {}, "unknown profile 'tiny': choose one of smoke, cpu"),
        ("cpu", {"layer": 2}, "unknown profile field 'layer': choose one of"),
        ("cpu", {"fraction": "1e-3"}, "profile field 'fraction' takes float"),
    ],
)
def test_bad_profiles_name_what_is_allowed(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        profiles.resolve(name, **overrides)


def test_why_nothing_can_be_ranked_is_the_samples_own_reason(tmp_path, saved_pair, capsys):
    data = write(tmp_path / "d.jsonl", [{"id": 1, "text": "A key."}, {"id": 9, "text": CONTEXT * 9}])
    out, more = tmp_path / "s.parquet", ("--methods", "prolong", "--segment-length", "8")
    assert run_score(data, saved_pair, out, *more) == 0
    assert chosen(out, data, "--score", "prolong") == {9}
    assert "left out: 1 with no prolong\n" in capsys.readouterr().out
    data = write(tmp_path / "d.jsonl", [record("a", CONTEXT), record("b", QUESTION)])
    assert run_score(data, saved_pair, out) == 0
    assert "2 without context" in capsys.readouterr().out
    assert select.main([str(out), "--data", str(data), "--out", str(tmp_path / "sel.jsonl")]) == 2
    said = one_line(capsys)
    assert "(2 with no context); a blank line parts document and question (docs/formats.md)" in said


def test_standard_input_is_scored_and_selected_from(tmp_path, saved_pair, monkeypatch, capsys):
    """As `make select DATA=-` does: both commands are given the stream, which is read once."""
    lines = "".join(json.dumps(record(name)) + "\n" for name in "abc").encode()
    out = tmp_path / "scores.parquet"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    assert run_score("-", saved_pair, out) == 0
    assert chosen(out, "-") == {"a", "b", "c"}
    assert "- was kept in" in capsys.readouterr().err
