"""The installed library: one console command, and a wheel that works outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import setuptools

from gateau_lib import __main__ as console
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample

ROOT = Path(__file__).parents[2]
SETUPTOOLS = 77  # as pyproject.toml asks


def test_the_console_command_lists_what_there_is(capsys):
    assert console.main([]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[:2] for line in lines] == [["gateau", name] for name in console.COMMANDS]
    assert max(map(len, lines)) <= 100
    assert console.main(["selct"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: no command 'selct': choose one of {', '.join(console.COMMANDS)}\n"


@pytest.mark.parametrize("name", console.COMMANDS)
def test_each_command_is_the_module_s_own(name, capsys):
    module = import_module(f"gateau_lib.{console.COMMANDS[name][0]}")
    shown = []
    for main, words in ((console.main, [name]), (module.main, [])):
        with suppress(SystemExit):
            main([*words, "--help"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and shown[0].startswith("usage: ")


def test_selecting_loads_no_torch():
    code = "import sys; from gateau_lib.__main__ import main\n"
    code += "try: main(['select', '--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the wheel of this source, unpacked by pip without a network."""
    if int(setuptools.__version__.split(".")[0]) < SETUPTOOLS:
        pytest.skip(
            f"a wheel is built by setuptools {SETUPTOOLS} or newer, {setuptools.__version__} is installed"
        )
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # building leaves a folder beside the source
    shutil.copytree(ROOT / "gateau_lib", source / "gateau_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    alone = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *alone, "--no-build-isolation", "-w", place, source], check=True, timeout=60
    )
    (wheel,) = place.glob("*.whl")
    subprocess.run([*pip, "install", *alone, "--target", place / "installed", wheel], check=True, timeout=60)
    return place / "installed"


def outside(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the installed library, in a folder of the user's."""
    environment = {name: each for name, each in os.environ.items() if not name.startswith("GATEAU_")}
    environment |= {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "gateau_lib", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_wheel_scores_and_selects_outside_the_repository(installed, tmp_path):
    texts = ["The mill stands by the river. ", "Alice lives in Rome. ", "The key lies under the stair. "]
    samples = [Sample(f"s{n}", text * 20, "Where?", "There.") for n, text in enumerate(texts)]
    write_samples(samples, tmp_path / "mine.jsonl")
    where = "import gateau_lib; print(gateau_lib.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(installed))
    done = outside(
        installed, tmp_path, "score", "mine.jsonl", "--out", "scores.parquet", "--max-length", "512"
    )
    assert done.returncode == 0, done.stderr
    done = outside(
        installed,
        tmp_path,
        "select",
        "scores.parquet",
        "--data",
        "mine.jsonl",
        "--top",
        "1",
        "--out",
        "best.jsonl",
    )
    assert done.returncode == 0 and len((tmp_path / "best.jsonl").read_text().splitlines()) == 1, done.stderr
    assert (installed / "bin" / "gateau").is_file()


@pytest.mark.slow
def test_what_a_wheel_does_not_hold_is_said_in_one_line(installed, tmp_path):
    done = outside(installed, tmp_path, "run", "smoke")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "an installed library has no notebooks: clone the repository and run there" in done.stderr
    assert list(tmp_path.iterdir()) == [] and not (installed / "results").exists()


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_library(installed):
    def files(package: Path) -> list[str]:
        found = (path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return sorted(path.relative_to(package).as_posix() for path in found)

    assert files(installed / "gateau_lib") == files(ROOT / "gateau_lib")
