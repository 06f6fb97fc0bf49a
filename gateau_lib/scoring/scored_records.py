"""The records that were scored, as selecting reads them again: by id, without their texts."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.samples import Sample
from gateau_lib.data.sharded import Shard
from gateau_lib.scoring.score_table import Table, text_hash
from gateau_lib.scoring.spill import Spill
from gateau_lib.study.errors import DataError
from gateau_lib.study.progress import track

CODED = "utf-8", "surrogatepass"  # of texts in a `Spill`


class Record(NamedTuple):
    """What is kept of each record while the pool is ranked: no texts, which may be larger than memory."""

    shard: int
    where: str
    source: str
    text_hash: str | None  # None: no sample
    error: str | None


def records_of(
    table: Table, path: Path, shards: Sequence[Shard], contexts: Spill | None = None
) -> dict[str, Record]:
    """The scored records by id; DataError unless data and scores hold the same ids.

    ``contexts``: is given the context of every sample by its id.
    """
    found: dict[str, Record] = {}
    for shard in track(shards, f"reading records, shards of {shards[0].rows}"):
        for item in sharded.read(path, shard):
            if item.id is None or item.id in found:
                continue
            sample = item.sample
            about = (sample.source, text_hash(sample)) if sample else ("", None)
            found[item.id] = Record(shard.number, item.where, sys.intern(about[0]), about[1], item.error)
            if sample and contexts is not None:
                contexts.add(item.id, sample.context.encode(*CODED))
    scored = {row["id"] for row in table.rows if row["id"] is not None}
    if lost := sorted(scored - found.keys()):
        what = f"{len(lost)} scored ids are not in it (first {lost[0]!r})"
        raise DataError(f"{path}: {what}; give the data that was scored")
    if new := sorted(found.keys() - scored):
        what = f"{len(new)} records of {path} have no row (first {new[0]!r})"
        raise DataError(f"{table.path}: {what}; score the data again")
    for row in table.rows:
        if row["error"] is None and row["id"] in found and (error := found[row["id"]].error):
            raise DataError(f"{path}: {error}; it was scored, so score this data again")
    return found


def check_texts(path: Path, ranked: pd.DataFrame, records: Mapping[str, Record]) -> None:
    """Raise DataError if a sample's texts are not those that were scored; an older table holds no hashes."""
    known = zip(ranked["id"], ranked["text_hash"], strict=True) if "text_hash" in ranked else ()
    changed = {name for name, then in known if isinstance(then, str) and then != records[name].text_hash}
    if changed:
        name = next(name for name in records if name in changed)
        what = f"the text of {name!r} is not the one that was scored ({len(changed):,} such samples)"
        raise DataError(f"{path}: {records[name].where}: {what}; score the data again")


def shards_of(shards: Sequence[Shard], ids: Iterable[str], records: Mapping[str, Record]) -> list[Shard]:
    """The shards that some records stand in, in the order of the data."""
    return [shards[number] for number in sorted({records[name].shard for name in ids})]


def samples_of(
    path: Path, shards: Sequence[Shard], ids: Sequence[str], records: Mapping[str, Record]
) -> dict[str, Sample]:
    """Some samples whole, by id."""
    items = (item for shard in shards_of(shards, ids, records) for item in sharded.read(path, shard))
    return {item.sample.id: item.sample for item in items if item.sample and item.sample.id in ids}
