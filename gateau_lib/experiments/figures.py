"""One function a figure: a tidy table in, a matplotlib figure out, in one colour-blind-safe style.

Here are those of pools and of scores; `training_figures` has those of training and of trained models. Figures
are built without pyplot, so nothing depends on a display or on what was drawn before.
"""

from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gateau_lib.data.kinds import NEEDS_FAR
from gateau_lib.experiments import captions
from gateau_lib.experiments.canvas import (
    DASHED,
    TITLE,
    blank,
    condition_mark,
    draw_table,
    name_lines,
    says_empty,
)
from gateau_lib.experiments.kinds_drawn import FAR, colours_of, draw_kinds, kind_name, legend_of, tones
from gateau_lib.study import looks
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.looks import MARKERS, PLACES
from gateau_lib.study.style import BLACK, SMALL, WIDTH, label, look, styled

EVIDENCE = "holds evidence"
BOXES = ((0.22, 0.62, 0.74, 0.3), (0.1, 0.1, 0.36, 0.34), (0.68, 0.1, 0.29, 0.34))  # of `cost`


@styled
def corpus(samples: pd.DataFrame, short_window: int) -> Figure:
    """Lengths by kind, and tokens from evidence to response (01); columns ``kind, tokens, distance``."""
    counts = samples["kind"].value_counts(sort=False)
    fig, (left, right) = blank(WIDTH, 0.28 * len(counts) + 1.4, 2, sharey=True)
    colours = colours_of(counts.index, NEEDS_FAR)
    for axis, column in ((left, "tokens"), (right, "distance")):
        draw_kinds(axis, samples[["kind"]].assign(value=samples[column]), colours)
    name_lines(left, [f"{kind_name(str(kind))} ({count})" for kind, count in counts.items()])
    fig.legend(handles=legend_of(colours, FAR), loc="outside upper center", ncols=3)
    left.set(xlabel="length, tokens", title="Lengths")
    right.axvline(short_window, color=BLACK, linestyle="--", linewidth=1)
    right.set(xlabel="evidence to end of response, tokens", xlim=(0, None))
    right.set_title("Distance (dashed: short window)")
    fig.set_label(captions.corpus(samples, short_window))
    return fig


@styled
def scores_by_kind(
    scores: pd.DataFrame, found: Collection[str], xlabel: str = "score", wanted: str = FAR
) -> Figure:
    """Every sample's score by kind, a panel a method (03 to 06); columns ``kind, method, value``.

    Called ``wanted`` and drawn in its colour: the kinds ``found``, which a selector ought to put on top.
    """
    methods = scores["method"].unique()
    kinds = colours_of(scores["kind"].unique(), found)
    width = 3.1 * min(3, len(methods)) + 0.8
    fig, axes = blank(width, 0.24 * len(kinds) + 0.9, len(methods), sharey=True)
    wide = 2 * TITLE if len(methods) < 3 else TITLE
    for axis, method in zip(axes, methods, strict=True):
        draw_kinds(axis, scores[scores["method"] == method], kinds)
        axis.set_title(fill(label(method), wide), fontsize=9)
        axis.locator_params(axis="x", nbins=5)
    fig.supxlabel(xlabel, fontsize=9)
    axes[0].set_yticks(range(len(kinds)), [kind_name(kind) for kind in kinds])
    axes[0].invert_yaxis()
    fig.legend(handles=legend_of(kinds, wanted, "not wanted"), loc="outside upper center", ncols=3)
    fig.set_label(captions.scores_by_kind(scores, found, wanted))
    return fig


@styled
def dots(rows: pd.DataFrame, xlabel: str = "AUC", chance: float | None = 0.5) -> Figure:
    """A line a method in its colour, best first: dots for seeds, mean, 95 % interval; a mark a condition."""
    fig, (axis,) = blank(WIDTH, (0.25 + 0.05 * rows["condition"].nunique()) * rows["method"].nunique() + 1.1)
    draw_dots(axis, rows, xlabel, chance)
    fig.set_label(captions.dots(rows, xlabel, chance))
    return fig


def draw_dots(axis: Axes, rows: pd.DataFrame, xlabel: str, chance: float | None) -> None:
    """`dots` on given axes."""
    if says_empty(axis, rows):
        return
    conditions = rows["condition"].unique()
    first = rows[rows["condition"] == conditions[0]].groupby("method")["value"].mean()
    methods = sorted(rows["method"].unique(), key=lambda m: (-first.get(m, -np.inf), m))
    for y in range(1, len(methods), 2):  # bands show which marks belong to a name
        axis.axhspan(y - 0.5, y + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    for c, condition in enumerate(conditions):
        part = rows[rows["condition"] == condition]
        for y, method in enumerate(methods):
            values = part.loc[part["method"] == method, "value"].to_numpy()
            if not len(values):
                continue
            colour = look(method)["color"]
            at = y + (c - (len(conditions) - 1) / 2) * min(0.27, 0.8 / len(conditions))
            axis.scatter(values, [at] * len(values), s=10, color=colour, alpha=0.4, linewidths=0)
            if len(values) >= SEEDS:
                axis.plot(t_interval(values)[1:], [at, at], color=colour, linewidth=1.2)
            axis.plot(values.mean(), at, color=colour, **condition_mark(c))
    name_lines(axis, methods)
    axis.set(xlabel=xlabel)
    if chance is not None:
        axis.axvline(chance, **DASHED)
    if rows["value"].between(0, 1).all():  # a wide interval of few seeds must not squeeze the picture
        low, high = axis.get_xlim() if chance is None else (-1, 2)
        high = min(high, 1.02)
        axis.set_xlim(max(min(low, high - 0.1), -0.02), high)  # nor a tenth of a per cent look like a lot
    if len(conditions) > 1:
        handles = [
            Line2D([], [], color=looks.UNKNOWN, label=label(condition), **condition_mark(c))
            for c, condition in enumerate(conditions)
        ]
        axis.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(conditions))


@styled
def importance_and_attention(segments: pd.DataFrame, evidence: Sequence[int], title: str = "") -> Figure:
    """Columns ``importance`` and ``attention`` of one sample by ``segment``, ``evidence`` shaded (04)."""
    fig, (axis,) = blank(WIDTH, 2.6)
    for number in evidence:
        axis.axvspan(
            number - 0.5,
            number + 0.5,
            color=looks.EVIDENCE,
            linewidth=0,
            label=EVIDENCE if number == min(evidence) else None,
        )
    place, importance = segments["segment"], "importance (response given this segment)"
    axis.bar(place - 0.2, segments["importance"], 0.4, color=looks.IMPORTANCE, label=importance)
    axis.bar(
        place + 0.2, segments["attention"], 0.4, color=looks.ATTENTION, label="attention from the response"
    )
    axis.set(xlabel="segment of the context", ylabel="share")
    axis.xaxis.get_major_locator().set_params(integer=True)
    fig.suptitle(title, x=0.01, ha="left", fontsize=10)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    fig.set_label(captions.importance_and_attention(segments, evidence))
    return fig


@styled
def token_losses(tokens: Sequence[str], losses: Mapping[str, Sequence[float]]) -> Figure:
    """Loss of each token of one response, nats, a row a reader (03)."""
    table = pd.DataFrame(dict(losses)).T
    fig, (axis,) = blank(0.62 * len(tokens) + 2.2, 0.36 * len(losses) + 1)
    colours: dict[str, Any] = {"cmap": "Oranges", "vmin": 0, "cbar": False, "linewidths": 0.5}
    seaborn.heatmap(table, ax=axis, annot=True, fmt=".1f", annot_kws={"fontsize": SMALL}, **colours)
    axis.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=40, ha="right")
    axis.set(xlabel="", ylabel="")
    axis.tick_params(length=0)
    fig.set_label(captions.token_losses(tokens, losses))
    return fig


@styled
def pair_matrix(
    terms: pd.DataFrame, threshold: float, kind: str, planted: Collection[tuple[int, int]] = ()
) -> Figure:
    """ProLong's ``strength`` of every sampled pair of segments: row ``i`` read after column ``j`` (05).

    Crosses: the pairs ``(i, j)`` of ``planted``.
    """
    size = int(terms["i"].max()) + 1
    grid = np.full((size, size), np.nan)
    grid[terms["i"], terms["j"]] = terms["strength"]
    fig, (axis,) = blank(4.8, 4)
    image = axis.imshow(grid, cmap="PuOr_r", vmin=-1, vmax=1, interpolation="nearest")
    strong = terms[terms["strength"] > threshold]
    axis.scatter(strong["j"], strong["i"], s=8, facecolors="none", edgecolors=BLACK, linewidths=0.6)
    if planted:
        rows, columns = zip(*sorted(planted), strict=True)
        axis.scatter(columns, rows, s=42, marker="x", color=looks.LINK, linewidths=1.6, label="planted link")
        axis.legend(loc="upper right")
    axis.set(xlabel="earlier segment j", ylabel="segment i", title=f"Pairs of segments, {kind} document")
    axis.locator_params(integer=True)
    axis.grid(False)
    name = f"dependency strength (circles: above {threshold:g})"
    fig.colorbar(image, ax=axis, shrink=0.85, extend="min", label=name)
    fig.set_label(captions.pair_matrix(terms, threshold, set(planted)))
    return fig


@styled
def correlation(matrix: pd.DataFrame, title: str = "Spearman correlation of the scores") -> Figure:
    """Square table of correlations, or of shares if none is negative, as a heat map with its numbers (06)."""
    size = len(matrix)
    fig, (axis,) = blank(0.55 * size + 2.6, 0.3 * size + 1.9)
    scale: dict[str, Any] = (
        {"cmap": "PuOr_r", "vmin": -1} if (matrix < 0).any(axis=None) else {"cmap": "Oranges", "vmin": 0}
    )
    scale["aspect"] = "auto"
    image = draw_table(axis, matrix, lambda value: "white" if abs(value) > 0.65 else BLACK, **scale)
    axis.set_xticks(range(size), [label(c) for c in matrix.columns], rotation=40, ha="right")
    axis.set_yticks(range(size), [label(c) for c in matrix.index])
    axis.set_title(title)
    fig.colorbar(image, ax=axis, shrink=0.85)
    fig.set_label(captions.correlation(matrix))
    return fig


@styled
def turning(panels: Mapping[str, pd.DataFrame], xlabel: str) -> Figure:
    """AUC as heat maps side by side, of the same methods by condition: blue finds, red avoids (06, 09)."""
    size = max(map(len, panels.values()), default=1)
    fig, axes = blank(3.2 * len(panels) + 1.8, 0.27 * size + 1.3, max(1, len(panels)), sharey=True)
    colours: dict[str, Any] = {"cmap": "vlag_r", "vmin": 0, "vmax": 1, "cbar": False, "linewidths": 0.5}
    for axis, (title, table) in zip(axes, panels.items(), strict=False):
        named = table.rename(index=label).rename_axis(None)
        seaborn.heatmap(named, ax=axis, annot=True, fmt=".2f", annot_kws={"fontsize": SMALL}, **colours)
        axis.set(title=title, xlabel=xlabel, ylabel="")
        axis.tick_params(length=0)
        axis.grid(False)
    if not panels:
        says_empty(axes[0], pd.DataFrame())
    fig.set_label(captions.turning(panels))
    return fig


@styled
def composition(counts: pd.DataFrame) -> Figure:
    """What kinds each selection holds, as stacked bars; columns ``selection, kind, count`` (06).

    Tones of one colour are the wanted kinds, of another the honest rest, of a third the noise.
    """
    table = counts.groupby(["selection", "kind"], sort=False)["count"].sum().unstack(fill_value=0, sort=False)
    fig, (axis,) = blank(7.5, max(0.34 * len(table) + 1.2, 0.2 * len(table.columns) + 0.5))
    ends = table.cumsum(axis=1)
    parts = tones(list(table))
    for kind in table:
        part = {"color": parts[kind], "edgecolor": "white", "label": kind_name(kind)}
        axis.barh(range(len(table)), table[kind], left=ends[kind] - table[kind], **part)
    axis.set_yticks(range(len(table)), [label(s) for s in table.index])
    axis.invert_yaxis()
    axis.set_xlabel("samples")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(captions.composition(counts))
    return fig


@styled
def cost(rows: pd.DataFrame) -> Figure:
    """What scoring costs: over the released procedures, by length, in memory (10); of `speed_goals.read`."""
    # Laid out by hand: with three columns the solver's last bits, and so the bytes, vary.
    fig = Figure(figsize=(WIDTH, 5.4))
    left, middle, right = (fig.add_axes(box) for box in BOXES)
    released = rows[rows["section"].isin(["HMG + CAM", "ProLong"])]
    table = released.set_index(["section", "what"])[["seconds", "padded"]]
    share = table.div(table.xs("released", level="what"), level="section").drop("released", level="what")
    for n, (column, name) in enumerate({"seconds": "seconds", "padded": "tokens, with padding"}.items()):
        left.barh(np.arange(len(share)) + 0.38 * (n - 0.5), share[column], 0.36, color=PLACES[n], label=name)
    left.axvline(1, **DASHED)
    left.set_yticks(range(len(share)), [f"{section}, {what}" for section, what in share.index])
    left.set(xlabel="share of the released procedure", xlim=(0, 1.05))
    passes, peaks = rows[rows["section"] == "passes"], rows[rows["section"] == "memory"]
    for n, (what, group) in enumerate(passes.groupby("what", sort=False)):
        middle.plot(group["length"], group["seconds"], label=what, color=PLACES[n], marker=MARKERS[n])
    middle.set(xscale="log", yscale="log", xlabel="length, tokens", ylabel="seconds a pass")
    lengths = sorted(passes["length"].unique())
    middle.set_xticks(lengths, [f"{n / 1024:g}k" for n in lengths], minor=False)
    middle.minorticks_off()
    middle.yaxis.set_major_formatter("{x:g}")  # letters of an exponent would be too small
    right.barh(peaks["what"], peaks["peak_mib"], 0.6, color=PLACES[2])
    right.set(xscale="log", xlim=(10, None), xlabel=f"peak MiB, pass of {peaks['length'].max():,.0f} tokens")
    right.xaxis.set_major_formatter("{x:,.0f}")
    for axis in (left, right):
        axis.invert_yaxis()
    for axis in (left, middle):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    fig.set_label(captions.cost(share))
    return fig
