"""The records that were scored, as selecting reads them again: arrays beside the table's rows, no texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from gateau_lib.data import sharded
from gateau_lib.data.samples import Sample
from gateau_lib.data.sharded import Item, Shard
from gateau_lib.scoring.score_table import Table, text_hash
from gateau_lib.scoring.spill import Spill
from gateau_lib.study.errors import DataError
from gateau_lib.study.progress import track

CODED = "utf-8", "surrogatepass"  # of texts in a `Spill`


class Rows:
    """Which row of a score table an id has; 16 bytes an id, where a dictionary takes some 200."""

    def __init__(self, table: Table) -> None:
        self._ids = table.rows["id"]
        keys = np.fromiter((hash(name) for name, _ in table.ids_and_errors()), np.int64, len(self._ids))
        failed = table.rows["error"].is_valid().to_numpy()
        # An id may stand in several rows, of which one is scored: that one is met first.
        order = np.lexsort((failed, keys))
        self._rows = order[self._ids.is_valid().to_numpy()[order]]
        self._keys = keys[self._rows]

    def __getitem__(self, name: str) -> int:
        """The row, -1 of an id that stands in none."""
        key = hash(name)
        for place in range(int(self._keys.searchsorted(key)), len(self._keys)):
            if self._keys[place] != key:
                break
            row = int(self._rows[place])
            if self._ids[row].as_py() == name:
                return row
        return -1

    def lost(self, found: npt.NDArray[np.bool_]) -> set[str]:
        """The ids of which no row was found; ``found``: (rows of the table,)."""
        names = {self._ids[row].as_py() for row in self._rows[~found[self._rows]].tolist()}
        return {name for name in names if not found[self[name]]}


@dataclass(frozen=True)
class Records:
    """What is kept of the records while the pool is ranked, each (rows of the score table,)."""

    shard: npt.NDArray[np.int32]  # -1 where the row's id has another row, that was scored
    source: pd.Categorical  # categories sorted; "" where there is none
    changed: npt.NDArray[np.bool_]  # whether the texts are not those that were scored


def records_of(table: Table, path: Path, shards: Sequence[Shard], contexts: Spill | None = None) -> Records:
    """What the data say of the rows of their scores; DataError unless both hold the same ids.

    ``contexts``: is given the context of every sample, by its row.
    """
    rows, many = Rows(table), table.rows.num_rows
    shard, source = np.full(many, -1, dtype=np.int32), np.zeros(many, dtype=np.int32)
    changed, scored = np.zeros(many, dtype=bool), table.rows["error"].is_null().to_numpy()
    hashes = (
        table.rows["text_hash"] if "text_hash" in table.rows.column_names else pa.nulls(many, pa.string())
    )
    sources, new, bad = {"": 0}, set[str](), dict[int, str]()
    for number, name, item in _named(path, shards):
        if (row := rows[name]) < 0:
            new.add(name)
        if row < 0 or shard[row] >= 0:  # its id stands earlier
            continue
        shard[row] = number
        if (sample := item.sample) is None:
            bad |= {row: item.error or ""} if scored[row] else {}
            continue
        source[row] = sources.setdefault(sample.source, len(sources))
        changed[row] = (then := hashes[row].as_py()) is not None and then != text_hash(sample)
        if contexts is not None:
            contexts.add(row, sample.context.encode(*CODED))
    if lost := rows.lost(shard >= 0):
        what = f"{len(lost)} scored ids are not in it (first {min(lost)!r})"
        raise DataError(f"{path}: {what}; give the data that was scored")
    if new:
        what = f"{len(new)} records of {path} have no row (first {min(new)!r})"
        raise DataError(f"{table.path}: {what}; score the data again")
    if bad:
        raise DataError(f"{path}: {bad[min(bad)]}; it was scored, so score this data again")
    names = sorted(sources)
    places = np.argsort([sources[name] for name in names]).astype(np.int32)  # in ``names``, by number
    return Records(shard, pd.Categorical.from_codes(places[source], pd.Index(names, dtype=object)), changed)


def _named(path: Path, shards: Sequence[Shard]) -> Iterator[tuple[int, str, Item]]:
    """The records that have an id, each with the number of its shard."""
    for shard in track(shards, f"reading records, shards of {shards[0].rows}"):
        for item in sharded.read(path, shard):
            if item.id is not None:
                yield shard.number, item.id, item


def check_texts(path: Path, ranked: pd.DataFrame, shards: Sequence[Shard], records: Records) -> None:
    """Raise DataError if a sample's texts are not those that were scored; an older table holds no hashes."""
    changed = ranked[records.changed[ranked["row"]]]
    if changed.empty:
        return
    first, names = shards_of(shards, changed, records)[0], set(changed["id"])
    item = next(item for item in sharded.read(path, first) if item.sample and item.id in names)
    what = f"the text of {item.id!r} is not the one that was scored ({len(changed):,} such samples)"
    raise DataError(f"{path}: {item.where}: {what}; score the data again")


def shards_of(shards: Sequence[Shard], some: pd.DataFrame, records: Records) -> list[Shard]:
    """The shards that samples stand in, in the order of the data; ``some``: with the column ``row``."""
    return [shards[number] for number in np.unique(records.shard[some["row"]])]


def samples_of(
    path: Path, shards: Sequence[Shard], some: pd.DataFrame, records: Records
) -> dict[str, Sample]:
    """Samples whole, by id; ``some``: with the columns ``id, row``."""
    names = set(some["id"])
    items = (item for shard in shards_of(shards, some, records) for item in sharded.read(path, shard))
    return {item.sample.id: item.sample for item in items if item.sample and item.sample.id in names}
