"""Records that another tool holds get the scores that the command gives them."""

from __future__ import annotations

import json
import pickle

import pytest
from scoring_command import LENGTH, SEGMENT, command, rows_of, write_data

from gateau_lib import score
from gateau_lib.bridges.record_scores import RecordScores
from gateau_lib.study.errors import ScoreError


@pytest.fixture
def options(saved_pair):
    short, long = map(str, saved_pair)
    return {"short": short, "long": long, "segment_length": SEGMENT, "max_length": LENGTH, "device": "cpu"}


def test_rows_are_those_of_the_command(options, saved_pair, tmp_path):
    data, out = write_data(tmp_path / "d.jsonl"), tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    records = [json.loads(line) for line in data.read_text().splitlines()]
    scores = pickle.loads(pickle.dumps(RecordScores(**options)))  # as it comes to another process
    found = [row for first in (0, 3, 6) for row in scores.rows(records[first : first + 3])]
    wanted = rows_of(out)
    assert {"hmg", "cam", "nll_long", "n_context", "error"} <= found[0].keys()
    for row, want in zip(found, wanted, strict=True):
        assert row == {name: want[name] for name in row}
    assert len(pickle.dumps(scores)) < 10_000, "models stay where they are"


def test_what_cannot_be_scored_has_its_reason(options):
    half = {
        "id": "h",
        "messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "b"}],
    }
    found = RecordScores(["perplexity"], **options).rows([{"id": "a"}, half, {}])
    assert all(row["error"] and row["nll_long"] is None for row in found)
    assert "surrogate" in found[1]["error"] and "record 3" in found[2]["error"]


def test_options_are_checked_before_any_record_is_seen():
    with pytest.raises(ScoreError, match="unknown method 'hgm'"):
        RecordScores(["hgm"])
