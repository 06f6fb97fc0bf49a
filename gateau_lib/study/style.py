"""The house style of the figures: colours for colour-blind readers too, names of methods, byte-stable SVG."""

import io
import re
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.study import evidence, labels, looks
from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write

# Whatever has an identity has its colour in `looks`.
BLACK, GREY = "#000000", looks.GREY
WIDTH = 7.5  # inches at most, 720 pixels: what the site's column shows without making letters smaller
SMALL = 7  # points, 9 pixels: the smallest letters
STYLE: Any = {
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"], "font.size": 9,
    "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.6,
    "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.6, "figure.facecolor": "white",
    "svg.fonttype": "none", "svg.hashsalt": "gateau",  # text stays text, the same numbers give the same bytes
}  # fmt: skip
styled = matplotlib.rc_context(STYLE)  # decorates a function that draws
_SHOWN: dict[str, dict[str, int]] = {}  # chapter -> figure -> number, in order of appearance


def label(method: str) -> str:
    """The name a reader sees for a method of the metrics rows."""
    known = [name for name in (labels.SAME.get(method), method) if name in labels.LABELS]
    return labels.LABELS[known[0]] if known else method.replace("_", " ")


def condition(name: str) -> str:
    """The words for a condition of the metrics rows: a composition, a length in tokens, a way to train."""
    if name.isdigit():
        return f"at {int(name):,} tokens"
    return labels.CONDITIONS.get(name) or label(name)


def look(method: str, place: int = 0) -> dict[str, str]:
    """Colour and marker of a method, model or arm, the same in every figure; see `looks.look`."""
    colour, marker = looks.look(method, place)
    return {"color": colour, "marker": marker}


def text_table(frame: pd.DataFrame) -> Any:
    """A table of words, without its index, as Markdown: viewers set the cells of pandas' own to the right."""
    from IPython.display import Markdown

    rows = [[str(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)]
    head = [[str(name) for name in frame], ["---"] * len(frame.columns)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in head + rows)
    return Markdown(text)  # type: ignore[no-untyped-call]


def show(study: Study, fig: Figure, name: str) -> "Shown":
    """Write ``figures/<name>.svg`` of the study, byte-stable; what is returned a notebook can display.

    Its caption is the figure's label, numbered within the chapter that the name begins with.
    """
    path = atomic_write(evidence.place(study, "figures", name, "svg"), svg(fig))
    chapter = name.partition("_")[0]
    places = _SHOWN.setdefault(chapter, {})
    number = places.setdefault(name, len(places) + 1)
    return Shown(path, f"**Figure {chapter.lstrip('0')}.{number}** {fig.get_label()}")


class Shown(NamedTuple):
    """A figure's file and its caption, Markdown; a notebook displays the one above the other."""

    path: Path
    caption: str

    def _ipython_display_(self) -> None:
        from IPython.display import SVG, Markdown, display

        display(SVG(filename=str(self.path)), Markdown(self.caption))  # type: ignore[no-untyped-call]


def svg(fig: Figure) -> str:
    """The figure as SVG text; its label is what a screen reader reads."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib ends some lines with spaces.
    text = "\n".join(map(str.rstrip, out.getvalue().splitlines())) + "\n"
    title = f"<title>{escape(str(fig.get_label()))}</title>"
    return re.sub(r"<svg [^>]*>", lambda opening: f"{opening[0]}\n {title}", text, count=1)
