"""Figures of what training batches look like and of several models at once (notebooks 06 and 07), in the house style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from gateau_lib.experiments import ranking  # noqa: F401 - it names the columns of figures
from gateau_lib.study.intervals import SEEDS, t_interval
from gateau_lib.study.style import BLACK, BLUE, GREY, ORANGE, RED, label, look, styled


@styled
def positions(drawn: Mapping[str, Sequence[int]], prompt: int, window: int, target: int) -> Figure:
    """Position ids of one sample under every strategy (06).

    Args:
        drawn: strategy -> position ids of the same tokens.
        prompt: tokens of the user turn; the others are the response.
        window: tokens of the short model's window, dashed. target: tokens of the window to be reached.
    """
    fig = Figure(figsize=(8, 0.3 * len(drawn) + 1.3), layout="constrained")
    axis = fig.subplots()
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
    fig = Figure(figsize=(3.4 * len(panels), 3.5), layout="constrained")
    for axis, (title, grid) in zip(np.atleast_1d(fig.subplots(1, len(panels))), panels.items(), strict=True):
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
    fig = Figure(figsize=(9, 2.6), layout="constrained")
    axes = np.atleast_1d(fig.subplots(1, len(batches), sharey=True))
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
    shape = next(iter(panels.values())).shape
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    fig = Figure(figsize=(max(2.2, 0.5 * shape[1] + 0.4) * columns + 1, (0.28 * shape[0] + 0.9) * lines), layout="constrained")
    axes = np.atleast_2d(fig.subplots(lines, columns, sharex=True, sharey=True))
    for axis, (method, grid) in zip(axes.ravel(), panels.items(), strict=False):
        image = axis.imshow(grid.to_numpy(), cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for (y, x), value in np.ndenumerate(grid.to_numpy()):
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7, color="white" if value < 0.55 else BLACK)
        axis.set_xticks(range(shape[1]), [f"{length:,}" for length in grid.columns])
        axis.set_yticks(range(shape[0]), [f"{depth:.0%}" for depth in grid.index])
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
        table: of `experiments.against`.
    """
    fig = Figure(figsize=(6.5, 0.28 * len(table) + 1), layout="constrained")
    axis = fig.subplots()
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
    fig = Figure(figsize=(6.5, 3.4), layout="constrained")
    axis = fig.subplots()
    groups = rows.groupby("method", sort=False)
    for i, (method, group) in enumerate(groups):
        seeds = group.groupby(["length", "seed"])["nll"].mean()
        means = seeds.groupby(level="length").mean()
        x = means.index * 2 ** (0.04 * (i - (len(groups) - 1) / 2))  # side by side, so that intervals do not hide each other
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
