"""Shards hold every record once, parts are right or absent, and a run that is killed,
crowded or short of disk ends right."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scoring_command import command, rows_of, write_data

from gateau_lib import score
from gateau_lib.data import sharded
from gateau_lib.data.longalign import to_record
from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, model_passes
from gateau_lib.methods.base import Options
from gateau_lib.models import nll, pair
from gateau_lib.scoring import data_set, part_files, score_table
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import errors, whole_files
from gateau_lib.study.errors import DataError

# Records ----------------------------------------------------------------------------------------------------

records = st.lists(st.sampled_from(["", "  ", "one", "two", "twin", "twin", "bad"]), min_size=1, max_size=25)


def line(name, number):
    if not name.strip():
        return name
    if name == "bad":
        return json.dumps({"id": f"b{number}"})
    record = to_record(
        Sample(name if name == "twin" else f"{name}{number}", f"Context ä {number}", "Why?", "So.")
    )
    return json.dumps(record, ensure_ascii=False)


@given(records, st.integers(1, 7), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_record_is_in_exactly_one_shard(tmp_path_factory, names, size, mark, newline, closed):
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    lines = [line(name, number) for number, name in enumerate(names, 1)]
    path.write_bytes(
        (b"\xef\xbb\xbf" if mark else b"") + (newline.join(lines) + (newline if closed else "")).encode()
    )
    wanted = [(number, json.loads(text)) for number, text in enumerate(lines, 1) if text.strip()]
    if not wanted:
        with pytest.raises(DataError, match="holds no records"):
            sharded.index(path, size)
        return
    if not any("messages" in record for _, record in wanted):
        with pytest.raises(DataError, match="none of the known fields"):
            sharded.index(path, size)
        return
    found = sharded.index(path, size)
    assert [shard.rows for shard in found[:-1]] == [size] * (len(found) - 1) and 1 <= found[-1].rows <= size
    items = [item for shard in found for item in sharded.read(path, shard)]
    assert [item.id for item in items] == [record["id"] for _, record in wanted]
    seen = {}
    for item, (number, record) in zip(items, wanted, strict=True):
        if "messages" not in record:
            assert item.error.startswith(f"line {number}: none of the known fields; it has 'id'")
        elif record["id"] in seen:
            assert f"line {number}: id 'twin' was already used at line {seen['twin']}" in item.error
        else:
            assert item.error is None and item.sample.context.startswith("Context ä")
        seen.setdefault(record["id"], number)


def test_parquet_gives_the_same_items(tmp_path):
    made = [to_record(Sample(f"s{i % 9}", f"Context {i}", "Why?", "So.")) for i in range(11)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in made))
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "d.parquet", row_group_size=4)
    for size in (1, 3, 4, 20):
        plain, table = (
            [(item.id, item.sample, (item.error or "").replace("row", "line"))
             for shard in sharded.index(path, size) for item in sharded.read(path, shard)]
            for path in (tmp_path / "d.jsonl", tmp_path / "d.parquet")
        )  # fmt: skip
        assert plain == table and len(plain) == 11


def test_half_a_surrogate_is_a_bad_record_not_a_crash(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(to_record(Sample("a\ud800", "c \udc00", "x", "y"))) + "\n")
    (item,) = sharded.read(path, *sharded.index(path, 1024))
    assert item.id == "a?" and "half of a surrogate pair" in item.error


def test_data_that_changed_is_refused(tmp_path):
    path = write_data(tmp_path / "d.jsonl")
    found = sharded.index(path, 3)
    text = path.read_text()
    path.write_text(text.replace('"id": "s4"', '"id": "s9"'))
    assert len(sharded.read(path, found[0])) == 3
    for changed in (path.read_text(), text[:-40], text.replace('{"id": "s4"', '!"id": "s4"')):
        path.write_text(changed)
        with pytest.raises(
            DataError, match="lines from 4 on changed since the run began|lines from 7 on changed"
        ):
            sharded.read(path, found[1])
            sharded.read(path, found[2])


# Keys -------------------------------------------------------------------------------------------------------


def test_parts_are_named_by_weights_options_code_and_records(saved_pair, tmp_path, monkeypatch):
    both = pair.load_pair(*map(str, saved_pair), True, "float32", torch.device("cpu"))
    path = write_data(tmp_path / "d.jsonl")

    def name(size=4, **change):
        options = Options(("hmg",), "ntk", 16, 512, 128, **change)
        run = ScoringRun(path, tmp_path / "s.parquet", options, "short", "long", shard_size=size)
        job = part_files.Job(run, part_files.makers(both, [METHODS["hmg"]]))
        return job.part(sharded.index(path, size)[0]).name

    first = name()
    assert name() == first
    names = {first, name(size=5), name(adaptive=True)}
    with torch.no_grad():
        both.short.model.norm.weight[0] += 1e-3
    names.add(name())
    both.tokenizer.chat_template = "{{ messages }}"
    names.add(name())
    both.tokenizer.chat_template = None
    monkeypatch.setattr(part_files, "source_hash", lambda code: "edited")
    names.add(name())
    write_data(path, seed=5)
    names.add(name())
    assert len(names) == 7


# Faults -----------------------------------------------------------------------------------------------------


@pytest.fixture()
def data(tmp_path):
    return write_data(tmp_path / "data.jsonl")


@pytest.fixture()
def whole(data, saved_pair, tmp_path):
    """The table of a run that nothing disturbed."""
    assert score.main(command(data, saved_pair, tmp_path / "whole.parquet")) == 0
    return (tmp_path / "whole.parquet").read_bytes()


@pytest.fixture()
def scored(monkeypatch, tmp_path):
    """Lets a test count, over processes, which shards were scored."""
    log, real = tmp_path / "scored.log", part_files.score_items
    log.touch()

    def noted(items, *more):
        with log.open("a") as out:
            out.write(f"{items[0].id}\n")
        return real(items, *more)

    monkeypatch.setattr(part_files, "score_items", noted)
    monkeypatch.setattr(part_files, "source_hash", lambda code: "fixed")
    return lambda: log.read_text().split()


def dies(arguments, where, at):
    """Run in a child process that is killed at the ``at``-th call of ``where``; True if it was."""
    owner, name = where
    child = os.fork()
    if child == 0:
        real, calls = getattr(owner, name), []

        def fatal(*more, **named):
            calls.append(0)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*more, **named)

        setattr(owner, name, fatal)
        os._exit(score.main(arguments))
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize(
    ("where", "at"),
    [
        ((part_files, "Reader"), 2),  # in the middle of a shard
        ((Path, "replace"), 2),  # a part is written but not yet in its place
        ((part_files, "read_part"), 3),  # between two shards
        ((score_table, "write_table"), 1),
        ((data_set, "manifest"), 1),  # the table is there already
    ],
)
def test_killed_anywhere_ends_with_the_same_bytes(data, saved_pair, tmp_path, whole, scored, where, at):
    out = tmp_path / "killed.parquet"
    assert dies(command(data, saved_pair, out), where, at)
    assert score.main(command(data, saved_pair, out)) == 0
    assert out.read_bytes() == whole and out.with_suffix(".manifest.json").exists()
    assert not list((tmp_path / "killed.parquet.parts").glob(".*"))
    assert sorted(set(scored())) == ["s0", "s3", "s6"] and len(scored()) <= 4  # at most one shard twice


def test_stopped_by_the_user_says_how_to_go_on(
    data, saved_pair, tmp_path, monkeypatch, whole, scored, capsys
):
    out, noted, calls = tmp_path / "broken.parquet", part_files.score_items, []

    def stops_at_second(*more):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return noted(*more)

    monkeypatch.setattr(part_files, "score_items", stops_at_second)
    assert score.main(command(data, saved_pair, out)) == 130 and not out.exists()
    assert "give the same command to go on" in capsys.readouterr().err
    assert score.main(command(data, saved_pair, out)) == 0
    assert out.read_bytes() == whole and scored() == ["s0", "s3", "s6"]


def test_full_disk_is_one_line_and_can_be_mended(data, saved_pair, tmp_path, monkeypatch, whole, capsys):
    out, real, calls = tmp_path / "full.parquet", Path.write_bytes, []

    def full(path, content):
        calls.append(path)
        if len(calls) == 2:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert score.main(command(data, saved_pair, out)) == 2
    said = capsys.readouterr()
    assert (
        said.err.startswith("error: ")
        and "No space left" in said.err
        and said.err.count("\n") == 1
        and said.out == ""
    )
    assert len(list((tmp_path / "full.parquet.parts").glob("*.json"))) == 1 and not out.exists()
    assert not list(tmp_path.rglob(".*.part"))
    assert score.main(command(data, saved_pair, out)) == 0 and out.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b.replace(b"0", b"1"), lambda b: b"\xff"]
)
def test_a_damaged_part_is_scored_again(data, saved_pair, tmp_path, whole, scored, capsys, damage):
    out = tmp_path / "damaged.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    for part in (tmp_path / "damaged.parquet.parts").glob("*.json"):
        if b'"s3"' in part.read_bytes():
            part.write_bytes(damage(part.read_bytes()))
    out.unlink()
    assert score.main(command(data, saved_pair, out)) == 0 and out.read_bytes() == whole
    assert scored() == ["s0", "s3", "s6", "s3"] and "damaged" in capsys.readouterr().err


def test_a_batch_that_does_not_fit_is_halved_and_a_sample_that_does_not_is_marked(
    data, saved_pair, tmp_path, monkeypatch
):
    """A device that holds 200 tokens: some samples fit alone but not together, the last ones not at all."""
    assert score.main(command(data, saved_pair, tmp_path / "roomy.parquet")) == 0
    real, limit = nll.batch_nll, 200

    def small(model, sequences, *more, **named):
        if sum(map(len, sequences)) > limit:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return real(model, sequences, *more, **named)

    for module in (nll, model_passes):
        monkeypatch.setattr(module, "batch_nll", small)
    monkeypatch.setattr(part_files, "source_hash", lambda code: "fixed")
    assert score.main(command(data, saved_pair, tmp_path / "tight.parquet")) == 0
    failed = []
    for want, row in zip(
        rows_of(tmp_path / "roomy.parquet"), rows_of(tmp_path / "tight.parquet"), strict=True
    ):
        if 1 + want["n_context"] + want["n_instruction"] + want["n_response"] > limit:
            assert "does not fit into memory even alone" in row["error"] and row["nll_long"] is None
            failed.append(row["id"])
        else:
            assert row["error"] is None and row["nll_long"] == pytest.approx(want["nll_long"], rel=1e-5)
            assert row["cam"] == pytest.approx(want["cam"], abs=1e-5)
    assert 0 < len(failed) < 7


# Two runs on one output -------------------------------------------------------------------------------------


def test_a_second_run_refuses_and_names_the_first(data, saved_pair, tmp_path, capsys):
    out = tmp_path / "s.parquet"
    with whole_files.locked(tmp_path / "s.parquet.parts"):
        assert score.main(command(data, saved_pair, out)) == 2
        said = capsys.readouterr().err
        assert (
            f"process {os.getpid()} on {socket.gethostname()}" in said
            and said.count("\n") == 1
            and not out.exists()
        )
    assert score.main(command(data, saved_pair, out)) == 0


def test_what_dead_runs_left_beside_an_output_is_swept(data, saved_pair, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in ("s.parquet", "s.manifest.json", "other.parquet"):
        for process in (dead.pid, os.getppid(), "x1", 10**30):
            (tmp_path / f".{name}.{process}.part").write_text("half")
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", "--methods", "perplexity")) == 0
    left = {path.name for path in tmp_path.glob(".*.part")}
    kept = {
        f".{name}.{process}.part"
        for name in ("s.parquet", "s.manifest.json")
        for process in (os.getppid(), "x1")
    }
    assert left == kept | {f".other.parquet.{p}.part" for p in (dead.pid, os.getppid(), "x1", 10**30)}


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from gateau_lib.study import whole_files\n"
        "with whole_files.locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(errors.ScoreError, match=f"process {other.pid} on"), whole_files.locked(tmp_path):
            pass
        other.kill()
        other.wait()
    assert json.loads((tmp_path / "lock").read_text())["process"] == other.pid
    with whole_files.locked(tmp_path):
        pass
    assert (tmp_path / "lock").read_text() == ""


@pytest.mark.parametrize("text", ["[1]", "garbage", "null", "\x00"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path, text):
    (tmp_path / "lock").write_text(text)
    with whole_files.locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["process"] == os.getpid()


def test_the_lock_of_another_machine_is_believed(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "2026-01-01"}))
    with (
        pytest.raises(errors.ScoreError, match="process 1 on elsewhere, since 2026-01-01.*delete .*lock"),
        whole_files.locked(tmp_path),
    ):
        pass
    (tmp_path / "lock").unlink()
    with whole_files.locked(tmp_path):
        pass


def test_a_table_of_several_row_groups_holds_every_row_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(score_table, "ROW_GROUP", 4)
    rows = [
        dict.fromkeys(score_table.COLUMNS) | {"id": str(i), "n_context": i, "segment_chars": [0, i]}
        for i in range(11)
    ]
    parts = [score_table.Part(rows[i : i + 5], {}, 0.5) for i in (0, 5, 10)]
    done = score_table.write_table(iter(parts), {"methods": []}, tmp_path / "t.parquet")
    assert (
        rows_of(tmp_path / "t.parquet") == rows and pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    )
    assert [part.seconds for part in done] == [0.5] * 3
    assert not any(part.rows for part in done)


def test_segments_are_found_in_every_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(score_table, "ROW_GROUP", 4)
    rows = [dict.fromkeys(score_table.COLUMNS) | {"id": f"s{i}"} for i in range(11)]
    for i, row in enumerate(rows[:9]):
        row |= {"segment_nll": [1.0, i], "segment_attention": [0.5, 0.5], "segment_chars": [0, 1, 2 + i]}
    score_table.write_table([score_table.Part(rows, {}, 0.0)], {}, tmp_path / "t.parquet")
    table = score_table.Table(tmp_path / "t.parquet", None, {})
    found = table.segments(["s8", "s1", "s2", "s10", "gone"])
    assert {name: each.nll[1] for name, each in found.items()} == {"s8": 8, "s1": 1, "s2": 2}
    assert found["s8"].chars == [0, 1, 10] and table.segments([]) == {}


def test_a_table_says_its_format_and_a_newer_one_is_refused(tmp_path, monkeypatch):
    rows = [dict.fromkeys(score_table.COLUMNS) | {"id": "a", **dict.fromkeys(score_table.LENGTHS, 1)}]
    path = tmp_path / "t.parquet"
    score_table.write_table([score_table.Part(rows, {}, 0.0)], {}, path)
    assert score_table.read_scores(path).about["format"] == score_table.FORMAT
    pq.write_table(pq.read_table(path).replace_schema_metadata({"gateau": "{}"}), path)
    assert score_table.read_scores(path).rows["id"].to_pylist() == ["a"], (
        "tables from before the number are read as they were"
    )
    monkeypatch.setattr(score_table, "FORMAT", score_table.FORMAT + 1)
    score_table.write_table([score_table.Part(rows, {}, 0.0)], {}, path)
    monkeypatch.undo()
    with pytest.raises(DataError, match="of format 2, and this library reads up to 1; update the library"):
        score_table.read_scores(path)


def test_a_table_of_the_released_procedures_is_refused(tmp_path):
    rows = [dict.fromkeys(score_table.COLUMNS) | {"id": "a", **dict.fromkeys(score_table.LENGTHS, 1)}]
    path = tmp_path / "t.parquet"
    score_table.write_table([score_table.Part(rows, {}, 0.0)], {"as_released": True}, path)
    with pytest.raises(DataError, match="scored by the released procedures"):
        score_table.read_scores(path)


def test_what_a_method_reads_and_leaves_decides_its_parts(saved_pair):
    both = pair.load_pair(*map(str, saved_pair), True, "float32", torch.device("cpu"))
    hmg = METHODS["hmg"]
    others = [replace(hmg, passes=("nll_long",)), replace(hmg, columns=("hmg",))]
    keys = [json.dumps(part_files.makers(both, [each])) for each in (hmg, *others)]
    assert len(set(keys)) == 3


def test_other_methods_make_no_part_stale(saved_pair):
    both = pair.load_pair(*map(str, saved_pair), True, "float32", torch.device("cpu"))
    hmg, cam = (part_files.makers(both, [METHODS[name]])["code"] for name in ("hmg", "cam"))
    assert hmg != cam and hmg == part_files.makers(both, [METHODS["hmg"]])["code"]
