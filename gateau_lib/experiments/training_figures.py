"""Figures of training, its batches and the models that it leaves (02, 07 to 10), as in `figures`."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from gateau_lib.experiments import captions
from gateau_lib.experiments.figures import DASHED, blank, draw_table, name_lines, says_empty
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.style import BLACK, BLUE, CYCLE, GREY, MARKERS, ORANGE, RED, label, look, styled

LENGTH = "context length, tokens"
RIGHT = "answer tokens right"


@styled
def loss_curves(log: pd.DataFrame) -> Figure:
    """Training loss of each model, columns ``model, step, loss`` in nats per token (02, 06)."""
    fig, (axis,) = blank(6, 3)
    for i, (model, rows) in enumerate(log.groupby("model", sort=False)):
        axis.plot(rows["step"], rows["loss"], color=look(model, i)["color"], label=label(model))
    axis.set(xlabel="optimizer step", ylabel="loss, nats per token", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    fig.set_label(captions.loss_curves(log))
    return fig


@styled
def by_length(
    rows: pd.DataFrame, windows: Mapping[str, int], xlabel: str = LENGTH, ylabel: str = RIGHT
) -> Figure:
    """A share by length (``condition``), a line a method, bars = 95 % over seeds (02, 07, 08).

    The axis is logarithmic if lengths double. ``windows``: label -> length to be marked.
    """
    fig, (axis,) = blank(6.5, 3.4)
    draw_by_length(axis, rows, xlabel, ylabel)
    for name, length in windows.items() if len(rows) else ():
        axis.axvline(length, **DASHED)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        axis.annotate(name, (length, 1), (0, 2), **place, fontsize=7, color="#555555")
    fig.set_label(captions.by_length(rows.assign(length=rows["condition"].astype(int)), ylabel))
    return fig


def draw_by_length(axis: Axes, rows: pd.DataFrame, xlabel: str = LENGTH, ylabel: str = RIGHT) -> None:
    """`by_length` on given axes."""
    if not says_empty(axis, rows):
        _draw_lines(axis, rows.assign(length=rows["condition"].astype(int)), lambda share: share.clip(0, 1))
        axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.04))


def _draw_lines(axis: Axes, rows: pd.DataFrame, shown: Callable[[Any], Any]) -> None:
    """Mean ``value`` by ``length``, one line a method, and its interval, each as ``shown`` makes of it."""
    methods, lengths = rows["method"].unique(), sorted(rows["length"].unique())
    doubled = all(b >= 2 * a for a, b in pairwise(lengths))
    for i, method in enumerate(methods):
        groups = rows[rows["method"] == method].groupby("length")["value"]
        means, drawn = groups.mean(), cast(dict[str, Any], look(method, i))
        shift = 0.04 * (i - (len(methods) - 1) / 2)  # side by side, so that intervals do not hide each other
        x = means.index * 2**shift if doubled else means.index + shift * lengths[0]
        axis.plot(x, shown(means), label=label(method), markersize=5, **drawn)
        if groups.count().min() >= SEEDS:
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
    fig, (axis,) = blank(6.5, 3.4)
    means = rows.groupby(["method", "length", "seed"], sort=False)["nll"].mean()
    _draw_lines(axis, means.rename("value").reset_index(), np.exp)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_locator(LogLocator(2, subs=(1, 1.5)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set(xlabel="tokens read", ylabel="perplexity of the last tokens")
    fig.set_label(captions.by_length(rows.assign(value=np.exp(rows["nll"])), "perplexity", "{:,.1f}".format))
    return fig


@styled
def positions(drawn: Mapping[str, Sequence[int]], prompt: int, window: int, target: int) -> Figure:
    """Position ids under every strategy, ``prompt`` the user turn; the axis ends at ``target`` (07)."""
    fig, (axis,) = blank(8, 0.3 * len(drawn) + 1.3)
    for y, ids in enumerate(drawn.values()):
        axis.plot([0, target], [y, y], color="#E4E4E4", linewidth=1, zorder=0)
        for part, colour in ((ids[:prompt], BLUE), (ids[prompt:], RED)):
            axis.vlines(part, y - 0.32, y + 0.32, color=colour, linewidth=0.7)
    dashed = axis.axvline(window, **DASHED, label="short window")
    name_lines(axis, drawn)
    axis.set(xlabel="position id", xlim=(-target * 0.01, target))
    axis.grid(False)
    turns = [Patch(color=BLUE, label="user turn"), Patch(color=RED, label="response")]
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
                line(place - 0.5, color=RED, linewidth=0.8, linestyle="--")
        axis.set(title=title, xlabel="token that is exchanged", ylabel="token whose output changes")
        axis.grid(False)
    fig.set_label(captions.reach(panels, jumps))
    return fig


@styled
def padding(batches: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Tokens and padding of every batch, one panel a way to batch (07); batches are ``(tokens, padding)``."""
    fig, axes = blank(9, 2.6, len(batches), sharey=True)
    for axis, (name, sizes) in zip(axes, batches.items(), strict=True):
        used, empty = np.array(sizes).T
        axis.bar(range(len(used)), used, color=BLUE, label="tokens")
        axis.bar(range(len(used)), empty, bottom=used, color=ORANGE, label="padding")
        axis.set(title=name, xlabel="batch")
    axes[0].set_ylabel("tokens forwarded")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    fig.set_label(captions.padding(batches))
    return fig


@styled
def needle_maps(panels: Mapping[str, pd.DataFrame], measured: str = RIGHT) -> Figure:
    """Needle maps side by side (08): method -> share, depth (rows) by length (columns)."""
    scale = {"cmap": "cividis", "vmin": 0, "aspect": "auto"}
    fig = _maps(panels, scale, lambda value: "white" if value < 0.55 else BLACK, measured)
    fig.set_label(captions.needle_maps(panels, measured))
    return fig


@styled
def needle_gains(panels: Mapping[str, pd.DataFrame], before: str, measured: str) -> Figure:
    """What each of the other maps has more, or less, than that of the method ``before`` (08)."""
    gains = {name: grid - panels[before] for name, grid in panels.items() if name != before}
    scale = {"cmap": "PuOr", "vmin": -1, "aspect": "auto"}
    fig = _maps(gains, scale, lambda value: "white" if abs(value) > 0.7 else BLACK, f"{measured}, gained")
    fig.set_label(captions.needle_gains(gains, before, measured))
    return fig


def _maps(
    panels: Mapping[str, pd.DataFrame], scale: Mapping[str, Any], ink: Callable[[float], str], measured: str
) -> Figure:
    depths, lengths = next(iter(panels.values())).shape
    width = max(2.2, 0.5 * lengths + 0.4) * min(3, len(panels)) + 1
    fig, axes = blank(width, 0.28 * depths + 0.9, len(panels), sharex=True, sharey=True)
    for axis, (method, grid) in zip(axes, panels.items(), strict=True):
        image = draw_table(axis, grid, ink, **scale)
        axis.set_xticks(range(lengths), [f"{length:,}" for length in grid.columns])
        axis.set_yticks(range(depths), [f"{depth:.0%}" for depth in grid.index])
        axis.set_title(label(method))
    fig.supxlabel(LENGTH, fontsize=9)
    fig.supylabel("depth of the needle", fontsize=9)
    fig.colorbar(image, ax=axes, shrink=0.7, label=measured)
    return fig


@styled
def cost_and_quality(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """What selectors cost against what they are worth, a panel a measure (09, 10).

    Columns ``method, condition, value`` and ``cost``: tokens that models read, in multiples of the pool's.
    """
    fig, axes = blank(5.2 * len(panels), 4.2, len(panels))
    for axis, (measure, rows) in zip(axes, panels.items(), strict=True):
        if says_empty(axis, rows):
            continue
        for i, (condition, part) in enumerate(rows.groupby("condition", sort=False)):
            means = part.groupby("method", sort=False)[["cost", "value"]].mean()
            mark = {"linestyle": "none", "color": CYCLE[i], "marker": MARKERS[i], "markersize": 4.5}
            axis.plot(means["cost"], means["value"], label=label(condition), **mark)
            if i == 0:
                _name_points(axis, means.sort_values("value"), np.ptp(rows["value"]) / 28)
        most = rows["cost"].max()
        axis.set(xlabel="tokens read, multiples of the pool (0: no model)", ylabel=measure)
        axis.set_xlim(-0.05 * most, 1.3 * most)
        axis.margins(y=0.12)  # for the names
        if rows["condition"].nunique() > 1:
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    fig.set_label(captions.cost_and_quality(panels))
    return fig


def _name_points(axis: Axes, points: pd.DataFrame, apart: float) -> None:
    """Write names beside points ``cost, value``, lowest first; those of like cost at least so far apart."""
    last: dict[int, float] = {}
    for method, (cost, value) in points.iterrows():
        place = round(4 * cost / (points["cost"].max() or 1))
        last[place] = max(value, last.get(place, -np.inf) + apart)
        where = (cost, last[place])
        axis.annotate(label(str(method)), where, (5, 0), textcoords="offset points", va="center", fontsize=6)


@styled
def differences(table: pd.DataFrame, reference: str, xlabel: str) -> Figure:
    """Difference of each method from a reference, mean and 95 % interval (08); of `outcomes.against`."""
    fig, (axis,) = blank(6.5, 0.28 * len(table) + 1)
    draw_differences(axis, table, [(GREY if m == reference else BLUE, "o") for m in table.index])
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
