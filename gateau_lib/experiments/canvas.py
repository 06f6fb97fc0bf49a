"""What several figures are drawn with: the sheet, names of lines, marks of conditions, tables as heat maps.

Figures are built without pyplot, so nothing depends on a display or on what was drawn before.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from gateau_lib.study.looks import GREY, MARKERS
from gateau_lib.study.style import SMALL, WIDTH, label

DASHED: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 1}
TITLE = 26  # characters of a panel's title before it is broken, three panels a line


def blank(width: float, height: float, panels: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    """A figure of so many panels, three a line, and their axes; in inches, the height is a line's.

    It is no wider than it can be shown.
    """
    lines = -(-panels // 3)
    fig = Figure(figsize=(min(width, WIDTH), height * lines), layout="constrained")
    axes = fig.subplots(lines, min(3, panels), squeeze=False, **kwargs).ravel()
    for axis in axes[panels:]:
        axis.set_visible(False)
    return fig, axes[:panels]


def says_empty(axis: Axes, rows: pd.DataFrame) -> bool:
    """Whether there is nothing to draw; the axes then say so."""
    if rows.empty:
        axis.set(xticks=[], yticks=[])
        middle: dict[str, Any] = {"xycoords": "axes fraction", "ha": "center", "va": "center"}
        axis.annotate("no rows at this scale", (0.5, 0.5), color=GREY, **middle)
    return rows.empty


def name_lines(axis: Axes, names: Collection[str]) -> None:
    """Write names at the lines of a figure, the first on top."""
    axis.set_yticks(range(len(names)), [label(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)


def condition_mark(place: int) -> dict[str, Any]:
    """The mark of a figure's conditions where the colour says which method: full and empty in turns."""
    mark = {"linestyle": "none", "markersize": 5.5, "marker": MARKERS[place % len(MARKERS)]}
    return mark | ({"markerfacecolor": "white", "markeredgewidth": 1.3} if place % 2 else {})


def draw_table(axis: Axes, table: pd.DataFrame, colour: Callable[[float], str], **scale: Any) -> AxesImage:
    """A table as a heat map up to 1, with its numbers in a colour each."""
    image = axis.imshow(table.to_numpy(), vmax=1, **scale)
    for (y, x), value in np.ndenumerate(table.to_numpy()):
        axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour(value))
    axis.grid(False)
    return image
