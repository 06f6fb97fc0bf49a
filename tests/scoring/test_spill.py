"""Pieces kept on disk come back as they were, in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.scoring.spill import Spill


@given(pieces=st.dictionaries(st.text(max_size=5), st.binary(max_size=3000), max_size=20))
def test_pieces_come_back_in_any_order(tmp_path_factory, pieces):
    folder = tmp_path_factory.getbasetemp()
    with Spill(folder / "selected.jsonl") as spill:
        for name, piece in pieces.items():
            spill.add(name, piece)
        assert {name: spill[name] for name in sorted(pieces, reverse=True)} == pieces
        for name in pieces:  # reading does not move where the next piece goes
            assert spill[name] == pieces[name]
        spill.add("one more, longer than any name above", b"x")
        assert spill["one more, longer than any name above"] == b"x"
    assert not list(folder.glob("selected*"))


def test_a_full_disk_names_the_output(tmp_path, monkeypatch):
    class Full:
        def seek(self, place: int) -> None: ...
        def close(self) -> None: ...
        def write(self, piece: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("gateau_lib.scoring.spill.TemporaryFile", lambda dir: Full())
    with pytest.raises(OSError, match="selected.jsonl"), Spill(tmp_path / "selected.jsonl") as spill:
        spill.add("a", b"x")
