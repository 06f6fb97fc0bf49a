"""Figures of training, its batches and the models that it leaves (02, 07 to 10), as in `figures`."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from gateau_lib.experiments import captions
from gateau_lib.experiments.canvas import (
    DASHED,
    blank,
    condition_mark,
    name_lines,
    says_empty,
)
from gateau_lib.study import looks
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.style import BLACK, SMALL, WIDTH, label, look, styled

LENGTH = "context length, tokens"
FAR_OFF = 3  # medians of what the lines differ by
ORDINARY = "normal"  # the others are shown as differences from it
RIGHT = "answer tokens right"


@styled
def loss_curves(log: pd.DataFrame) -> Figure:
    """Training loss of each model, columns ``model, step, loss`` in nats per token (02, 06)."""
    fig, (axis,) = blank(WIDTH, 3.2)
    for i, (model, rows) in enumerate(log.groupby("model", sort=False)):
        axis.plot(rows["step"], rows["loss"], color=look(model, i)["color"], label=label(model))
    axis.set(xlabel="optimizer step", ylabel="loss, nats per token", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(captions.loss_curves(log))
    return fig


@styled
def by_length(
    rows: pd.DataFrame, windows: Mapping[str, int], xlabel: str = LENGTH, ylabel: str = RIGHT
) -> Figure:
    """A share by length (``condition``), a line a method, bars = 95 % over seeds (02, 07, 08).

    The axis is logarithmic if lengths double. ``windows``: label -> length to be marked. With
    ordinary SFT among three methods or more the bars stand below, at the differences from it.
    """
    held = rows.assign(length=rows["condition"].astype(int))
    fig, (axis, *below) = _levels_and_differences(held, lambda share: share.clip(0, 1), xlabel, ylabel)
    axis.set_ylim(0, 1.04)
    for name, length in windows.items() if len(rows) else ():
        for each in (axis, *below):
            each.axvline(length, **DASHED)
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "textcoords": "offset points",
            "ha": "center",
        }
        axis.annotate(name, (length, 1), (0, 2), **place, fontsize=SMALL, color="#555555")
    told = captions.by_length(held, ylabel)
    fig.set_label(f"{told} {captions.from_ordinary(apart_from(held))}" if below else told)
    return fig


def apart_from(rows: pd.DataFrame, reference: str = ORDINARY) -> pd.DataFrame:
    """``value`` of each method minus the reference's of the same length and seed (or pair of models)."""
    keys = ["length", *(name for name in ("pair", "seed") if name in rows)]
    means = rows.groupby(["method", *keys], sort=False)["value"].mean()
    gaps = means - means.loc[reference].reindex(means.droplevel("method").index).to_numpy()
    return gaps.drop(index=reference, level="method").dropna().reset_index()


def _levels_and_differences(
    rows: pd.DataFrame, shown: Callable[[Any], Any], xlabel: str, ylabel: str, difference: str = ""
) -> tuple[Figure, list[Axes]]:
    """Lines of levels; below them, if ordinary SFT and others are there, differences from it."""
    names = rows["method"].unique()
    if ORDINARY not in names or len(names) < 3:
        fig, (axis,) = blank(WIDTH, 3.4)
        if not says_empty(axis, rows):
            _draw_lines(axis, rows, shown)
            axis.set(xlabel=xlabel, ylabel=ylabel)
        return fig, [axis]
    fig = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    upper, lower = fig.subplots(2, 1, sharex=True, height_ratios=(1, 1.25))
    _draw_lines(upper, rows, shown, bars=False)
    draw_gaps(lower, apart_from(rows))
    lower.get_legend().remove()
    upper.set(ylabel=ylabel)
    lower.set(xlabel=xlabel, ylabel=difference or f"{ylabel}, minus {label(ORDINARY)}")
    return fig, [upper, lower]


def draw_gaps(axis: Axes, gaps: pd.DataFrame) -> None:
    """Differences of `apart_from` on given axes."""
    _draw_lines(axis, gaps, lambda value: value)
    axis.axhline(0, **DASHED)
    _keep_near(axis, gaps)


def _keep_near(axis: Axes, gaps: pd.DataFrame) -> None:
    """Let one line that is far off not flatten the others; the axis says which leaves it."""
    most = gaps.groupby(["method", "length"], sort=False)["value"].mean().abs().groupby("method").max()
    far = most.index[most > FAR_OFF * most.median()]
    if len(far) and len(far) < len(most) / 2:
        reach = 1.6 * most.drop(far).max()
        axis.set_ylim(-reach, reach)
        names = ", ".join(label(str(name)) for name in far)
        place: dict[str, Any] = {"xycoords": "axes fraction", "va": "bottom", "fontsize": SMALL}
        # Bars may stand there.
        place["bbox"] = {"facecolor": axis.get_facecolor(), "linewidth": 0, "pad": 1.5}
        axis.annotate(f"runs off the picture: {names}", (0.01, 0.01), **place)


def _draw_lines(axis: Axes, rows: pd.DataFrame, shown: Callable[[Any], Any], bars: bool = True) -> None:
    """Mean ``value`` by ``length``, one line a method, and its interval, each as ``shown`` makes of it."""
    methods, lengths = rows["method"].unique(), sorted(rows["length"].unique())
    doubled = all(b >= 2 * a for a, b in pairwise(lengths))
    for i, method in enumerate(methods):
        groups = rows[rows["method"] == method].groupby("length")["value"]
        means, drawn = groups.mean(), cast(dict[str, Any], look(method, i))
        # Side by side, so that intervals do not hide each other.
        shift = 0.16 * (i / max(1, len(methods) - 1) - 0.5) if bars else 0
        x = means.index * 2**shift if doubled else means.index + shift * lengths[0]
        axis.plot(x, shown(means), label=label(method), markersize=5, **drawn)
        if bars and groups.count().min() >= SEEDS:
            low, high = shown(np.array([t_interval(values)[1:] for _, values in groups])).T
            axis.vlines(x, low, high, color=drawn["color"], alpha=0.6, linewidth=1)
    if doubled:
        axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def perplexity_lines(rows: pd.DataFrame) -> Figure:
    """Perplexity by how much is read, as `by_length` (08); columns ``method, seed, length, nll`` (nats)."""
    means = rows.groupby(["method", "length", "seed"], sort=False)["nll"].mean()
    held, less = means.rename("value").reset_index(), f"loss, minus {label(ORDINARY)}'s, nats"
    what = "perplexity of the last tokens"
    fig, (axis, *below) = _levels_and_differences(held, np.exp, "tokens read", what, less)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_locator(LogLocator(2, subs=(1, 1.5)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_locator(NullLocator())
    told = captions.by_length(rows.assign(value=np.exp(rows["nll"])), "perplexity", "{:,.1f}".format)
    fig.set_label(f"{told} {captions.from_ordinary(apart_from(held))}" if below else told)
    return fig


@styled
def positions(drawn: Mapping[str, Sequence[int]], prompt: int, window: int, target: int) -> Figure:
    """Position ids under every strategy, ``prompt`` the user turn; the axis ends at ``target`` (07)."""
    fig, (axis,) = blank(WIDTH, 0.3 * len(drawn) + 1.3)
    for y, ids in enumerate(drawn.values()):
        axis.plot([0, target], [y, y], color="#E4E4E4", linewidth=1, zorder=0)
        for part, colour in ((ids[:prompt], looks.DOCUMENT), (ids[prompt:], looks.RESPONSE)):
            axis.vlines(part, y - 0.32, y + 0.32, color=colour, linewidth=0.7)
    dashed = axis.axvline(window, **DASHED, label="short window")
    name_lines(axis, drawn)
    axis.set(xlabel="position id", xlim=(-target * 0.01, target))
    axis.grid(False)
    turns = [Patch(color=looks.DOCUMENT, label="user turn"), Patch(color=looks.RESPONSE, label="response")]
    fig.legend(handles=[*turns, dashed], loc="outside lower center", ncols=3)
    fig.set_label(captions.positions(drawn, target))
    return fig


@styled
def reach(panels: Mapping[str, np.ndarray], jumps: Sequence[int]) -> Figure:
    """Which tokens reach which: title -> `tuning_runs.influence`; dashed: before ``jumps`` (07)."""
    fig, axes = blank(3.4 * len(panels), 3.5, len(panels))
    for axis, (title, grid) in zip(axes, panels.items(), strict=True):
        axis.imshow(grid, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        for place in jumps:
            for line in (axis.axhline, axis.axvline):
                line(place - 0.5, color=BLACK, linewidth=0.8, linestyle="--")
        axis.set(title=title, xlabel="token that is exchanged", ylabel="token whose output changes")
        axis.grid(False)
    fig.set_label(captions.reach(panels, jumps))
    return fig


@styled
def padding(batches: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Tokens and padding of every batch, one panel a way to batch (07); batches are ``(tokens, padding)``."""
    fig, axes = blank(WIDTH, 2.6, len(batches), sharey=True)
    for axis, (name, sizes) in zip(axes, batches.items(), strict=True):
        used, empty = np.array(sizes).T
        axis.bar(range(len(used)), used, color=looks.PLACES[0], label="tokens")
        axis.bar(range(len(used)), empty, bottom=used, color=looks.PLACES[1], label="padding")
        axis.set(title=name, xlabel="batch")
    axes[0].set_ylabel("tokens forwarded")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(captions.padding(batches))
    return fig


@styled
def cost_and_quality(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """What selectors cost against what they are worth, each in its colour, a panel a measure (09, 10).

    Columns ``method, condition, value`` and ``cost``: tokens that models read, in multiples of the pool's.
    """
    fig = Figure(figsize=(WIDTH, 4.2 * len(panels)), layout="constrained")
    axes = fig.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (measure, rows) in zip(axes, panels.items(), strict=True):
        if says_empty(axis, rows):
            continue
        most = rows["cost"].max() or 1
        for i, (condition, part) in enumerate(rows.groupby("condition", sort=False)):
            means = part.groupby("method", sort=False)[["cost", "value"]].mean()
            for method, (cost, value) in means.iterrows():
                axis.plot(cost, value, color=look(str(method))["color"], **condition_mark(i))
            axis.plot([], [], color=looks.UNKNOWN, label=label(condition), **condition_mark(i))
        means = rows.groupby(["condition", "method"], sort=False)[["cost", "value"]].mean()
        low, high = means["value"].agg(["min", "max"])
        _name_points(axis, means, most / 80, (high - low) / 22)
        axis.set(xlabel="tokens read, multiples of the pool (0: no model)", ylabel=measure)
        axis.set_xlim(-0.45 * most, 1.3 * most)  # names of what costs nothing stand on the left
        axis.xaxis.set_major_locator(FixedLocator(range(int(most) + 1)))
        axis.margins(y=0.12)  # for the names
        if rows["condition"].nunique() > 1:
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    fig.set_label(captions.cost_and_quality(panels))
    return fig


def _name_points(axis: Axes, points: pd.DataFrame, across: float, apart: float) -> None:
    """Write the names of the first condition's points ``cost, value``, each in the free place nearest above.

    On the right of its point, or on the left where nothing was read. Index ``condition, method``. In units of
    the axes: ``across`` is the width of a letter, ``apart`` the height of a line.
    """
    taken = [(cost - across, cost + across, value) for cost, value in points.to_numpy()]  # from, to, height
    named = points.loc[points.index[0][0]].sort_values("value")
    for method, (cost, value) in named.iterrows():
        said, height = label(str(method)), value
        width = across * (len(said) + 1)
        begin, end = (cost + 2 * across, cost + width) if cost else (-width, -2 * across)
        while any(begin < b and a < end and abs(height - at) < 0.99 * apart for a, b, at in taken):
            height += apart / 4
        taken.append((begin, end, height))
        line = {"arrowstyle": "-", "color": look(str(method))["color"], "linewidth": 0.8, "shrinkB": 0}
        line |= {"relpos": (0 if cost else 1, 0.5), "shrinkA": 0}
        raised: dict[str, Any] = {"arrowprops": line} if height > value else {}
        where: dict[str, Any] = {
            "xytext": (begin if cost else end, height),
            "ha": "left" if cost else "right",
        }
        axis.annotate(said, (cost, value), **where, va="center", fontsize=SMALL, **raised)


@styled
def differences(table: pd.DataFrame, reference: str, xlabel: str) -> Figure:
    """Difference of each method from a reference, mean and 95 % interval (08); of `outcomes.against`."""
    fig, (axis,) = blank(WIDTH, 0.28 * len(table) + 1)
    draw_differences(axis, table, [looks.look(str(method)) for method in table.index])
    name_lines(axis, table.index)
    axis.set(xlabel=xlabel)
    fig.set_label(captions.differences(table.drop(index=reference, errors="ignore"), xlabel))
    return fig


def draw_differences(axis: Axes, table: pd.DataFrame, looks: Sequence[tuple[str, str]]) -> None:
    """Columns ``difference, low, high`` on a line each, in a colour and with a marker each."""
    for y, (row, (colour, marker)) in enumerate(zip(table.itertuples(), looks, strict=True)):
        axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.2)
        axis.plot(row.difference, y, marker, color=colour, markersize=5.5)
    axis.axvline(0, **DASHED)
