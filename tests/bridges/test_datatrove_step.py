"""datatrove's own executor runs the step."""

from __future__ import annotations

import json

import pytest
from scoring_command import LENGTH, SEGMENT, write_data

pytest.importorskip("datatrove")
pytest.importorskip("orjson")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from gateau_lib.bridges.datatrove_step import GateauScores, whole_record


def test_a_pipeline_scores_and_filters(saved_pair, tmp_path):
    (tmp_path / "data").mkdir()
    data = write_data(tmp_path / "data" / "d.jsonl")
    with data.open("a") as more:
        more.write('{"id": "bad", "text": "no conversation"}\n')
    short, long = map(str, saved_pair)
    scores = GateauScores(
        ["hmg"], batch_size=3, short=short, long=long, segment_length=SEGMENT, max_length=LENGTH, device="cpu"
    )
    pipeline = [
        JsonlReader(str(data.parent), adapter=whole_record),
        scores,
        LambdaFilter(lambda document: document.metadata["gateau"]["error"] is None),
        JsonlWriter(str(tmp_path / "out"), compression=None),
    ]
    LocalPipelineExecutor(pipeline, logging_dir=str(tmp_path / "logs")).run()
    (written,) = (tmp_path / "out").glob("*.jsonl")
    found = [json.loads(line) for line in written.read_text().splitlines()]
    assert [each["id"] for each in found] == [f"s{n}" for n in range(7)]
    originals = [json.loads(line) for line in data.read_text().splitlines()]
    for each, original in zip(found, originals, strict=False):
        assert each["metadata"]["messages"] == original["messages"]
        row = each["metadata"]["gateau"]
        assert row["hmg"] == pytest.approx(row["nll_short"] - row["nll_long"])
    stats = json.loads((tmp_path / "logs" / "stats.json").read_text())
    counted = next(step["stats"] for step in stats if step["name"].endswith("GATEAU"))
    assert (counted["scored"], counted["with an error"]) == (7, 1)
