"""The table of defects: a row for each, against the fixed procedure, over the first samples of every kind."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from tiny import random_llama

from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Sample, encode
from gateau_lib.experiments import defects
from gateau_lib.methods.released import Defects
from gateau_lib.models.pair import Pair
from gateau_lib.models.rope import with_rope_theta

WINDOW, SEGMENT = 256, 16


@pytest.fixture(scope="module")
def pair(tokenizer) -> Pair:
    short = random_llama()
    return Pair(short, with_rope_theta(short, 20_000.0, window=WINDOW), tokenizer)


def samples() -> list[Sample]:
    texts = [f"The {i} grey stones lie at the lake. " * (4 + i) for i in range(4)]
    kinds = ("far", "near", "far", "far")
    return [
        Sample(f"s{i}", text, "What lies there?", f"{i} stones.", kind)
        for i, (text, kind) in enumerate(zip(texts, kinds, strict=True))
    ]


def test_every_defect_has_its_words():
    assert list(defects.WORDS) == [field.name for field in fields(Defects)]
    assert {score for score, _ in defects.WORDS.values()} == set(defects.SCORES)


def test_one_row_a_defect_and_two_for_all_together(pair):
    encoded = [encode(sample, pair.tokenizer, WINDOW) for sample in samples()]
    table = defects.changes(pair, encoded, WINDOW, SEGMENT).set_index(["score", "defect"])
    rows = [(score, name) for name, (score, _) in defects.WORDS.items()]
    assert list(table.index) == [*rows, ("HMG", defects.RELEASED), ("CAM", defects.RELEASED)]
    assert table.loc[("CAM", "half_precision"), "largest_change"] < 1e-3
    assert table.loc[("CAM", "pad_context"), "cost"] > 1 and table.loc[("CAM", "all_tokens"), "cost"] == 1
    # One sample is longer than the window: counted before it is cut, it loses its response.
    lost = table.index[table["lost"] > 0].tolist()
    assert lost == [("HMG", "late_labels"), ("HMG", defects.RELEASED)]
    assert table["rank_correlation"].between(-1, 1).all()


def test_a_change_by_hand():
    nan = float("nan")
    found = defects._change(np.array([1.0, 3.0, 2.5, nan]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert found == {"rank_correlation": pytest.approx(0.5), "largest_change": 1.0, "lost": 1}
    few = defects._change(np.array([1.0, 3.0]), np.array([1.0, 2.0]))
    assert np.isnan(few["rank_correlation"]) and few["largest_change"] == 1.0 and few["lost"] == 0
    none = defects._change(np.array([nan]), np.array([1.0]))
    assert np.isnan(none["largest_change"]) and none["lost"] == 1


def test_the_first_samples_of_every_kind_are_scored(pair, tmp_path, monkeypatch):
    for name in ("short", "long"):
        getattr(pair, name).save_pretrained(tmp_path / name)
        pair.tokenizer.save_pretrained(tmp_path / name)
    write_samples(samples()[::-1], tmp_path / "pool.jsonl")
    seen = []

    def changes(pair: Pair, encoded: list, window: int, segment_length: int) -> pd.DataFrame:
        seen.extend(each.id for each in encoded)
        return pd.DataFrame({"score": ["HMG"]})

    monkeypatch.setattr(defects, "changes", changes)
    defects.write_changes(tmp_path, tmp_path / "pool.jsonl", 2, WINDOW, SEGMENT, "float32", tmp_path)
    assert sorted(seen) == ["s0", "s1", "s2"]
    assert pd.read_csv(tmp_path / "changes.csv")["score"].tolist() == ["HMG"]


def test_the_defects_in_words():
    rows = [
        ("HMG", "raw_short_reader", 0.5, 1.0),
        ("HMG", "late_labels", 1.0, 1.0),
        ("CAM", "all_tokens", 0.25, 2.0),
    ]
    rows += [("HMG", defects.RELEASED, 0.5, 1.0), ("CAM", defects.RELEASED, -0.5, 2.5)]
    changed = pd.DataFrame(rows, columns=["score", "defect", "rank_correlation", "cost"])
    text = defects.told(changed)
    assert text.startswith("Of 3 defects of the released procedures 2 change the ranking")
    assert defects.WORDS["all_tokens"][1] in text and "0.25" in text
    assert text.endswith("it is 0.50 for HMG and -0.50 for CAM, and CAM reads 2.5 times the tokens.")
    assert defects.told(changed.assign(rank_correlation=float("nan"))).startswith("Too few samples")
