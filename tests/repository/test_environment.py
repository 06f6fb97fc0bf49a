"""pyproject.toml, requirements.lock and environment.yml agree, and the lock can be installed by anyone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, LOCKED = (
    SETTINGS["project"],
    SETTINGS["tool"]["pip-tools"]["extra"],
)  # the extra ray is for clusters, not in the lock
LOCK = (ROOT / "requirements.lock").read_text()
PINS = {canonicalize_name(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK, flags=re.M)}
# papermill lists it for Python 3.12 alone and never imports it.
NOT_USED = {"aiohttp"}
BEFORE_THE_LOCK = re.compile(r"torch|triton|setuptools|nvidia-.*|cuda-.*")


def listed() -> list[Requirement]:
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in LOCKED)]
    return [Requirement(text) for group in groups for text in group]


def test_lock_pins_everything_that_is_listed():
    for wanted in listed():
        name = canonicalize_name(wanted.name)
        if name != "torch":
            assert name in PINS, f"{name} is in pyproject.toml but not in requirements.lock: run make lock"
            assert wanted.specifier.contains(PINS[name]), (
                f"{name}=={PINS[name]} does not fit {wanted}: run make lock"
            )


def test_lock_leaves_out_what_depends_on_the_machine():
    assert [name for name in PINS if BEFORE_THE_LOCK.fullmatch(name)] == []
    torch = re.search(r"^torch=(\S+)$", (ROOT / "scripts" / "environment.sh").read_text(), flags=re.M)
    (wanted,) = (w for w in listed() if w.name == "torch")
    assert torch and wanted.specifier.contains(torch[1])


def test_lock_is_hashed_and_names_no_place():
    blocks = re.split(r"\n(?=\S+==)", LOCK)[1:]
    assert len(blocks) == len(PINS) and all(
        re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks
    )
    for place in (
        "://",
        "--index",
        "--extra-index",
        "--find-links",
        "--trusted-host",
        " @ ",
        "/opt",
        str(Path.home()) + "/",
    ):
        assert place not in LOCK, place


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_lock_is_complete_for_torch_and_itself(python):
    """With --no-deps nothing brings what is missing: every dependency that applies must be pinned."""
    lacking = []
    here = {"extra": "", "python_version": python, "python_full_version": f"{python}.9"}
    for name in ["torch", *PINS]:
        try:
            needs = [Requirement(text) for text in requires(name) or ()]
        except PackageNotFoundError:
            continue
        for need in (n for n in needs if n.marker is None or n.marker.evaluate(here)):
            wanted = canonicalize_name(need.name)
            if wanted not in PINS.keys() | NOT_USED and not BEFORE_THE_LOCK.fullmatch(wanted):
                lacking.append(f"{name} needs {wanted}")
    assert lacking == []


def test_installed_versions_are_the_locked_ones():
    if "environment.sh" in make("-n", "env", VIRTUAL_ENV=sys.prefix).stdout:
        pytest.skip("this environment was not made by make env")
    assert {name: version(name) for name in PINS} == PINS


def test_conda_file_only_points_at_the_lock():
    text = (ROOT / "environment.yml").read_text()
    assert yaml.safe_load(text)["dependencies"] == [f"python{PROJECT['requires-python']}", "pip"]
    assert "requirements.lock" in text and "make env" in text


def test_package_data_is_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    files = ["*.yml", "*.json", "*.html", "*.css", "*.js"]
    assert declared == {"*": files, "gateau_lib.models": ["tiny_pair/**"]}


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        k: v
        for k, v in os.environ.items()
        if k not in ("VIRTUAL_ENV", "CONDA_PREFIX", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", *words], cwd=ROOT, capture_output=True, text=True, env=kept | environment, timeout=60
    )


def test_help_names_every_target():
    said = make().stdout
    for (
        target
    ) in "reproduce test smoke cpu gpu paper status select env site readme verify lab bench clean".split():
        assert re.search(rf"^  ([a-z ]* )?{target}\b", said, flags=re.M), target


def test_targets_use_the_active_environment_else_a_local_one():
    assert f"{ROOT}/.venv/bin/python" in make("-n", "status").stdout
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        assert "/elsewhere/bin/python" in make("-n", "status", **{name: "/elsewhere"}).stdout


def test_no_suitable_python_is_one_clear_line(tmp_path):
    done = make("env", VIRTUAL_ENV=str(tmp_path / "new"), PYTHON=str(tmp_path / "python9"))
    assert done.returncode != 0
    assert (
        "error: no Python 3.11 or newer on PATH; install one, or name it: make env PYTHON=/path/to/python3"
        in done.stderr
    )
    old = tmp_path / "old" / "bin" / "python"
    old.parent.mkdir(parents=True)
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" || exit 1\n')
    old.chmod(0o755)
    done = make("env", VIRTUAL_ENV=str(tmp_path / "old"))
    assert done.returncode != 0 and "holds Python 3.9.1, Python 3.11 or newer is needed" in done.stderr


def test_select_without_data_is_one_clear_line():
    if "environment.sh" in make("-n", "env", VIRTUAL_ENV=sys.prefix).stdout:
        pytest.skip("this environment was not made by make env; a test must not change it")
    here = make("select", VIRTUAL_ENV=sys.prefix)
    assert here.returncode != 0 and "error: name your data: make select DATA=my.jsonl" in here.stderr


@pytest.mark.parametrize("wrong", ["FRACTION=2", "FRACTION=0", "FRACTION=x", "DEDUP=80"])
def test_select_refuses_a_bad_share_before_anything_is_scored(wrong):
    if "environment.sh" in make("-n", "env", VIRTUAL_ENV=sys.prefix).stdout:
        pytest.skip("this environment was not made by make env; a test must not change it")
    here = make("select", "DATA=none.jsonl", wrong, VIRTUAL_ENV=sys.prefix)
    assert here.returncode != 0 and "error: FRACTION and DEDUP must lie in (0, 1]" in here.stderr
    assert "none.jsonl" not in here.stderr


def test_every_variable_that_the_library_reads_is_in_the_table():
    sources = [*(ROOT / "gateau_lib").rglob("*.py"), *(ROOT / "scripts").glob("*"), ROOT / "Makefile"]
    read = {
        name
        for path in sources
        for name in re.findall(r"\bGATEAU_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    rows = re.findall(
        r"^\| `(\w+)` \|", (ROOT / "docs" / "environment.md").read_text(encoding="utf-8"), flags=re.M
    )
    assert sorted(rows) == sorted(read)
