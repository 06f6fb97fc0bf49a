"""The curve over cuts: losses against plain passes, areas counted by hand, and its caption."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from gateau_lib.data import kinds
from gateau_lib.data.longalign import read_samples, write_samples
from gateau_lib.data.samples import encode
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import captions, cut_curve, explanations
from gateau_lib.models import loading
from gateau_lib.study import store
from gateau_lib.study.workers import Build

PAIR, WINDOW, LONGEST = loading.SHIPPED, 128, 400


@torch.inference_mode()
def test_honest_samples_are_read_cut_at_each_place(tmp_path):
    words = build_tokenizer()
    drawn = [kinds.make_sample(words, [9, 0], kind, 330, WINDOW, kind) for kind in ("far", "near", "corrupt")]
    cut_curve.write_cuts(
        PAIR, write_samples(drawn, tmp_path / "pool.jsonl"), WINDOW, LONGEST, "float32", tmp_path
    )
    table = pd.read_parquet(tmp_path / explanations.TABLE).set_index("id")
    assert list(table.index) == ["far", "near"] and list(table) == ["cut_32", "cut_96", "cut_160", "cut_384"]
    model, tokenizer = loading.load(PAIR / "long")
    for sample in read_samples(tmp_path / "pool.jsonl")[:2]:
        each = encode(sample, tokenizer, LONGEST)
        for cut in (96, 160):
            room = cut - len(each.start) - len(each.instruction) - len(each.response)
            prompt = [*each.start, *each.context[-room:], *each.instruction]
            logits = model(torch.tensor([prompt + each.response])).logits[0].log_softmax(-1)
            wanted = [-logits[len(prompt) + n - 1, token].item() for n, token in enumerate(each.response)]
            assert table.loc[sample.id, f"cut_{cut}"] == pytest.approx(sum(wanted) / len(wanted), abs=2e-4)


def test_areas_by_hand_and_in_words(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    study = store.open_study("smoke", 0)
    window = study.profile.short_window
    scores = pd.DataFrame({"id": list("abcd"), "needs_far": [True, True, False, False], "nll_long": 1.0})
    scores = scores.assign(nll_long_truncate=[3.0, 2.0, 1.0, 0.5])  # both wanted above both others
    apart = pd.DataFrame(
        {"id": list("dcba"), f"cut_{window // 4}": [2.0, 2.0, 3.0, 1.0]}
    )  # one above, one below
    pd.DataFrame(apart).to_parquet(tmp_path / explanations.TABLE)
    monkeypatch.setattr(Build, "folder", lambda self, study: tmp_path)
    kept = pd.DataFrame({"id": list("abcdx"), f"cut_{2 * window}": 7.0, "effect": 0.0})
    monkeypatch.setattr(explanations, "table", lambda *_: kept)
    curve = cut_curve.measured(study, tmp_path, tmp_path, scores)
    assert curve.to_dict("list") == {"cut": [window // 4, window, 2 * window], "auc": [0.5, 1.0, 0.5]}
    told = captions.cut_curve(curve, window)
    assert told == cut_curve.drawing(curve, window).get_label()
    assert f"best at {window:,} tokens (1.00), the window that the labels are defined by" in told
    assert f"cut at {window // 4:,} it has 0.50, at {2 * window:,} 0.50." in told
    assert f"not at the labels' {window + 1:,}" in captions.cut_curve(curve, window + 1)
