"""A score table read back: its rows, what it says of the models, single samples' segments, and the rows a score can rank."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gateau_lib.study.errors import DataError, reason

LENGTHS = ("n_context", "n_instruction", "n_response", "n_dropped")
SEGMENTS = ("segment_nll", "segment_attention", "segment_chars")  # only read for the samples that the report shows
# The columns a score is made from, and the method of gateau_lib.score that fills them.
NEEDS = {
    "gateau": {"nll_short": "hmg", "nll_long": "hmg", "cam": "cam"},
    "hmg": {"nll_short": "hmg", "nll_long": "hmg"},
    "cam": {"cam": "cam"},
    "prolong": {"prolong": "prolong"},
    "perplexity": {"nll_long": "perplexity"},
    "ifd": {"ifd": "ifd"},
    "contrast": {"contrast": "contrast"},
    "longattn": {"longattn": "longattn"},
    "random": {},
    "longest": {},
}


def read_scores(path: Path) -> Table:
    """A score table.

    Raises:
        DataError: no such file, not a score table, an id twice, a NaN or infinity.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; write it with python -m gateau_lib.score")
    try:
        schema = pq.read_schema(path)
        rows = pq.read_table(path, columns=[name for name in schema.names if name not in SEGMENTS]).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({reason(error)})") from None
    if not rows or not {"id", "error", *LENGTHS} <= rows[0].keys():
        raise DataError(f"{path}: not a score table; write it with python -m gateau_lib.score")
    for number, row in enumerate(rows, 1):
        bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            raise DataError(f"{path}, row {number}, id {row['id']!r}: {bad[0]} is {row[bad[0]]}; score this sample again")
    twice = [name for name, n in Counter(row["id"] for row in rows if row["error"] is None).items() if n > 1]
    if twice:
        raise DataError(f"{path}: id {twice[0]!r} stands twice; ids must be unique")
    return Table(path, rows, json.loads((schema.metadata or {}).get(b"gateau", b"{}")))


def usable(table: Table, score: str) -> tuple[pd.DataFrame, Counter]:
    """Rows that the score can rank, and how many are left out for which reason.

    Raises:
        DataError: the table does not hold what the score needs, mixes ways of finding CAM, or nothing is left.
    """
    rows, path, why = table.rows, table.path, Counter()
    kept = []
    for column, method in NEEDS[score].items():
        if all(row.get(column) is None for row in rows):
            raise DataError(f"{path}: no {column} in it; score with --methods {method} among others, or choose another --score")
    for row in rows:
        if row["error"] is not None:
            why["an error in scoring"] += 1
        elif missing := [column for column in NEEDS[score] if row[column] is None]:
            why[f"no {missing[0]}"] += 1
        elif score == "ifd" and row["ifd"] > 1:  # Cherry: the instruction makes the response less likely, so they do not match
            why["ifd above 1"] += 1
        else:
            kept.append(row)
    modes = sorted({row["cam_mode"] for row in kept if row.get("cam_mode")}) if "cam" in NEEDS[score] else []
    if len(modes) > 1:
        raise DataError(f"{path}: CAM is {' in some rows and '.join(modes)} in others; score all the data in one way")
    if not kept:
        raise DataError(f"{path}: no usable row for --score {score} ({'; '.join(f'{n} with {k}' for k, n in why.items())})")
    return pd.DataFrame(kept), why


@dataclass(frozen=True)
class Segments:
    """What scoring left of one sample's segments: loss of the response given each alone, share of attention, borders."""

    nll: list[float]  # (segments,) nats a token
    attention: list[float]  # (segments,) share of the response's attention, averaged over layers
    chars: list[int]  # (segments + 1,) in the context


@dataclass(frozen=True)
class Table:
    """A score table: a dict a row without the columns `SEGMENTS`, and what the table says of the models that scored."""

    path: Path
    rows: list[dict[str, Any]]
    about: dict[str, Any]

    def segments(self, ids: Sequence[str]) -> dict[str, Segments]:
        """The segments of some samples, without those of whom the table knows none."""
        if not set(SEGMENTS) <= set(pq.read_schema(self.path).names):
            return {}
        wanted = pq.read_table(self.path, columns=["id", *SEGMENTS], filters=[("id", "in", list(ids))]).to_pylist()
        return {row["id"]: Segments(*(row[name] for name in SEGMENTS)) for row in wanted if row["segment_nll"]}


COUNTS = ("n_context", "n_instruction", "n_response", "n_dropped")  # tokens read, and context tokens cut on the left

SCORES = ("nll_short", "nll_long", "hmg", "cam", "prolong", "ifd", "contrast", "longattn")
# Per segment: loss given it alone, share of the response's attention, characters of the context where segments begin and end.
SEGMENTS = ("segment_nll", "segment_attention", "segment_chars")
COLUMNS = ("id", *COUNTS, *SCORES, "cam_mode", *SEGMENTS, "error")
ROW_GROUP = 1024  # rows of the table written at a time, whatever the shards' size


def _schema(about: dict[str, Any]) -> pa.Schema:
    kinds = dict.fromkeys(("id", "error", "cam_mode"), pa.string()) | dict.fromkeys(COUNTS, pa.int64())
    kinds |= dict.fromkeys(SEGMENTS, pa.list_(pa.float64())) | {"segment_chars": pa.list_(pa.int64())}
    fields = [(name, kinds.get(name, pa.float64())) for name in COLUMNS]
    return pa.schema(fields, {"gateau": json.dumps(about, sort_keys=True)})


def write_table(rows: Iterable[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """The rows as Parquet, whole or not at all; ``about`` rides along as metadata. Equal rows give equal bytes."""
    schema = _schema(about)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    waiting: list[dict[str, Any]] = []
    try:
        with pq.ParquetWriter(part, schema) as out:
            for row in rows:
                waiting.append(row)
                if len(waiting) == ROW_GROUP:
                    out.write_table(pa.Table.from_pylist(waiting, schema))
                    waiting.clear()
            if waiting:
                out.write_table(pa.Table.from_pylist(waiting, schema))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
