"""A selection: scores joined with their data, ranked, chosen, written, reported."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gateau_lib.data import sharded, tables
from gateau_lib.data.formats import ReadAs
from gateau_lib.data.inputs import files_of, is_table
from gateau_lib.data.sharded import Shard
from gateau_lib.methods import METHODS, cascade, name_in_figures, selection
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import dedup, report
from gateau_lib.scoring.explorer_data import thinned
from gateau_lib.scoring.score_table import LENGTHS, TURNS, Table, read_scores, reasons, usable
from gateau_lib.scoring.scored_records import CODED, check_texts, records_of, samples_of, shards_of
from gateau_lib.scoring.spill import Spill
from gateau_lib.study.errors import DataError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.whole_files import locked_for, sweep, write_together

SHARD = 256  # records read at a time
log = logging.getLogger(__name__)
name_in_figures()


@dataclass(frozen=True)
class Selection:
    """What is to be selected, how, and where it goes; DataError if that makes no sense by itself."""

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

    read_as: ReadAs | None = None  # what the records are; None: as they were scored

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise DataError(f"--fraction {self.fraction:g}: must lie in (0, 1]; 0.1 takes the best tenth")
        if self.top is not None and self.top < 1:
            raise DataError(f"--top {self.top}: must be at least 1")
        if not 0 <= self.ranking.alpha <= 1:
            raise DataError(f"--alpha {self.ranking.alpha:g}: must lie in [0, 1]")
        if self.dedup is not None and not 0 < self.dedup <= 1:
            raise DataError(f"--dedup {self.dedup:g}: must lie in (0, 1]; 0.8 is usual")
        if self.out.suffix != ".jsonl":
            raise DataError(f"--out {self.out}: records are written line by line; end the name in .jsonl")
        check_out(self.out, [self.data, self.scores], [self.report, self.dropped])

    @property
    def report(self) -> Path:
        """The report beside the selection."""
        return self.out.with_suffix(".report.html")

    @property
    def dropped(self) -> Path:
        """Whom ``dedup`` dropped, and for whom."""
        return self.out.with_suffix(".dropped.jsonl")


def as_scored(asked: Selection, table: Table) -> ReadAs:
    """How the records are read: as they were scored; DataError if other options ask for another reading."""
    scored = ReadAs.of(table.about)
    if asked.read_as not in (None, scored):
        fix = "leave out --format, --turn, --ids and --rename, or score the data again with them"
        raise DataError(f"{table.path}: its data were read otherwise; {fix}")
    return scored


def tell_changes(path: Path) -> None:
    """Say which columns of a table cannot be written as they are, before any work."""
    for file in filter(is_table, files_of(path)):
        if columns := tables.told_as_text(file):
            log.warning("%s: no type of JSON, selected as text: %s", file, ", ".join(columns))


def rank(pool: pd.DataFrame, score: str, options: RankOptions) -> pd.DataFrame:
    """The pool best first, with the column ``score``; columns without any value are left out.

    Raises DataError: a cascade scored the pool, and GATEAU's parts are to be added in another way.
    """
    if score == "gateau" and cascade.partly_read(pool):
        if options.combine != "rank":
            raise DataError(f"--combine {options.combine}: a table made with --cascade is for --combine rank")
        scores = cascade.ranking(pool, options.alpha)
    else:
        scores = METHODS[score].rank(pool, options)
    values = selection.numbers(scores, "scores", cast(Sequence[str], pool["id"].array))
    both = pa.table({"score": values + 0.0, "id": pa.array(pool["id"])})  # -0.0 is 0.0
    best_first = pc.sort_indices(both, [("score", "descending"), ("id", "ascending")])
    ranked = pool.assign(score=values).dropna(axis="columns", how="all")
    return ranked.take(best_first).reset_index(drop=True)


def quotas_of(asked: Selection, distinct: pd.DataFrame) -> dict[str, int]:
    """Source -> samples at most, from ``--quota`` and ``--per-source``; DataError if those are bad."""
    counts = distinct["source"].value_counts()
    sources, quotas = {each: int(counts[each]) for each in distinct["source"].unique()}, dict[str, int]()
    if (asked.quota or asked.per_source) and not set(sources) - {""}:
        remedy = "leave out --quota and --per-source, or add the field"
        raise DataError(f"{asked.data}: no usable record has a 'source'; {remedy}")
    for text in asked.quota:
        source, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal():
            raise DataError(f"--quota {text}: write SOURCE=N with a number of samples N")
        if source not in sources:
            known = ", ".join(map(repr, sorted(sources)[:8])) + (", ..." if len(sources) > 8 else "")
            raise DataError(f"--quota {text}: no usable sample has this source; there are {known}")
        quotas[source] = min(int(number), quotas.get(source, len(distinct)))
    for source, n in sources.items() if asked.per_source else ():
        share = selection.size(n, asked.fraction) if asked.top is None else asked.top
        quotas[source] = min(share, quotas.get(source, share))
    return quotas


def choose(ranked: pd.DataFrame, asked: Selection) -> tuple[pd.DataFrame, dict[str, int]]:
    """The ranking with the column ``chosen``, and the quotas; DataError if too many samples are asked for."""
    distinct = ranked.loc[ranked["twin"].isna(), ["source"]]
    quotas, many = quotas_of(asked, distinct), len(distinct)
    if not asked.per_source:
        many = selection.size(many, asked.fraction) if asked.top is None else asked.top
    if many > len(distinct):
        left = "" if len(distinct) == len(ranked) else " after near-identical ones were dropped"
        raise DataError(
            f"--top {asked.top}: only {len(distinct)} samples are usable{left}; give at most that"
        )
    if quotas:  # as `selection.within_quotas`
        source = distinct["source"]
        limit = source.map(lambda each: quotas.get(each, len(distinct))).astype(int)
        distinct = distinct[source.groupby(source, observed=True).cumcount() < limit]
    chosen = distinct.index[:many]
    if chosen.empty:
        raise DataError(
            f"--quota {' --quota '.join(asked.quota)}: nothing is left to select; raise one of them"
        )
    return ranked.assign(chosen=ranked.index.isin(chosen)), quotas


def check_read(ranked: pd.DataFrame, asked: Selection) -> None:
    """Raise DataError if samples whose CAM a cascade did not read could be in the selection."""
    if asked.score != "gateau" or not cascade.partly_read(ranked):
        return
    if many := cascade.uncertain(ranked, asked.ranking.alpha):
        what = f"{many:,} samples whose CAM was not read (--cascade) could be in this selection"
        fix = "select fewer, with no smaller --alpha, or score again with a larger --cascade or without it"
        raise DataError(f"{asked.scores}: {what}; {fix}")


def remarks_of(ranked: pd.DataFrame, asked: Selection, table: Table) -> list[str]:
    """What makes a selection worth less than it looks; columns ``score`` and those of the score table."""
    found = [report.WARNING] if table.about.get("shipped_pair") else []
    many = len(ranked)
    if many > 1 and ranked["score"].nunique() == 1:
        found.append(f"all {many:,} usable samples have the same score, so they stand in the order of ids")
    by_both = {"nll_short", "nll_long"} <= set(METHODS[asked.score].needs)
    if by_both and (ranked["nll_short"] == ranked["nll_long"]).all():
        found.append("both models give every response the same loss, as one model twice would: HMG is 0")
    if (ranked["n_context"] == 0).all():
        found.append("no usable sample has a context, so nothing here can need a long one")
    if "text_hash" not in table.rows.column_names:
        found.append("whether the data changed since is not known: an older version wrote the score table")
    return found


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
    options = asked.ranking
    settings = {"gateau": f", combined by {options.combine}, alpha {options.alpha:g}"}
    how = asked.score + (settings | {"random": f", seed {options.seed}"}).get(asked.score, "")
    many = f"the best {asked.top:,}" if asked.top is not None else f"the best {100 * asked.fraction:.6g} %"
    many += " in each source" if asked.per_source else ""
    many += f", at most {', '.join(asked.quota)}" if asked.quota else ""
    facts = [("score", how), *scoring_of(table.about)]
    if cascade.partly_read(ranked) and asked.score == "gateau":
        modes = ranked["cam_mode"].value_counts()
        facts.append(("cascade", cascade.told({mode: int(modes.get(mode, 0)) for mode in cascade.MODES})))
    elif "cam_mode" in ranked and "cam" in METHODS[asked.score].needs:
        estimated = {"adaptive": "adaptive, segment importance estimated"}
        facts += [("CAM", estimated.get(mode, mode)) for mode in ranked["cam_mode"].dropna().unique()]
    cut, share = (ranked["n_dropped"] > 0).sum(), ranked["n_dropped"].sum() / ranked["tokens"].sum()
    read = f"{cut:,} usable samples, {share:.1%} of all usable tokens: "
    read += "context cut on the left to fit --max-length"
    bare = int((ranked["n_context"] == 0).sum())
    left_out = "; ".join(f"{n:,} with {cause}" for cause, n in sorted(why.items())) or "none"
    facts += [("asked for", many), ("records", f"{table.rows.num_rows:,}"), ("left out", left_out)]
    facts += [("not scored", each) for each in reasons(table.ids_and_errors())]
    facts += [("usable", _sizes(ranked["tokens"])), ("read in part", read)]
    facts += [("without context", f"{bare:,} usable samples")] if bare else []
    for column, what in zip(TURNS, ("several exchanges", "system turn"), strict=True):
        if column in ranked and (number := (ranked[column] > 0).sum()):
            facts.append((what, f"{number:,} usable samples"))
    if asked.dedup is not None:
        bound = f"Jaccard index of contexts {asked.dedup:g} or more"
        facts += [("near-identical", f"{ranked['twin'].count():,} dropped for a better one, {bound}")]
    return [*facts, ("selected", _sizes(ranked.loc[ranked["chosen"], "tokens"]))]


def _sizes(tokens: "pd.Series[int]") -> str:
    middle = f", median {tokens.median():,.0f}" if len(tokens) else ""
    return f"{len(tokens):,} ({tokens.sum():,} tokens{middle})"


def run(asked: Selection) -> str:
    """Write the selection and its report; the summary to print.

    DataError: input that cannot be used. ScoreError: another process writes this selection.
    """
    table = read_scores(asked.scores)
    tell_changes(asked.data)
    shards = sharded.index(asked.data, SHARD, as_scored(asked, table))
    pool, why = usable(table, asked.score)
    kept = {"id", "error", "text_hash"} & set(table.rows.column_names)
    table = replace(table, rows=table.rows.select(sorted(kept)))  # the scores are in the pool
    pool = pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns"))
    ranked = rank(pool, asked.score, asked.ranking)
    del pool
    with locked_for(asked.out):
        return _write(asked, table, shards, ranked, why)


def _write(
    asked: Selection, table: Table, shards: Sequence[Shard], ranked: pd.DataFrame, why: Counter[str]
) -> str:
    with ExitStack() as stack:
        spill = None if asked.dedup is None else stack.enter_context(Spill(asked.out, table.rows.num_rows))
        records = records_of(table, asked.data, shards, spill)
        check_texts(asked.data, ranked, shards, records)
        twins = {}
        if spill is not None and asked.dedup is not None:
            rows, contexts = ranked["row"].to_numpy(), spill
            twins = dedup.near_identical(
                len(ranked), lambda place: contexts[rows[place]].decode(*CODED), asked.dedup
            )
    ranked["source"] = records.source.take(ranked["row"])
    twin, similarity = np.full(len(ranked), None, dtype=object), np.full(len(ranked), np.nan)
    for place, (other, alike) in twins.items():
        twin[place], similarity[place] = ranked["id"].iloc[other], alike
    ranked["twin"], ranked["similarity"] = twin, similarity
    ranked, quotas = choose(ranked, asked)
    check_read(ranked, asked)
    facts = facts_of(ranked, why, asked, table)
    warnings = remarks_of(ranked, asked, table)
    looked_at = pd.concat([report.shown(ranked)["id"], thinned(ranked)["id"]])
    segments = table.segments(looked_at.unique().tolist())
    left_out = [(str(name or ""), error) for name, error in table.ids_and_errors() if error is not None]
    more = {"facts": facts, "left_out": left_out, "warnings": warnings}
    samples = samples_of(asked.data, shards, report.shown(ranked), records)
    page = report.page(ranked, samples, segments, quotas, asked.score, asked.ranking, table.about, **more)
    files: dict[Path, Iterable[bytes]] = {asked.report: [page.encode("utf-8", "replace")]}
    if asked.dedup is not None:
        gone = ranked.loc[ranked["twin"].notna(), ["id", "twin", "similarity"]].to_dict("records")
        files[asked.dropped] = map(_line, gone)
    # Last, so that a selection without its report is none.
    sweep(asked.report, asked.dropped, asked.out)
    chosen = ranked.loc[ranked["chosen"], ["id", "row"]]
    places = {name: place for place, name in enumerate(chosen["id"])}
    with Spill(asked.out, len(chosen)) as lines:
        for name, line in sharded.originals(asked.data, shards_of(shards, chosen, records), places.keys()):
            lines.add(places[name], line)
        files[asked.out] = (lines[place] for place in range(len(chosen)))  # best first
        written = write_together(files, gone=[asked.dropped])
    said = [f"{name}: {fact}" for name, fact in facts] + [f"warning: {each}" for each in warnings]
    return "\n".join([*said, f"written: {', '.join(map(str, written[::-1]))}"])


def _line(record: Any) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
