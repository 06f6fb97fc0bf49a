"""Every figure draws headless from a tidy table, says what it must, and saves to the same bytes twice."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gateau_lib.experiments import (
    captions,
    evidence_files,
    figures,
    findings,
    needle_figures,
    training_figures,
)
from gateau_lib.study import store, style
from gateau_lib.study.style import svg

COLUMN, PIXELS = 720, 96 / 72  # of the site in pixels; of a point
RNG = np.random.default_rng(0)
KINDS = [
    "far",
    "mid",
    "near",
    "multi_hop",
    "aggregate",
    "context_free",
    "corrupt",
    "repetitive",
    "near_duplicate",
]


def metric_rows(metric, methods, conditions):
    return pd.DataFrame(
        [
            {
                "metric": metric,
                "method": m,
                "condition": c,
                "seed": s,
                "value": 0.2 + 0.08 * i + RNG.uniform(0, 0.05),
                "n": 9,
            }
            for i, m in enumerate(methods)
            for c in conditions
            for s in range(3)
        ]
    )


def samples():
    frame = pd.DataFrame({"kind": np.repeat(KINDS, 5), "tokens": RNG.integers(600, 1900, 45)})
    return frame.assign(distance=np.where(frame["kind"] == "context_free", np.nan, frame["tokens"] * 0.6))


def terms():
    i, j = np.tril_indices(8, -1)
    return pd.DataFrame({"i": i, "j": j, "strength": RNG.uniform(-0.2, 0.9, i.size)})


SCORES = pd.DataFrame(
    [
        {"kind": k, "method": m, "value": RNG.normal()}
        for k in KINDS
        for m in ("hmg_minmax_ntk", "cam_default")
        for _ in range(4)
    ]
)
SEGMENTS = pd.DataFrame(
    {"segment": range(9), "importance": np.full(9, 1 / 9), "attention": np.full(9, 1 / 9)}
)
COUNTS = pd.DataFrame(
    [{"selection": s, "kind": k, "count": n} for s in ("gateau", "random") for n, k in enumerate(KINDS)]
)
PAIRS = [("HMG + CAM", what) for what in ("exact", "adaptive", "released")] + [
    ("ProLong", "exact"),
    ("ProLong", "released"),
]
COST = pd.DataFrame(
    [
        {"section": a, "what": b, "length": None, "seconds": 2.0 + i, "padded": 100 * i + 100}
        for i, (a, b) in enumerate(PAIRS)
    ]
    + [
        {"section": "passes", "what": w, "length": n, "seconds": n / 1e4}
        for w in ("plain pass", "other")
        for n in (1024, 2048)
    ]
    + [{"section": "memory", "what": w, "length": 8192, "peak_mib": 10.0} for w in ("plain pass", "other")]
)
STRATEGY = metric_rows("needle_probability", findings.HEADLINE_STRATEGIES, ["256", "2048"])
AUC = metric_rows("auc", findings.HEADLINE_SELECTORS, ["independent", "confounded"])
LOSSES = pd.DataFrame({"model": ["theta_a"] * 3, "step": [1, 2, 3], "loss": [3, 2, 1]})
CASES = {
    "corpus": (lambda: figures.corpus(samples(), 256), "multi hop (5)"),
    "loss": (lambda: training_figures.loss_curves(LOSSES), "nats"),
    "by_length": (lambda: training_figures.by_length(STRATEGY, {"short window": 256}), "Skip-All"),
    "scores": (lambda: figures.scores_by_kind(SCORES, ["far"]), "HMG as published"),
    "dots": (lambda: figures.dots(AUC), "confounded"),
    "importance": (lambda: figures.importance_and_attention(SEGMENTS, [3]), "attention from the response"),
    "tokens": (
        lambda: figures.token_losses(
            ["The", "sum", "is"], {"long model": [0.1, 0.2, 0], "cut": [0.2, 3.5, 0]}
        ),
        "long model",
    ),
    "pairs": (lambda: figures.pair_matrix(terms(), 0.1, "dependent"), "earlier segment j"),
    "correlation": (
        lambda: figures.correlation(SCORES.pivot_table(index="kind", columns="method").T.corr()),
        "Spearman",
    ),
    "composition": (lambda: figures.composition(COUNTS), "near duplicate"),
    "turning": (
        lambda: figures.turning(
            {"finished": pd.DataFrame({"0%": [0.9, 0.4], "60%": [0.2, 0.5]}, ["cam", "hmg"])}, "noise"
        ),
        "finished",
    ),
    "cost": (lambda: figures.cost(COST), "share of the released procedure"),
    "cost_and_quality": (
        lambda: training_figures.cost_and_quality(
            {"AUC": AUC.assign(cost=AUC["method"].map(len) % 3), "p": AUC.iloc[:0].assign(cost=0)}
        ),
        "multiples of the pool",
    ),
    "perplexity": (
        lambda: training_figures.perplexity_lines(
            STRATEGY.rename(columns={"value": "nll"}).assign(length=STRATEGY["condition"].astype(int))
        ),
        "minus ordinary SFT",
    ),
    "differences": (
        lambda: training_figures.differences(
            pd.DataFrame({"difference": [0.1, 0], "low": [0, 0], "high": [0.2, 0]}, ["gateau", "random"]),
            "random",
            "p(answer), minus random",
        ),
        "GATEAU",
    ),
    "maps": (
        lambda: needle_figures.needle_maps(
            {
                "normal": pd.DataFrame([[0.5, 0.2]], [0.5], [256, 2048]),
                "pose": pd.DataFrame([[0, 1]], [0.5], [256, 2048]),
            }
        ),
        "depth of the needle",
    ),
    "padding": (lambda: training_figures.padding({"sorted": [(9, 1)], "mixed": [(5, 5)]}), "padding"),
    "positions": (
        lambda: training_figures.positions({"normal": range(9), "skip_all": range(20, 29)}, 5, 6, 64),
        "user turn",
    ),
    "headline": (lambda: findings.headline(pd.concat([AUC, STRATEGY])), "Who finds the samples"),
}


@pytest.mark.parametrize("name", CASES)
def test_figure_is_svg_with_its_text_and_stable_bytes(name):
    draw, text = CASES[name]
    state = RNG.bit_generator.state
    first = svg(draw())
    RNG.bit_generator.state = state
    assert first == svg(draw())
    said = re.search(r"<title>(.+)</title>", first)
    assert said and said[1].endswith(".") and said[1] != captions.NOTHING and "nan" not in said[1]
    assert text in first and "<dc:date>" not in first and "NaN" not in first.split("<defs>")[-1]


def forest():
    return findings.forest(evidence_files.read_evidence(evidence_files.place()).verdicts())


@pytest.mark.parametrize("name", [*CASES, "forest"])
def test_letters_are_nine_pixels_where_the_figure_is_shown(name):
    """Without CSS an inch is 96 pixels and a point 96/72; a wide figure is shrunk to the site's column."""
    text = svg((CASES | {"forest": (forest, "")})[name][0]())
    width = float(re.search(r'<svg [^>]*width="([\d.]+)pt"', text)[1]) * PIXELS
    smallest = min(map(float, re.findall(r"font-size: ([\d.]+)px", text))) * PIXELS
    assert smallest * min(1, COLUMN / width) >= 9, f"{smallest:.1f} px letters in {width:.0f} px"


def test_same_bytes_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    study = store.open_study("smoke")
    style.show(study, figures.composition(COUNTS), "06_selections")
    again = (
        style.show(study, figures.composition(COUNTS), "06_other"),
        style.show(study, figures.composition(COUNTS), "06_selections"),
    )
    assert [shown.caption.partition("** ")[0] for shown in again] == ["**Figure 6.2", "**Figure 6.1"]
    path = study.root / "figures" / "06_selections.svg"
    assert path == tmp_path / "smoke" / "figures" / "06_selections.svg"
    code = (
        "import pandas as pd; from gateau_lib.experiments import figures; "
        "from gateau_lib.study.style import svg;"
        f"print(svg(figures.composition(pd.DataFrame({COUNTS.to_dict('list')}))), end='')"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout == path.read_text(encoding="utf-8")


def test_figures_of_metrics_say_when_there_is_nothing_to_draw():
    for draw in (
        figures.dots,
        lambda rows: training_figures.by_length(rows, {"short window": 256}),
        findings.headline,
    ):
        assert "no rows at this scale" in svg(draw(AUC.iloc[:0]))


def test_shares_close_to_one_are_drawn_large_and_rankings_from_zero_to_one():
    high = AUC.assign(value=0.95 + 0.04 * RNG.random(len(AUC)))
    assert figures.dots(high, "answer tokens right", chance=None).axes[0].get_xlim()[0] > 0.5
    assert figures.dots(high).axes[0].get_xlim() == (-0.02, 1.02)


def test_evenly_spaced_lengths_have_a_linear_axis_and_doubling_ones_a_logarithmic_one():
    for lengths, scale in ((["256", "512", "1024"], "log"), (["256", "512", "768"], "linear")):
        assert (
            training_figures.by_length(metric_rows("a", ["normal", "pose"], lengths), {}).axes[0].get_xscale()
            == scale
        )


def test_a_strategy_looks_the_same_in_every_figure():
    sets = (["pose"], ["normal", "pose"])
    alone, together = (
        training_figures.by_length(STRATEGY[STRATEGY["method"].isin(shown)], {}) for shown in sets
    )
    assert alone.axes[0].lines[0].get_color() == together.axes[0].lines[1].get_color()


def test_differences_are_paired_and_one_far_off_line_does_not_flatten_them():
    rows = STRATEGY.assign(length=STRATEGY["condition"].astype(int))
    gaps = training_figures.apart_from(rows)
    both = rows.pivot(index=["length", "seed"], columns="method", values="value")
    pose = gaps[gaps["method"] == "pose"].set_index(["length", "seed"])["value"]
    np.testing.assert_allclose(pose, (both["pose"] - both["normal"]).loc[pose.index])
    assert "normal" not in set(gaps["method"])
    far = STRATEGY.assign(value=np.where(STRATEGY["method"] == "pose", 9.0, 0.01 * RNG.random(len(STRATEGY))))
    text = svg(training_figures.by_length(far, {}))
    assert "runs off the picture: PoSE" in text and "minus ordinary SFT" in text


def test_an_arm_and_a_kind_of_one_short_name_are_told_apart():
    assert style.label("near") != "near" and "random, near" not in svg(figures.composition(COUNTS))


def test_text_table_is_markdown():
    assert style.text_table(pd.DataFrame({"kind": ["far"], "what": ["one `fact`"]})).data.endswith(
        "|\n| far | one `fact` |"
    )
