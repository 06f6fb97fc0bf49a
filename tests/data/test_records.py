"""Records where they stand: line ends, marks, arrays, packed files, tables; broken ones are one line."""

from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gateau_lib.data import sharded, tables
from gateau_lib.data.formats import ReadAs
from gateau_lib.data.records import kind_of, line_of, raw_records
from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError

MARK = b"\xef\xbb\xbf"


def record(name):
    return {"id": name, "prompt": f"Document {name}.\n\nWhy?", "completion": "So."}


def line(name):
    return json.dumps(record(name)).encode()


def items(path, size=2):
    shards = sharded.index(path, size)
    return [item for shard in shards for item in sharded.read(path, shard)]


def ids(path, size=2):
    return [item.id for item in items(path, size)]


def refused(path):
    with pytest.raises(DataError) as error:
        items(path)
    assert "\n" not in str(error.value) and str(path.name) in str(error.value)
    return str(error.value)


ABC = [line(name) for name in "abc"]


@pytest.mark.parametrize(
    "content",
    [
        b"\n".join(ABC),
        b"\r\n".join(ABC) + b"\r\n",
        MARK + ABC[0] + b"\n\n \t\r\n" + MARK + ABC[1] + b"\n" + MARK + b"\n" + MARK + MARK + ABC[2],
        b"\n".join(each.replace(b", ", b",\r ") for each in ABC),
        b"[" + b",".join(ABC) + b"]",
        MARK + b"\n[\r\n" + b" ,\n".join(ABC) + b"\n]\n\n",
        json.dumps([record(name) for name in "abc"], indent=2).encode(),
    ],
)
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, bz2.compress, lambda text: pa.compress(text, "zstd", asbytes=True)]
)
def test_line_ends_marks_arrays_and_packed_files(tmp_path, content, pack):
    path = tmp_path / "d.json"  # what packs it is told by its bytes
    path.write_bytes(pack(content))
    assert ids(path, 1) == ids(path, 2) == ids(path, 9) == ["a", "b", "c"]
    shards = sharded.index(path, 2)
    assert [item.id for item in sharded.read(path, shards[1])] == ["c"]  # entered in the middle
    assert [item.id for item in sharded.read(path, shards[0])] == ["a", "b"]
    lines = dict(sharded.originals(path, shards, {"a", "c"}))
    assert [json.loads(lines[name]) for name in "ac"] == [record("a"), record("c")]
    assert all(text.count(b"\n") == 1 and b"\r" not in text for text in lines.values())


def test_packs_one_after_the_other_are_one_file(tmp_path):
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(ABC[0] + b"\n") + gzip.compress(ABC[1]))
    assert ids(tmp_path / "d.jsonl.gz") == ["a", "b"]


def test_a_selected_line_is_byte_for_byte_the_records(tmp_path):
    odd = rb'{"id":"a" , "n": 1.10, "n": 1E5, "x": NaN, "s": "\u00e9\ud800\/", "prompt":"Q","completion":"A"}'
    (tmp_path / "d.jsonl").write_bytes(MARK + b"  " + odd + b" \r\n" + line("b"))
    (tmp_path / "d.json").write_bytes(b"[\n" + odd.replace(b" , ", b"\n,\r\n") + b"\n]")
    shards = sharded.index(tmp_path / "d.jsonl", 5)
    assert dict(sharded.originals(tmp_path / "d.jsonl", shards, {"a"})) == {"a": odd + b"\n"}
    (raw,) = raw_records(tmp_path / "d.json")
    assert line_of(raw) == odd + b"\n"
    assert kind_of(tmp_path / "d.json") == "array" and kind_of(tmp_path / "d.jsonl") == "lines"


DEEP = b'{"id": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (ABC[0] + b"\n{", "line 2: not valid JSON (Expecting property name"),
        (b'{\n  "id": 1\n}', "at column 2); one record a line, or one JSON array"),
        (b"\r".join(ABC), "in LF, not in CR alone: tr '\\r' '\\n' < FILE > NEW writes them so"),
        (ABC[0][:-9], "line 1: not valid JSON (Unterminated string starting at column"),
        (ABC[0][:-9], "; the record breaks off, fetch or write the file again"),
        (ABC[0] + ABC[1], "); records share a line, give each its own"),
        (ABC[0] + b"\n{'id': 1}", "line 2: not valid JSON (Expecting property name"),
        (b"{'id': 1}", "; JSON has double quotes, write records with json.dumps"),
        (b"# data\n" + ABC[0], "; JSON has no comments, leave the line out"),
        (b'{"id": 1, x}', "; mend the record or leave it out"),
        (b"PAR1\x15\x04PAR1", "; this is a Parquet file, end its name in .parquet"),
        (b"<!DOCTYPE html>", "; this is a web page, fetch the file again"),
        (ABC[0] + b"\n" + b"\0" * 9, "line 2: not valid JSON (Expecting value at column 1); zero bytes"),
        (ABC[0].decode().encode("utf-16-le"), "save UTF-16 as UTF-8"),
        (ABC[0].replace(b"So", b"S\xe9"), "line 1: not UTF-8; save the file as UTF-8"),
        (ABC[0].decode().encode("utf-16"), "line 1: not UTF-8"),
        (ABC[0] + b"\n" + DEEP, "line 2: nested too deeply to be read"),
        (ABC[0] + b'\n{"id": ' + b"1" * 5000 + b"}", "line 2: a number of too many digits"),
        (b"[" + ABC[0], "its JSON array has no end"),
        (b"[" + ABC[0] + b"," + ABC[1][:-4], "record 2: not valid JSON (a text without its end)"),
        (b"[" + ABC[0] + b",]", "record 2: not valid JSON (no value before ']')"),
        (b"[," + ABC[0] + b"]", "record 1: not valid JSON (no value before ',')"),
        (b"[" + ABC[0] + b"}]", "record 1: not valid JSON (no value before '}')"),
        (b"[" + ABC[0] + b" " + ABC[1] + b"]", "record 1: not valid JSON (Extra data"),
        (b"[" + ABC[0] + b"]\n[" + ABC[1] + b"]", "text stands after the end of its JSON array"),
        (b"[" + ABC[0] + b"," + DEEP + b"]", "record 2: nested too deeply to be read"),
        (b'{"data": [' + ABC[0] + b"]}", "line 1: the records stand in the list 'data'; write that list"),
        (b"[]", "holds no records"),
        (b"\n \r\n" + MARK, "holds no records"),
        (gzip.compress(b"\n".join(ABC) * 50, mtime=0)[:90], "cannot be read (Truncated compressed stream)"),
        (b"\x1f\x8bgarbage", "cannot be read (zlib inflate failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "line 1: not valid JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "; Git LFS left a pointer"),
    ],
)  # fmt: skip
def test_broken_files_are_one_line(tmp_path, content, says):
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    assert says in refused(path)


def test_what_is_wrong_first_is_told_whatever_the_shards_size(tmp_path):
    path = tmp_path / "d.json"
    path.write_bytes(b"[" + ABC[0] + b", {'x'}, " + ABC[1] + b",]")
    for size in (1, 2, 9):
        with pytest.raises(DataError, match="record 2: not valid JSON"):
            sharded.index(path, size)


def test_no_id_at_all_offers_the_line(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"text": name}) + "\n\n" for name in "abc"))
    assert "no record has an 'id'; --ids line takes line numbers as ids" in refused(path)
    shards = sharded.index(path, 2, ReadAs(ids="line"))
    found = [item for shard in shards for item in sharded.read(path, shard)]
    assert [(item.id, item.sample) for item in found] == [
        (str(n), Sample(str(n), name, "", "")) for n, name in ((1, "a"), (3, "b"), (5, "c"))
    ]
    assert sharded.forms_of(shards) == {"text": 3}


def test_data_of_no_known_form_stop_at_once_and_some_records_do_not(tmp_path):
    path = tmp_path / "d.jsonl"
    odd = [json.dumps({"id": n, "reply": "x"}) for n in range(sharded.LOOKED_AT)]
    path.write_text("\n".join([*odd, "not JSON"]))
    assert "line 1: none of the known fields; it has 'id', 'reply'" in refused(path)
    path.write_text("\n".join([ABC[0].decode(), *odd]))
    found = items(path)
    assert found[0].sample and all("none of the known fields" in item.error for item in found[1:])
    assert sharded.forms_of(sharded.index(path, 2)) == {"": 20, "prompt": 1}


@pytest.mark.parametrize("given", [[1], {"a": 1}])
def test_ids_are_texts_or_numbers(tmp_path, given):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(json.dumps(record(name)) for name in (given, 1, "1", 2.5, 0, False)))
    found = items(path)
    assert [item.id for item in found] == [None, "1", "1", "2.5", "0", "False"]
    assert "line 1: no 'id' that is a text or number" in found[0].error
    assert "line 3: id '1' was already used at line 2" in found[2].error


ODD = {
    "time": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5)] * 5, pa.timestamp("ns")),
    "day": pa.array([datetime.date(2026, 1, 2)] * 5),
    "raw": pa.array([b"text", b"\xff\x00", None, b"", b"x"]),
    "price": pa.array([decimal.Decimal("1.10")] * 5),
    "wait": pa.array([datetime.timedelta(seconds=3)] * 5),
    "deep": pa.array([[{"at": datetime.time(1, 2)}]] * 5),
    "number": pa.array([1.5, float("nan"), float("inf"), None, 2]),
    "kind": pa.array(["x"] * 5).dictionary_encode(),
}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".file.arrow", ".PARQUET"])
def test_columns_of_other_types_become_text_and_are_named(tmp_path, suffix):
    path = tmp_path / f"d{suffix}"
    table = pa.Table.from_pylist([record(name) for name in "abcde"])
    for name, column in ODD.items():
        table = table.append_column(name, column)
    if "arrow" in suffix:
        with (pa.ipc.new_file if "file" in suffix else pa.ipc.new_stream)(path, table.schema) as out:
            out.write_table(table, 2)
    else:
        pq.write_table(table, path, row_group_size=2)
    assert ids(path, 2) == ids(path, 3) == list("abcde")
    shards = sharded.index(path, 3)
    assert [item.id for item in sharded.read(path, shards[1])] == ["d", "e"]
    lines = dict(sharded.originals(path, shards, {"a", "b", "c"}))
    first, second, third = (json.loads(lines[name]) for name in "abc")
    assert first | record("a") == first == record("a") | {
        "time": "2026-01-02T03:04:05", "day": "2026-01-02", "raw": "text", "price": "1.10", "wait": "0:00:03",
        "deep": [{"at": "01:02:00"}], "number": 1.5, "kind": "x",
    }  # fmt: skip
    assert (second["raw"], second["number"], third["raw"], third["number"]) == ("/wA=", None, None, None)
    told = [each.partition(" ")[0] for each in tables.told_as_text(path)]
    assert told == ["time", "day", "raw", "price", "wait", "deep"]


def test_broken_tables_are_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist([record(str(n)) for n in range(2000)]), path)
    whole = path.read_bytes()
    for content in (b"words", b"", whole[:-9], whole[:4] + b"\x00" * 400 + whole[404:]):
        path.write_bytes(content)
        assert "not a Parquet file (" in refused(path)
    (tmp_path / "d.arrow").write_bytes(b"words")
    assert "d.arrow: cannot be read (" in refused(tmp_path / "d.arrow")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    pq.write_table(twice, path)
    assert "column 'id' stands twice" in refused(path)


def test_rows_are_read_a_few_at_a_time_and_a_row_group_once(tmp_path, monkeypatch):
    """Arrow reads no nested column of a whole row group above 2 GB; and no shard begins a row group anew."""
    path, opened = tmp_path / "d.parquet", []
    pq.write_table(pa.Table.from_pylist([record(str(n)) for n in range(500)]), path)
    shards, parquet = sharded.index(path, 16), tables._parquet

    def counted(*where):
        opened.append(where)
        for first, batch in parquet(*where):
            assert len(batch) <= tables.ROWS
            yield first, batch

    monkeypatch.setattr(tables, "_parquet", counted)
    assert [item.id for shard in shards for item in sharded.read(path, shard)] == [str(n) for n in range(500)]
    assert len(opened) == 1


def test_a_packed_file_is_unpacked_once_for_shards_in_their_order(tmp_path, monkeypatch):
    from gateau_lib.data import records

    path, opened = tmp_path / "d.jsonl.gz", []
    path.write_bytes(gzip.compress(b"\n\n".join(line(str(n)) for n in range(100))))
    shards, lines = sharded.index(path, 7), records._lines
    monkeypatch.setattr(records, "_lines", lambda *where: opened.append(where) or lines(*where))
    found = [item.id for shard in shards if shard.number % 3 for item in sharded.read(path, shard)]
    assert found == [str(n) for n in range(100) if (n // 7) % 3] and len(opened) == 1
