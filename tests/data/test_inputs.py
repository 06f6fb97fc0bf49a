"""Which files a data set is: suffixes, folders, what datasets saved, standard input."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateau_lib.data import inputs, sharded
from gateau_lib.data.formats import AUTO, ReadAs
from gateau_lib.study.errors import DataError


def record(name):
    return {"id": name, "prompt": f"Document {name}.\n\nWhy?", "completion": "So."}


def write(path: Path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record(name)) + "\n" for name in names))
    return path


def ids(path, read_as=AUTO, size=2):
    return [item.id for shard in sharded.index(path, size, read_as) for item in sharded.read(path, shard)]


@pytest.mark.parametrize("name", ["d.jsonl", "D.JSONL", "d.ndjson", "d.json", "D.Json"])
def test_suffixes_of_json_lines(tmp_path, name):
    assert ids(write(tmp_path / name, "a", "b", "c")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("d.csv", "unknown suffix '.csv'; use .jsonl, .json, .ndjson, .parquet, .arrow; JSON may be packed"),
        ("d.jsonl.xz", "unknown suffix '.xz'; unpack it first (xz -d)"),
        ("d.zip", "unpack it first (unzip)"),
        ("d.csv.gz", "unknown suffix '.csv'"),
        ("d.parquet.gz", "unknown suffix '.parquet.gz'"),
        ("d", "unknown suffix ''"),
    ],
)
def test_unknown_suffixes_say_what_to_do(tmp_path, name, says):
    (tmp_path / name).write_text("x")
    with pytest.raises(DataError) as error:
        inputs.files_of(tmp_path / name)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_is_its_files_by_name(tmp_path):
    for name, one in (("part-2.jsonl", "c"), ("part-10.jsonl", "a"), ("deep/part-1.jsonl", "d")):
        write(tmp_path / "data" / name, one)
    write(tmp_path / "data" / "part-3.ndjson", "e", "a", "f")
    pq.write_table(pa.Table.from_pylist([record("g")]), tmp_path / "data" / "part-4.parquet")
    for name in ("README.md", "_SUCCESS", ".hidden.jsonl", "_metadata/x.jsonl"):
        write(tmp_path / "data" / name, "z")
    assert inputs.not_read(tmp_path / "data") == [Path("README.md")]
    shards = sharded.index(tmp_path / "data", 2)
    items = [item for shard in shards for item in sharded.read(tmp_path / "data", shard)]
    assert [item.id for item in items] == ["d", "a", "c", "e", "a", "f", "g"]
    assert items[4].error == (
        "part-3.ndjson, line 2: id 'a' was already used at part-10.jsonl, line 1; ids must be unique"
    )
    assert dict(sharded.originals(tmp_path / "data", shards, {"f", "a"})) == {
        "f": json.dumps(record("f")).encode() + b"\n",
        "a": json.dumps(record("a")).encode() + b"\n",
    }
    by_line = ids(tmp_path / "data", ReadAs(ids="line"))
    assert by_line[:2] == ["deep/part-1.jsonl:1", "part-10.jsonl:1"] and len(set(by_line)) == 7


def test_folders_that_hold_nothing_or_too_much(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="this folder holds no data; its files end in"):
        inputs.files_of(tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        inputs.files_of(tmp_path / "gone")


def test_folders_as_datasets_saves_them(tmp_path):
    names = ["c", "a", "b", "d", "e"]
    made = datasets.Dataset.from_list([record(name) for name in names])
    made.save_to_disk(tmp_path / "saved", num_shards=2)
    assert ids(tmp_path / "saved", size=2) == names
    made.select([3, 1]).save_to_disk(tmp_path / "some")
    assert ids(tmp_path / "some") == ["d", "a"]
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match="holds the splits train, test; give one, as .*both/train"):
        inputs.files_of(tmp_path / "both")
    assert ids(tmp_path / "both" / "train") == names
    (tmp_path / "saved" / "state.json").write_text("[")
    with pytest.raises(DataError, match="state.json: not as datasets writes it"):
        inputs.files_of(tmp_path / "saved")


@pytest.mark.parametrize(
    ("form", "kept"), [("jsonl", "scores.data.jsonl"), ("parquet", "scores.data.parquet")]
)
def test_standard_input_is_kept_beside_the_scores(tmp_path, monkeypatch, form, kept):
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([record("a")]), tmp_path / "d.parquet")
    else:
        write(tmp_path / "d.jsonl", "a")
    content = (tmp_path / f"d.{form}").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    path = inputs.stored(Path("-"), tmp_path / "out" / "scores.parquet")
    assert path == tmp_path / "out" / kept and path.read_bytes() == content and ids(path) == ["a"]
    assert [each.name for each in path.parent.iterdir()] == [kept]
    with pytest.raises(DataError, match="can be read only once"):
        inputs.stored(Path("-"), None)
    assert inputs.stored(tmp_path / f"d.{form}", None) == tmp_path / f"d.{form}"


def test_a_pipe_is_kept_too(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="a pipe can be read only once"):
        inputs.files_of(tmp_path / "pipe.jsonl")
    lines = (json.dumps(record("a")) + "\n").encode()
    writer = threading.Thread(target=(tmp_path / "pipe.jsonl").write_bytes, args=(lines,))
    writer.start()
    assert ids(inputs.stored(tmp_path / "pipe.jsonl", tmp_path / "s.parquet")) == ["a"]
    writer.join()


@pytest.mark.parametrize("kept", ["scores.data.jsonl", "scores.data.parquet"])
def test_what_was_kept_is_selected_from_and_one_kind_only(tmp_path, monkeypatch, kept):
    """`select` reads data twice, and the stream that was scored is empty by then."""
    out, name = tmp_path / "scores.parquet", tmp_path / kept
    (tmp_path / "scores.data.parquet").write_bytes(b"an earlier run's")
    (tmp_path / "scores.data.jsonl").write_bytes(b"an earlier run's")
    content = b"PAR1" if kept.endswith("parquet") else b"{}"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert inputs.stored(Path("-"), out) == name and inputs.kept_beside(out) == [name]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=None))  # not touched
    assert inputs.stored(Path("-"), tmp_path / "sel.jsonl", out) == name
    assert inputs.stored(tmp_path / "d.jsonl", tmp_path / "sel.jsonl", out) == tmp_path / "d.jsonl"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"{}")))
    other = inputs.stored(Path("-"), tmp_path / "sel.jsonl", tmp_path / "other.parquet")
    assert other == tmp_path / "sel.data.jsonl"


def test_links_in_a_folder_are_not_passed_over(tmp_path):
    """A link to nothing is what a broken download of the hub's cache leaves."""
    write(tmp_path / "data" / "a.jsonl", "a")
    write(tmp_path / "elsewhere" / "b.jsonl", "b")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "c.jsonl").symlink_to(tmp_path / "elsewhere" / "b.jsonl")
    assert ids(tmp_path / "data") == ["a", "b"]
    assert inputs.not_read(tmp_path / "data") == [Path("more")]
    (tmp_path / "data" / "d.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"d\.jsonl: no such file"):
        inputs.files_of(tmp_path / "data")


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path):
    name = os.fsdecode(b"caf\xe9.jsonl")
    write(tmp_path / "data" / name, "a")
    for path in (tmp_path / "data", tmp_path / "data" / name):
        with pytest.raises(DataError, match="its name is not UTF-8, and no table can hold it; rename"):
            inputs.files_of(path)
