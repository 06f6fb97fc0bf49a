"""Documents read from a folder, and what can be said about a text that was written on one of them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gateau_lib.data.longalign import read_records
from gateau_lib.study.errors import DataError

SUFFIXES = (".txt", ".md", ".jsonl")
ABOUT = 0.2  # share of a text's words that must stand in the document
# A text as long as that (characters), mostly of pieces of the document, is a copy.
COPY_LENGTH, COPY_PIECE, COPIED = 300, 40, 0.8


@dataclass(frozen=True)
class Document:
    """A text and where it stands; ``fault`` says why it cannot be used."""

    id: str  # path below the folder, and the line in a JSONL file
    text: str
    fault: str = ""


def files(source: Path) -> list[Path]:
    """The files with documents in a folder, by path, or the one file; DataError if there are none."""
    if not source.exists():
        raise DataError(f"{source}: no such folder; give one with {', '.join(SUFFIXES)} files")
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    paths = [path for path in paths if path.is_file() and path.suffix in SUFFIXES]
    if not paths:
        raise DataError(f"{source}: holds no documents; they end in {', '.join(SUFFIXES)}")
    return paths


def documents(source: Path, limit: int | None = None) -> Iterator[Document]:
    """The documents of a folder, by path, or of one file, read one by one; DataError names a bad line."""
    root = source if source.is_dir() else source.parent
    found = ((path.relative_to(root).as_posix(), path) for path in files(source))
    yield from islice((document for name, path in found for document in _read(path, name)), limit)


def _read(path: Path, name: str) -> Iterator[Document]:
    if path.suffix == ".jsonl":
        for where, record in read_records(path):
            if not (isinstance(record, dict) and isinstance(record.get("text"), str)):
                raise DataError(f"{where}: no 'text'; a document is {{\"text\": ...}}")
            yield _document(f"{name}:{where.rpartition(' ')[2]}", record["text"])
        return
    try:
        yield _document(name, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        yield Document(name, "", "not UTF-8")


def _document(name: str, text: str) -> Document:
    text = text.strip()
    return Document(name, text, "" if text else "empty document")


def language(text: str) -> str:
    """``zh`` for a text of which a third or more is Chinese characters, else ``en``."""
    return "zh" if 3 * len(re.findall("[\u4e00-\u9fff]", text)) >= len(text) else "en"


def is_copy(answer: str, document: str) -> bool:
    """Whether a long answer is, for the most part, pieces of the document."""
    answer, document = plain(answer), plain(document)
    pieces = [answer[i : i + COPY_PIECE] for i in range(0, len(answer) - COPY_PIECE + 1, COPY_PIECE)]
    return len(answer) >= COPY_LENGTH and sum(piece in document for piece in pieces) > COPIED * len(pieces)


def is_about(text: str, document: str) -> bool:
    """Whether enough of the text's words (four letters or more; Chinese pairs) are in the document."""
    mine, theirs = _words(text), _words(document)
    return not mine or len(mine & theirs) >= ABOUT * len(mine)


def _words(text: str) -> set[str]:
    runs = re.findall("[\u4e00-\u9fff]+", text)
    pairs = {run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))}
    return pairs | set(re.findall(r"[^\W\d_\u4e00-\u9fff]{4,}", text.lower()))


def plain(text: str) -> str:
    """The text in small letters, its white space made even."""
    return " ".join(text.lower().split())
