"""Published files turned into what the study reads: samples, questions, plain texts.

A record that cannot be used is dropped, and the reason counted; a file that cannot be read at all is an
error, since it is most likely a download that broke off.
"""

import csv
import json
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from gateau_lib.data.conversation import RecordError
from gateau_lib.data.longalign import from_record, read_records, to_record
from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError

KEPT = ("language",)  # fields of a record that stay with its sample
# As open-instruct reads.
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "system": "system"}


def convert(files: Sequence[Path], kind: Literal["long", "short"], name: str, out: Path) -> dict[str, Any]:
    """Write the samples of ``files`` to ``out`` as LongAlign JSONL, in their order; DataError: a bad place.

    ``kind``: "long" (LongAlign's records) or "short" (ShareGPT's conversations); of both, the first question
        and answer of a conversation are taken.
    ``name``: of the data set; every sample's ``source``, and the beginning of an id where a record has none.
    Returns numbers of records: ``read``, ``kept``, ``cut to first exchange``, and ``dropped`` by reason.
    """
    make = {"long": long_sample, "short": short_sample}[kind]
    seen, dropped, cut, read = set[str](), Counter[str](), 0, 0
    with out.open("w", encoding="utf-8") as lines:
        for read, (_, record) in enumerate((row for path in files for row in rows(path)), 1):
            try:
                sample, more = make(record, f"{name}-{read:06d}", name)
                kept = {field: record[field] for field in KEPT if field in record}
                line = json.dumps(to_record(sample) | kept, ensure_ascii=False)
                if sample.id in seen:
                    raise _unusable("its id was already used")
                if any("\ud800" <= character <= "\udfff" for character in line):
                    raise _unusable("half a character (a lone surrogate) in its text")
            except RecordError as error:
                dropped[error.fault] += 1
                continue
            lines.write(line + "\n")
            seen.add(sample.id)
            cut += more > 0
    counts = {"read": read, "kept": len(seen), "cut to first exchange": cut}
    return counts | {"dropped": dict(sorted(dropped.items()))}


def _unusable(fault: str) -> RecordError:
    return RecordError("record", fault, "")


def long_sample(record: Any, identifier: str, source: str) -> tuple[Sample, int]:
    """The first exchange of a LongAlign record (`longalign.from_record`), and how many turns follow it."""
    more = 0
    if isinstance(record, dict):
        record = record | {"id": record.get("id") or identifier, "source": source}
        if turns := _turns(record):
            record["messages"], more = turns[:2], len(turns[2:])
    return from_record(record, "record"), more


def _turns(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A record's ``messages`` without the system's; [] if one of them is no turn."""
    turns = record.get("messages")
    if not isinstance(turns, list):
        return []
    if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
        return []
    return [turn for turn in turns if turn.get("role") != "system"]


def short_sample(record: Any, identifier: str, source: str) -> tuple[Sample, int]:
    """The first question and answer of a conversation, and how many turns follow them.

    It is ShareGPT's (``conversations``: from, value), or stands in ``messages``. One with a turn of anybody
    else is dropped: open-instruct does so, and LongAlign followed it.
    """
    if not isinstance(record, dict):
        raise _unusable("not a JSON object")
    who, what = ("from", "value") if "conversations" in record else ("role", "content")
    turns: Any = record.get("conversations", record.get("messages"))
    if not isinstance(turns, list) or not all(
        isinstance(t, dict) and isinstance(t.get(what), str) for t in turns
    ):
        raise _unusable("no usable turns")
    roles = [ROLES.get(str(turn.get(who)), str(turn.get(who))) for turn in turns]
    if not turns:
        raise _unusable("no turns")
    if others := [role for role in roles if role not in ("user", "assistant")]:
        raise _unusable(f"a turn by {others[0][:20]!r}")
    if roles[0] != "user":
        raise _unusable("it does not begin with the user's turn")
    if roles[1:2] != ["assistant"]:
        raise _unusable("the first question has no answer")
    question, answer = (turn[what] for turn in turns[:2])
    for text, part in ((question, "question"), (answer, "response")):
        if not text.strip():
            raise _unusable(f"empty {part}")
    return Sample(str(record.get("id") or identifier), "", question, answer, source=source), len(turns) - 2


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Records of a file (JSON lines, a JSON list, Parquet, CSV with a header) with their places."""
    if path.suffix in (".jsonl", ".parquet"):
        yield from read_records(path)
    elif path.suffix == ".csv":
        csv.field_size_limit(2**31 - 1)  # a field may be a whole essay
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from ((f"{path}, row {n}", row) for n, row in enumerate(csv.DictReader(lines), 1))
    else:
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not valid JSON ({error}); fetch the file again") from None
        if not isinstance(content, list):
            got = type(content).__name__
            raise DataError(f"{path}: expected a list of records, got {got}; fetch the file again")
        yield from ((f"{path}, record {n}", record) for n, record in enumerate(content, 1))


def unpack(files: Sequence[Path], names: Sequence[str], out: Path) -> dict[str, int]:
    """Write tasks' records to ``out/<task>.jsonl``, from LongBench's archive or files; records by task."""
    counts = {}
    for name in names:
        content = _content(files, f"{name}.jsonl")
        (out / f"{name}.jsonl").write_bytes(content)
        counts[name] = sum(bool(line.strip()) for line in content.split(b"\n"))
    return counts


def _content(files: Sequence[Path], name: str) -> bytes:
    for path in files:
        if path.name == name:
            return path.read_bytes()
        if path.suffix == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    if inner := [each for each in archive.namelist() if each.rpartition("/")[2] == name]:
                        return archive.read(inner[0])
            except zipfile.BadZipFile as error:
                raise DataError(f"{path}: broken archive ({error}); fetch it again") from None
    raise DataError(f"{name} is not in {', '.join(map(str, files))}; fetch the files again")


def questions(table: Path, out: Path) -> int:
    """MT-Bench's table as FastChat's ``question.jsonl``; the number of questions."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for _, record in rows(table)]
    out.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def texts(files: Sequence[Path]) -> list[str]:
    """Plain texts that are not empty: whole ``.txt`` files, or the column ``text`` of tables."""
    found = []
    for path in files:
        if path.suffix == ".txt":
            try:
                found.append(path.read_text(encoding="utf-8-sig"))
            except UnicodeDecodeError:
                raise DataError(f"{path}: not UTF-8; save the file as UTF-8") from None
            continue
        for where, row in rows(path):
            if not isinstance(row.get("text"), str):
                raise DataError(f"{where}: no column 'text'")
            found.append(row["text"])
    if not (kept := [text for text in found if text.strip()]):
        raise DataError(f"no text in {', '.join(map(str, files))}; fetch the files again")
    return kept
