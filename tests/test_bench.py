"""The benchmark's two procedures agree, and the library forwards fewer tokens."""

import pytest
import torch
from conftest import random_llama

from gateau_lib import bench
from gateau_lib.engine import Pair, ScoreError
from gateau_lib.models import with_rope_theta


def tiny_pair():
    short = random_llama()
    return Pair(short, with_rope_theta(short, 20_000.0, window=256), None)


def test_procedures_agree_and_the_library_forwards_less():
    library, published = bench.compare_procedures(tiny_pair(), 3)
    assert library["samples"] == published["samples"] == 3
    assert library["padded"] < published["padded"] and library["forwards"] < published["forwards"]
    text = bench.table([library, published])
    assert "HMG + CAM, library" in text and f"{library['tokens']:,}" in text


def test_a_disagreement_is_an_error(monkeypatch):
    monkeypatch.setattr(bench, "published", lambda pair, samples, *rest: [1e3] * len(samples))
    with pytest.raises(ScoreError, match="procedures differ"):
        bench.compare_procedures(tiny_pair(), 1)


def test_machine_has_no_host_name(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "secret")
    assert "secret" not in bench.machine_name(torch.device("cpu"))
