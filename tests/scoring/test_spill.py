"""Pieces kept on disk come back as they were, in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.scoring.spill import Spill


@given(pieces=st.lists(st.binary(max_size=3000), max_size=20), random=st.randoms())
def test_pieces_come_back_in_any_order(tmp_path_factory, pieces, random):
    folder, numbers = tmp_path_factory.getbasetemp(), [*range(len(pieces))]
    random.shuffle(numbers)
    with Spill(folder / "selected.jsonl", len(pieces) + 1) as spill:
        for number in numbers:
            spill.add(number, pieces[number])
        assert [spill[number] for number in range(len(pieces))] == pieces
        for number in numbers:  # reading does not move where the next piece goes
            assert spill[number] == pieces[number]
        spill.add(len(pieces), b"x")
        assert spill[len(pieces)] == b"x"
    assert not list(folder.glob("selected*"))


def test_a_full_disk_names_the_output(tmp_path, monkeypatch):
    class Full:
        def seek(self, place: int) -> None: ...
        def close(self) -> None: ...
        def write(self, piece: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateau_lib.scoring.spill.TemporaryFile", lambda dir: Full())
    with pytest.raises(OSError, match="selected.jsonl"), Spill(tmp_path / "selected.jsonl", 1) as spill:
        spill.add(0, b"x")
