"""The example of docs/selectors.md, taken from the page: one file and one line, and everything finds it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scoring_command import command, rows_of, write_data

from gateau_lib.experiments import ranking
from gateau_lib.scoring import score_table
from gateau_lib.study.code_hash import PACKAGE

PAGE = PACKAGE.parent / "docs" / "selectors.md"
POOLS = """
import json, sys
from pathlib import Path
import pandas as pd
from gateau_lib.experiments import figures, pool, ranking, study_corpus
from gateau_lib.models import loading
from gateau_lib.study import store, style

study = store.open_study("smoke", 0, pool_per_kind=1, noise_per_kind=1, max_length=300, workers=0)
data = study_corpus.prepared(study)
scores = pool.scored(study, loading.SHIPPED, data, ("independent",), list(pool.PARTS))
scores = ranking.by_pool(ranking.by_pool(scores, ranking.guidance), ranking.combined, 0.8)
scores = ranking.by_pool(scores, ranking.others, 0.8)
rows = ranking.auc_rows(scores, ranking.OTHERS)
drawn = style.svg(figures.dots(pd.DataFrame(rows)))
found = {"others": ranking.OTHERS, "rows": rows, "drawn": "word overlap" in drawn, "n": len(scores)}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs Python where the package has the example, too."""
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(PACKAGE, root / "gateau_lib", ignore=shutil.ignore_patterns("__pycache__"))
    code, line, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (root / "gateau_lib" / "methods" / "overlap.py").write_text(code, encoding="utf-8")
    listing = root / "gateau_lib" / "methods" / "__init__.py"
    text = listing.read_text(encoding="utf-8")
    last = '    "gateau_lib.methods.baselines:RANDOM",\n'
    assert last in text and line.count("\n") == 1
    listing.write_text(text.replace(last, last + line), encoding="utf-8")

    def run(*words: str | Path) -> str:
        more = {"PYTHONPATH": str(root), "GATEAU_RESULTS": str(root / "results")}
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=root,
            env=os.environ | more,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_it_is_scored_ranked_and_reported(python, saved_pair, tmp_path):
    data, scores = write_data(tmp_path / "data.jsonl", n=20), tmp_path / "scores.parquet"
    said = python("-m", "gateau_lib.score", *command(data, saved_pair, scores, "--methods", "overlap"))
    assert "20 rows, 0 with an error" in said and "tokens forwarded: none" in said
    rows = rows_of(scores)
    assert list(rows[0]).index("overlap") == list(rows[0]).index(score_table.SCORES[-1]) + 1
    out = tmp_path / "out" / "selected.jsonl"
    said = python(
        "-m",
        "gateau_lib.select",
        scores,
        "--data",
        data,
        "--out",
        out,
        "--score",
        "overlap",
        "--fraction",
        "0.5",
    )
    chosen = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    usable = [row for row in rows if row["overlap"]]
    best = sorted(usable, key=lambda row: (-row["overlap"], row["id"]))
    assert chosen == [row["id"] for row in best][: len(chosen)] and len(chosen) == -(-len(usable) // 2) >= 2
    assert f"{20 - len(usable)} with no word in common" in said
    page = out.with_suffix(".report.html").read_text(encoding="utf-8")
    assert "<h1>Selection by word overlap</h1>" in page and "no word in common" in page


def test_it_costs_nothing_and_asks_for_no_short_model(python, saved_pair, tmp_path):
    data = write_data(tmp_path / "data.jsonl")
    words = [str(data), "--long", str(saved_pair[1]), "--methods", "overlap", "--plan"]
    assert python("-m", "gateau_lib.score", *words).split("\nall ")[1].split()[0] == "0"


def test_notebook_06_shows_it(python):
    found = json.loads(python("-c", POOLS).splitlines()[-1])
    assert found["others"] == [*ranking.OTHERS, "overlap"] and found["drawn"] and found["n"] == 15
    assert {row["method"] for row in found["rows"]} == {*ranking.OTHERS, "overlap"}
    assert all(0 <= row["value"] <= 1 for row in found["rows"])
