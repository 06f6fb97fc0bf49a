"""A folder of evidence with one measure, as `evidence_run` would leave it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gateau_lib.experiments import evidence_files
from gateau_lib.study.profiles import named


def fabricate(folder: Path, pairs: range, value: float = 0.8) -> pd.DataFrame:
    """Evidence of pairs whose HMG has that AUC, give or take, in the clean pool; returns the verdicts."""
    made = {}
    for pair in pairs:
        source = folder.parent / f"made-{folder.name}-{pair}"
        source.mkdir(parents=True)
        row = {"metric": "auc", "method": "hmg_minmax_ntk", "condition": "clean"}
        rows = pd.DataFrame([row | {"value": value + pair % 3 / 300, "n": 9}])
        (source / "metrics.csv").write_text(evidence_files.text(rows))
        (source / "scores.csv").write_text(f"id,hmg_minmax_ntk\na,{pair}.5\n")
        (source / "chosen.json").write_text(json.dumps({"gateau": [f"a-{pair}"]}))
        made[pair] = source
    began = evidence_files.now()
    return evidence_files.write(folder, made, named("cpu"), dict.fromkeys(made, 1.26), began)
