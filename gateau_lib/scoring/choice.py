"""A selection: scores joined with their data, ranked, chosen, written, reported."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.longalign import from_record, read_records
from gateau_lib.data.samples import Sample
from gateau_lib.methods import baselines, gateau, hmg, selection
from gateau_lib.scoring import dedup, report
from gateau_lib.scoring.score_table import LENGTHS, NEEDS, Table, read_scores, usable
from gateau_lib.study.errors import DataError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.whole_files import atomic_write


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
        raise DataError(f"{data}: {len(lost)} scored ids are not in it (first {lost[0]!r}); give the data that was scored")
    if new := sorted(records.keys() - scored):
        raise DataError(f"{scores}: {len(new)} records of {data} have no row (first {new[0]!r}); score the data again")


def score_pool(pool: pd.DataFrame, score: str, combine: str, alpha: float, seed: int) -> np.ndarray:
    """One number a usable sample, high = select."""
    if score in ("gateau", "hmg"):
        hmp = hmg.homologous_models_perplexity(pool["nll_short"].to_numpy(), pool["nll_long"].to_numpy())
        return hmp if score == "hmg" else gateau.combine(hmp, pool["cam"].to_numpy(), combine, alpha)
    if score == "random":
        order = baselines.random_subset(pool["id"].tolist(), len(pool), seed)
        places = {name: place for place, name in enumerate(order)}
        return np.array([1 - places[name] / len(pool) for name in pool["id"]])
    if score == "longest":
        return pool["tokens"].to_numpy(dtype=float)
    return pool["nll_long" if score == "perplexity" else score].to_numpy(dtype=float)


def rank(pool: pd.DataFrame, given: argparse.Namespace) -> pd.DataFrame:
    """The pool best first, with the column ``score``; columns without any value are left out."""
    scores = score_pool(pool, given.score, given.combine, given.alpha, given.seed)
    ranking = selection.top_fraction(pool["id"].tolist(), scores, 1.0)
    ranked = pool.assign(score=scores).set_index("id").loc[ranking].reset_index()
    return ranked.dropna(axis="columns", how="all")


def add_twins(ranked: pd.DataFrame, contexts: Sequence[str], threshold: float | None) -> pd.DataFrame:
    """The ranking with the columns ``twin``, the better sample of nearly the same context or None, and ``similarity``."""
    found = {} if threshold is None else dedup.near_identical(ranked["id"].tolist(), contexts, threshold)
    twins = [found.get(name, (None, None)) for name in ranked["id"]]
    return ranked.assign(twin=pd.Series([t for t, _ in twins], dtype=object), similarity=[s for _, s in twins])


def quotas_of(given: argparse.Namespace, distinct: pd.DataFrame) -> dict[str, int]:
    """Source -> samples at most, from ``--quota`` and ``--per-source``.

    Raises:
        DataError: not of the form SOURCE=N, a source that no sample has, or no sources at all.
    """
    sources = Counter(distinct["source"])
    if (given.quota or given.per_source) and not set(sources) - {""}:
        raise DataError(f"{given.data}: no usable record has a 'source'; leave out --quota and --per-source, or add the field")
    quotas = {}
    for text in given.quota:
        source, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal():
            raise DataError(f"--quota {text}: write SOURCE=N with a number of samples N")
        if source not in sources:
            known = ", ".join(map(repr, sorted(sources)[:8])) + (", ..." if len(sources) > 8 else "")
            raise DataError(f"--quota {text}: no usable sample has this source; there are {known}")
        quotas[source] = min(int(number), quotas.get(source, len(distinct)))
    if given.per_source:
        share = {s: given.top if given.top is not None else selection.size(n, given.fraction) for s, n in sources.items()}
        quotas = {source: min(n, quotas.get(source, n)) for source, n in share.items()}
    return quotas


def choose(ranked: pd.DataFrame, given: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, int]]:
    """The ranking with the column ``chosen``, and the quotas; needs the columns ``source, twin``.

    Raises:
        DataError: more samples asked for than there are, or bad quotas.
    """
    distinct = ranked[ranked["twin"].isna()]
    quotas = quotas_of(given, distinct)
    if given.per_source:
        many = len(distinct)
    elif given.top is None:
        many = selection.size(len(distinct), given.fraction)
    elif given.top <= len(distinct):
        many = given.top
    else:
        left = "" if len(distinct) == len(ranked) else " after near-identical ones were dropped"
        raise DataError(f"--top {given.top}: only {len(distinct)} samples are usable{left}; give at most that")
    sources = dict(zip(distinct["id"], distinct["source"], strict=True))
    return ranked.assign(chosen=ranked["id"].isin(selection.within_quotas(list(sources), sources, quotas, many))), quotas


def scoring_of(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which models scored, and how, as far as the table says."""
    if "models" not in about:
        return [("models", "not named in the score table")]
    models = [f"{role}: {model['name']}" for role, model in sorted(about["models"].items(), reverse=True)]
    models = ["the shipped tiny pair"] if about.get("shipped_pair") else models
    how = f"at most {about['max_length']:,} tokens a sample, segments of {about['segment_length']:,}"
    how += f", short model reads by {about['reading']}" if "short" in about["models"] else ""
    how += ", the tokenizer's chat template" if about["chat"] else ", plain prompt"
    return [("models", ", ".join([*models, about["dtype"]])), ("scored", how + (", as released" if about["as_released"] else ""))]


def facts_of(ranked: pd.DataFrame, why: Counter, given: argparse.Namespace, table: Table) -> list[tuple[str, str]]:
    """What the summary and the report say about a selection."""
    how = given.score + (f", combined by {given.combine}, alpha {given.alpha:g}" if given.score == "gateau" else "")
    asked = f"the best {given.top:,}" if given.top is not None else f"the best {100 * given.fraction:.6g} %"
    asked += " in each source" if given.per_source else ""
    modes = set(ranked["cam_mode"]) if "cam_mode" in ranked and "cam" in NEEDS[given.score] else set()
    cut = ranked["n_dropped"] > 0
    facts = [
        ("score", how + (f", seed {given.seed}" if given.score == "random" else "")),
        *scoring_of(table.about),
        *(("CAM", f"{mode}, segment importance estimated" if mode == "adaptive" else mode) for mode in modes),
        ("asked for", asked + (f", at most {', '.join(given.quota)}" if given.quota else "")),
        ("records", f"{len(table.rows):,}"),
        ("left out", "; ".join(f"{n:,} with {reason}" for reason, n in sorted(why.items())) or "none"),
        ("usable", _sizes(ranked)),
        (
            "read in part",
            f"{int(cut.sum()):,} usable samples, {ranked['n_dropped'].sum() / ranked['tokens'].sum():.1%} of all usable tokens: "
            "context cut on the left to fit --max-length",
        ),
    ]
    if given.dedup is not None:
        twins = int(ranked["twin"].notna().sum())
        what = f"{twins:,} dropped for a better one, Jaccard index of contexts {given.dedup:g} or more"
        facts.append(("near-identical", what))
    return [*facts, ("selected", _sizes(ranked[ranked["chosen"]]))]


def _sizes(part: pd.DataFrame) -> str:
    middle = f", median {part['tokens'].median():,.0f}" if len(part) else ""
    return f"{len(part):,} ({part['tokens'].sum():,} tokens{middle})"


def check(given: argparse.Namespace) -> None:
    """Raise DataError for options that make no sense by themselves."""
    if not 0 < given.fraction <= 1 or not 0 <= given.alpha <= 1 or (given.top is not None and given.top < 1):
        raise DataError("--fraction must lie in (0, 1], --alpha in [0, 1], and --top must be at least 1")
    if given.dedup is not None and not 0 < given.dedup <= 1:
        raise DataError(f"--dedup {given.dedup:g}: must lie in (0, 1]; 0.8 is usual")
    check_out(given.out, [given.data, given.scores], _beside(given))


def _beside(given: argparse.Namespace) -> list[Path]:
    """The files that are written along with the selection: its report, and whom ``--dedup`` dropped."""
    suffixes = [".report.html"] + [".dropped.jsonl"] * (given.dedup is not None)
    return [given.out.with_suffix(suffix) for suffix in suffixes]


def run(given: argparse.Namespace) -> str:
    """Do what the command line asks; returns the summary to print.

    Raises:
        DataError: options, scores or data that cannot be used.
    """
    check(given)
    table, records = read_scores(given.scores), read_data(given.data)
    check_join(table.rows, records, given.scores, given.data)
    pool, why = usable(table, given.score)
    ranked = rank(pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns")), given)
    samples: dict[str, Sample] = {name: from_record(*records[name]) for name in ranked["id"]}
    ranked["source"] = [samples[name].source for name in ranked["id"]]
    ranked, quotas = choose(add_twins(ranked, [samples[name].context for name in ranked["id"]], given.dedup), given)
    facts = facts_of(ranked, why, given, table)
    page = report.Report(
        ranked,
        samples,
        facts,
        given.score,
        quotas=quotas,
        segments=table.segments(report.shown(ranked)["id"].tolist()),
        left_out=[(str(row["id"] or ""), row["error"]) for row in table.rows if row["error"] is not None],
        shipped=bool(table.about.get("shipped_pair")),
    )
    written = [given.out, *_beside(given)]
    atomic_write(written[1], report.page(page))
    if given.dedup is not None:
        gone = ranked.loc[ranked["twin"].notna(), ["id", "twin", "similarity"]].to_dict("records")
        atomic_write(written[2], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in gone))
    chosen = [json.dumps(records[name][0], ensure_ascii=False) for name in ranked.loc[ranked["chosen"], "id"]]
    atomic_write(given.out, "".join(line + "\n" for line in chosen))
    warning = [f"warning: {report.WARNING}"] if page.shipped else []
    return "\n".join([*(f"{k}: {v}" for k, v in facts), *warning, f"written: {', '.join(map(str, written))}"])
