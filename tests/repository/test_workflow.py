"""What runs by itself, at a commit and on the forge, runs what it says it runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
)
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))


def commands() -> str:
    """Every command of the workflow."""
    return "\n".join(step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"])


def test_every_promised_python_is_tested():
    tested = WORKFLOW["jobs"]["unit"]["strategy"]["matrix"]["python"]
    promised = SpecifierSet(PROJECT["requires-python"])
    assert all(promised.contains(version) for version in tested)
    lowest = min(tested, key=lambda version: int(version.partition(".")[2]))
    assert f">={lowest}" == PROJECT["requires-python"]


def test_both_ends_of_the_range_of_transformers_are_tested():
    (wanted,) = (r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "transformers")
    matrix = WORKFLOW["jobs"]["unit"]["strategy"]["matrix"]
    lowest = next(str(s.version) for s in wanted.specifier if s.operator == ">=")
    assert matrix["transformers"] == ["locked"]
    assert [row["transformers"] for row in matrix["include"]] == [f"{lowest}.*"]


def test_the_workflow_calls_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    there = {
        name for line in re.findall(r"^([a-z ]+):", makefile, flags=re.MULTILINE) for name in line.split()
    }
    called = re.findall(r"^make (\w+)", commands(), flags=re.MULTILINE)
    assert {"env", "unit", "test"} <= set(called) <= there


def test_what_hooks_and_workflow_name_exists():
    entries = "\n".join(hook["entry"] for repository in HOOKS["repos"] for hook in repository["hooks"])
    named = re.findall(r"tests/[\w/]+\.py(?:::\w+)?", entries + commands())
    assert named
    for each in named:
        path, _, function = each.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8"), each
