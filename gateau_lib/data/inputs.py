"""Which files a data set is: one, a folder of them, a folder that ``datasets`` saved, standard input kept."""

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from gateau_lib.data import tables
from gateau_lib.study.errors import DataError

LINES, PACKS = (".jsonl", ".json", ".ndjson"), (".gz", ".zst", ".bz2")
STREAMS = ("-", "/dev/stdin")
ENDINGS = f"{', '.join((*LINES, *tables.SUFFIXES))}; JSON may be packed as {', '.join(PACKS)}"
UNPACK = {
    ".xz": "xz -d",
    ".zip": "unzip",
    ".tar": "tar -xf",
    ".tgz": "tar -xf",
    ".7z": "7z x",
    ".lz4": "lz4 -d",
}
log = logging.getLogger(__name__)


def files_of(path: Path) -> list[Path]:
    """The files of a data set in their order: one, those of a folder by name, those that `datasets` saved.

    Raises DataError: nothing there, an unknown suffix, a folder without data or of several splits.
    """
    if path.is_dir():
        found = _saved_files(path) or [path / each for each in _inside(path) if _known(each)]
        if not found:
            raise DataError(f"{path}: this folder holds no data; its files end in {ENDINGS}")
    elif path.exists() and not path.is_file():
        raise DataError(f"{path}: a device or a pipe can be read only once; write it to a file first")
    else:
        found = [path]
    for each in found:
        try:
            str(each.relative_to(path.parent)).encode()
        except UnicodeEncodeError:
            fix = "its name is not UTF-8, and no table can hold it; rename the file"
            raise DataError(f"{ascii(str(each))}: {fix}") from None
        check_file(each)
    return found


def not_read(path: Path) -> list[Path]:
    """Files of a folder that hold no data by their names; hidden ones (``.a``, ``_a``) are not meant to."""
    if not path.is_dir() or _saved_files(path):
        return []
    return [each for each in _inside(path) if not _known(each)]


def check_file(path: Path) -> None:
    """Raise DataError unless the path is a file of a kind that can be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; DATA is a file or a folder of files that end in {ENDINGS}")
    if not _known(path):
        fix = UNPACK.get(ending(path))
        fix = f"unpack it first ({fix})" if fix else f"use {ENDINGS}"
        raise DataError(f"{path}: unknown suffix {ending(path)!r}; {fix}")
    if is_table(path):
        tables.schema_of(path)


def is_table(path: Path) -> bool:
    """Whether a file is Parquet or Arrow, by its name."""
    return ending(path) in tables.SUFFIXES


def ending(path: Path) -> str:
    """The suffix that tells a file's format, in lower case, what it is packed with apart."""
    name = path.name.lower()
    for pack in PACKS:
        if name.endswith(pack):
            inner = Path(name.removesuffix(pack)).suffix
            return f"{inner}{pack}" if inner in tables.SUFFIXES else inner or LINES[0]
    return path.suffix.lower()


def _known(path: Path) -> bool:
    return ending(path) in (*LINES, *tables.SUFFIXES)


def _inside(folder: Path) -> list[Path]:
    """The files below a folder, sorted, relative to it, without hidden ones.

    Links to folders are not followed and links to nothing not passed over: they are listed as well.
    """
    found = (each for each in folder.rglob("*") if each.is_symlink() or not each.is_dir())
    inside = sorted(each.relative_to(folder) for each in found)
    return [each for each in inside if not any(part.startswith((".", "_")) for part in each.parts)]


def _saved_files(folder: Path) -> list[Path]:
    """The files of a folder as ``datasets`` saves it, [] of another; DataError where it holds several."""
    if (splits := folder / "dataset_dict.json").is_file():
        names = [str(name) for name in _json_file(splits).get("splits", [])] or ["train"]
        raise DataError(f"{folder}: holds the splits {', '.join(names)}; give one, as {folder / names[0]}")
    if not (state := folder / "state.json").is_file():
        return []
    saved = _json_file(state)
    if saved.get("_indices_files"):
        raise DataError(f"{folder}: saved with an index beside its rows; flatten_indices() and save it again")
    return [folder / each["filename"] for each in saved.get("_data_files", [])]


def _json_file(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError(f"{path}: not as datasets writes it; save the data set again") from None


def kept_beside(scores: Path) -> list[Path]:
    """Where `stored` kept standard input or a pipe beside ``scores``, if it did."""
    names = (scores.with_suffix(".data" + suffix) for suffix in (".jsonl", ".parquet"))
    return [name for name in names if name.is_file()]


def stored(path: Path, out: Path | None, scores: Path | None = None) -> Path:
    """A file as it is; standard input or a pipe as a file beside ``out``, since it can be read only once.

    Where that was done when ``scores`` were made, the file that it left is what is read.
    """
    if str(path) not in STREAMS and not path.is_fifo():
        return path
    if scores and (found := kept_beside(scores)):
        log.info("%s was kept in %s when it was scored: that is read", path, found[0])
        return found[0]
    if out is None:
        raise DataError(f"{path}: can be read only once; write it to a file first")
    with sys.stdin.buffer if str(path) in STREAMS else path.open("rb") as stream:
        first = stream.read(4)
        kept = out.with_suffix(".data" + (".parquet" if first == b"PAR1" else ".jsonl"))
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                file.write(first)
                shutil.copyfileobj(stream, file, 1 << 20)
            part.replace(kept)
            for other in set(kept_beside(out)) - {kept}:  # an earlier run's, of the other kind
                other.unlink()
        finally:
            part.unlink(missing_ok=True)
    log.info("%s is kept in %s: give that to select as --data", path, kept)
    return kept
