"""The pictures of theory.md; each is computed from its equation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gateau_lib.study import looks
from gateau_lib.study.looks import GREY, PLACES
from gateau_lib.study.style import WIDTH, styled, svg

BASE, CHANNELS, WINDOW, FACTOR = 1000.0, 32, 256, 8
PARTS = {"document": looks.DOCUMENT, "question": looks.QUESTION, "response": looks.RESPONSE}
WORDS = "The motto of Mira is amber river copper falcon .".split()


def write(folder: Path) -> None:
    """All of them as SVG files, named as `PICTURES`."""
    folder.mkdir(parents=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(svg(draw()), encoding="utf-8")


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, np.ndarray]:
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(1, panels, squeeze=False)[0]


@styled
def gap() -> Figure:
    """An example with made-up losses: what a gap is, not what was measured."""
    fig, (axis,) = _figure(WIDTH, 2.6)
    known = np.array([0.4, 0.6, 0.1, 0.3, 0.1, 0.2, 0.15, 0.1, 0.1, 0.05])
    blind = known + np.array([0, 0.1, 0, 0, 0, 3.4, 3.0, 3.2, 3.1, 0])
    place = np.arange(len(WORDS))
    axis.bar(place - 0.2, known, 0.4, color=looks.look("theta_b")[0], label="reads everything")
    axis.bar(place + 0.2, blind, 0.4, color=looks.look("theta_a")[0], label="does not see the evidence")
    axis.set_xticks(place, WORDS)
    axis.set(ylabel="NLL, nats", title="What a response costs, word by word (a sketch)")
    axis.legend()
    return fig


def _speed(base: float) -> np.ndarray:
    """Radians a token of each pair of channels (equation theta)."""
    return base ** (-2 * np.arange(CHANNELS // 2) / CHANNELS)


@styled
def rope() -> Figure:
    """Cosines of four pairs over the position."""
    fig, (axis,) = _figure(WIDTH, 3.2)
    position, speed = np.arange(2 * WINDOW), _speed(BASE)
    for line, k in enumerate((4, 8, 11, 15)):
        axis.plot(position, np.cos(position * speed[k]) - 2.4 * line, color=PLACES[line], linewidth=1.3)
        end = np.cos(position[-1] * speed[k]) - 2.4 * line
        axis.annotate(f"pair {k}", (2 * WINDOW + 4, end), va="center", annotation_clip=False)
    axis.axvspan(0, WINDOW, color="#F3F3F3", zorder=0)
    axis.set(xlabel="position (grey: the window of training)", yticks=[], xlim=(0, 2 * WINDOW))
    axis.grid(False)
    return fig


@styled
def ntk() -> Figure:
    """The slowest pair's angle as trained and stretched."""
    fig, (axis,) = _figure(6.5, 3)
    position = np.arange(WINDOW * FACTOR)
    stretched = BASE * FACTOR ** (CHANNELS / (CHANNELS - 2))
    for base, name, model in (
        (BASE, "base as trained", "theta_a"),
        (stretched, "base stretched", "theta_a_ntk"),
    ):
        axis.plot(position, position * _speed(base)[-1], label=name, color=looks.look(model)[0])
    reached = WINDOW * _speed(BASE)[-1]
    axis.axhspan(0, reached, color="#F3F3F3", zorder=0)
    axis.axvline(WINDOW, color=GREY, linestyle="--", linewidth=1)
    axis.set(
        xlabel="position (dashed: short window)",
        ylabel="angle of the slowest pair, radians",
        ylim=(0, 4 * reached),
    )
    axis.set_xlim(0, WINDOW * FACTOR)
    axis.legend()
    return fig


@styled
def cam() -> Figure:
    """Two made-up samples: aligned and not."""
    fig, axes = _figure(WIDTH, 2.6, 2)
    importance = np.array([0.05, 0.05, 0.5, 0.08, 0.06, 0.06, 0.1, 0.1])
    attention = {"aligned": importance[::1] * 0.8 + 0.025, "misaligned": np.roll(importance, 4)}
    for axis, (name, weights) in zip(axes, attention.items(), strict=True):
        weights = weights / weights.sum()
        place = np.arange(8)
        axis.bar(place - 0.2, importance, 0.4, color=looks.IMPORTANCE, label="importance")
        axis.bar(place + 0.2, weights, 0.4, color=looks.ATTENTION, label="attention")
        cosine = importance @ weights / np.linalg.norm(importance) / np.linalg.norm(weights)
        axis.set(
            title=f"{name}: cosine {cosine:.2f}, CAM {1 - cosine:.2f} (a sketch)",
            xlabel="segment",
            ylabel="share",
        )
    axes[0].legend()
    return fig


@styled
def delta() -> Figure:
    """A made-up matrix: one link, one row of common words."""
    fig, (axis,) = _figure(3.8, 3.4)
    rng, n = np.random.default_rng(0), 10
    grid = np.where(np.tri(n, k=-1, dtype=bool), rng.uniform(0, 0.15, (n, n)), np.nan)
    grid[7, 1], grid[5, :5] = 0.85, 0.6
    axis.imshow(grid, cmap="Oranges", vmin=0, vmax=1)
    axis.annotate(
        "a link",
        (1, 7),
        (1.2, 8.7),
        color=looks.LINK,
        ha="center",
        arrowprops={"arrowstyle": "->", "color": looks.LINK},
    )
    axis.annotate(
        "any text helps",
        (4, 5),
        (7.2, 3.2),
        color=GREY,
        ha="center",
        arrowprops={"arrowstyle": "->", "color": GREY},
    )
    axis.set(xlabel="earlier segment j", ylabel="segment i", title="Strength (a sketch)")
    axis.grid(False)
    return fig


@styled
def skip() -> Figure:
    """Twelve tokens under three ways to number them."""
    fig, (axis,) = _figure(WIDTH, 2.2)
    ways = {"in a row": [], "one jump (PoSE)": [(5, 20)], "between turns (Skip-Outer)": [(6, 12), (9, 14)]}
    for line, jumps in enumerate(ways.values()):
        ids = np.arange(12) + sum(
            (size * (np.arange(12) >= place) for place, size in jumps), np.zeros(12, dtype=int)
        )
        axis.plot([0, 39], [line, line], color="#E4E4E4", linewidth=1, zorder=0)
        for (name, colour), part in zip(PARTS.items(), (slice(0, 6), slice(6, 9), slice(9, 12)), strict=True):
            said = {} if line else {"label": name}
            axis.scatter(ids[part], np.full(len(ids[part]), line), color=colour, s=30, marker="s", **said)
    axis.set_yticks(range(3), list(ways))
    axis.set(
        ylim=(2.6, -0.6),
        xlabel="position id",
        xlim=(-1, 40),
    )
    fig.legend(loc="outside upper center", ncols=3)
    axis.grid(False)
    return fig


@styled
def packing() -> Figure:
    """Three samples in a row: one triangle, or three."""
    fig, axes = _figure(6, 3, 2)
    sample = np.repeat([0, 1, 2], [4, 6, 3])
    causal = np.tri(len(sample), dtype=bool)
    masks = {"one mask for all": causal, "a block a sample": causal & (sample[:, None] == sample)}
    for axis, (title, mask) in zip(axes, masks.items(), strict=True):
        axis.imshow(np.where(mask, 1 + sample[None], 0), cmap="Blues", vmin=0, vmax=4)
        axis.set(title=title, xlabel="token that is read", xticks=[], yticks=[])
        axis.grid(False)
    axes[0].set_ylabel("token that reads")
    return fig


PICTURES = {
    "gap": gap,
    "rope": rope,
    "ntk": ntk,
    "cam": cam,
    "delta": delta,
    "skip": skip,
    "packing": packing,
}
