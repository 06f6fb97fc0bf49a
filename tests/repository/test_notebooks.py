"""The smoke study from nothing, then nbval over its executed notebooks: checked outputs come out again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from study_command import ROOT, python

from gateau_lib.study.notebooks import clean, code_cells, read, source, write_text
from gateau_lib.study.profiles import resolve
from gateau_lib.study.staleness import UPSTREAM, Step
from gateau_lib.study.store import Study

NBVAL = (
    "-x --nbval-lax --nbval-current-env --nbval-cell-timeout 300 --nbval-kernel-startup-timeout 300 "
    "-p no:cacheprovider -p no:xdist -q"
).split()

pytestmark = pytest.mark.skipif(
    not list((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")), reason="no notebooks"
)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """The smoke study's results, made from nothing."""
    results = tmp_path_factory.mktemp("results")
    done = python(results, "gateau_lib.run", "smoke", seconds=420)
    assert done.returncode == 0, done.stderr[-3000:]
    return results / "smoke"


def test_smoke_study_leaves_evidence(smoke):
    content = json.loads((smoke / "manifest.json").read_text())
    sources = sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    assert list(content["notebooks"]) == sources
    assert all(entry["seconds"] > entry["reused_seconds"] == 0 for entry in content["notebooks"].values())
    assert content["peak_memory_mb"] < 4096
    assert python(smoke.parent, "gateau_lib.run", "smoke", "--verify", seconds=30).returncode == 0


def test_later_notebooks_name_what_they_read(smoke):
    """A notebook that uses another's artefacts must list it, or edits there would not make it run again."""
    study = Study(resolve("smoke"), 0, smoke)
    used = {p.name[:2]: Step(study, p, {}).last()["artefacts"] for p in (smoke / "notebooks").glob("*.ipynb")}
    assert any(used.values()), "the stamps name no artefact"
    owner: dict[str, str] = {}
    for number in sorted(used):
        for name in used[number]:
            first = owner.setdefault(name, number)
            assert first in (number, *UPSTREAM[number]), (
                f"{number} uses {name} of {first}: list it in steps.UPSTREAM"
            )


def test_second_run_does_nothing(smoke):
    done = python(smoke.parent, "gateau_lib.run", "smoke", seconds=30)
    assert re.search(r"smoke: 0 of \d+ notebooks ran", done.stderr), done.stderr


def test_nbval_over_the_executed_notebooks(smoke):
    done = python(smoke.parent, "pytest", *NBVAL, str(smoke / "notebooks"), seconds=480)
    assert done.returncode == 0, done.stdout[-4000:]
    ran = int(re.search(r"(\d+) passed", done.stdout)[1])  # type: ignore[index]
    assert ran == sum(len(read(p)["cells"]) - markdown(p) for p in (smoke / "notebooks").glob("*.ipynb"))


def markdown(path: Path) -> int:
    return sum(cell["cell_type"] != "code" for cell in read(path)["cells"])


def test_nbval_sees_a_changed_output(smoke, tmp_path):
    """The check is worth something: one other number in one checked output fails."""
    path = min((smoke / "notebooks").glob("*.ipynb"))
    notebook = read(path)
    checked = next(c for c in code_cells(notebook) if source(c).startswith("# NBVAL_CHECK_OUTPUT"))
    checked["outputs"][0]["text"] = ["something else\n"]
    (tmp_path / path.name).write_text(write_text(notebook))
    done = python(smoke.parent, "pytest", *NBVAL, str(tmp_path / path.name), seconds=120)
    assert done.returncode == 1 and "something else" in done.stdout


def test_site_builds_from_executed_notebooks_and_loads_nothing_remote(smoke, tmp_path):
    shutil.copytree(smoke / "notebooks", tmp_path / "results" / "cpu" / "notebooks")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "notebooks"))
    done = python(
        tmp_path / "results",
        "sphinx",
        "-q",
        "-b",
        "html",
        str(tmp_path / "docs"),
        str(tmp_path / "html"),
        seconds=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for path in (smoke / "notebooks").glob("*.ipynb"):
        page = (tmp_path / "html" / "notebooks" / f"{path.stem}.html").read_text()
        assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+", page)


def test_styled_tables_keep_apart():
    """With one id for all, a page's style sheet gave every table the colours of the last one."""

    def cell(name, table):
        html = f'<style>#T_{table}_row0 {{color: red}}</style><table id="T_{table}"></table>'
        output = {"output_type": "display_data", "data": {"text/html": html}, "metadata": {}}
        return {
            "cell_type": "code",
            "id": name,
            "source": "",
            "outputs": [output],
            "execution_count": 1,
            "metadata": {},
        }

    original = {"cells": [cell("a", "0a1b2"), cell("b", "fffff")], "metadata": {}}
    again = {"cells": [cell("a", "99999"), cell("b", "0a1b2")], "metadata": {}}
    first = clean(original, original)
    html = [c["outputs"][0]["data"]["text/html"] for c in first["cells"]]
    assert "#T_table1_row0" in html[0] and 'id="T_table1"' in html[0] and 'id="T_table2"' in html[1]
    assert clean(again, original) == first
