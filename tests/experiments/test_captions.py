"""Captions against small tables whose ends are seen by eye."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gateau_lib.experiments import captions


def rows(*given: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(given, columns=["condition", "method", "value"])


AREAS = rows(
    ("clean", "random", 0.5),
    ("clean", "prolong", 0.75),
    ("clean", "prolong", 0.65),
    ("noisy", "prolong", 0.25),
)


def test_dots_name_the_ends_of_each_condition():
    assert captions.dots(AREAS, "AUC") == (
        "AUC, clean: from random (0.50) to ProLong (0.70), 1 of 2 above chance; "
        "noisy: ProLong (0.25), 0 of 1 above chance."
    )
    assert captions.dots(AREAS[:3], "AUC", None) == "AUC: from random (0.50) to ProLong (0.70)."
    assert captions.dots(AREAS[:0], "AUC") == captions.NOTHING


def test_scores_by_kind_are_areas():
    table = pd.DataFrame({"kind": ["far", "near"] * 4, "method": ["a"] * 4 + ["b"] * 4})
    table["value"] = [3, 1, 4, 2, 1, 3, np.nan, 4]
    told = captions.scores_by_kind(table, ["far"], "far evidence")
    assert told == "How often “far evidence” scores above the rest: from b (0.00) to a (1.00)."
    assert captions.scores_by_kind(table[table["kind"] == "far"], ["far"], "x") == captions.NOTHING


def test_corpus_names_kinds_beyond_the_window():
    table = pd.DataFrame(
        {"kind": ["multi_hop", "near", "open"], "tokens": [900, 1000, 1100], "distance": [400, 100, np.nan]}
    )
    told = captions.corpus(table, 256)
    assert "between 900 and 1,100 tokens" in told and told.endswith("beyond the short window for multi hop.")


def test_differences_from_ordinary_tuning_are_told_at_the_longest_length():
    gaps = pd.DataFrame(
        {"method": ["pose", "pose", "packed"], "length": [256, 512, 512], "value": [1, 0.2, -0.1]}
    )
    assert captions.from_ordinary(gaps) == (
        "Against ordinary SFT at 512 tokens: from packed SFT (-0.10) to PoSE (+0.20)."
    )


@pytest.mark.parametrize(
    ("evidence", "end"),
    [
        ([2], "in 2: one of them lies on it."), ([1, 2], "both lie on it."),
        ([0], "neither lies on it."), ([], "nothing to hit."),
    ],
)  # fmt: skip
def test_peaks_of_importance_and_attention(evidence, end):
    table = pd.DataFrame({"segment": range(3), "importance": [0.1, 0.2, 0.7], "attention": [0.2, 0.5, 0.3]})
    told = captions.importance_and_attention(table, evidence)
    assert told.startswith(
        "The most important segment is number 2, the most attended number 1;"
    ) and told.endswith(end)


def test_the_token_that_a_reader_loses_most_on():
    told = captions.token_losses(["a", " b "], {"long model": [0.5, 0.5], "short model": [0.25, 2.5]})
    assert told == "Against the long model, most is lost by the short model on “b”, 2.00 nats more."


def test_pairs_count_the_strong_ones_and_the_planted_among_them():
    table = pd.DataFrame({"i": [1, 2, 2, 3], "j": [0, 0, 1, 2], "strength": [0.5, 0.3, 0.01, 0.2]})
    told = captions.pair_matrix(table, 0.1, {(1, 0), (2, 1)})
    assert told == (
        "3 of 4 pairs (75%) are above the threshold, and 1 of the 2 planted links; "
        "of the strong pairs 33% are links."
    )
    assert captions.pair_matrix(table, 0.1, set()).endswith("no link is planted here.")
    assert "of the strong pairs 0% are links" in captions.pair_matrix(table, 9, {(1, 0)})


def test_the_most_alike_and_the_least():
    table = pd.DataFrame([[1, 0.9, -0.2], [0.9, 1, 0.4], [-0.2, 0.4, 1]], ["a", "b", "c"], ["a", "b", "c"])
    assert captions.correlation(table) == "Most alike are a and b (0.90), least a and c (-0.20)."


def test_shares_of_what_is_selected():
    table = pd.DataFrame(
        {"selection": ["x", "x", "y", "y"], "kind": ["far", "corrupt"] * 2, "count": [3, 1, 1, 3]}
    )
    assert captions.composition(table) == (
        "Share of wanted samples: from y (25%) to x (75%); of corrupt ones: from x (25%) to y (75%)."
    )


def test_what_turns():
    table = pd.DataFrame({"0%": [0.9, 0.8, 0.4], "60%": [0.4, 0.85, 0.3]}, ["a", "b", "c"])
    told = captions.turning({"finished": table, "early": table})
    assert told.startswith(
        "From 0% to 60% noise a goes from 0.90 to 0.40, the largest fall; b goes from 0.80 to 0.85."
    )
    assert told.endswith("From right to wrong turn: a.") and captions.turning({}) == captions.NOTHING


def test_lines_by_length_and_losses():
    table = pd.DataFrame(
        {"method": ["a", "b"] * 2, "length": [256, 256, 2048, 2048], "value": [0.9, 0.8, 0.1, 0.5]}
    )
    assert captions.by_length(table, "p(answer)") == (
        "p(answer): at 256 tokens from b (0.80) to a (0.90); at 2,048 tokens from a (0.10) to b (0.50)."
    )
    alike = captions.by_length(table.assign(value=0.5), "probability")
    assert alike == "Probability: at 256 tokens all 0.50; at 2,048 tokens all 0.50."
    log = pd.DataFrame({"model": ["a", "a", "b"], "step": [2, 1, 1], "loss": [0.1, 3.0, 0.2]})
    assert captions.loss_curves(log) == "Loss at the last step: from a (0.10) to b (0.20) nats per token."


def test_positions_padding_and_reach():
    assert captions.positions({"a": [0, 1, 900], "b": [0, 5]}, 2048) == (
        "The largest position id, of 2,048: from b (5) to a (900)."
    )
    assert captions.padding({"random": [(75, 25), (75, 25)], "sorted": [(90, 10)]}) == (
        "Padding among the tokens forwarded: random: 25%; sorted: 10%."
    )
    whole, apart = np.tril(np.ones((4, 4))), np.kron(np.eye(2), np.tril(np.ones((2, 2))))
    assert captions.reach({"without": whole, "with": apart}, [2]) == (
        "Of the pairs across the first jump, so many are heard: without: 100%; with: 0%."
    )


def test_needles_costs_and_differences():
    maps = {
        "a": pd.DataFrame({256: [1, 1], 2048: [0, 0.5]}),
        "b": pd.DataFrame({256: [1, 1], 2048: [1, 0.5]}),
    }
    assert (
        captions.needle_maps(maps, "p") == "At 2,048 tokens, mean over depths (p): from a (0.25) to b (0.75)."
    )
    assert captions.needle_gains({"b": maps["b"] - maps["a"]}, "a", "p") == (
        "Against a, at 2,048 tokens, mean over depths (p): b (+0.50). "
        "Most gains b at a depth of 0% in 2,048 tokens (+1.00)."
    )
    table = AREAS.assign(cost=[0, 2.5, 2.5, 2.5])
    assert captions.cost_and_quality({"AUC": table, "p": table[:0]}) == (
        "AUC (clean): best is ProLong, 0.70, for 2.5 times the pool's tokens; without a model random, 0.50."
    )
    gaps = pd.DataFrame({"difference": [0.2, -0.1], "low": [0.1, -0.2], "high": [0.3, 0.1]}, ["a", "b"])
    assert captions.differences(gaps, "p, minus random") == (
        "P, minus random: from b (-0.10) to a (+0.20); 1 of 2 intervals exclude zero."
    )
    assert "intervals" not in captions.differences(gaps.assign(low=np.nan), "p")
