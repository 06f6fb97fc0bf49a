"""A data set as immutable shards: runs of consecutive records that any worker can read by itself, and prove
unchanged.

One pass over the data finds every record's place, its id, and the hash of every shard. The records themselves
are read again, shard by shard, by whoever scores them, so the data may be larger than memory, and a file that
changes during a run is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateau_lib.data.longalign import from_record
from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError, reason


@dataclass(frozen=True)
class Item:
    """One record of the data: a usable sample, or the reason why there is none."""

    id: str | None
    sample: Sample | None
    error: str | None = None


@dataclass(frozen=True)
class Shard:
    """``rows`` consecutive records; ``begin`` and ``end`` are bytes of a JSONL file, rows of a Parquet file.

    ``twice`` lists records whose id stands earlier in the data: (line, line of the first use).
    """

    number: int
    begin: int
    end: int
    first_line: int  # of the data, counted from 1
    rows: int
    sha256: str
    twice: tuple[tuple[int, int], ...] = ()

    @property
    def content(self) -> list[Any]:
        """What its rows depend on, beside models and options; the line is part of a bad record's message."""
        return [self.sha256, self.first_line, self.twice]


def _unit(path: Path) -> str:
    return "row" if path.suffix == ".parquet" else "line"


@lru_cache(maxsize=2)  # neighbouring shards lie in one row group
def _row_group(path: Path, changed: int, group: int) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read_row_group(group)


def _parquet_rows(path: Path, begin: int, end: int) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    about, first = pq.read_metadata(path), 0
    for group in range(about.num_row_groups):
        last = first + about.row_group(group).num_rows
        if first < end and begin < last:
            start = max(begin, first)
            part = _row_group(path, path.stat().st_mtime_ns, group).slice(
                start - first, min(end, last) - start
            )
            for batch in part.to_batches(max_chunksize=64):
                yield from batch.to_pylist()
        first = last


def _raw(
    path: Path, begin: int = 0, end: int | None = None, line: int = 1
) -> Iterator[tuple[int, int, int, bytes]]:
    """Line number, begin, end and bytes of each record between two places; blank lines are none."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        last = pq.read_metadata(path).num_rows if end is None else end
        for row, record in enumerate(_parquet_rows(path, begin, last), begin):
            yield row + 1, row, row + 1, json.dumps(record, default=str).encode()
        return
    with path.open("rb") as file:
        file.seek(begin)
        for number, text in enumerate(file, line):
            if end is not None and begin >= end:
                return
            if text.strip(b"\xef\xbb\xbf \t\r\n"):
                yield number, begin, begin + len(text), text
            begin += len(text)


def _parse(path: Path, number: int, text: bytes) -> Any:
    where = f"{path}, {_unit(path)} {number}"
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None


def _name(record: Any) -> str | None:
    """The id as text, or None; half a surrogate pair (escaped in JSON) is replaced: no table can hold it."""
    given = record.get("id") if isinstance(record, dict) else None
    return None if given in (None, "") else str(given).encode("utf-8", "replace").decode()


def check_file(path: Path) -> None:
    """Raise DataError unless the path is a file of a kind that can be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; DATA is a JSONL or Parquet file of LongAlign records")
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; use .jsonl or .parquet")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            pq.read_metadata(path)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a Parquet file ({reason(error)})") from None


def index(path: str | Path, size: int) -> list[Shard]:
    """The shards of a file, ``size`` records each (the last may be smaller); every record is in exactly one.

    Raises:
        DataError: no such file, nothing in it, or a line that is no JSON (its number).
    """
    path = Path(path)
    check_file(path)
    shards: list[Shard] = []
    seen: dict[str, int] = {}
    digest, twice, rows, start, first = hashlib.sha256(), [], 0, 0, 0

    def close(end: int) -> None:
        shards.append(Shard(len(shards), start, end, first, rows, digest.hexdigest(), tuple(twice)))

    stop = 0
    for number, begin, end, text in _raw(path):
        if rows == size:
            close(stop)
            digest, twice, rows = hashlib.sha256(), [], 0
        if rows == 0:
            start, first = begin, number
        name = _name(_parse(path, number, text))
        if name is not None and seen.setdefault(name, number) != number:
            twice.append((number, seen[name]))
        digest.update(text.rstrip(b"\r\n") + b"\n")  # the end of the file may lack its newline
        rows, stop = rows + 1, end
    if not rows:
        raise DataError(f"{path}: holds no records")
    close(stop)
    return shards


def read(path: str | Path, shard: Shard) -> list[Item]:
    """The records of a shard in their order; one that cannot be scored keeps its place and says why.

    Raises:
        DataError: the file changed since the shards were made.
    """
    path, unit, items = Path(path), _unit(Path(path)), []
    digest, first_use = hashlib.sha256(), dict(shard.twice)
    for number, _, _, text in _raw(path, shard.begin, shard.end, shard.first_line):
        digest.update(text.rstrip(b"\r\n") + b"\n")
        try:
            items.append(_item(_parse(path, number, text), f"{unit} {number}", unit, first_use.get(number)))
        except DataError:  # what was JSON when the shards were made is none now
            break
    if digest.hexdigest() != shard.sha256:
        raise DataError(
            f"{path}: {unit}s from {shard.first_line} on changed since the run began; give the command again"
        )
    return items


def _item(record: Any, where: str, unit: str, used: int | None) -> Item:
    name = _name(record)
    try:
        sample = from_record(record, where)  # without the path: the same data elsewhere gives the same bytes
        try:
            (sample.id + sample.context + sample.instruction + sample.response).encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{where}: the text holds half of a surrogate pair; write the record as valid Unicode"
            ) from None
        if used is not None:
            raise DataError(f"{where}: id {name!r} was already used at {unit} {used}; ids must be unique")
    except DataError as error:
        return Item(name, None, str(error))
    return Item(name, sample)


def read_items(path: str | Path) -> list[Item]:
    """Every record of the data in its order, see `read`."""
    return [item for shard in index(path, 1024) for item in read(path, shard)]


def spread(shards: Sequence[Shard], path: str | Path, at_most: int) -> list[Item]:
    """At most about ``at_most`` records, from whole shards evenly spread over the data: for estimates."""
    step = max(1, sum(s.rows for s in shards) // at_most)
    return [item for shard in shards[::step] for item in read(path, shard)]
