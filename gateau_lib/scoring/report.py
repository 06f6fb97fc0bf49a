"""A selection as one HTML page, ``report.html``: what was chosen from what, and both ends of the ranking.

In it the pool can be ranked anew, with the views and the formulas of the study's explorer (`explorer_page`).
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateau_lib.data.samples import Sample
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import explorer_data
from gateau_lib.scoring.explorer_page import filled
from gateau_lib.scoring.score_table import Segments
from gateau_lib.study import looks
from gateau_lib.study.errors import DataError
from gateau_lib.study.style import GREY, styled, svg

CHOSEN = looks.PLACES[0]
ENDS = 10  # samples shown from each end of the ranking
SEGMENTS_SHOWN = 3  # most important and most attended ones of a sample
LISTED = 50  # rows of a list that may be as long as the data
DOTS = 4000  # samples drawn one by one, so that a figure stays small
SNIPPET = 280  # characters
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}  # a legend hides no bar
WARNING = (
    "the shipped tiny pair scored. It has only read synthetic text: "
    "do not train on this selection, give --short and --long"
)


def _axes(height: float = 2.8) -> tuple[Figure, Axes]:
    fig = Figure(figsize=(5.2, height), layout="constrained")
    return fig, fig.subplots()


@styled
def score_histogram(ranked: pd.DataFrame, name: str) -> Figure:
    """The score of every usable sample, chosen ones in a colour; columns ``score, chosen``."""
    fig, axis = _axes()
    scores = [ranked.loc[ranked["chosen"] == chosen, "score"] for chosen in (True, False)]
    axis.hist(scores, bins=30, stacked=True, color=[CHOSEN, GREY], label=["selected", "not selected"])
    axis.set(xlabel=name, ylabel="samples", title="Scores")
    axis.legend(**ABOVE)
    return fig


@styled
def length_histogram(ranked: pd.DataFrame) -> Figure:
    """Lengths of the pool and of the selection as densities; columns ``tokens, chosen``."""
    fig, axis = _axes()
    line: dict[str, Any] = {"bins": np.histogram_bin_edges(ranked["tokens"], 25), "histtype": "step"}
    chosen = ranked[ranked["chosen"]]
    for part, colour, name in ((ranked, GREY, "all usable samples"), (chosen, CHOSEN, "selected")):
        axis.hist(part["tokens"], density=True, label=name, color=colour, linewidth=1.8, **line)
    axis.set(xlabel="tokens, uncut", ylabel="density", yticks=[], title="Lengths before and after")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend(**ABOVE)
    return fig


@styled
def scatter(ranked: pd.DataFrame, x: str, y: str, name: str) -> Figure:
    """Two columns of the ranking against each other, chosen in a colour; the score is called ``name``.

    At most `DOTS` samples are drawn.
    """
    fig, axis = _axes(3.2)
    ranked = explorer_data.thinned(ranked, DOTS)
    for chosen, colour, part in ((False, GREY, "not selected"), (True, CHOSEN, "selected")):
        rows = ranked[ranked["chosen"] == chosen]
        axis.scatter(rows[x], rows[y], s=14, color=colour, alpha=0.6, linewidths=0, label=part)
    across, up = (
        {"score": name, "tokens": "tokens, uncut"}.get(column, explorer_data.title(column))
        for column in (x, y)
    )
    axis.set(xlabel=across, ylabel=up, title=f"{up} against {explorer_data.title(x)}")
    if x == "tokens":
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend(**ABOVE)
    return fig


def shown(ranked: pd.DataFrame) -> pd.DataFrame:
    """Rows of both ends of the ranking, no near-identical samples; the index is the place in all of it."""
    distinct = np.flatnonzero(ranked["twin"].isna())
    return ranked.iloc[np.concatenate([distinct[:ENDS], distinct[ENDS:][-ENDS:]])]


def page(
    ranked: pd.DataFrame,
    samples: Mapping[str, Sample],
    segments: Mapping[str, Segments],
    quotas: Mapping[str, int],
    name: str,
    options: RankOptions,
    about: Mapping[str, Any],
    **more: Any,
) -> str:
    """The report as HTML; needs no other file and no network.

    ``ranked``: the usable samples, best first, index 0, 1, ..., with the columns ``id, score, tokens,
        n_dropped, chosen, source, twin, similarity`` and those of the score table that are not empty.
    ``samples, segments``: by id. ``quotas``: source -> samples at most. ``name``: of the score.
    ``options``: of the ranking. ``about``: what the table says of itself.
    ``more``: ``facts`` (rows of the table at the top), ``left_out`` (id and reason), ``warnings``.
    Raises DataError: segments that do not fit their sample.
    """
    called, gone = explorer_data.title(name), ranked[ranked["twin"].notna()]
    parts = [part for part in ("hmg", "cam") if part in ranked and part != name]
    lines = []
    for place, row in shown(ranked).iterrows():
        sample, found = samples[row["id"]], segments.get(row["id"])
        told = [f"{row[part]:#.4g}" if pd.notna(row[part]) else "–" for part in ("score", *parts)]
        numbers = [f"{place + 1:,}", *told]
        numbers += [f"{row['tokens']:,}", f"{row['n_dropped']:,}"]
        sides = found and _sides(sample, found)
        lines.append({"sample": sample, "chosen": row["chosen"], "numbers": numbers, "sides": sides})
    figures = [score_histogram(ranked, called), length_histogram(ranked)]
    figures.append(scatter(ranked, "tokens", "score", called))
    if {"hmg", "cam"} <= set(ranked.columns):
        figures.append(scatter(ranked, "hmg", "cam", called))
    ends = shown(ranked)["id"].tolist()
    data = explorer_data.collect(ranked, ends, samples, segments, quotas, name, options, about)
    pool = data.get("pool", [])
    more |= {"called": called, "listed": LISTED, "snippet": snippet, "dots": DOTS}
    more |= {"lengths": _lengths(ranked), "sources": _sources(ranked, quotas)}
    more |= {"pool": len(pool), "among": len(ranked), "limited": bool(quotas)}
    more |= {"exact": name in ("gateau", *explorer_data.ALPHA), "attention": bool(pool and "nll" in pool[0])}
    return filled(
        Path(__file__).with_name("report.html"),
        json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
        figures=[(f.axes[0].get_title(loc="left"), b64encode(svg(f).encode()).decode()) for f in figures],
        columns=["rank", "score", *map(explorer_data.title, parts), "tokens", "cut"],
        top=lines[:ENDS],
        bottom=lines[ENDS:],
        twins=[(r.id, r.twin, f"{r.similarity:.3f}", f"{r.score:#.4g}") for r in gone.itertuples()],
        segmented=any("segments" in sample for sample in data["shown"].values()),
        **more,
    )


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(text.split())
    if len(flat) <= SNIPPET:
        return flat
    head = flat[:SNIPPET].rsplit(" ", 1)[0]  # not inside a word, but some languages have no spaces
    return (head if len(head) > SNIPPET // 2 else flat[:SNIPPET]) + " …"


def _lengths(ranked: pd.DataFrame) -> list[tuple[str | int, ...]]:
    """Tokens of the samples before and after, uncut: how many samples, their sum, quantiles."""
    tokens, distinct = ranked["tokens"], ranked["twin"].isna()
    parts = {
        "usable": tokens,
        "without near-identical": tokens[distinct],
        "selected": tokens[ranked["chosen"]],
    }
    if distinct.all():
        del parts["without near-identical"]
    rows = []
    for name, part in parts.items():
        quantiles = map(int, np.quantile(part, (0, 0.1, 0.5, 0.9, 1))) if len(part) else [""] * 5
        rows.append((name, len(part), int(part.sum()), *quantiles))
    return rows


def _sources(ranked: pd.DataFrame, quotas: Mapping[str, int]) -> list[tuple[str | int, ...]]:
    """Samples of each source, the largest first; none where no sample has one."""
    if (ranked["source"] == "").all():
        return []
    groups = ranked.groupby("source", observed=True)
    counts = groups[["id", "twin"]].count().join(groups["chosen"].sum()).sort_index()
    largest_first = counts.sort_values("id", ascending=False, kind="stable")
    return [
        (source or "(no source)", usable, twins, quotas.get(source, "none"), chosen)
        for source, usable, twins, chosen in largest_first.itertuples()
    ]


def _sides(sample: Sample, found: Segments) -> dict[str, Any]:
    """A sample's most important and most attended segments, and the strip of all of them."""
    nll, attention, chars = np.array(found.nll), np.array(found.attention), found.chars
    if not len(nll) == len(attention) == len(chars) - 1 or chars[-1] > len(sample.context):
        what = "the score table's segments are not those of its context; score this data again"
        raise DataError(f"sample {sample.id!r}: {what}")
    important, attended = (np.argsort(v, kind="stable")[:SEGMENTS_SHOWN] for v in (nll, -attention))

    def segment(i: int, what: str) -> dict[str, Any]:
        place = f"{what}, at {chars[i] / len(sample.context):.0%} of the context"
        text = sample.context[chars[i] : chars[i + 1]]
        text = text or "(no text of its own: the tokenizer takes a run of unknown characters as one)"
        return {"place": place, "text": text, "both": i in important and i in attended}

    above, below = (nll.max() - nll) / (np.ptp(nll) or 1), attention / (attention.max() or 1)
    return {
        "note": f"{len(nll):,} segments, losses from {nll.min():.3f} to {nll.max():.3f}",
        "count": len(nll),
        "bars": [("important", _outline(-above)), ("attended", _outline(below))],
        "important": [segment(i, f"loss {nll[i]:.3f}") for i in important],
        "attended": [segment(i, f"{attention[i]:.1%} of the attention") for i in attended],
    }


def _outline(heights: np.ndarray) -> str:
    """Bars of width 1 side by side as an SVG path, in [-1, 1], 1 downwards."""
    return "M0 0" + "".join(f"L{i} {20 * height:.3g}H{i + 1}" for i, height in enumerate(heights)) + "V0Z"
