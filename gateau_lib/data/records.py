"""Records where they stand in a file: JSON lines, one JSON array, or a table; one in memory at a time.

Every command reads data with `raw_records`, and so reads every file alike. JSON may be packed (gzip, zstd,
bzip2), and a byte order mark may stand before any record, as where files were put together.
"""

import io
import json
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal

from gateau_lib.data import tables
from gateau_lib.data.inputs import is_table
from gateau_lib.study.errors import DataError

Kind = Literal["lines", "array", "table"]
UNITS: dict[Kind, str] = {"lines": "line", "array": "record", "table": "row"}  # what a place is called
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}  # by first bytes
MARK, BLANKS = b"\xef\xbb\xbf", b" \t\r\n"
# Strings whole, so that nothing inside of one counts; a quotation mark alone begins one that has no end.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[][{},"]', re.DOTALL)
BREAK = re.compile(rb"[ \t]*[\r\n][ \t\r\n]*")


@dataclass(frozen=True)
class RawRecord:
    """One record of a file; ``begin`` and ``end`` are bytes of (unpacked) JSON, rows of a table."""

    number: int  # of its line, record or row, counted from 1
    begin: int
    end: int
    text: bytes


def trimmed(text: bytes) -> bytes:
    """A record's bytes without byte order mark and white space around it."""
    text = text.strip(BLANKS)
    while text.startswith(MARK):
        text = text[len(MARK) :].lstrip(BLANKS)
    return text


def line_of(raw: RawRecord) -> bytes:
    """The record's very bytes as a line; line breaks between its fields, never in a text, become spaces."""
    return BREAK.sub(b" ", trimmed(raw.text)) + b"\n"


def kind_of(path: Path) -> Kind:
    """Whether a file holds a record a line, one JSON array, or a table."""
    return "table" if is_table(path) else _json_kind(path, *_changed(path))


def unit_of(path: Path) -> str:
    """What a place in the file is called."""
    return UNITS[kind_of(path)]


def _changed(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=64)
def _json_kind(path: Path, *changed: int) -> Kind:
    with tables.one_line(path), _opened(path) as file:
        return "array" if trimmed(file.read(1 << 16)).startswith(b"[") else "lines"


def _packed(path: Path) -> str | None:
    """How a file is packed, told by its first bytes, whatever its name."""
    with path.open("rb") as file:
        begin = file.read(4)
    return next((name for mark, name in PACKED.items() if begin.startswith(mark)), None)


def _opened(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    if (how := _packed(path)) is None:
        return path.open("rb")
    import pyarrow as pa  # slow to load

    return io.BufferedReader(pa.input_stream(str(path), compression=how), 1 << 18)


_left: dict[Any, tuple[int, Iterator[RawRecord]]] = {}  # the last stream, where a shard ended


def raw_records(path: Path, begin: int = 0, end: int | None = None, number: int = 1) -> Iterator[RawRecord]:
    """The records between two places of a file, the first of that ``number``; blank lines are none.

    Whoever begins where the last reader ended goes on in its stream, since packed files and row groups
    cannot be entered in the middle. DataError: bytes that are not what the file's name promises.
    """
    key, kind = (path, *_changed(path)), kind_of(path)
    place, stream = _left.pop(key, (0, None))
    forward = kind == "lines" and _packed(path) is not None
    if stream is None or (place != begin and not (forward and place < begin)):
        streams = {"lines": _lines, "array": _elements, "table": _rows}
        stream = streams[kind](path, *((0, 1) if forward else (begin, number)))
    for raw in stream:
        if end is not None and raw.begin >= end:
            return
        if raw.begin < begin:
            continue
        yield raw
        if end is not None and raw.end >= end:
            _left.clear()
            _left[key] = raw.end, stream
            return


def _lines(path: Path, begin: int, number: int) -> Iterator[RawRecord]:
    with tables.one_line(path), _opened(path) as file:
        if begin:
            file.seek(begin)
        for place, text in enumerate(file, number):
            if trimmed(text):
                yield RawRecord(place, begin, begin + len(text), text)
            begin += len(text)


def _elements(path: Path, begin: int, number: int) -> Iterator[RawRecord]:
    """The elements of a JSON array, which is never parsed whole."""
    with tables.one_line(path), _opened(path) as file:
        plain = _packed(path) is None
        data: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if plain else file.read()
        start, depth, first = begin or data.find(b"[") + 1, 0, number
        for token in TOKEN.finditer(data, start):
            place, after = token.span()
            sign = data[place]
            if sign == ord('"'):
                if after == place + 1:
                    raise DataError(f"{path}, record {number}: not valid JSON (a text without its end)")
            elif sign in b"[{":
                depth += 1
            elif depth:
                depth -= sign in b"]}"
            else:
                text = data[start:place]
                if sign == ord("}") or (not trimmed(text) and (sign == ord(",") or number > first)):
                    raise DataError(
                        f"{path}, record {number}: not valid JSON (no value before {chr(sign)!r})"
                    )
                if trimmed(text):
                    yield RawRecord(number, start, after, text)
                number, start = number + 1, after
                if sign == ord("]"):
                    if trimmed(data[start:]):
                        fix = "a file is one array, or one record a line"
                        raise DataError(f"{path}: text stands after the end of its JSON array; {fix}")
                    return
    raise DataError(f"{path}: its JSON array has no end; fetch or write the file again")


def _rows(path: Path, begin: int, number: int) -> Iterator[RawRecord]:
    with tables.one_line(path):
        for row, text in tables.rows(path, begin):
            yield RawRecord(row + 1, row, row + 1, text)


def parse(path: Path, raw: RawRecord) -> Any:
    """What a record's bytes say; DataError if that is no UTF-8, or no JSON that can be read."""
    text = trimmed(raw.text)
    try:
        return json.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        said = "not UTF-8; save the file as UTF-8"
    except json.JSONDecodeError as error:
        hint = "; one record a line, or one JSON array" if text[-1:] in (b"{", b"[", b",") else ""
        hint = "; lines end in LF, not in CR alone" if b"\r" in text and "Extra data" in error.msg else hint
        said = f"not valid JSON ({error.msg} at column {error.colno}){hint}"
    except RecursionError:
        said = "nested too deeply to be read; leave out the record, or what is nested in it"
    except ValueError:  # Python reads no integer of more than some 4,300 digits
        said = "a number of too many digits; leave out the record, or write the number as text"
    raise DataError(f"{path}, {unit_of(path)} {raw.number}: {said}")


def parsed(path: Path, raw: RawRecord) -> Any:
    """What `parse` gives; its errors with what to do about them."""
    try:
        return parse(path, raw)
    except DataError as error:
        said = str(error).replace(" at at column", " at column")
        raise DataError(said + _remedy(trimmed(raw.text), said)) from None


def _remedy(text: bytes, said: str) -> str:
    """What to do about a record that is no JSON, told by its bytes; "" if what is said has it already."""
    kinds = {
        b"PAR1": "; this is a Parquet file, end its name in .parquet",
        b"ARROW1": "; this is an Arrow file, end its name in .arrow",
        b"PK\x03\x04": "; this is a zip archive or a workbook, unpack it or save it as JSON lines",
        b"version https://git-lfs": "; Git LFS left a pointer in its place, git lfs pull fetches the file",
        b"<": "; this is a web page, fetch the file again",
        b"//": "; JSON has no comments, leave the line out",
        b"#": "; JSON has no comments, leave the line out",
        b"{'": "; JSON has double quotes, write records with json.dumps",
    }
    found = next((fix for begin, fix in kinds.items() if text.startswith(begin)), "")
    if "CR alone" in said:
        return ": tr '\\r' '\\n' < FILE > NEW writes them so"
    if b"\0" in text and not text.startswith((b"PAR1", b"PK", b"ARROW1")):
        return "; zero bytes stand in it: save UTF-16 as UTF-8, fetch or write a damaged file again"
    if "; " in said.partition(": ")[2]:
        return ""
    if "Extra data" in said:
        found = found or "; records share a line, give each its own"
    if text[-1:] not in (b"}", b"]"):
        found = found or "; the record breaks off, fetch or write the file again"
    return found or "; mend the record or leave it out"
