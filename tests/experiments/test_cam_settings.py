"""CAM by other segments and by layer, against the slow reference of CAM and against tables by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from reference.cam import slow_attention, slow_importance

from gateau_lib.data import kinds
from gateau_lib.data.longalign import read_samples, write_samples
from gateau_lib.data.samples import encode
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import cam_settings
from gateau_lib.experiments.ranking import auc
from gateau_lib.models import loading

SIZE, LONGEST = 32, 400


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    words = build_tokenizer()
    drawn = [
        kinds.make_sample(words, [9, n], kind, 330, 128, f"{kind}-{n}")
        for kind in ("far", "near", "corrupt")
        for n in range(2)
    ]
    return write_samples(drawn, tmp_path_factory.mktemp("texts") / "pool.jsonl")


def misaligned(nll: np.ndarray, attention: np.ndarray) -> float:
    """One minus the cosine of softmaxed importance with the shares of attention."""
    importance, share = np.exp(-nll) / np.exp(-nll).sum(), attention / attention.sum()
    return 1 - importance @ share / np.linalg.norm(importance) / np.linalg.norm(share)


def test_other_segments_are_those_of_a_slow_reader(texts, tmp_path):
    cam_settings.write_lengths(loading.SHIPPED, texts, SIZE, LONGEST, "float32", tmp_path)
    table = pd.read_parquet(tmp_path / cam_settings.TABLE)
    assert list(table["id"]) == ["far-0", "far-1", "near-0", "near-1"]  # no noise
    model, tokenizer = loading.load_on_cpu(loading.SHIPPED / "long")
    drawn = {sample.id: sample for sample in read_samples(texts)}
    for row in table.to_dict("records")[::2]:
        each = encode(drawn[row["id"]], tokenizer, LONGEST)
        for name, size in {"cam_segments_half": 16, "cam_segments_double": 64}.items():
            nll, attention = slow_importance(model, each, size), slow_attention(model, each, size)
            assert row[name] == pytest.approx(misaligned(nll, attention.mean(axis=0)), abs=1e-3)


def test_rows_of_lengths_are_areas_of_the_honest_samples():
    table = pd.DataFrame({"id": list("abcd"), "kind": ["far", "near", "paraphrase", "mid"]})
    table = table.assign(cam_segments_half=[4, 3, 2, 1], cam_segments_double=[1, 2, 3, 4])
    found = {row["method"]: row for row in cam_settings.length_rows(table)}
    assert found["cam_segments_half"]["value"] == 0.75 and found["cam_segments_double"]["value"] == 0.25
    assert {(row["metric"], row["condition"], row["n"]) for row in found.values()} == {("auc", "clean", 4)}


def test_a_layer_alone_is_read_as_if_there_were_no_other():
    rng = np.random.default_rng(0)
    nll = [rng.random(n) for n in (5, 3, 4, 6)]
    attention = [rng.random((2, len(each))) for each in nll]
    table = pd.DataFrame({"pool": "clean", "seed": 0, "needs_far": [True, False, True, False]})
    table = table.assign(segment_nll=nll, attention=[each.ravel() for each in attention])
    found = {row["method"]: row["value"] for row in cam_settings.layer_rows(table)}
    assert list(found) == ["cam_layer_1", "cam_layer_2"]
    for layer in range(2):
        alone = [misaligned(n, a[layer]) for n, a in zip(nll, attention, strict=True)]
        assert found[f"cam_layer_{layer + 1}"] == auc(table["needs_far"], alone)
