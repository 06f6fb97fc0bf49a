"""LongAlign's records, JSONL or Parquet, read into samples and written from them."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau_lib.data.conversation import RecordError
from gateau_lib.data.formats import ReadAs, sample_of
from gateau_lib.data.inputs import check_file
from gateau_lib.data.records import parse, raw_records, unit_of
from gateau_lib.data.samples import Sample
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.errors import DataError


def to_record(sample: Sample) -> dict[str, Any]:
    """A LongAlign record: the document and the question are the user turn; planted labels ride along."""
    user = sample.context + SEPARATOR + sample.instruction if sample.context else sample.instruction
    turns = [("system", sample.system), ("user", user), ("assistant", sample.response)]
    record: dict[str, Any] = {
        "id": sample.id,
        "length": len(user) + len(sample.response),
        "messages": [{"role": role, "content": text} for role, text in turns[not sample.system :]],
    }
    extra = ("instruction", "kind", "evidence", "answer", "source")
    return record | {name: value for name, value in asdict(sample).items() if name in extra and value}


def from_record(record: Any, where: str) -> Sample:
    """The sample of one LongAlign record that stands at ``where``, file and line (see `formats.sample_of`).

    Context and instruction are the record's ``context`` and ``instruction`` fields if it has both; if it has
    only ``instruction`` and the user turn ends with it, the rest is the context; else the instruction is the
    last blank-line-separated paragraph of the user turn.
    Raises RecordError: not an object, no id, no usable messages, empty response.
    """
    if not isinstance(record, dict):
        raise RecordError(where, "expected a JSON object", f", got {type(record).__name__}")
    if record.get("id") in (None, ""):
        raise RecordError(where, "no 'id'", "; give every record a unique id")
    return sample_of(record, where, str(record["id"]), ReadAs("messages"))


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
