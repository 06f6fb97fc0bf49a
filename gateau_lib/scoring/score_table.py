"""The score table: its columns, writing it, and reading it back with the rows that a method can rank.

A row a record, in input order, with the columns of every registered method; one that was not asked for is
empty. What the table says about itself is metadata under ``gateau``, with the number of its format.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, cascade, scored_with
from gateau_lib.methods.base import without_context
from gateau_lib.study.errors import DataError, reason
from gateau_lib.study.whole_files import naming, part_of

FORMAT = 1  # of the table; raised when a column changes its meaning
# Tokens read, and context tokens cut on the left.
LENGTHS = ("n_context", "n_instruction", "n_response", "n_dropped")
# Of a conversation: turns before the exchange that is scored, and whether the system speaks before them (1).
TURNS = ("n_earlier", "n_system")
SCORES = tuple(dict.fromkeys(column for method in METHODS.values() for column in method.columns))
DETAILS = {column: kind for method in METHODS.values() for column, kind in method.details.items()}
# Read only for the samples that the report shows.
SEGMENTS = ("segment_nll", "segment_attention", "segment_chars")
COLUMNS = ("id", *LENGTHS, *TURNS, *SCORES, *DETAILS, "text_hash", "error")
# What a row tells of a sample that `text_hash` leaves out: a new source or label makes no score stale.
LABELS = ("id", "kind", "evidence", "answer", "source")
LONGEST_REASON = 300  # characters of a reason that are told; an error may quote what a record holds
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


def text_hash(sample: Sample) -> str:
    """The hash of what scoring reads of a sample, so that `select` knows whether it is still the same."""
    read = {name: value for name, value in asdict(sample).items() if name not in LABELS}
    text = json.dumps(read, sort_keys=True)  # half a surrogate pair is escaped
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def counted(rows: pd.DataFrame) -> dict[str, int]:
    """What a reader should know of the rows of a table, each with its number; a further thing is a line."""
    scored = rows[rows["error"].isna()]
    found = {
        "rows": len(rows),
        "with an error": len(rows) - len(scored),
        "cut on the left": int((scored["n_dropped"] > 0).sum()),
        "without context": int((scored["n_context"] == 0).sum()),
    }
    for column, what in zip(TURNS, ("of several exchanges", "with a system turn"), strict=True):
        if column in scored and (number := int((scored[column] > 0).sum())):
            found[what] = number
    return found


def reasons(rows: Iterable[tuple[str | None, str | None]], most: int = 3) -> list[str]:
    """The commonest reasons among some rows' ``id, error``, each with its number and the first such row.

    Reasons are one if they differ in numbers and the record's own id only. No row with an error: none.
    """
    firsts: dict[str, tuple[str, str]] = {}
    number: Counter[str] = Counter()
    for place, (name, error) in enumerate(rows, 1):
        if error is None:
            continue
        at = re.match(r"[^:'\"]*\b(?:line|row|record) \d+(?=: )", error)
        why = error[at.end() :] if at else error.removeprefix(f"sample {name!r}")
        why = " ".join(re.sub(r"^(?:, segment \d+)?: ", "", why).split())
        kind = re.sub(r"\d+", "0", why.replace(repr(name), "''"))[:LONGEST_REASON]
        number[kind] += 1
        where = [at[0]] if at else []
        where += [] if name is None else [f"id {_cut(repr(name), 80)}"]
        firsts.setdefault(kind, (why, ", ".join(where or [f"record {place}"])))
    told = [
        f"{n:,} × {_cut(firsts[kind][0], LONGEST_REASON)} (first: {firsts[kind][1]})"
        for kind, n in number.most_common(most)
    ]
    rest = number.total() - sum(n for _, n in number.most_common(most))
    return told + ([f"{rest:,} for {len(number) - most:,} other reasons"] if rest else [])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " …"


def write_table(parts: Iterable[Part], about: dict[str, Any], path: Path) -> list[Part]:
    """Write the rows of the parts as Parquet, whole or not at all; equal rows give equal bytes.

    The parts, of which one is in memory at a time, are in the data's order and returned without their rows.
    """
    kinds = dict.fromkeys(("id", "text_hash", "error"), pa.string()) | dict.fromkeys(
        (*LENGTHS, *TURNS), pa.int64()
    )
    kinds |= {column: KINDS[kind] for column, kind in DETAILS.items()}
    fields = [(name, kinds.get(name, pa.float64())) for name in COLUMNS]
    schema = pa.schema(fields, {"gateau": json.dumps(about | {"format": FORMAT}, sort_keys=True)})
    done: list[Part] = []

    def all_rows() -> Iterator[dict[str, Any]]:
        for part in parts:
            done.append(replace(part, rows=[]))
            yield from part.rows

    path.parent.mkdir(parents=True, exist_ok=True)
    rows, unfinished = all_rows(), part_of(path)
    try:
        with naming(path), pq.ParquetWriter(unfinished, schema) as out:
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
        columns = pq.read_table(path, columns=[n for n in schema.names if n not in SEGMENTS])
        # Columns of methods that were not asked for take most of the room, and a row lacks them all the same.
        empty = [name for name in columns.column_names if columns[name].null_count == len(columns)]
        rows = columns.drop_columns(
            [name for name in empty if name not in ("id", "error", *LENGTHS)]
        ).to_pylist()
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
    scored = [row for row in table.rows if row["error"] is None]
    if not scored:
        told = "; ".join(reasons((row["id"], row["error"]) for row in table.rows))
        raise DataError(f"{path}: none of its {len(table.rows):,} records could be scored: {told}")
    for column in method.needs:
        source = scored_with(method, column)
        # Where that was asked for, the reason lies in the samples, and is counted below.
        if source not in table.about.get("methods", ()) and all(row.get(column) is None for row in scored):
            ask = f"score with --methods {source} among others"
            raise DataError(f"{path}: no {column} in it; {ask}, or choose another --score")
    partly = any(row.get("cam_mode") in cascade.MODES for row in scored)
    if partly and name != "gateau" and "cam" in method.needs:
        what = f"--score {name}: CAM was read of some samples only (--cascade)"
        raise DataError(f"{path}: {what}; take --score gateau, or score without --cascade")
    kept, why = list[dict[str, Any]](), Counter[str]()
    if failed := len(table.rows) - len(scored):
        why["an error in scoring"] = failed
    for row in scored:
        # A cascade leaves out the CAM of who cannot enter.
        spared = {"cam"} if row.get("cam_mode") == cascade.UNREAD else set()
        lacking = (column for column in method.needs if row.get(column) is None and column not in spared)
        missing = next(lacking, None)
        document = row.get("n_response") == 0 and not method.documents
        lacks = missing and ("no response, as documents" if document else f"no {missing}")
        bare = without_context(row) if method.unfit is without_context else None
        if cause := bare or lacks or method.unfit(row):
            why[cause] += 1
        else:
            kept.append(row)
    modes = sorted({row["cam_mode"] for row in kept if row.get("cam_mode")})
    if len(modes) > 1 and "cam" in method.needs and not set(modes) <= set(cascade.MODES):
        raise DataError(
            f"{path}: CAM is {' in some rows and '.join(modes)} in others; score all the data in one way"
        )
    if not kept:
        causes = "; ".join(f"{n:,} with {cause}" for cause, n in why.items())
        fix = "choose another --score"
        if "no context" in why:
            fix = f"a blank line parts document and question (docs/formats.md); mend the data, or {fix}"
        raise DataError(f"{path}: no usable row for --score {name} ({causes}); {fix}")
    return pd.DataFrame(kept), why
