"""Figures of training, its batches and the models that it leaves (02, 06 to 09), as in `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from gateau_lib.experiments.figures import blank, in_order, says_empty, write_numbers
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.style import BLACK, BLUE, GREY, ORANGE, RED, label, look, styled

LENGTH = "context length, tokens"


@styled
def loss_curves(log: pd.DataFrame) -> Figure:
    """Training loss of each model, columns ``model, step, loss`` in nats per token (02, 06)."""
    fig, axis = blank(6, 3)
    for i, model in enumerate(in_order(log["model"])):
        rows = log[log["model"] == model]
        axis.plot(rows["step"], rows["loss"], color=look(model, i)["color"], label=label(model))
    axis.set(xlabel="optimizer step", ylabel="loss, nats per token", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend()
    return fig


@styled
def by_length(rows: pd.DataFrame, windows: Mapping[str, int], xlabel: str = LENGTH) -> Figure:
    """Answer tokens right by length, one line a method, bars = 95 % interval over seeds (02, 07, 08).

    Args:
        rows: metrics rows whose ``condition`` is a number of tokens; the axis is logarithmic if they double.
        windows: lengths to mark with a dashed line, by their label.
    """
    fig, axis = blank(6.5, 3.4)
    draw_by_length(axis, rows, xlabel)
    for name, length in windows.items() if len(rows) else ():
        axis.axvline(length, color=GREY, linestyle="--", linewidth=1)
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
        axis.annotate(name, (length, 1), (0, 2), **place, fontsize=7, color="#555555")
    return fig


def draw_by_length(axis: Axes, rows: pd.DataFrame, xlabel: str = LENGTH) -> None:
    """`by_length` on given axes."""
    if says_empty(axis, rows):
        return
    data = rows.assign(length=rows["condition"].astype(int))
    methods, lengths = in_order(data["method"]), sorted(data["length"].unique())
    doubled = all(b >= 2 * a for a, b in pairwise(lengths))
    for i, method in enumerate(methods):
        groups = data[data["method"] == method].groupby("length")["value"]
        means = groups.mean()
        shift = 0.04 * (i - (len(methods) - 1) / 2)  # side by side, so that intervals do not hide each other
        x = means.index * 2**shift if doubled else means.index + shift * lengths[0]
        drawn: dict[str, Any] = {**look(method, i)}
        axis.plot(x, means, label=label(method), markersize=5, **drawn)
        if groups.count().min() >= SEEDS:
            low, high = np.array([t_interval(values)[1:] for _, values in groups]).T
            colour = look(method, i)["color"]
            axis.vlines(x, low.clip(0), high.clip(max=1), color=colour, alpha=0.6, linewidth=1)
    if doubled:
        axis.set_xscale("log", base=2)
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    axis.set(xlabel=xlabel, ylabel="answer tokens right", ylim=(0, 1.04))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


@styled
def positions(drawn: Mapping[str, Sequence[int]], prompt: int, window: int, target: int) -> Figure:
    """Position ids of one sample under every strategy (06).

    Args:
        drawn: strategy -> position ids of the same tokens.
        prompt: tokens of the user turn; the others are the response.
        window: tokens of the short model's window, dashed. target: tokens of the window to be reached.
    """
    fig, axis = blank(8, 0.3 * len(drawn) + 1.3)
    for y, ids in enumerate(drawn.values()):
        axis.plot([0, target], [y, y], color="#E4E4E4", linewidth=1, zorder=0)
        axis.vlines(ids[:prompt], y - 0.32, y + 0.32, color=BLUE, linewidth=0.7)
        axis.vlines(ids[prompt:], y - 0.32, y + 0.32, color=RED, linewidth=0.7)
    dashed = axis.axvline(window, color=GREY, linestyle="--", linewidth=1, label="short window")
    axis.set_yticks(range(len(drawn)), [label(s) for s in drawn])
    axis.set(xlabel="position id", xlim=(-target * 0.01, target), ylim=(len(drawn) - 0.5, -0.5))
    axis.grid(False)
    turns = [Patch(color=BLUE, label="user turn"), Patch(color=RED, label="response")]
    fig.legend(handles=[*turns, dashed], loc="outside lower center", ncols=3)
    return fig


@styled
def reach(panels: Mapping[str, np.ndarray], jumps: Sequence[int]) -> Figure:
    """Which tokens reach which, one panel a way to call the model (06).

    Args:
        panels: title -> bool ``(tokens, tokens)`` of `tuning_runs.influence`.
        jumps: tokens before which positions jump.
    """
    fig, axes = blank(3.4 * len(panels), 3.5, len(panels))
    for axis, (title, grid) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        axis.imshow(grid, cmap="Blues", vmin=0, vmax=1.4, interpolation="nearest")
        for place in jumps:
            axis.axhline(place - 0.5, color=RED, linewidth=0.8, linestyle="--")
            axis.axvline(place - 0.5, color=RED, linewidth=0.8, linestyle="--")
        axis.set(title=title, xlabel="token that is exchanged", ylabel="token whose output changes")
        axis.grid(False)
    return fig


@styled
def padding(batches: Mapping[str, Sequence[tuple[int, int]]]) -> Figure:
    """Tokens and padding of every batch, one panel a way to batch (06); batches are ``(tokens, padding)``."""
    fig, axes = blank(9, 2.6, len(batches), sharey=True)
    axes = np.atleast_1d(axes)
    for axis, (name, sizes) in zip(axes, batches.items(), strict=True):
        used, empty = np.array(sizes).T
        axis.bar(range(len(used)), used, color=BLUE, label="tokens")
        axis.bar(range(len(used)), empty, bottom=used, color=ORANGE, label="padding")
        axis.set(title=name, xlabel="batch")
    axes[0].set_ylabel("tokens forwarded")
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


@styled
def needle_maps(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Needle maps side by side (07): method -> share right, depth (rows) by length (columns)."""
    depths, lengths = next(iter(panels.values())).shape
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    width, height = max(2.2, 0.5 * lengths + 0.4), 0.28 * depths + 0.9
    fig = Figure(figsize=(width * columns + 1, height * lines), layout="constrained")
    axes = np.atleast_2d(fig.subplots(lines, columns, sharex=True, sharey=True))
    for axis, (method, grid) in zip(axes.ravel(), panels.items(), strict=False):
        image = axis.imshow(grid.to_numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
        write_numbers(axis, grid, lambda value: "white" if value < 0.55 else BLACK)
        axis.set_xticks(range(lengths), [f"{length:,}" for length in grid.columns])
        axis.set_yticks(range(depths), [f"{depth:.0%}" for depth in grid.index])
        axis.set_title(label(method))
        axis.grid(False)
    for axis in axes.ravel()[len(panels) :]:
        axis.set_visible(False)
    fig.supxlabel("context length, tokens", fontsize=9)
    fig.supylabel("depth of the needle", fontsize=9)
    fig.colorbar(image, ax=axes, shrink=0.7, label="answer tokens right")
    return fig


@styled
def differences(table: pd.DataFrame, reference: str, xlabel: str) -> Figure:
    """Difference of each method from a reference, mean and 95 % interval, in the table's order (07).

    Args:
        table: of `outcomes.against`.
    """
    fig, axis = blank(6.5, 0.28 * len(table) + 1)
    for y, row in enumerate(table.itertuples()):
        axis.plot([row.low, row.high], [y, y], color=BLUE, linewidth=1.2)
        axis.plot(row.difference, y, "o", color=GREY if row.Index == reference else BLUE, markersize=5.5)
    axis.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(table)), [label(m) for m in table.index])
    axis.set(xlabel=xlabel, ylim=(len(table) - 0.5, -0.5))
    return fig


@styled
def perplexity_lines(rows: pd.DataFrame) -> Figure:
    """Perplexity by how much text is read, one line a method, bars = 95 % interval over seeds (07).

    Args:
        rows: columns ``method, seed, length, nll`` (nats per token).
    """
    fig, axis = blank(6.5, 3.4)
    groups = rows.groupby("method", sort=False)
    for i, (method, group) in enumerate(groups):
        seeds = group.groupby(["length", "seed"])["nll"].mean()
        means = seeds.groupby(level="length").mean()
        shift = 0.04 * (i - (len(groups) - 1) / 2)  # side by side, so that intervals do not hide each other
        x = means.index * 2**shift
        axis.plot(x, np.exp(means), label=label(method), markersize=5, **look(method, i))
        if len(seeds) >= SEEDS * len(means):
            low, high = np.exp([t_interval(values)[1:] for _, values in seeds.groupby(level="length")]).T
            axis.vlines(x, low, high, color=look(method, i)["color"], alpha=0.6, linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_locator(LogLocator(2, subs=(1, 1.5)))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    lengths = sorted(rows["length"].unique())
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    axis.set(xlabel="tokens read", ylabel="perplexity of the last tokens")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig
