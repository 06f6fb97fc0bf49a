"""A selection: scores joined with their data, ranked, chosen, written, reported."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.longalign import from_record, read_records
from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, name_in_figures, selection
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import dedup, report
from gateau_lib.scoring.score_table import LENGTHS, Table, read_scores, usable
from gateau_lib.study.errors import DataError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.whole_files import atomic_write

name_in_figures()


@dataclass(frozen=True)
class Selection:
    """What is to be selected, how, and where it goes.

    Raises:
        DataError: settings that make no sense by themselves.
    """

    scores: Path  # of gateau_lib.score
    data: Path  # that was scored
    out: Path
    score: str = "gateau"  # name of the method that ranks
    ranking: RankOptions = field(default_factory=RankOptions)
    fraction: float = 0.1  # of the usable samples, unless ``top`` is given
    top: int | None = None  # samples
    per_source: bool = False  # that share or number of every source by itself
    quota: tuple[str, ...] = ()  # SOURCE=N, at most N samples of this source
    dedup: float | None = (
        None  # Jaccard index of contexts from which on the better-scored one stands for both
    )

    def __post_init__(self) -> None:
        if (
            not 0 < self.fraction <= 1
            or not 0 <= self.ranking.alpha <= 1
            or (self.top is not None and self.top < 1)
        ):
            raise DataError("--fraction must lie in (0, 1], --alpha in [0, 1], and --top must be at least 1")
        if self.dedup is not None and not 0 < self.dedup <= 1:
            raise DataError(f"--dedup {self.dedup:g}: must lie in (0, 1]; 0.8 is usual")
        beside = [self.report] if self.dedup is None else [self.report, self.dropped]
        check_out(self.out, [self.data, self.scores], beside)

    @property
    def report(self) -> Path:
        """The report beside the selection."""
        return self.out.with_suffix(".report.html")

    @property
    def dropped(self) -> Path:
        """Whom ``dedup`` dropped, and for whom."""
        return self.out.with_suffix(".dropped.jsonl")


def read_data(path: Path) -> dict[str, tuple[Any, str]]:
    """Records and their places by id; the first record with an id counts, as in scoring."""
    sharded.check_file(path)
    found: dict[str, tuple[Any, str]] = {}
    for where, record in read_records(path):
        if isinstance(record, dict) and record.get("id") not in (None, ""):
            # Half a surrogate pair (escaped in JSON) is no text that a score table can hold.
            found.setdefault(str(record["id"]).encode("utf-8", "replace").decode(), (record, where))
    return found


def check_join(rows: Sequence[dict[str, Any]], records: dict[str, Any], scores: Path, data: Path) -> None:
    """Raise DataError unless scores and data hold the same ids."""
    scored = {row["id"] for row in rows if row["id"] is not None}
    if lost := sorted(scored - records.keys()):
        raise DataError(
            f"{data}: {len(lost)} scored ids are not in it (first {lost[0]!r}); give the data that was scored"
        )
    if new := sorted(records.keys() - scored):
        raise DataError(
            f"{scores}: {len(new)} records of {data} have no row (first {new[0]!r}); score the data again"
        )


def rank(pool: pd.DataFrame, score: str, options: RankOptions) -> pd.DataFrame:
    """The pool best first, with the column ``score``; columns without any value are left out."""
    scores = METHODS[score].rank(pool, options)
    ranking = selection.top_fraction(pool["id"].tolist(), scores, 1.0)
    ranked = pool.assign(score=scores).set_index("id").loc[ranking].reset_index()
    return ranked.dropna(axis="columns", how="all")


def add_twins(ranked: pd.DataFrame, contexts: Sequence[str], threshold: float | None) -> pd.DataFrame:
    """The ranking with the columns ``twin``, the better sample of nearly the same context or None, and
    ``similarity``."""
    found = {} if threshold is None else dedup.near_identical(ranked["id"].tolist(), contexts, threshold)
    twins = [found.get(name, (None, None)) for name in ranked["id"]]
    return ranked.assign(
        twin=pd.Series([t for t, _ in twins], dtype=object), similarity=[s for _, s in twins]
    )


def quotas_of(asked: Selection, distinct: pd.DataFrame) -> dict[str, int]:
    """Source -> samples at most, from ``--quota`` and ``--per-source``.

    Raises:
        DataError: not of the form SOURCE=N, a source that no sample has, or no sources at all.
    """
    sources = Counter(distinct["source"])
    if (asked.quota or asked.per_source) and not set(sources) - {""}:
        raise DataError(
            f"{asked.data}: no usable record has a 'source'; leave out --quota and --per-source, or add the field"
        )
    quotas: dict[str, int] = {}
    for text in asked.quota:
        source, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal():
            raise DataError(f"--quota {text}: write SOURCE=N with a number of samples N")
        if source not in sources:
            known = ", ".join(map(repr, sorted(sources)[:8])) + (", ..." if len(sources) > 8 else "")
            raise DataError(f"--quota {text}: no usable sample has this source; there are {known}")
        quotas[source] = min(int(number), quotas.get(source, len(distinct)))
    if asked.per_source:
        share = {
            source: asked.top if asked.top is not None else selection.size(n, asked.fraction)
            for source, n in sources.items()
        }
        quotas = {source: min(n, quotas.get(source, n)) for source, n in share.items()}
    return quotas


def choose(ranked: pd.DataFrame, asked: Selection) -> tuple[pd.DataFrame, dict[str, int]]:
    """The ranking with the column ``chosen``, and the quotas; needs the columns ``source, twin``.

    Raises:
        DataError: more samples asked for than there are, or bad quotas.
    """
    distinct = ranked[ranked["twin"].isna()]
    quotas = quotas_of(asked, distinct)
    if asked.per_source:
        many = len(distinct)
    elif asked.top is None:
        many = selection.size(len(distinct), asked.fraction)
    elif asked.top <= len(distinct):
        many = asked.top
    else:
        left = "" if len(distinct) == len(ranked) else " after near-identical ones were dropped"
        raise DataError(
            f"--top {asked.top}: only {len(distinct)} samples are usable{left}; give at most that"
        )
    sources = dict(zip(distinct["id"], distinct["source"], strict=True))
    return ranked.assign(
        chosen=ranked["id"].isin(selection.within_quotas(list(sources), sources, quotas, many))
    ), quotas


def scoring_of(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which models scored, and how, as far as the table says."""
    if "models" not in about:
        return [("models", "not named in the score table")]
    models = [f"{role}: {model['name']}" for role, model in sorted(about["models"].items(), reverse=True)]
    models = ["the shipped tiny pair"] if about.get("shipped_pair") else models
    how = f"at most {about['max_length']:,} tokens a sample, segments of {about['segment_length']:,}"
    how += f", short model reads by {about['reading']}" if "short" in about["models"] else ""
    how += ", the tokenizer's chat template" if about["chat"] else ", plain prompt"
    return [("models", ", ".join([*models, about["dtype"]])), ("scored", how)]


def facts_of(
    ranked: pd.DataFrame, why: Counter[str], asked: Selection, table: Table
) -> list[tuple[str, str]]:
    """What the summary and the report say about a selection."""
    how, options = asked.score, asked.ranking
    if asked.score == "gateau":
        how += f", combined by {options.combine}, alpha {options.alpha:g}"
    elif asked.score == "random":
        how += f", seed {options.seed}"
    many = f"the best {asked.top:,}" if asked.top is not None else f"the best {100 * asked.fraction:.6g} %"
    many += " in each source" if asked.per_source else ""
    many += f", at most {', '.join(asked.quota)}" if asked.quota else ""
    facts = [("score", how), *scoring_of(table.about)]
    if "cam_mode" in ranked and "cam" in METHODS[asked.score].needs:
        estimated = {"adaptive": "adaptive, segment importance estimated"}
        facts += [("CAM", estimated.get(mode, mode)) for mode in set(ranked["cam_mode"])]
    cut, tokens = int((ranked["n_dropped"] > 0).sum()), ranked["tokens"].sum()
    facts += [
        ("asked for", many),
        ("records", f"{len(table.rows):,}"),
        ("left out", "; ".join(f"{n:,} with {cause}" for cause, n in sorted(why.items())) or "none"),
        ("usable", _sizes(ranked)),
        (
            "read in part",
            f"{cut:,} usable samples, {ranked['n_dropped'].sum() / tokens:.1%} of all usable tokens: "
            "context cut on the left to fit --max-length",
        ),
    ]
    if asked.dedup is not None:
        twins = int(ranked["twin"].notna().sum())
        what = f"{twins:,} dropped for a better one, Jaccard index of contexts {asked.dedup:g} or more"
        facts.append(("near-identical", what))
    return [*facts, ("selected", _sizes(ranked[ranked["chosen"]]))]


def _sizes(part: pd.DataFrame) -> str:
    middle = f", median {part['tokens'].median():,.0f}" if len(part) else ""
    return f"{len(part):,} ({part['tokens'].sum():,} tokens{middle})"


def run(asked: Selection) -> str:
    """Write the selection and its report; returns the summary to print.

    Raises:
        DataError: scores or data that cannot be used.
    """
    table, records = read_scores(asked.scores), read_data(asked.data)
    check_join(table.rows, records, asked.scores, asked.data)
    pool, why = usable(table, asked.score)
    pool = pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns"))
    ranked = rank(pool, asked.score, asked.ranking)
    samples: dict[str, Sample] = {name: from_record(*records[name]) for name in ranked["id"]}
    ranked["source"] = [samples[name].source for name in ranked["id"]]
    ranked, quotas = choose(
        add_twins(ranked, [samples[name].context for name in ranked["id"]], asked.dedup), asked
    )
    facts = facts_of(ranked, why, asked, table)
    page = report.Report(
        ranked,
        samples,
        facts,
        asked.score,
        quotas=quotas,
        segments=table.segments(report.shown(ranked)["id"].tolist()),
        left_out=[(str(row["id"] or ""), row["error"]) for row in table.rows if row["error"] is not None],
        shipped=bool(table.about.get("shipped_pair")),
    )
    written = [asked.out, atomic_write(asked.report, report.page(page))]
    if asked.dedup is not None:
        gone = ranked.loc[ranked["twin"].notna(), ["id", "twin", "similarity"]].to_dict("records")
        written.append(atomic_write(asked.dropped, _lines(gone)))
    # Last, so that a selection without its report is none.
    atomic_write(asked.out, _lines([records[name][0] for name in ranked.loc[ranked["chosen"], "id"]]))
    warning = [f"warning: {report.WARNING}"] if page.shipped else []
    return "\n".join([*(f"{k}: {v}" for k, v in facts), *warning, f"written: {', '.join(map(str, written))}"])


def _lines(records: Sequence[Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
