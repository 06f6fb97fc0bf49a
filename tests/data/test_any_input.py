"""Any records in any file: a right row, an error row with its reason, or one line; never anything else.

What scoring reads (`sharded.index`, `sharded.read`) and selecting (`scored_records.records_of`) must agree.
"""

from __future__ import annotations

import bz2
import gzip
import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from gateau_lib.data import formats, sharded
from gateau_lib.data.conversation import RecordError
from gateau_lib.data.formats import ReadAs
from gateau_lib.scoring.score_table import Table, text_hash
from gateau_lib.scoring.scored_records import records_of
from gateau_lib.study.errors import DataError

TEXT = st.text(st.characters(), max_size=8) | st.sampled_from(
    [
        "",
        " ",
        "user",
        "assistant",
        "tool",
        "D\n\nQ",
        "D\r\n \r\nQ",
        "\ud83d",
        "\x00",
        "\u2028",
        "[]",
        '[{"role": "user"}]',
    ]
)
SCALAR = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | TEXT
FIELDS = sorted(
    {name for groups in formats.FORMS.values() for group in groups for name in group}
    | {
        "id",
        "_id",
        "system",
        "history",
        "source",
        "kind",
        "evidence",
        "role",
        "from",
        "value",
        "tool_calls",
        "type",
    }
)
ANY = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | TEXT, inner, max_size=4)
    ),
    max_leaves=8,
)
WORDS = st.sampled_from(["D\n\nQ", "Q", "A", "D1\n\nD2\r\n\r\nQ", " "])
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt", "bing"])


def turns(who, what):
    talk = st.lists(st.fixed_dictionaries({who: ROLES, what: WORDS | ANY}), max_size=5)
    good = st.lists(WORDS, min_size=2, max_size=6).map(
        lambda texts: [{who: ("user", "assistant")[i % 2], what: text} for i, text in enumerate(texts)]
    )
    return good | talk


GOOD = st.one_of(
    st.fixed_dictionaries({"messages": turns("role", "content")}),
    st.fixed_dictionaries({"conversations": turns("from", "value")}),
    st.fixed_dictionaries({"instruction": WORDS, "input": WORDS, "output": WORDS}),
    st.fixed_dictionaries({"context": WORDS, "input": WORDS, "answers": st.lists(WORDS, max_size=2)}),
    st.fixed_dictionaries({"prompt": WORDS, "completion": WORDS}),
    st.fixed_dictionaries({"text": WORDS}),
)
IDS = st.sampled_from(["a", "b", "c", 1, "1", 2.5, "\ud800"]) | st.uuids().map(str)
NAMED = st.builds(lambda record, name: {"id": name} | record, GOOD, IDS)
MORE = st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=3)
RECORD = st.one_of(
    NAMED, NAMED, NAMED, st.builds(lambda record, more: record | more, NAMED, MORE),
    st.dictionaries(st.sampled_from(FIELDS) | TEXT, ANY, max_size=5), ANY,
)  # fmt: skip
READ_AS = st.builds(
    ReadAs, st.sampled_from(["auto"] * 12 + [*formats.FORMS]), st.sampled_from([None, None, 1, 2]),
    st.sampled_from(["field", "field", "line"]),
    st.sampled_from([(), (), (("text", "messages"),), (("input", "id"),)]),
)  # fmt: skip


def one_line(said: str) -> None:
    assert said and "\n" not in said and "\r" not in said
    said.encode()  # a table can hold it, and a terminal show it


@settings(max_examples=1000)
@given(RECORD, READ_AS)
def test_any_record_is_a_sample_or_says_why_not(record, read_as):
    try:
        sample = formats.sample_of(formats.renamed(record, read_as), "line 1", "a", read_as)
    except RecordError as error:
        one_line(str(error))
        assert error.fault in str(error)
        return
    assert sample.response.strip() or (sample.is_document and sample.context.strip())
    assert (sample.context + sample.instruction).strip()


HALF = re.compile(r"\\ud[89a-f]")  # maybe of a surrogate pair, which no bytes but escapes can hold
MARK = b"\xef\xbb\xbf"
BREAK = st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n", b"\n" + MARK])
PACK = st.sampled_from(
    [bytes, bytes, bytes, gzip.compress, bz2.compress, lambda text: pa.compress(text, "zstd", asbytes=True)]
)
DAMAGE = st.sampled_from(["none"] * 8 + ["cut", "latin-1", "utf-16", "CR", "junk", "flip"])


@st.composite
def files(draw):
    """Bytes of a JSON file, and the records in it; None where it is damaged."""
    records = draw(st.lists(RECORD, min_size=draw(st.sampled_from([0, 1, 1, 1, 1])), max_size=6))
    ascii_only = draw(st.booleans()) or bool(HALF.search(json.dumps(records)))
    texts = [json.dumps(record, ensure_ascii=ascii_only).encode() for record in records]
    damage = draw(DAMAGE)
    if draw(st.integers(0, 3)) == 0:
        indent = draw(st.sampled_from([None, 1]))
        content = json.dumps(records, ensure_ascii=ascii_only, indent=indent).encode()
    else:
        content = b"".join(text + draw(BREAK) for text in texts)
        if texts and texts[0].startswith(b"["):
            damage = damage if damage != "none" else "array"  # taken for one
    content = draw(st.sampled_from([b"", b"", MARK, b"\n", MARK + MARK + b" "])) + content
    if damage == "cut" and content:
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif damage in ("latin-1", "utf-16"):
        content = content.decode("utf-8", "replace").encode(damage, "replace")
    elif damage == "CR":
        content = content.replace(b"\n", b"\r")
    elif damage == "junk":
        content += draw(st.binary(min_size=1, max_size=9))
    elif damage == "flip" and content:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + draw(st.binary(min_size=1, max_size=1)) + content[place + 1 :]
    return draw(PACK)(content), records if damage == "none" else None


def outcome(path: Path, size: int, read_as: ReadAs):
    """What reading by shards gives: items, or the error; and the shards."""
    try:
        shards = sharded.index(path, size, read_as)
        return [item for shard in shards for item in sharded.read(path, shard)], shards
    except DataError as error:
        one_line(str(error))
        assert path.name in str(error)
        return str(error), []


def check(path: Path, read_as: ReadAs, records) -> None:
    """Two sizes of shards agree; every record is a row; selecting finds the same, and copies the bytes."""
    items, shards = outcome(path, 2, read_as)
    assert outcome(path, 5, read_as)[0] == items
    if isinstance(items, str):
        return
    if records is not None:
        assert len(items) == len(records)
    for item in items:
        assert (item.sample is None) == (item.error is not None)
        if item.error:
            one_line(item.error)
    usable = [item.id for item in items if item.sample]
    assert len(set(usable)) == len(usable)
    rows = [
        {"id": item.id, "error": item.error, "text_hash": item.sample and text_hash(item.sample)}
        for item in items
    ]
    table, threes = pa.Table.from_pylist(rows), sharded.index(path, 3, read_as)
    found = records_of(Table(path, table, {}), path, threes)
    assert not found.changed.any()
    shards_of_items = [shard.number for shard in threes for _ in range(shard.rows)]
    for row, (item, source) in enumerate(zip(items, found.source, strict=True)):
        if item.sample:
            assert (found.shard[row], source) == (shards_of_items[row], item.sample.source)
    lines = dict(sharded.originals(path, shards, set(usable)))
    assert list(lines) == usable
    for place, item in enumerate(items):
        if item.sample:
            text = lines[item.id]
            assert text.endswith(b"\n") and text.count(b"\n") == 1 and b"\r" not in text
            if records is not None:
                assert repr(json.loads(text)) == repr(json.loads(json.dumps(records[place])))


@settings(max_examples=800)
@given(files(), READ_AS)
def test_any_json_file_is_rows_or_one_line(content, read_as):
    text, records = content
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.jsonl"
        path.write_bytes(text)
        check(path, read_as, records)


PLAIN = st.sampled_from(
    [pa.string(), pa.large_string(), pa.int64(), pa.float32(), pa.bool_(), pa.binary(), pa.date32(),
     pa.time64("us"), pa.timestamp("ms"), pa.timestamp("ns", "UTC"), pa.duration("s"), pa.decimal128(20,
     2), pa.null()]
)  # fmt: skip
TYPES = st.recursive(
    PLAIN,
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(lambda kind: pa.struct({"role": kind, "content": pa.string()}))
        | inner.map(lambda kind: pa.map_(pa.string(), kind))
    ),
    max_leaves=3,
)


def fitting(kind, seed: int):
    """A value of an Arrow type, or None."""
    if seed % 5 == 0 or pa.types.is_null(kind):
        return None
    if pa.types.is_map(kind):
        return [("user", fitting(kind.item_type, seed + 1))]
    if pa.types.is_list(kind):
        return [fitting(kind.value_type, seed + 1)] * (seed % 3)
    if pa.types.is_struct(kind):
        return {field.name: fitting(field.type, seed + 1) for field in kind}
    if pa.types.is_floating(kind):
        return (1.5, math.nan, math.inf, -1.0)[seed % 4]
    words = ("user", "D\n\nQ", "é", str(seed))[seed % 4]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return words
    if pa.types.is_binary(kind):
        return words.encode("latin-1", "replace")
    small = pa.types.is_date32(kind) or pa.types.is_decimal(kind)
    return pa.scalar(seed, pa.int32() if small else pa.int64()).cast(kind).as_py()


@settings(max_examples=200)
@given(
    st.sampled_from([(), ("text",), ("prompt", "completion"), ("instruction", "input", "output")]),
    st.dictionaries(st.sampled_from(FIELDS), TYPES, max_size=5), st.sampled_from([1, 2, 3, 5, 7, 7, 0]),
    st.integers(0, 99), READ_AS, st.sampled_from([".parquet", ".arrow"]),
)  # fmt: skip
def test_any_table_is_rows_or_one_line(base, kinds, rows, seed, read_as, suffix):
    columns = {name: [fitting(kind, seed + i) for i in range(rows)] for name, kind in kinds.items()}
    for name in base:
        kinds[name], columns[name] = pa.string(), [fitting(pa.string(), seed + i) for i in range(rows)]
    columns["id"] = [("a", "b", None, "c", "d", "e", "f")[i] for i in range(rows)]
    schema = pa.schema([*((name, kind) for name, kind in kinds.items() if name != "id"), ("id", pa.string())])
    table = pa.table({name: columns[name] for name in schema.names}, schema)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"d{suffix}"
        if suffix == ".parquet":
            pq.write_table(table, path, row_group_size=3)
        else:
            with pa.ipc.new_stream(path, schema) as out:
                out.write_table(table, 4)
        items, _ = outcome(path, 2, read_as)
        check(path, read_as, None)
        assert isinstance(items, str) or len(items) == rows
