"""A data set as immutable shards: runs of consecutive records that any worker can read by itself.

One pass over the data finds every record's place, its id, and the hash of every shard. Whoever scores a shard
reads it again, so the data may be larger than memory, and a file that changes during a run is noticed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gateau_lib.data.longalign import RawRecord, check_file, from_record, parse, raw_records, unit_of
from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError


@dataclass(frozen=True)
class Item:
    """One record of the data: a usable sample, or the reason why there is none."""

    id: str | None
    sample: Sample | None
    error: str | None = None


@dataclass(frozen=True)
class Shard:
    """``rows`` consecutive records; ``begin`` and ``end`` are bytes of JSONL, rows of Parquet."""

    number: int
    begin: int
    end: int
    first_line: int  # of the data, counted from 1
    rows: int
    sha256: str
    twice: tuple[tuple[int, int], ...] = ()  # lines of records whose id stands earlier, and that earlier line

    @property
    def content(self) -> list[Any]:
        """What its rows depend on, beside models and options; the line is part of a bad record's message."""
        return [self.sha256, self.first_line, self.twice]


def _content(raw: RawRecord) -> bytes:
    """What counts of a record's bytes: the end of the file may lack its newline."""
    return raw.text.rstrip(b"\r\n") + b"\n"


def _name(record: Any) -> str | None:
    """The id as text, or None; half a surrogate pair (escaped in JSON) is replaced: no table can hold it."""
    given = record.get("id") if isinstance(record, dict) else None
    return None if given in (None, "") else str(given).encode("utf-8", "replace").decode()


def index(path: str | Path, size: int) -> list[Shard]:
    """The shards of a file, ``size`` records each, the last maybe fewer; DataError if a line is no JSON."""
    path = Path(path)
    check_file(path)
    shards: list[Shard] = []
    seen: dict[str, int] = {}
    records = raw_records(path)
    while group := list(islice(records, size)):
        digest, twice = hashlib.sha256(), []
        for raw in group:
            digest.update(_content(raw))
            name = _name(parse(path, raw))
            first_use = raw.number if name is None else seen.setdefault(name, raw.number)
            if first_use != raw.number:
                twice.append((raw.number, first_use))
        places = group[0].begin, group[-1].end, group[0].number
        shards.append(Shard(len(shards), *places, len(group), digest.hexdigest(), tuple(twice)))
    if not shards:
        raise DataError(f"{path}: holds no records")
    return shards


def read(path: str | Path, shard: Shard) -> list[Item]:
    """The records of a shard, one that cannot be scored in its place; DataError if the file has changed."""
    path = Path(path)
    items, unit = [], unit_of(path)
    digest, first_use = hashlib.sha256(), dict(shard.twice)
    for raw in raw_records(path, shard.begin, shard.end, shard.first_line):
        digest.update(_content(raw))
        try:
            record = parse(path, raw)
        except DataError:  # what was JSON when the shards were made is none now
            break
        items.append(_item(record, f"{unit} {raw.number}", unit, first_use.get(raw.number)))
    if digest.hexdigest() != shard.sha256:
        lines = f"{unit}s from {shard.first_line} on"
        raise DataError(f"{path}: {lines} changed since the run began; give the command again")
    return items


def _item(record: Any, where: str, unit: str, used: int | None) -> Item:
    name = _name(record)
    try:
        sample = from_record(record, where)  # without the path: the same data elsewhere gives the same bytes
        (sample.id + sample.context + sample.instruction + sample.response).encode()
    except UnicodeEncodeError:
        fix = "write the record as valid Unicode"
        return Item(name, None, f"{where}: the text holds half of a surrogate pair; {fix}")
    except DataError as error:
        return Item(name, None, str(error))
    if used is not None:
        return Item(name, None, f"{where}: id {name!r} was already used at {unit} {used}; ids must be unique")
    return Item(name, sample)


def spread(shards: Sequence[Shard], path: str | Path, at_most: int) -> list[Item]:
    """About ``at_most`` records at most, of whole shards evenly spread over the data: for estimates."""
    step = max(1, sum(shard.rows for shard in shards) // at_most)
    return [item for shard in shards[::step] for item in read(path, shard)]
