"""A selection as one self-contained HTML page: what was chosen from what, and both ends of the ranking.

``report.html`` is the page; here is what stands in it.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateau_lib.data.samples import Sample
from gateau_lib.scoring.score_table import Segments
from gateau_lib.study.errors import DataError
from gateau_lib.study.style import BLUE, GREY, ORANGE, RED, label, styled, svg

TEMPLATE = Path(__file__).with_name("report.html")
ENDS = 10  # samples shown from each end of the ranking
SEGMENTS_SHOWN = 3  # most important and most attended ones of a sample
LISTED = 50  # rows of a list that may be as long as the data
SNIPPET = 280  # characters
WARNING = (
    "the shipped tiny pair scored. It has only read synthetic text: "
    "do not train on this selection, give --short and --long"
)


def _axes(height: float = 2.8) -> tuple[Figure, Axes]:
    fig = Figure(figsize=(5.2, height), layout="constrained")
    return fig, fig.subplots()


@styled
def score_histogram(ranked: pd.DataFrame, name: str) -> Figure:
    """The score of every usable sample, chosen ones in red; columns ``score, chosen``."""
    fig, axis = _axes()
    scores = ranked.loc[ranked["chosen"], "score"], ranked.loc[~ranked["chosen"], "score"]
    axis.hist(scores, bins=30, stacked=True, color=[RED, GREY], label=["selected", "not selected"])
    axis.set(xlabel=name, ylabel="samples", title="Scores")
    axis.legend()
    return fig


@styled
def length_histogram(ranked: pd.DataFrame) -> Figure:
    """Lengths of the pool and of the selection as densities; columns ``tokens, chosen``."""
    fig, axis = _axes()
    bins = np.histogram_bin_edges(ranked["tokens"], 25)
    chosen = ranked[ranked["chosen"]]
    for part, colour, name in ((ranked, GREY, "all usable samples"), (chosen, RED, "selected")):
        line: dict[str, Any] = {"bins": bins, "histtype": "step", "color": colour, "linewidth": 1.8}
        axis.hist(part["tokens"], density=True, label=name, **line)
    axis.set(xlabel="tokens, uncut", ylabel="density", yticks=[], title="Lengths before and after")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend()
    return fig


@styled
def scatter(ranked: pd.DataFrame, x: str, y: str, name: str) -> Figure:
    """Two columns of the ranking against each other, chosen samples in red; the score is called ``name``."""
    fig, axis = _axes(3.2)
    for chosen, colour, part in ((False, BLUE, "not selected"), (True, RED, "selected")):
        rows = ranked[ranked["chosen"] == chosen]
        axis.scatter(rows[x], rows[y], s=14, color=colour, alpha=0.6, linewidths=0, label=part)
    across, up = ({"score": name, "tokens": "tokens, uncut"}.get(column, label(column)) for column in (x, y))
    axis.set(xlabel=across, ylabel=up, title=f"{up} against {label(x)}")
    if x == "tokens":
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend(loc="lower left", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


def shown(ranked: pd.DataFrame) -> pd.DataFrame:
    """Rows of both ends of the ranking, no near-identical samples; the index is the place in all of it."""
    distinct = ranked[ranked["twin"].isna()]
    return pd.concat([distinct.head(ENDS), distinct.tail(min(ENDS, max(0, len(distinct) - ENDS)))])


def page(given: Report) -> str:
    """The report as HTML; needs no other file and no network.

    Raises:
        DataError: segments that do not fit their sample.
    """
    ranked, called = given.ranked, label(given.name)
    parts = [name for name in ("hmg", "cam") if name in ranked and name != given.name]
    lines = [_line(place, row, parts, given) for place, row in shown(ranked).iterrows()]
    options: dict[str, Any] = {
        "trim_blocks": True,
        "lstrip_blocks": True,
        "undefined": jinja2.StrictUndefined,
    }
    pages = jinja2.Environment(autoescape=True, **options)
    pages.filters["snippet"] = snippet
    return pages.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        called=called,
        warning=WARNING if given.shipped else "",
        facts=given.facts,
        figures=[_encoded(fig) for fig in _figures(ranked, called)],
        lengths=_lengths(ranked),
        sources=_sources(ranked, given.quotas),
        segmented=bool(given.segments),
        columns=["rank", "score", *map(label, parts), "tokens", "cut"],
        top=lines[:ENDS],
        bottom=lines[ENDS:],
        twins=_twins(ranked),
        left_out=given.left_out,
        listed=LISTED,
        red=RED,
        blue=BLUE,
    )


def _figures(ranked: pd.DataFrame, called: str) -> list[Figure]:
    figures = [score_histogram(ranked, called), length_histogram(ranked)]
    figures.append(scatter(ranked, "tokens", "score", called))
    if {"hmg", "cam"} <= set(ranked.columns):
        figures.append(scatter(ranked, "hmg", "cam", called))
    return figures


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(text.split())
    if len(flat) <= SNIPPET:
        return flat
    head = flat[:SNIPPET].rsplit(" ", 1)[0]  # not inside a word, but some languages have no spaces
    return (head if len(head) > SNIPPET // 2 else flat[:SNIPPET]) + " …"


def _encoded(fig: Figure) -> tuple[str, str]:
    """Title, and the SVG in base64."""
    return fig.axes[0].get_title(loc="left"), base64.b64encode(svg(fig).encode()).decode()


def _lengths(ranked: pd.DataFrame) -> list[tuple[str | int, ...]]:
    """Tokens of the samples before and after, uncut: how many samples, their sum, quantiles."""
    distinct = ranked[ranked["twin"].isna()]
    parts = {"usable": ranked, "without near-identical": distinct, "selected": ranked[ranked["chosen"]]}
    if len(distinct) == len(ranked):
        del parts["without near-identical"]
    rows = []
    for name, part in parts.items():
        tokens = part["tokens"]
        quantiles = map(int, np.quantile(tokens, (0, 0.1, 0.5, 0.9, 1))) if len(part) else [""] * 5
        rows.append((name, len(part), int(tokens.sum()), *quantiles))
    return rows


def _sources(ranked: pd.DataFrame, quotas: Mapping[str, int]) -> list[tuple[str | int, ...]]:
    """Samples of each source, the largest first; none where no sample has one."""
    usable = Counter(ranked["source"])
    if set(usable) <= {""}:
        return []
    twins = Counter(ranked.loc[ranked["twin"].notna(), "source"])
    chosen = Counter(ranked.loc[ranked["chosen"], "source"])
    return [
        (name or "(no source)", usable[name], twins[name], quotas.get(name, "none"), chosen[name])
        for name in sorted(usable, key=lambda name: (-usable[name], name))
    ]


def _twins(ranked: pd.DataFrame) -> list[tuple[str, ...]]:
    gone = ranked[ranked["twin"].notna()]
    return [(row.id, row.twin, f"{row.similarity:.3f}", f"{row.score:#.4g}") for row in gone.itertuples()]


def _line(place: int, row: pd.Series, parts: Sequence[str], given: Report) -> dict[str, Any]:
    """A line of the ranking, with its segments if they are known."""
    sample, segments = given.samples[row["id"]], given.segments.get(row["id"])
    scores = [f"{row[name]:#.4g}" for name in ("score", *parts)]
    return {
        "sample": sample,
        "chosen": row["chosen"],
        "numbers": [f"{place + 1:,}", *scores, f"{row['tokens']:,}", f"{row['n_dropped']:,}"],
        "sides": segments and _sides(sample, segments),
    }


def _sides(sample: Sample, found: Segments) -> dict[str, Any]:
    """A sample's most important and most attended segments, and the strip of all of them."""
    nll, attention, chars = np.array(found.nll), np.array(found.attention), found.chars
    if not len(nll) == len(attention) == len(chars) - 1 or chars[-1] > len(sample.context):
        what = "the score table's segments are not those of its context; score this data again"
        raise DataError(f"sample {sample.id!r}: {what}")
    important = np.argsort(nll, kind="stable")[:SEGMENTS_SHOWN]
    attended = np.argsort(-attention, kind="stable")[:SEGMENTS_SHOWN]

    def segment(i: int, what: str) -> dict[str, Any]:
        place = f"{what}, at {chars[i] / len(sample.context):.0%} of the context"
        text = sample.context[chars[i] : chars[i + 1]]
        return {"place": place, "text": text, "both": i in important and i in attended}

    above = (nll.max() - nll) / (np.ptp(nll) or 1)
    below = attention / (attention.max() or 1)
    return {
        "note": f"{len(nll):,} segments, losses from {nll.min():.3f} to {nll.max():.3f}",
        "count": len(nll),
        "bars": [(BLUE, _outline(-above)), (ORANGE, _outline(below))],
        "important": [segment(i, f"loss {nll[i]:.3f}") for i in important],
        "attended": [segment(i, f"{attention[i]:.1%} of the attention") for i in attended],
    }


def _outline(heights: np.ndarray) -> str:
    """Bars of width 1 side by side as an SVG path, in [-1, 1], 1 downwards."""
    return "M0 0" + "".join(f"L{i} {20 * height:.3g}H{i + 1}" for i, height in enumerate(heights)) + "V0Z"


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    ``ranked`` holds the usable samples, best first, index 0, 1, ..., with the columns ``id, score, tokens,
    n_dropped, chosen, source, twin, similarity`` and, if scored, ``hmg, cam``.
    """

    ranked: pd.DataFrame
    samples: Mapping[str, Sample]  # by id
    facts: Sequence[tuple[str, str]]  # rows of the table at the top
    name: str  # of the score, as `select` takes it
    quotas: Mapping[str, int] = field(default_factory=dict)  # source -> samples at most
    segments: Mapping[str, Segments] = field(default_factory=dict)  # by id
    left_out: Sequence[tuple[str, str]] = ()  # id and reason
    shipped: bool = False  # the tiny pair scored
