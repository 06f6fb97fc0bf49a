"""Pieces of bytes by number in a temporary file, so that what is chosen from may be larger than memory."""

from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType

import numpy as np

from gateau_lib.study.whole_files import naming


class Spill:
    """Written in any order and read back in any order; the file has no name and is gone with the process.

    ``beside``: the file whose folder it lies in, so that its disk is the one that has to hold the output.
    ``many``: pieces, numbered from 0; of each only its place is in memory, 16 bytes.
    Raises OSError, naming ``beside``: the disk is full.
    """

    def __init__(self, beside: Path, many: int) -> None:
        self._beside = beside
        beside.parent.mkdir(parents=True, exist_ok=True)
        with naming(beside):
            self._file = TemporaryFile(dir=beside.parent)  # noqa: SIM115 - closed with the spill
        self._places = np.zeros((many, 2), dtype=np.int64)  # begin and size
        self._end = 0

    def add(self, number: int, piece: bytes) -> None:
        """Keep a piece; each number is given once."""
        with naming(self._beside):
            self._file.seek(self._end)
            self._file.write(piece)
        self._places[number] = self._end, len(piece)
        self._end += len(piece)

    def __getitem__(self, number: int) -> bytes:
        begin, size = self._places[number].tolist()
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
