"""The score table: its columns, writing it, and reading it back with the rows that a method can rank.

A row a record, in input order, with the columns of every registered method; one that was not asked for is
empty. What the table says about itself is metadata under ``gateau``, with the number of its format.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gateau_lib.methods import METHODS, scored_with
from gateau_lib.study.errors import DataError, reason

FORMAT = 1  # of the table; raised when a column changes its meaning
# Tokens read, and context tokens cut on the left.
LENGTHS = ("n_context", "n_instruction", "n_response", "n_dropped")
SCORES = tuple(dict.fromkeys(column for method in METHODS.values() for column in method.columns))
DETAILS = {column: kind for method in METHODS.values() for column, kind in method.details.items()}
# Read only for the samples that the report shows.
SEGMENTS = ("segment_nll", "segment_attention", "segment_chars")
COLUMNS = ("id", *LENGTHS, *SCORES, *DETAILS, "error")
ROW_GROUP = 1024  # rows of the table written at a time, whatever the shards' size
KINDS = {"text": pa.string(), "numbers": pa.list_(pa.float64()), "integers": pa.list_(pa.int64())}


@dataclass(frozen=True)
class Part:
    """What scoring one shard gave: rows, tokens of each pass (see `reader.Reader`), and time."""

    rows: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    seconds: float


@dataclass(frozen=True)
class Segments:
    """What scoring left of one sample's segments."""

    nll: list[float]  # (segments,) nats a token
    attention: list[float]  # (segments,) share of the response's attention, averaged over layers
    chars: list[int]  # (segments + 1,) in the context


@dataclass(frozen=True)
class Table:
    """A score table: a dict a row without the columns `SEGMENTS`, and what the table says of itself."""

    path: Path
    rows: list[dict[str, Any]]
    about: dict[str, Any]

    def segments(self, ids: Sequence[str]) -> dict[str, Segments]:
        """The segments of some samples, without those of whom the table knows none."""
        if not set(SEGMENTS) <= set(pq.read_schema(self.path).names):
            return {}
        some = pq.read_table(self.path, columns=["id", *SEGMENTS], filters=[("id", "in", list(ids))])
        rows = [row for row in some.to_pylist() if row["segment_nll"]]
        return {row["id"]: Segments(*(row[name] for name in SEGMENTS)) for row in rows}


def write_table(parts: Iterable[Part], about: dict[str, Any], path: Path) -> list[Part]:
    """Write the rows of the parts as Parquet, whole or not at all; equal rows give equal bytes.

    The parts, of which one is in memory at a time, are in the data's order and returned without their rows.
    """
    kinds = {"id": pa.string(), "error": pa.string()} | dict.fromkeys(LENGTHS, pa.int64())
    kinds |= {column: KINDS[kind] for column, kind in DETAILS.items()}
    fields = [(name, kinds.get(name, pa.float64())) for name in COLUMNS]
    schema = pa.schema(fields, {"gateau": json.dumps(about | {"format": FORMAT}, sort_keys=True)})
    done: list[Part] = []

    def all_rows() -> Iterator[dict[str, Any]]:
        for part in parts:
            done.append(replace(part, rows=[]))
            yield from part.rows

    path.parent.mkdir(parents=True, exist_ok=True)
    rows, unfinished = all_rows(), path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with pq.ParquetWriter(unfinished, schema) as out:
            while group := list(islice(rows, ROW_GROUP)):
                out.write_table(pa.Table.from_pylist(group, schema))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return done


def read_about(path: Path) -> dict[str, Any]:
    """What a table says about itself; tables of other makers say nothing."""
    return json.loads((pq.read_schema(path).metadata or {}).get(b"gateau", b"{}"))


def read_scores(path: Path) -> Table:
    """A score table; DataError if it is none, of a newer library, or holds an id twice, a NaN or infinity."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; write it with python -m gateau_lib.score")
    try:
        schema = pq.read_schema(path)
        rows = pq.read_table(path, columns=[n for n in schema.names if n not in SEGMENTS]).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({reason(error)})") from None
    about = json.loads((schema.metadata or {}).get(b"gateau", b"{}"))
    if about.get("format", FORMAT) > FORMAT:  # the first tables did not say
        what = f"a score table of format {about['format']}, and this library reads up to {FORMAT}"
        raise DataError(f"{path}: {what}; update the library, or score the data again with this one")
    if about.get("as_released"):
        what = "scored by the released procedures with their defects, which no selection should be made from"
        raise DataError(f"{path}: {what}; score the data again")
    if not rows or not {"id", "error", *LENGTHS} <= rows[0].keys():
        raise DataError(f"{path}: not a score table; write it with python -m gateau_lib.score")
    for number, row in enumerate(rows, 1):
        if bad := [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]:
            what = f"{bad[0]} is {row[bad[0]]}; score this sample again"
            raise DataError(f"{path}, row {number}, id {row['id']!r}: {what}")
    scored = Counter(row["id"] for row in rows if row["error"] is None)
    if twice := [name for name, n in scored.items() if n > 1]:
        raise DataError(f"{path}: id {twice[0]!r} stands twice; ids must be unique")
    return Table(path, rows, about)


def usable(table: Table, name: str) -> tuple[pd.DataFrame, Counter[str]]:
    """Rows that a method can rank, and how many are left out for which reason; DataError if none is left."""
    method, path = METHODS[name], table.path
    for column in method.needs:
        if all(row.get(column) is None for row in table.rows):
            ask = f"score with --methods {scored_with(method, column)} among others"
            raise DataError(f"{path}: no {column} in it; {ask}, or choose another --score")
    kept, why = list[dict[str, Any]](), Counter[str]()
    for row in table.rows:
        if row["error"] is not None:
            why["an error in scoring"] += 1
        elif missing := [column for column in method.needs if row[column] is None]:
            why[f"no {missing[0]}"] += 1
        elif cause := method.unfit(row):
            why[cause] += 1
        else:
            kept.append(row)
    modes = sorted({row["cam_mode"] for row in kept if row.get("cam_mode")})
    if len(modes) > 1 and "cam" in method.needs:
        raise DataError(
            f"{path}: CAM is {' in some rows and '.join(modes)} in others; score all the data in one way"
        )
    if not kept:
        counted = "; ".join(f"{n} with {cause}" for cause, n in why.items())
        raise DataError(f"{path}: no usable row for --score {name} ({counted})")
    return pd.DataFrame(kept), why
