"""How figures draw kinds of samples: the wanted ones, the honest rest and the noise in a colour each."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from gateau_lib.data.kinds import NEEDS_FAR, NOISE
from gateau_lib.study import looks
from gateau_lib.study.style import BLACK

FAR, OTHER, NO_USE = "wanted: needs far evidence", "honest, not wanted", "noise"


def kind_name(kind: str) -> str:
    """A kind of samples as figures call it; an arm of training may have the same short name."""
    return kind.replace("_", " ")


def colours_of(kinds: Collection[str], wanted: Collection[str]) -> dict[str, str]:
    """The colour of each kind: ``wanted``, noise, or neither."""
    rest = {kind: looks.NOISE if kind in NOISE else looks.NEAR for kind in kinds}
    return rest | {kind: looks.WANTED for kind in kinds if kind in wanted}


def legend_of(colours: Mapping[str, str], wanted: str, other: str = OTHER) -> list[Patch]:
    """What the colours of `colours_of` stand for, those that are there."""
    names = {looks.WANTED: wanted, looks.NEAR: other, looks.NOISE: NO_USE}
    return [Patch(color=c, label=name) for c, name in names.items() if c in colours.values()]


def draw_kinds(axis: Axes, rows: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Every ``value``, a line a kind, with its median."""
    for y, (kind, colour) in enumerate(colours.items()):
        values = rows.loc[rows["kind"] == kind, "value"].dropna()
        # Spread the points by their rank so that equal values stay visible, without a random generator.
        offsets = ((np.arange(len(values)) * 0.618) % 1 - 0.5) * 0.5
        axis.scatter(values, y + offsets, s=9, color=colour, alpha=0.7, linewidths=0)
        if len(values):
            axis.plot([values.median()] * 2, [y - 0.38, y + 0.38], color=BLACK)


def tones(kinds: Sequence[str]) -> dict[str, str]:
    """A tone of its class's colour for each kind, dark to light in their order."""
    colours, found = colours_of(kinds, NEEDS_FAR), dict[str, str]()
    for colour in dict.fromkeys(colours.values()):
        like = [kind for kind in kinds if colours[kind] == colour]
        found |= dict(zip(like, looks.shades(colour, len(like)), strict=True))
    return found
