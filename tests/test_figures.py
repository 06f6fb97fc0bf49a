"""Every figure draws headless from a tidy table, says what it must, and saves to the same bytes twice."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from gateau_lib import claims, figures, store
from gateau_lib.style import svg

RNG = np.random.default_rng(0)
KINDS = ["far", "mid", "near", "multi_hop", "aggregate", "context_free", "corrupt", "repetitive", "near_duplicate"]


def metric_rows(metric, methods, conditions):
    return pd.DataFrame(
        [
            {"metric": metric, "method": m, "condition": c, "seed": s, "value": 0.2 + 0.08 * i + RNG.uniform(0, 0.05), "n": 9}
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
    [{"kind": k, "method": m, "value": RNG.normal()} for k in KINDS for m in ("hmg_minmax_ntk", "cam_default") for _ in range(4)]
)
SEGMENTS = pd.DataFrame({"segment": range(9), "importance": np.full(9, 1 / 9), "attention": np.full(9, 1 / 9)})
COUNTS = pd.DataFrame([{"selection": s, "kind": k, "count": n} for s in ("gateau", "random") for n, k in enumerate(KINDS)])
CELLS = pd.DataFrame([{"length": n, "depth": d, "value": d} for n in (256, 2048) for d in (0.0, 0.5, 1.0)])
STRATEGY = metric_rows("long_accuracy", figures.HEADLINE_STRATEGIES, ["256", "2048"])
AUC = metric_rows("auc", figures.HEADLINE_SELECTORS, ["independent", "confounded"])
CASES = {
    "corpus": (lambda: figures.corpus(samples(), 256), "multi hop (5)"),
    "loss": (lambda: figures.loss_curves(pd.DataFrame({"model": ["theta_a"] * 3, "step": [1, 2, 3], "loss": [3, 2, 1]})), "nats"),
    "by_length": (lambda: figures.by_length(STRATEGY, {"short window": 256}), "Skip-All"),
    "scores": (lambda: figures.scores_by_kind(SCORES, ["far"]), "HMG as published"),
    "dots": (lambda: figures.dots(AUC), "confounded"),
    "importance": (lambda: figures.importance_and_attention(SEGMENTS, [3]), "attention from the response"),
    "pairs": (lambda: figures.pair_matrix(terms()), "earlier segment j"),
    "correlation": (lambda: figures.correlation(SCORES.pivot_table(index="kind", columns="method").T.corr()), "Spearman"),
    "composition": (lambda: figures.composition(COUNTS), "near duplicate"),
    "needle": (lambda: figures.needle_map(CELLS), "depth of the needle"),
    "headline": (lambda: figures.headline(pd.concat([AUC, STRATEGY])), "Who finds the samples"),
}


@pytest.mark.parametrize("name", CASES)
def test_figure_is_svg_with_its_text_and_stable_bytes(name):
    draw, text = CASES[name]
    state = RNG.bit_generator.state
    first = svg(draw())
    RNG.bit_generator.state = state
    assert first == svg(draw())
    assert text in first and "<dc:date>" not in first and "NaN" not in first.split("<defs>")[-1]


def test_same_bytes_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    study = store.open_study("smoke")
    path = figures.save(study, figures.needle_map(CELLS), "07_needle")
    assert path == tmp_path / "smoke" / "figures" / "07_needle.svg"
    code = (
        "import pandas as pd; from gateau_lib import figures; from gateau_lib.style import svg;"
        f"print(svg(figures.needle_map(pd.DataFrame({CELLS.to_dict('list')}))), end='')"
    )
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout == path.read_text(encoding="utf-8")


def test_verdict_table_lists_every_claim():
    table = figures.verdict_table(claims.verdicts(AUC, "cpu"))
    assert table.count("\n") == len(claims.load_claims()) + 2
    assert "**not testable here**" in table and "nan" not in table


def test_figures_of_metrics_say_when_there_is_nothing_to_draw():
    for draw in (figures.dots, figures.by_length, figures.headline):
        assert "no rows at this scale" in svg(draw(AUC.iloc[:0]))
