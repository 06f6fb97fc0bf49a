"""A selection as one self-contained HTML page: what was chosen from what, and the samples at both ends of the ranking."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.data.samples import Sample
from gateau_lib.scoring.score_table import Segments
from gateau_lib.study.errors import DataError
from gateau_lib.study.style import BLUE, GREY, ORANGE, RED, label, styled, svg

ENDS = 10  # samples shown from each end of the ranking
SEGMENTS_SHOWN = 3  # most important and most attended ones of a sample
LISTED = 50  # rows of a list that may be as long as the data
SNIPPET = 280  # characters
WARNING = "the shipped tiny pair scored. It has only read synthetic text: do not train on this selection, give --short and --long"
LEGEND = (
    'The <b class="important">most important</b> segments make the response likeliest when the model reads one alone with the '
    "instruction (loss in nats a token, low is important). The "
    '<b class="attended">most attended</b> ones get the largest share of the attention of the response in the whole sample, '
    "averaged over layers. A segment in both lists is shaded. The strip shows all segments from the beginning of what was read "
    "to its end: upwards how far the loss lies below the sample's highest, in parts of the range that is given; downwards "
    "the share of attention, in parts of the largest."
)
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; width: 100%; margin: .6rem 0 1.6rem }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }}
th {{ white-space: nowrap }} td.id {{ min-width: 11rem }} table.plain {{ width: auto }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
.warning {{ border-left: 4px solid {red}; background: #fff3ec; padding: .6rem 1rem }}
.note {{ color: #666; font-size: .9em }} tr.sample td {{ border-top: 2px solid #bbb; border-bottom: none }}
tr.sample.chosen td:first-child {{ border-left: 4px solid {red} }}
.sides {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; font-size: .9em }} .sides p {{ margin: .3rem 0 }}
.both {{ background: #fff6d6 }} .strip {{ display: block; width: 100%; height: 44px; margin: .3rem 0 }}
.important {{ color: {blue} }} .attended {{ color: #9a6700 }} img {{ max-width: 100% }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""


@styled
def score_histogram(ranked: pd.DataFrame, name: str) -> Figure:
    """The score of every usable sample, chosen ones in red; columns ``score, chosen``."""
    fig = Figure(figsize=(5.2, 2.8), layout="constrained")
    axis = fig.subplots()
    chosen = ranked.loc[ranked["chosen"], "score"], ranked.loc[~ranked["chosen"], "score"]
    axis.hist(chosen, bins=30, stacked=True, color=[RED, GREY], label=["selected", "not selected"])
    axis.set(xlabel=name, ylabel="samples", title="Scores")
    axis.legend()
    return fig


@styled
def length_histogram(ranked: pd.DataFrame) -> Figure:
    """Lengths of the pool and of the selection as densities; columns ``tokens, chosen``."""
    fig = Figure(figsize=(5.2, 2.8), layout="constrained")
    axis = fig.subplots()
    bins = np.histogram_bin_edges(ranked["tokens"], 25)
    for part, colour, name in ((ranked, GREY, "all usable samples"), (ranked[ranked["chosen"]], RED, "selected")):
        axis.hist(part["tokens"], bins=bins, density=True, histtype="step", color=colour, linewidth=1.8, label=name)
    axis.set(xlabel="tokens, uncut", ylabel="density", yticks=[], title="Lengths before and after")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend()
    return fig


@styled
def scatter(ranked: pd.DataFrame, x: str, y: str, name: str) -> Figure:
    """Two columns of the ranking against each other, chosen samples in red; ``name``: what the score is called."""
    fig = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = fig.subplots()
    for chosen, colour, part in ((False, BLUE, "not selected"), (True, RED, "selected")):
        rows = ranked[ranked["chosen"] == chosen]
        axis.scatter(rows[x], rows[y], s=14, color=colour, alpha=0.6, linewidths=0, label=part)
    across, up = ({"score": name, "tokens": "tokens, uncut"}.get(column, label(column)) for column in (x, y))
    axis.set(xlabel=across, ylabel=up, title=f"{up} against {label(x)}")
    axis.xaxis.set_major_formatter("{x:,.0f}" if x == "tokens" else axis.xaxis.get_major_formatter())
    axis.legend(loc="lower left", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


def shown(ranked: pd.DataFrame) -> pd.DataFrame:
    """Rows of both ends of the ranking, near-identical samples left out; the index is the place in the whole ranking."""
    distinct = ranked[ranked["twin"].isna()]
    return pd.concat([distinct.head(ENDS), distinct.tail(min(ENDS, max(0, len(distinct) - ENDS)))])


def page(given: Report) -> str:
    """The report as HTML; needs no other file and no network.

    Raises:
        DataError: segments that do not fit their sample.
    """
    ranked, called = given.ranked, label(given.name)
    figures = [score_histogram(ranked, called), length_histogram(ranked), scatter(ranked, "tokens", "score", called)]
    if {"hmg", "cam"} <= set(ranked.columns):
        figures.append(scatter(ranked, "hmg", "cam", called))
    rows = shown(ranked)
    top, bottom = rows.head(ENDS), rows.iloc[ENDS:]
    body = [f'<p class="warning"><b>Warning:</b> {escape(WARNING)}.</p>' if given.shipped else ""]
    facts = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in given.facts)
    body += [f'<table class="plain">{facts}</table>']
    body += ["<h2>What was chosen</h2>", f"<p>{' '.join(_image(fig) for fig in figures)}</p>", _lengths(ranked)]
    body += [_sources(ranked, given.quotas)] if set(ranked["source"]) - {""} else []
    if given.segments:
        body += [f"<h2>How to read the segments</h2><p>{LEGEND}</p>"]
    body += [f"<h2>The first {len(top)} of the ranking</h2><p>A red mark on the left: selected.</p>", _samples(top, given)]
    body += [f"<h2>The last {len(bottom)} of the ranking</h2>", _samples(bottom, given)]
    if ranked["twin"].notna().any():
        body += ["<h2>Dropped as near-identical</h2>", _twins(ranked)]
    if given.left_out:
        body += ["<h2>Left out: not scored</h2>", _list(("id", "reason"), given.left_out)]
    return PAGE.format(title=f"Selection by {escape(called)}", body="\n".join(filter(None, body)), red=RED, blue=BLUE)


def _image(fig: Figure) -> str:
    title, data = fig.axes[0].get_title(loc="left"), base64.b64encode(svg(fig).encode()).decode()
    return f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'


def _snippet(text: str) -> str:
    flat = " ".join(text.split())
    if len(flat) <= SNIPPET:
        return escape(flat)
    head = flat[:SNIPPET].rsplit(" ", 1)[0]  # not inside a word, but some languages have no spaces
    return escape(head if len(head) > SNIPPET // 2 else flat[:SNIPPET]) + " …"


def _table(head: Sequence[str], rows: Iterable[Sequence[str | float | int]]) -> str:
    """Texts to the left, numbers to the right."""
    cells = [f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>"]
    for row in rows:
        made = [f"<td>{escape(v)}</td>" if isinstance(v, str) else f'<td class="n">{v:,}</td>' for v in row]
        cells.append(f"<tr>{''.join(made)}</tr>")
    return f'<table class="plain">{"".join(cells)}</table>'


def _list(head: Sequence[str], rows: Sequence[Sequence[str | float | int]]) -> str:
    more = f'<p class="note">and {len(rows) - LISTED:,} more</p>' if len(rows) > LISTED else ""
    return _table(head, rows[:LISTED]) + more


def _lengths(ranked: pd.DataFrame) -> str:
    """Tokens of the samples before and after, uncut."""
    parts = {"usable": ranked, "without near-identical": ranked[ranked["twin"].isna()], "selected": ranked[ranked["chosen"]]}
    if not ranked["twin"].notna().any():
        del parts["without near-identical"]
    rows = []
    for name, part in parts.items():
        middle = [int(v) for v in np.quantile(part["tokens"], (0, 0.1, 0.5, 0.9, 1))] if len(part) else [""] * 5
        rows.append((name, len(part), int(part["tokens"].sum()), *middle))
    return _table(("tokens, uncut", "samples", "all together", "shortest", "10 %", "median", "90 %", "longest"), rows)


def _sources(ranked: pd.DataFrame, quotas: Mapping[str, int]) -> str:
    parts = [Counter(rows["source"]) for rows in (ranked, ranked[ranked["twin"].notna()], ranked[ranked["chosen"]])]
    names = sorted(parts[0], key=lambda name: (-parts[0][name], name))
    rows = [(name or "(no source)", parts[0][name], parts[1][name], quotas.get(name, "none"), parts[2][name]) for name in names]
    return _table(("source", "usable", "near-identical", "at most", "selected"), rows)


def _twins(ranked: pd.DataFrame) -> str:
    gone = ranked[ranked["twin"].notna()]
    rows = [(row.id, row.twin, f"{row.similarity:.3f}", f"{row.score:#.4g}") for row in gone.itertuples()]
    return _list(("dropped", "kept for it", "Jaccard index", "score of the dropped"), rows)


def _samples(rows: pd.DataFrame, given: Report) -> str:
    parts = [name for name in ("hmg", "cam") if name in rows and name != given.name]
    numeric = ["rank", "score", *map(label, parts), "tokens", "cut"]
    head = "".join(f'<th class="n">{name}</th>' for name in numeric) + "<th>id</th><th>instruction</th><th>response</th>"
    lines = []
    for place, row in zip(rows.index, rows.to_dict("records"), strict=True):
        sample = given.samples[row["id"]]
        numbers = [f"{place + 1:,}", f"{row['score']:#.4g}", *(f"{row[name]:#.4g}" for name in parts)]
        numbers += [f"{row['tokens']:,}", f"{row['n_dropped']:,}"]
        cells = "".join(f'<td class="n">{number}</td>' for number in numbers)
        note = f'<br><span class="note">{escape(sample.source)}</span>' if sample.source else ""
        cells += f'<td class="id">{escape(row["id"])}{note}</td>'
        cells += f"<td>{_snippet(sample.instruction)}</td><td>{_snippet(sample.response)}</td>"
        lines.append(f'<tr class="sample{" chosen" if row["chosen"] else ""}">{cells}</tr>')
        if row["id"] in given.segments:
            lines.append(f'<tr><td colspan="{len(numeric) + 3}">{_sides(sample, given.segments[row["id"]])}</td></tr>')
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"


def _sides(sample: Sample, found: Segments) -> str:
    """A sample's most important and most attended segments side by side, below a strip of all of them."""
    nll, attention, chars = np.array(found.nll), np.array(found.attention), found.chars
    if not len(nll) == len(attention) == len(chars) - 1 or chars[-1] > len(sample.context):
        raise DataError(f"sample {sample.id!r}: the score table's segments are not those of its context; score this data again")
    lowest, largest = np.argsort(nll, kind="stable")[:SEGMENTS_SHOWN], np.argsort(-attention, kind="stable")[:SEGMENTS_SHOWN]

    def side(order: np.ndarray, number: np.ndarray, write: str, other: np.ndarray) -> str:
        lines = []
        for i in order:
            place = f"{write.format(number[i])}, at {chars[i] / len(sample.context):.0%} of the context"
            text = _snippet(sample.context[chars[i] : chars[i + 1]])
            lines.append(f'<p{" class=both" if i in other else ""}><span class="note">{place}</span><br>{text}</p>')
        return "".join(lines)

    left = side(lowest, nll, "loss {:.3f}", largest)
    right = side(largest, attention, "{:.1%} of the attention", lowest)
    heads = f'<div><b class="important">most important</b>{left}</div><div><b class="attended">most attended</b>{right}</div>'
    strip = _strip((nll.max() - nll) / (np.ptp(nll) or 1), attention / (attention.max() or 1))
    note = f'<span class="note">{len(nll):,} segments, losses from {nll.min():.3f} to {nll.max():.3f}</span>'
    return f'{note}{strip}<div class="sides">{heads}</div>'


def _strip(up: np.ndarray, down: np.ndarray) -> str:
    """Two rows of bars on one axis, values in [0, 1]."""
    bars = [f'<svg class="strip" viewBox="0 -20 {len(up)} 40" preserveAspectRatio="none" role="img" aria-label="all segments">']
    for values, colour, sign in ((up, BLUE, -1), (down, ORANGE, 1)):
        path = "".join(f"L{i} {20 * sign * v:.3g}H{i + 1}" for i, v in enumerate(values))
        bars.append(f'<path fill="{colour}" d="M0 0{path}V0Z"/>')
    return "".join(bars) + "</svg>"


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    ``ranked`` holds the usable samples, best first, index 0, 1, ..., with the columns ``id, score, tokens, n_dropped, chosen,
    source, twin, similarity`` and, if scored, ``hmg, cam``.
    """

    ranked: pd.DataFrame
    samples: Mapping[str, Sample]  # by id
    facts: Sequence[tuple[str, str]]  # rows of the table at the top
    name: str  # of the score, as `select` takes it
    quotas: Mapping[str, int] = field(default_factory=dict)  # source -> samples at most
    segments: Mapping[str, Segments] = field(default_factory=dict)  # by id
    left_out: Sequence[tuple[str, str]] = ()  # id and reason
    shipped: bool = False  # the tiny pair scored
