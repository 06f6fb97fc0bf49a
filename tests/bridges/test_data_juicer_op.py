"""Data-Juicer's own executor runs the operator, from a recipe, and selects by its scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from scoring_command import LENGTH, SEGMENT, command, rows_of, write_data

from gateau_lib import score

pytest.importorskip("data_juicer")

from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor

OPERATOR = Path(score.__file__).parent / "bridges" / "data_juicer_op.py"


def test_a_recipe_scores_and_selects(saved_pair, tmp_path):
    data, out = write_data(tmp_path / "d.jsonl"), tmp_path / "out" / "selected.jsonl"
    records = [json.loads(line) for line in data.read_text().splitlines()]
    lines = [json.dumps(record | {"text": "shown to operators of text"}) + "\n" for record in records]
    data.write_text("".join([*lines, '{"id": "bad", "text": "no conversation", "messages": []}\n']))
    short, long = map(str, saved_pair)
    ours = {"methods": ["hmg"], "short": short, "long": long, "device": "cpu"}
    ours |= {"max_length": LENGTH, "segment_length": SEGMENT, "batch_size": 3}
    best = {"field_key": "gateau.hmg", "topk": 3}
    recipe = {
        "custom_operator_paths": [str(OPERATOR)],
        "dataset_path": str(data),
        "export_path": str(out),
        "work_dir": str(tmp_path / "work"),
        "np": 1,
        "use_cache": False,
        "open_tracer": False,
        "process": [{"gateau_score_mapper": ours}, {"topk_specified_field_selector": best}],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    DefaultExecutor(init_configs(["--config", str(tmp_path / "recipe.yaml")])).run()
    found = [json.loads(line) for line in out.read_text().splitlines()]
    table = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, table, "--methods", "hmg")) == 0
    scored = [row for row in rows_of(table) if row["error"] is None]
    best_first = sorted(scored, key=lambda row: -row["hmg"])[:3]
    assert [each["id"] for each in found] == [row["id"] for row in best_first]
    assert [each["gateau"]["hmg"] for each in found] == pytest.approx([row["hmg"] for row in best_first])
    assert all(each["gateau"]["error"] == "" for each in found)
