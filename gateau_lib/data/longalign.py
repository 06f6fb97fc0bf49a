"""LongAlign's records, JSONL or Parquet, read into samples and written from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau_lib.data.samples import Sample, turns_of
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.errors import DataError


class RecordError(DataError):
    """A record that is no sample. ``fault`` says why in words that hold nothing of the record."""

    def __init__(self, where: str, fault: str, more: str) -> None:
        super().__init__(f"{where}: {fault}{more}")
        self.fault = fault


def to_record(sample: Sample) -> dict[str, Any]:
    """A LongAlign record: ``messages`` with the document and the question in the user turn; planted labels ride along."""
    user = sample.context + SEPARATOR + sample.instruction if sample.context else sample.instruction
    record: dict[str, Any] = {
        "id": sample.id,
        "length": len(user) + len(sample.response),
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": sample.response}],
    }
    extra = {k: v for k, v in asdict(sample).items() if k in ("kind", "evidence", "answer", "source", "instruction") and v}
    return record | extra


def from_record(record: Any, where: str) -> Sample:
    """The sample of one LongAlign record.

    The context and the instruction are the record's ``context`` and ``instruction`` fields if it has both; if it has only
    ``instruction`` and the user turn ends with it, the rest is the context; else the instruction is the last
    blank-line-separated paragraph of the user turn.

    Args:
        where: file and line, for the error message.

    Raises:
        RecordError: not an object, no id, no usable messages, more than one exchange, empty response.
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
    return Sample(
        id=str(record["id"]),
        context=context,
        instruction=instruction,
        response=response,
        kind=str(record.get("kind") or ""),
        evidence=_spans(record.get("evidence")),
        answer=str(record.get("answer") or ""),
        source=str(record.get("source") or ""),
    )


def _spans(value: Any) -> tuple[tuple[int, int], ...]:
    """Evidence spans of a planted record; a user's own field of that name, of any other form, is not ours to read."""
    pairs = value if isinstance(value, list) else []
    if all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
        return tuple((a, b) for a, b in pairs)
    return ()


def read_records(path: str | Path) -> list[tuple[str, Any]]:
    """Raw records of a JSONL or Parquet file with their place (``file, line N``), in file order.

    Raises:
        DataError: missing or empty file, unknown suffix, malformed line (its number).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; DATA is a JSONL or Parquet file of LongAlign records")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = [(f"{path}, row {i}", row) for i, row in enumerate(pq.read_table(path).to_pylist(), 1)]
    elif path.suffix in (".jsonl", ".json"):
        rows = []
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
            for number, line in enumerate(lines, 1):
                if any("\udc80" <= character <= "\udcff" for character in line):
                    raise DataError(f"{path}, line {number}: not UTF-8; save the file as UTF-8")
                if line.strip():
                    try:
                        rows.append((f"{path}, line {number}", json.loads(line)))
                    except json.JSONDecodeError as error:
                        raise DataError(f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})") from None
    else:
        raise DataError(f"{path}: unknown suffix {path.suffix!r}; use .jsonl or .parquet")
    if not rows:
        raise DataError(f"{path}: holds no records")
    return rows


def read_samples(path: str | Path) -> list[Sample]:
    """All samples of a file; the first bad record raises. Ids must be unique.

    Raises:
        DataError: see `read_records` and `from_record`; duplicate id (both places).
    """
    samples, seen = [], {}
    for where, record in read_records(path):
        sample = from_record(record, where)
        if sample.id in seen:
            raise DataError(f"{where}: id {sample.id!r} was already used at {seen[sample.id]}; ids must be unique")
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
