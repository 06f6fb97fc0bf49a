"""The score table: its columns, writing it, and reading it back with the rows that a method can rank.

A row a record, in input order, with the columns of every registered method; one that was not asked for is
empty. What the table says about itself is metadata under ``gateau``, with the number of its format.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, cascade, scored_with
from gateau_lib.methods.base import Method, without_context
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
BATCH = 4096  # rows that are Python objects at a time
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
    """A score table: its columns without `SEGMENTS`, and what the table says of itself."""

    path: Path
    rows: pa.Table
    about: dict[str, Any]

    def ids_and_errors(self) -> Iterator[tuple[str | None, str | None]]:
        """Both of every row, a few rows in memory at a time."""
        for batch in self.rows.select(["id", "error"]).to_batches(BATCH):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def segments(self, ids: Sequence[str]) -> dict[str, Segments]:
        """The segments of some samples, without those of whom the table knows none."""
        found = dict[str, Segments]()
        with pq.ParquetFile(self.path) as file:
            groups = range(file.num_row_groups if set(SEGMENTS) <= set(file.schema_arrow.names) else 0)
            for group in groups:  # one at a time is in memory
                names = file.read_row_group(group, columns=["id"])["id"]
                if (asked := pc.is_in(names, pa.array(ids, names.type))).to_numpy().any():
                    rows = file.read_row_group(group, columns=["id", *SEGMENTS]).filter(asked).to_pylist()
                    rows = [row for row in rows if row["segment_nll"]]
                    found |= {row["id"]: Segments(*(row[name] for name in SEGMENTS)) for row in rows}
        return found


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
        with pq.ParquetFile(path) as file:
            schema, columns = file.schema_arrow, dict[str, pa.Array]()
            for name in [name for name in schema.names if name not in SEGMENTS]:  # one at a time is in memory
                column = file.read(columns=[name])[name]
                if name in ("id", "error", *LENGTHS) or column.null_count < len(column):  # else not asked for
                    columns[name] = column.combine_chunks()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({reason(error)})") from None
    about = json.loads((schema.metadata or {}).get(b"gateau", b"{}"))
    if about.get("format", FORMAT) > FORMAT:  # the first tables did not say
        what = f"a score table of format {about['format']}, and this library reads up to {FORMAT}"
        raise DataError(f"{path}: {what}; update the library, or score the data again with this one")
    if about.get("as_released"):
        what = "scored by the released procedures with their defects, which no selection should be made from"
        raise DataError(f"{path}: {what}; score the data again")
    rows = pa.table(columns)
    if not rows.num_rows or not {"id", "error", *LENGTHS} <= set(rows.column_names):
        raise DataError(f"{path}: not a score table; write it with python -m gateau_lib.score")
    numbers = [field.name for field in rows.schema if pa.types.is_floating(field.type)]
    bad = [(pc.index(pc.is_finite(rows[name]), False).as_py(), name) for name in numbers]
    if bad := [each for each in bad if each[0] >= 0]:
        row, name = min(bad, key=lambda each: each[0])
        what = f"{name} is {rows[name][row].as_py()}; score this sample again"
        raise DataError(f"{path}, row {row + 1}, id {rows['id'][row].as_py()!r}: {what}")
    scored = rows["id"].filter(rows["error"].is_null())
    if pc.count_distinct(scored, mode="all").as_py() < len(scored):
        counts = pc.value_counts(scored)
        twice = counts.field(0)[pc.index(pc.greater(counts.field(1), 1), True).as_py()]
        raise DataError(f"{path}: id {twice.as_py()!r} stands twice; ids must be unique")
    pa.default_memory_pool().release_unused()  # what looking for ids took, more than the table
    return Table(path, rows, about)


def unfit(method: Method, rows: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Why a method never selects each row, (n,); None if it may."""
    found = np.full(len(rows), None, dtype=object)
    if method.unfit is without_context:
        found[(rows["n_context"] == 0).to_numpy()] = "no context"
    elif method.unfit is not Method.unfit:
        parts = (rows.iloc[i : i + BATCH].to_dict("records") for i in range(0, len(rows), BATCH))
        found[:] = [method.unfit(row) for part in parts for row in part]
    return found


def _causes(method: Method, rows: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Why a method cannot rank each scored row, (n,); None if it can."""
    cause = np.full(len(rows), None, dtype=object)
    for column in reversed(method.needs):  # of several that are missing the first is told
        lacks = rows[column].isna().to_numpy() if column in rows else np.ones(len(rows), dtype=bool)
        if column == "cam" and "cam_mode" in rows:  # a cascade leaves out the CAM of who cannot enter
            lacks = lacks & (rows["cam_mode"] != cascade.UNREAD).to_numpy()
        cause[lacks] = f"no {column}"
    if not method.documents and "n_response" in rows:
        documents = (rows["n_response"] == 0).to_numpy() & ~pd.isna(cause)
        cause[documents] = "no response, as documents"
    if method.unfit is without_context:
        bare = unfit(method, rows)
        return np.where(pd.isna(bare), cause, bare)
    fit = pd.isna(cause)
    cause[fit] = unfit(method, rows[fit])
    return cause


def _those(rows: pa.Table, places: npt.NDArray[np.int64]) -> pa.Table:
    """Some rows; all of them are no copy."""
    return rows if len(places) == rows.num_rows else rows.take(places)


def _frame(rows: pa.Table) -> pd.DataFrame:
    """The columns that a ranking or its report reads, without those that are empty."""
    whole = [name for name in rows.column_names if rows[name].null_count < rows.num_rows]
    rows = rows.select([name for name in whole if name != "text_hash"])
    modes = {"cam_mode"} & set(rows.column_names)
    return rows.to_pandas(categories=[*modes], split_blocks=True)  # so that whole columns are no copies


def usable(table: Table, name: str) -> tuple[pd.DataFrame, Counter[str]]:
    """Rows that a method can rank, and how many are left out for which reason; DataError if none is left.

    The rows have the columns of the table that are not empty, and ``row``, their places in it.
    """
    method, path = METHODS[name], table.path
    place = np.flatnonzero(table.rows["error"].is_null())
    scored, all_rows = _those(table.rows, place), table.rows.num_rows
    if not len(place):
        told = "; ".join(reasons(table.ids_and_errors()))
        raise DataError(f"{path}: none of its {all_rows:,} records could be scored: {told}")
    rows = _frame(scored)
    for column in method.needs:
        source = scored_with(method, column)
        # Where that was asked for, the reason lies in the samples, and is counted below.
        if source not in table.about.get("methods", ()) and column not in rows:
            ask = f"score with --methods {source} among others"
            raise DataError(f"{path}: no {column} in it; {ask}, or choose another --score")
    if cascade.partly_read(rows) and name != "gateau" and "cam" in method.needs:
        what = f"--score {name}: CAM was read of some samples only (--cascade)"
        raise DataError(f"{path}: {what}; take --score gateau, or score without --cascade")
    cause = _causes(method, rows)
    kept = pd.isna(cause)
    why = Counter({"an error in scoring": all_rows - len(place)} if all_rows > len(place) else {})
    why.update(cause[~kept].tolist())
    modes = sorted(rows.loc[kept, "cam_mode"].dropna().unique()) if "cam_mode" in rows else []
    del rows  # before it is made anew, so that numbers of which none is missing are whole
    if len(modes) > 1 and "cam" in method.needs and not set(modes) <= set(cascade.MODES):
        raise DataError(
            f"{path}: CAM is {' in some rows and '.join(modes)} in others; score all the data in one way"
        )
    if not kept.any():
        causes = "; ".join(f"{n:,} with {cause}" for cause, n in why.items())
        fix = "choose another --score"
        if "no context" in why:
            fix = f"a blank line parts document and question (docs/formats.md); mend the data, or {fix}"
        raise DataError(f"{path}: no usable row for --score {name} ({causes}); {fix}")
    return _frame(_those(scored, np.flatnonzero(kept))).assign(row=place[kept]), why
