"""Pieces of bytes by name in a temporary file, so that what is chosen from may be larger than memory."""

from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType

from gateau_lib.study.whole_files import naming


class Spill:
    """Written in any order and read back in any order; the file has no name and is gone with the process.

    ``beside``: the file whose folder it lies in, so that its disk is the one that has to hold the output.
    Raises OSError, naming ``beside``: the disk is full.
    """

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        beside.parent.mkdir(parents=True, exist_ok=True)
        with naming(beside):
            self._file = TemporaryFile(dir=beside.parent)  # noqa: SIM115 - closed with the spill
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def add(self, name: str, piece: bytes) -> None:
        """Keep a piece; names are unique."""
        with naming(self._beside):
            self._file.seek(self._end)
            self._file.write(piece)
        self._places[name] = self._end, len(piece)
        self._end += len(piece)

    def __getitem__(self, name: str) -> bytes:
        begin, size = self._places[name]
        with naming(self._beside):
            self._file.seek(begin)
            return self._file.read(size)

    def __enter__(self) -> "Spill":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        # What was not written yet is not needed: a full disk must not hide the error that ended the block.
        try:
            self._file.close()
        except OSError:
            if kind is None:
                raise
