"""A selection as one self-contained HTML page: what was chosen from what, and the samples at both ends of the ranking."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.samples import Sample
from gateau_lib.style import BLUE, GREY, RED, label, styled, svg

ENDS = 10  # samples shown from each end of the ranking
SNIPPET = 280  # characters
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; width: 100%; margin: .6rem 0 1.6rem }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #ddd; overflow-wrap: anywhere }}
th {{ white-space: nowrap }} td.id {{ min-width: 9rem }} table.facts {{ width: auto }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }}
img {{ max-width: 100% }}
</style></head><body>
<h1>{title}</h1>
{facts}
<h2>What was chosen</h2>
<p>{figures}</p>
<h2>The first {first} of the ranking</h2>
{top}
<h2>The last {last} of the ranking</h2>
{bottom}
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


def _image(fig: Figure) -> str:
    title, data = fig.axes[0].get_title(loc="left"), base64.b64encode(svg(fig).encode()).decode()
    return f'<img alt="{escape(title)}" src="data:image/svg+xml;base64,{data}">'


def _snippet(text: str) -> str:
    flat = " ".join(text.split())
    if len(flat) <= SNIPPET:
        return escape(flat)
    head = flat[:SNIPPET].rsplit(" ", 1)[0]  # not inside a word, but some languages have no spaces
    return escape(head if len(head) > SNIPPET // 2 else flat[:SNIPPET]) + " …"


def _rows(ranked: pd.DataFrame, samples: Mapping[str, Sample]) -> str:
    head = '<tr><th class="n">rank</th><th>id</th><th class="n">score</th><th class="n">tokens</th>'
    head += "<th>instruction</th><th>response</th></tr>"
    lines = []
    for row in ranked.itertuples():
        sample = samples[row.id]
        numbers = f'<td class="n">{row.Index + 1}</td><td class="id">{escape(row.id)}</td><td class="n">{row.score:#.4g}</td>'
        numbers += f'<td class="n">{row.tokens:,}</td>'
        lines.append(f"<tr>{numbers}<td>{_snippet(sample.instruction)}</td><td>{_snippet(sample.response)}</td></tr>")
    return f"<table>{head}{''.join(lines)}</table>"


def page(ranked: pd.DataFrame, samples: Mapping[str, Sample], facts: Sequence[tuple[str, Any]], name: str) -> str:
    """The report as HTML; needs no other file and no network.

    Args:
        ranked: usable samples, best first, index 0, 1, ...; columns ``id, score, tokens, chosen`` and, if scored, ``hmg, cam``.
        samples: by id.
        facts: rows of the table at the top.
        name: the score's name, as `select` takes it.
    """
    called = label(name)
    figures = [score_histogram(ranked, called), length_histogram(ranked), scatter(ranked, "tokens", "score", called)]
    if {"hmg", "cam"} <= set(ranked.columns):
        figures.append(scatter(ranked, "hmg", "cam", called))
    top, bottom = ranked.head(ENDS), ranked.tail(min(ENDS, max(0, len(ranked) - ENDS)))
    table = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in facts)
    return PAGE.format(
        title=f"Selection by {escape(called)}",
        facts=f'<table class="facts">{table}</table>',
        figures=" ".join(_image(fig) for fig in figures),
        first=len(top),
        last=len(bottom),
        top=_rows(top, samples),
        bottom=_rows(bottom, samples),
    )
