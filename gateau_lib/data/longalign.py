"""LongAlign's records, JSONL or Parquet, read into samples and written from them."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateau_lib.data.samples import Sample, turns_of
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.errors import DataError, reason


class RecordError(DataError):
    """A record that is no sample. ``fault`` says why in words that hold nothing of the record."""

    def __init__(self, where: str, fault: str, more: str) -> None:
        super().__init__(f"{where}: {fault}{more}")
        self.fault = fault


def to_record(sample: Sample) -> dict[str, Any]:
    """A LongAlign record: the document and the question are the user turn; planted labels ride along."""
    user = sample.context + SEPARATOR + sample.instruction if sample.context else sample.instruction
    record: dict[str, Any] = {
        "id": sample.id,
        "length": len(user) + len(sample.response),
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": sample.response}],
    }
    extra = ("instruction", "kind", "evidence", "answer", "source")
    return record | {name: value for name, value in asdict(sample).items() if name in extra and value}


def from_record(record: Any, where: str) -> Sample:
    """The sample of one LongAlign record that stands at ``where``, file and line.

    Context and instruction are the record's ``context`` and ``instruction`` fields if it has both; if it has
    only ``instruction`` and the user turn ends with it, the rest is the context; else the instruction is the
    last blank-line-separated paragraph of the user turn.
    Raises RecordError: not an object, no id, no usable messages, more than one exchange, empty response.
    """
    if not isinstance(record, dict):
        raise RecordError(where, "expected a JSON object", f", got {type(record).__name__}")
    if record.get("id") in (None, ""):
        raise RecordError(where, "no 'id'", "; give every record a unique id")
    turns = turns_of(record)
    if turns is None:
        form = "; LongAlign records hold [{'role': 'user', 'content': ...}, ...]"
        raise RecordError(where, "no usable 'messages'", form)
    roles = [role for role, _ in turns]
    if roles[:2] != ["user", "assistant"]:
        fault = "messages must begin with a user turn and an assistant turn"
        raise RecordError(where, fault, f", got roles {roles[:3]}")
    if len(turns) > 2:
        fix = "one user turn and one answer are read; split the conversation or keep the exchange you mean"
        raise RecordError(where, f"{len(turns)} turns", f"; {fix}")
    user, response = (text for _, text in turns)
    if not response.strip():
        raise RecordError(where, "empty response", "; drop the record or give the assistant turn its text")
    context, instruction = record.get("context"), record.get("instruction")
    if not (isinstance(context, str) and isinstance(instruction, str)):
        if isinstance(instruction, str) and instruction and user.endswith(instruction):
            context = user[: -len(instruction)]
        else:
            context, _, instruction = user.rstrip().rpartition(SEPARATOR)
        context = context.removesuffix(SEPARATOR)
    planted = {name: str(record.get(name) or "") for name in ("kind", "answer", "source")}
    spans = _spans(record.get("evidence"))
    return Sample(str(record["id"]), context, instruction, response, evidence=spans, **planted)


def _spans(value: Any) -> tuple[tuple[int, int], ...]:
    """Evidence spans of a planted record; a user's own field of that name, of another form, is not read."""
    pairs = value if isinstance(value, list) else []
    if all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
        return tuple((a, b) for a, b in pairs)
    return ()


def check_file(path: Path) -> None:
    """Raise DataError unless the path is a file of a kind that can be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; DATA is a JSONL or Parquet file of LongAlign records")
    if path.suffix not in (".jsonl", ".json", ".parquet"):
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; use .jsonl or .parquet")
    if path.suffix == ".parquet":
        import pyarrow as pa  # slow to load
        import pyarrow.parquet as pq

        try:
            pq.read_metadata(path)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a Parquet file ({reason(error)})") from None


def unit_of(path: Path) -> str:
    """What a place in the file is called."""
    return "row" if path.suffix == ".parquet" else "line"


@dataclass(frozen=True)
class RawRecord:
    """One record of a file; ``begin`` and ``end`` are bytes of a JSONL file, rows of a Parquet file."""

    number: int  # of its line or row, counted from 1
    begin: int
    end: int
    text: bytes


def raw_records(path: Path, begin: int = 0, end: int | None = None, line: int = 1) -> Iterator[RawRecord]:
    """The records between two places of a file, the first on that ``line``; blank lines are none."""
    if path.suffix == ".parquet":
        for row, record in _parquet_rows(path, begin, end):
            yield RawRecord(row + 1, row, row + 1, json.dumps(record, default=str).encode())
        return
    with path.open("rb") as file:
        file.seek(begin)
        for number, text in enumerate(file, line):
            if end is not None and begin >= end:
                return
            if text.strip(b"\xef\xbb\xbf \t\r\n"):  # more than a byte order mark and white space
                yield RawRecord(number, begin, begin + len(text), text)
            begin += len(text)


def _parquet_rows(path: Path, begin: int, end: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows [begin, end) with their numbers, counted from 0; a row group is in memory at a time."""
    import pyarrow.parquet as pq  # slow to load

    about, first = pq.read_metadata(path), 0
    end = about.num_rows if end is None else end
    for group in range(about.num_row_groups):
        last = first + about.row_group(group).num_rows
        if first < end and begin < last:
            at = max(begin, first)
            rows = _row_group(path, path.stat().st_mtime_ns, group).slice(at - first, min(end, last) - at)
            for batch in rows.to_batches(max_chunksize=64):
                yield from enumerate(batch.to_pylist(), at)
                at += len(batch)
        first = last


@lru_cache(maxsize=2)  # neighbouring shards lie in one row group
def _row_group(path: Path, changed: int, group: int) -> Any:
    import pyarrow.parquet as pq  # slow to load

    return pq.ParquetFile(path).read_row_group(group)


def parse(path: Path, raw: RawRecord) -> Any:
    """What a record's bytes say; DataError if that is no UTF-8, or no JSON."""
    where = f"{path}, {unit_of(path)} {raw.number}"
    try:
        return json.loads(raw.text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error.msg} at column {error.colno})") from None


def read_records(path: str | Path) -> list[tuple[str, Any]]:
    """Raw records of a JSONL or Parquet file with their place (``file, line N``), or DataError."""
    path = Path(path)
    check_file(path)
    rows = [(f"{path}, {unit_of(path)} {raw.number}", parse(path, raw)) for raw in raw_records(path)]
    if not rows:
        raise DataError(f"{path}: holds no records")
    return rows


def read_samples(path: str | Path) -> list[Sample]:
    """All samples of a file; DataError for the first bad record or an id that is there twice."""
    samples: list[Sample] = []
    seen: dict[str, str] = {}
    for where, record in read_records(path):
        sample = from_record(record, where)
        if sample.id in seen:
            first = seen[sample.id]
            raise DataError(f"{where}: id {sample.id!r} was already used at {first}; ids must be unique")
        seen[sample.id] = where
        samples.append(sample)
    return samples


def write_samples(samples: Iterable[Sample], path: str | Path) -> Path:
    """Write samples as LongAlign JSONL, whole file or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".part")
    with partial.open("w", encoding="utf-8") as out:
        for sample in samples:
            out.write(json.dumps(to_record(sample), ensure_ascii=False) + "\n")
    partial.replace(path)
    return path
