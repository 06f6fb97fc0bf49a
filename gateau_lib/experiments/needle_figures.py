"""Needle maps: how much of the answer a model gives, by the needle's depth and the text's length (08, 11)."""

from collections.abc import Callable, Mapping
from textwrap import fill
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.experiments import captions
from gateau_lib.experiments.canvas import TITLE, blank, draw_table
from gateau_lib.experiments.training_figures import LENGTH, RIGHT
from gateau_lib.study.style import BLACK, label, styled


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
        axis.set_title(fill(label(method), TITLE), fontsize=9)
    fig.supxlabel(LENGTH, fontsize=9)
    fig.supylabel("depth of the needle", fontsize=9)
    fig.colorbar(image, ax=axes, shrink=0.7, label=measured)
    return fig
