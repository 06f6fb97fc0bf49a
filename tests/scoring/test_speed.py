"""The benchmark's procedures agree, the library reads less, and what was measured can be read again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import random_llama

from gateau_lib import bench, methods
from gateau_lib.data.kinds import KINDS
from gateau_lib.models import memory
from gateau_lib.models.pair import Pair
from gateau_lib.models.rope import with_rope_theta
from gateau_lib.scoring import fixed_cost, speed, speed_goals, speed_peers
from gateau_lib.study.errors import ScoreError

ROOT = Path(__file__).parents[2]
FIDELITY = {"rank_correlation": 0.99, "top_overlap": 0.95}


@pytest.fixture(scope="module")
def pair(tokenizer):
    short = random_llama()
    return Pair(short, with_rope_theta(short, 20_000.0, window=512), tokenizer)


@pytest.fixture(scope="module")
def rows(pair):
    found = speed.compare_procedures(pair, 2, 1024, 16, repeats=1) + speed.compare_prolong(pair, 10, 16)
    peaks = {"plain pass": 2.0, "pass with attention": 3.0, "attention matrices": 60.0}
    for kind, peak in peaks.items():
        found.append(speed.measurement("memory", kind, None, {}, length=256, peak_mib=peak))
    return found + speed.compare_passes(pair, (256, 384), 8) + speed.compare_losses(pair, 2, 512, peers=False)


def test_the_library_reads_less_and_hardly_more_than_exactness_needs(rows):
    of = {(row["section"], row["what"]): row for row in rows if row.get("length") is None}
    exact, released = of["HMG + CAM", "exact"], of["HMG + CAM", "released"]
    assert exact["fewest_tokens"] <= exact["tokens"] <= 1.15 * exact["fewest_tokens"]
    assert exact["padded"] < released["padded"] and exact["samples"] == 2
    assert of["HMG + CAM", "adaptive"]["tokens"] < exact["tokens"]
    assert of["ProLong", "exact"]["tokens"] < 0.75 * of["ProLong", "released"]["tokens"]


def test_lengths_are_log_uniform():
    lengths = np.array(speed.log_uniform(400, 8192))
    assert lengths.min() >= 1024 and lengths.max() <= 8192
    assert np.median(np.log2(lengths)) == pytest.approx(11.5, abs=0.02)


def test_a_disagreement_is_an_error(pair, monkeypatch):
    far = lambda pair, samples, *rest, **more: (np.full(len(samples), 1e3), 0.0)  # noqa: E731
    monkeypatch.setattr(methods.released, "released_hmg", far)
    with pytest.raises(ScoreError, match="procedure differ by"):
        speed.compare_procedures(pair, 1, 1024, 16, repeats=1)
    monkeypatch.setattr(methods.released_prolong, "released_prolong", lambda *args, **kwargs: np.array([1e3]))
    with pytest.raises(ScoreError, match="ProLong's scores differ"):
        speed.compare_prolong(pair, 10, 16)


def test_goals_are_judged_and_read_again(rows, tmp_path):
    goals = speed_goals.reached(rows, FIDELITY)
    by_name = {goal["goal"]: goal for goal in goals}
    assert by_name["attention in the pass: memory over attention matrices"] == {
        "goal": "attention in the pass: memory over attention matrices",
        "value": 0.05,
        "bound": 0.1,
        "side": "most",
        "met": True,
    }
    assert by_name["adaptive: overlap of the top tenth"]["met"]
    low = speed_goals.reached(rows, FIDELITY | {"top_overlap": 0.5})
    assert "adaptive: overlap of the top tenth" in [goal["goal"] for goal in low if not goal["met"]]
    assert speed_goals.read(tmp_path) is None
    for date in ("2026-01-01", "2026-02-01"):
        about = {"machine": "m", "date": date, "rows": rows, "goals": goals}
        (tmp_path / f"{date}.json").write_text(json.dumps(about), encoding="utf-8")
    found = speed_goals.read(tmp_path)
    assert found["date"] == "2026-02-01"
    measured, verdicts = speed_goals.readable(found)
    assert len(measured) == len(rows) and len(verdicts) == len(goals) == 14
    assert "passes, plain pass, 256 tokens" in set(measured["measured"]) and "nan" not in measured.to_string()
    assert verdicts.iloc[12].tolist()[1:] == ["0.050", "at most 0.1", "yes"]


def test_a_file_from_before_the_peers_is_read():
    about = speed_goals.read(ROOT / "results" / "bench")
    old = [{k: v for k, v in row.items() if k not in ("times", "apart", "scored")} for row in about["rows"]]
    old = [row for row in old if row["section"] != "fixed cost" and "parameters" not in row["section"]]
    old = [row for row in old if row["what"] != "bound, keys read"]
    goals = speed_goals.reached(old, about["fidelity"])
    measured, verdicts = speed_goals.readable(about | {"rows": old, "goals": goals})
    assert len(verdicts) == len(goals) == 13 and "times ours" not in measured


def test_adaptive_fidelity_is_of_planted_samples():
    found = speed.adaptive_fidelity(per_kind=1)
    assert (
        found["samples"] == len(KINDS) + 1
        and -1 <= found["rank_correlation"] <= 1
        and 0 <= found["top_overlap"] <= 1
    )
    assert found["importance_tokens_adaptive"] < found["importance_tokens_exact"]


def test_the_measurement_of_a_whole_run_is_written_and_read(monkeypatch, capsys, tmp_path):
    """The command, with sizes of a test."""
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    monkeypatch.setattr(speed, "WINDOW", 512)
    monkeypatch.setattr(speed, "LARGE", {"vocabulary": 4000, "hidden_size": 256, "layers": 1, "heads": 2})
    monkeypatch.setattr(speed, "LARGE_SAMPLES", {"n": 2, "window": 512, "repeats": 1})
    monkeypatch.setattr(fixed_cost, "measure", lambda: {"command": 3.5, "bare script": 2.0})
    monkeypatch.setattr(speed_peers, "PEERS", {})
    for name, small in {
        "compare_passes": {"lengths": (256, 384)},
        "compare_prolong": {"pairs": 10},
        "compare_losses": {"n": 2, "window": 512},
    }.items():
        monkeypatch.setattr(speed, name, partial(getattr(speed, name), **small))
    monkeypatch.setattr(memory, "peak", lambda prepare, kind, length, long: 2**20)
    monkeypatch.setattr(speed, "adaptive_fidelity", lambda: FIDELITY | {"samples": 9})
    assert bench.main(["--samples", "1"]) == 0
    (path,) = (tmp_path / "bench").glob("*.json")
    about = json.loads(path.read_text(encoding="utf-8"))
    keys = ["machine", "date", "versions", "model", "commit", "dirty", "rows", "fidelity", "goals"]
    assert list(about) == keys and about == speed_goals.read()
    assert about["model"]["window"] == 512 and not about["model"]["named"]
    assert {row["section"] for row in about["rows"]} == {
        "memory",
        "passes",
        "response losses",
        "response losses, 2M parameters",
        "ProLong",
        "HMG + CAM",
        "fixed cost",
    }
    goals = {goal["goal"]: goal for goal in about["goals"]}
    assert goals["fixed cost of the command over a bare script, seconds"]["value"] == 1.5
    assert "response losses, 2M parameters: times a loop with all logits" in goals
    assert {"torch", "cudnn", "attention", "cpu_capability", "processor"} <= set(about["versions"])
    said = capsys.readouterr().out
    assert f"written: {path}" in said and "memory, attention matrices, 8,192 tokens" in said


def prepare(mib):
    return lambda: None, lambda: torch.zeros(mib, 2**18).add_(1).sum()


def test_peak_memory_is_of_the_work_alone():
    ballast = torch.ones(300, 2**18)  # of this process, so not of the fresh one
    assert 39 < memory.peak(prepare, 40) / 2**20 < 60
    assert memory.high_water() / 2**20 > 300 and ballast.sum() > 0


def test_machine_has_no_host_name(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "secret")
    assert "secret" not in speed.machine_name(torch.device("cpu"))
