"""A disk that takes no more: one line, nothing lost, and the same bytes once there is room.

The kernel refuses to let a file grow past a limit, in whatever code writes it, as a full disk would. Where a
small disk may be mounted, that is tried as well.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from score_rows import make_rows, write
from scoring_command import command, write_data

from gateau_lib import score, select

FULL = ("File too large", "No space left on device")


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow past so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "d.jsonl")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of a megabyte; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(main, line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says, in one line, when it cannot write."""
    capsys.readouterr()
    assert main(line) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert any(each in said.err for each in FULL) and "give the same command" in said.err
    return said.err


def filled(path: Path) -> None:
    """A file that takes what is left of its disk."""
    with pytest.raises(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("stops_at", ["part", "table"])
def test_scoring_goes_on_when_there_is_room(data, saved_pair, tmp_path, capsys, stops_at):
    whole, out = tmp_path / "whole" / "s.parquet", tmp_path / "full" / "s.parquet"
    assert score.main(command(data, saved_pair, whole)) == 0
    parts = sorted(path.stat().st_size for path in (whole.parent / "s.parquet.parts").glob("*.json"))
    room = -20 if stops_at == "part" else 20  # a part tells its seconds, in more or fewer digits
    size = parts[-1] + room
    assert parts[0] < size < whole.stat().st_size
    with files_up_to(size):
        said = refused(score.main, command(data, saved_pair, out), capsys)
    assert str(out) in said and "finished shards are kept" in said
    kept = files(out.parent)
    left = sum(name.endswith(".json") for name in kept)
    assert not out.exists() and (0 < left < len(parts) if stops_at == "part" else left == len(parts))
    assert not [name for name in kept if name.endswith(".part")]
    assert score.main(command(data, saved_pair, out)) == 0
    assert out.read_bytes() == whole.read_bytes() and kept.items() <= files(out.parent).items()


@pytest.mark.parametrize("size", [0, 2_000, 60_000])
def test_a_selection_keeps_the_older_one(tmp_path, capsys, size):
    scores, table = write(tmp_path, make_rows())
    out = tmp_path / "out" / "o.jsonl"
    line = [str(scores), "--data", str(table), "--out", str(out)]
    assert select.main([*line, "--top", "1"]) == 0
    older = files(out.parent)
    with files_up_to(size):
        refused(select.main, [*line, "--top", "9", "--dedup", "0.5"], capsys)
    assert files(out.parent) == older
    assert select.main([*line, "--top", "9", "--dedup", "0.5"]) == 0
    assert out.read_bytes().count(b"\n") == 9


def test_a_disk_that_is_full(data, saved_pair, tmp_path, disk, capsys):
    whole, out = tmp_path / "s.parquet", disk / "s.parquet"
    assert score.main(command(data, saved_pair, whole)) == 0
    fill = disk / "fill"
    filled(fill)
    with fill.open("r+b") as file:
        file.truncate(fill.stat().st_size - 2 * 4096)  # for the lock and the trial of a name
    refused(score.main, command(data, saved_pair, out), capsys)
    assert not out.exists() and not list(disk.rglob(".*"))
    fill.unlink()
    assert score.main(command(data, saved_pair, out)) == 0
    assert out.read_bytes() == whole.read_bytes()
    shutil.copy(data, disk)
    line = [str(out), "--data", str(disk / data.name), "--out", str(disk / "o.jsonl"), "--top"]
    assert select.main([*line, "1"]) == 0
    older = (disk / "o.jsonl").read_bytes(), (disk / "o.report.html").read_bytes()
    filled(fill)
    refused(select.main, [*line, "3"], capsys)
    assert older == ((disk / "o.jsonl").read_bytes(), (disk / "o.report.html").read_bytes())
    assert sorted(path.name for path in disk.glob("*o.*")) == ["o.jsonl", "o.report.html"]
