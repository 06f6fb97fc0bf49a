"""The program that measures a card: it runs whole with tiny shapes, keeps what it has, says what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gateau_lib import gpu_checks
from gateau_lib.experiments import (
    gpu_agreement,
    gpu_card,
    gpu_page,
    gpu_passes,
    gpu_record,
    gpu_study,
    gpu_training,
)
from gateau_lib.models.sizes import of_config
from gateau_lib.training.input_rows import IGNORED

CPU = torch.device("cpu")


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    return gpu_record.start("as tested", True, ["card"])


def test_every_part_runs_with_tiny_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    assert gpu_checks.main(["--tiny"]) == 0
    (path,) = (tmp_path / "cards-tiny").iterdir()  # and no log of a part that failed
    about = gpu_record.read(path)
    assert [part["outcome"] for part in about["parts"]] == ["done"] * len(gpu_checks.PARTS)
    assert about["commit"] and about["versions"]["torch"] and about["tiny"]
    assert {row["part"] for row in about["rows"]} == set(gpu_checks.PARTS)
    for row in about["rows"]:
        if "seconds" in row and not row["what"].startswith("attention by "):  # kernels that a CPU lacks
            assert row["seconds"] > 0, row
        if "differ" in row.get("against", "") or row.get("against", "").startswith("cpu"):
            assert row["largest_difference"] == 0, row
    verdicts = next(row for row in about["rows"] if row["what"] == "verdicts")
    assert verdicts["claims"] > 0 and verdicts["changed"] == 0
    assert "tokens/s" in gpu_page.page([about])


@pytest.mark.parametrize(
    ("device", "seconds", "said"), [("nowhere", 60, "failed (1): "), ("cpu", 0.2, "stopped after")]
)
def test_a_part_that_does_not_end_leaves_its_reason_and_the_next_one_runs(
    tmp_path, monkeypatch, device, seconds, said
):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    monkeypatch.setenv("GATEAU_DEVICE", device)
    monkeypatch.setattr(
        gpu_checks, "PARTS", {"card": ("gpu_card", seconds), "passes": ("gpu_passes", seconds)}
    )
    path = gpu_record.start("as tested", True, [])
    outcomes = [gpu_checks._in_time(part, path, True, seconds) for part in gpu_checks.PARTS]
    assert all(outcome.startswith(said) for outcome in outcomes)
    assert [part["outcome"] for part in gpu_record.read(path)["parts"]] == outcomes
    assert path.with_suffix(".card.log").exists()


def test_without_a_card_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv("GATEAU_DEVICE", "cpu")
    assert gpu_checks.main([]) == 2
    assert "--tiny" in capsys.readouterr().err


def test_it_needs_no_notebooks_and_no_data_sets():
    """The machine that has the card may lack them."""
    hidden = ("papermill", "nbval", "ipykernel", "IPython", "nbformat", "nbclient", "datasets")
    parts = [f"gateau_lib.experiments.{module}" for module, _ in gpu_checks.PARTS.values()]
    code = f"import sys\nfor name in {hidden}: sys.modules[name] = None\n"
    code += "".join(f"import {name}\n" for name in ["gateau_lib.gpu_checks", *parts])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# The record -------------------------------------------------------------------------------------------------


def test_a_part_measured_again_leaves_the_rows_of_the_others(record):
    for part in ("card", "passes"):
        gpu_record.add(record, part, "old")
        gpu_record.end_part(record, part, 1.0, "done")
    assert gpu_record.start("again", True, ["passes"]) == record
    about = gpu_record.read(record)
    assert [row["part"] for row in about["rows"]] == [part["part"] for part in about["parts"]] == ["card"]


def test_a_part_measured_earlier_keeps_its_commit(record):
    gpu_record.write(record, gpu_record.read(record) | {"commit": "another", "dirty": True})
    gpu_record.add(record, "card", "old")
    gpu_record.end_part(record, "card", 1.0, "done")
    about = gpu_record.read(gpu_record.start("again", True, ["passes"]))
    assert about["rows"] and about["commit"] != "another"
    assert (about["parts"][0]["commit"], about["parts"][0]["dirty"]) == ("another", True)
    assert "commit another, with changes" in gpu_page.page([about])


def test_a_record_of_other_versions_is_begun_anew(record):
    gpu_record.add(record, "card", "old")
    gpu_record.write(record, gpu_record.read(record) | {"versions": {"torch": "0"}})
    gpu_record.start("again", True, ["passes"])
    assert gpu_record.read(record)["rows"] == []


def test_card_and_host_are_compared_by_claim_and_by_step(record):
    found = {"cuda": {"a": "holds", "b": "fails"}, "cpu": {"a": "holds", "b": "inconclusive"}}
    losses = {
        where: dict.fromkeys(gpu_study.RUNS, [1.0, last]) for where, last in (("cuda", 2.5), ("cpu", 2.0))
    }
    gpu_study.compare(record, "cuda", found, losses)
    verdicts, *compared = gpu_record.read(record)["rows"]
    assert (verdicts["claims"], verdicts["changed"], verdicts["note"]) == (2, 1, "changed: b")
    assert [row["largest_difference"] for row in compared] == [0.5, 0.5]


# What is counted --------------------------------------------------------------------------------------------


def test_operations_in_full_count_every_key_of_every_query(record):
    shapes = gpu_card.TINY
    gpu_passes.measure(record, shapes, CPU)
    size = of_config(gpu_card.seven_b(shapes, CPU).config)
    row = next(row for row in gpu_record.read(record)["rows"] if row["what"] == "plain pass")
    n, (hidden, _, layers, _, _) = row["length"], shapes.model
    by_hand = 2 * size.linear * n + 2 * size.head * shapes.response
    causal = sum(query + 1 for query in range(n))
    assert row["operations"] == by_hand + 4 * layers * hidden * causal
    assert row["operations_full"] == by_hand + 4 * layers * hidden * n**2


def test_the_random_model_is_of_the_size_that_its_name_says():
    with torch.device("meta"):
        model = gpu_card.seven_b(gpu_card.SEVEN_B, torch.device("meta"))
    assert sum(p.numel() for p in model.parameters()) == 6_738_415_616  # Llama-2-7B
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_sample_and_a_row_have_the_length_that_is_measured():
    shapes = gpu_card.TINY
    assert len(gpu_passes.sample(shapes, 200).ids) == 200
    row = gpu_training.row(shapes)
    assert len(row.input_ids) == len(row.position_ids) == shapes.middle
    assert sum(label != IGNORED for label in row.labels) == shapes.response
    assert sum(label != IGNORED for label in gpu_training.row(shapes, whole=True).labels) == shapes.middle - 1


def test_agreement_of_scores():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0])
    found = gpu_agreement.agreement(a, b)
    assert found["largest_difference"] == 2.0 and found["rank_correlation"] == pytest.approx(0.5)
    assert gpu_agreement.agreement(np.zeros(3), b)["rank_correlation"] is None


def test_a_model_in_another_format_keeps_its_rotary_frequencies():
    model = gpu_agreement.family("llama, grouped heads", 64, 0)
    half = gpu_agreement._twin(model, CPU, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


# The page ---------------------------------------------------------------------------------------------------


def about(*rows: dict[str, Any]) -> dict[str, Any]:
    of = {"date": "2026-01-02T03:04:05", "commit": "abcdef012", "dirty": False}
    parts = [{"part": "passes", "seconds": 9.0, "outcome": "done", **of}]
    return of | {
        "card": "A card",
        "command": "c",
        "versions": {"torch": "2"},
        "parts": parts,
        "rows": list(rows),
    }


MATRIX = {"part": "card", "what": "matrix product", "seconds": 1.0, "operations": 100.0}


def a_pass(what: str, length: int, seconds: float | None, share: float, peak: float) -> dict[str, Any]:
    measured = {"length": length, "tokens": length, "seconds": seconds, "peak_bytes": peak}
    return {"part": "passes", "what": what, "operations": 100 * share * (seconds or 1), **measured}


def test_goals_are_judged_by_what_was_measured():
    rows = [
        MATRIX,
        a_pass("plain pass", 32768, 1.0, 0.7, 2e10),
        a_pass("pass with attention", 32768, 1.2, 0.6, 2e10),
        a_pass("plain pass", 65536, 4.0, 0.4, 3e10),
        a_pass("pass with attention", 65536, None, 0, 0),
    ]
    met = {each["goal"].split(",")[0]: each["met"] for each in gpu_page.goals(gpu_page.rates(rows))}
    values = [each["value"] for each in gpu_page.goals(gpu_page.rates(rows))]
    assert values == pytest.approx([0.7, 0.4, 30, 1.2])
    assert list(met.values()) == [False, True, False]  # the two shares have one name up to the comma
    assert "2 of 4 goals" in gpu_page.headline([about(*rows)])


def test_the_page_without_a_record_says_so():
    assert gpu_page.page([]) == gpu_page.NOT_YET and "Nothing has been run" in gpu_page.headline([])


def test_the_page_tells_what_failed(tmp_path):
    failed = {
        "part": "passes",
        "what": "plain pass",
        "length": 4,
        "seconds": None,
        "note": "OutOfMemory: no room",
    }
    text = gpu_page.page([about(failed)])
    assert "OutOfMemory: no room" in text and "abcdef0" in text
    (tmp_path / "a.json").write_text(json.dumps(about(failed)))
    assert gpu_record.newest(tmp_path)[0]["card"] == "A card"
