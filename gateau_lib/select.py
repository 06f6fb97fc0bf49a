"""Select long samples by their scores: ``python -m gateau_lib.select scores.parquet --data DATA.jsonl --out selected.jsonl``.

Scores and data are joined by id. Statements about the whole pool (min-max, softmax, ranks) are made here, over the usable rows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gateau_lib import hmg, report, selectors
from gateau_lib.samples import DataError, Sample, from_record, read_records
from gateau_lib.store import atomic_write

LENGTHS = ("n_context", "n_instruction", "n_response", "n_dropped")
# The columns a score is made from, and the method of gateau_lib.score that fills them.
NEEDS = {
    "gateau": {"nll_short": "hmg", "nll_long": "hmg", "cam": "cam"},
    "hmg": {"nll_short": "hmg", "nll_long": "hmg"},
    "cam": {"cam": "cam"},
    "prolong": {"prolong": "prolong"},
    "perplexity": {"nll_long": "perplexity"},
    "ifd": {"ifd": "ifd"},
    "contrast": {"contrast": "contrast"},
    "random": {},
    "longest": {},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.select", description=__doc__.split("\n")[0])
    line.add_argument("scores", type=Path, help="scores.parquet, written by python -m gateau_lib.score")
    line.add_argument("--data", type=Path, required=True, help="the data that was scored")
    line.add_argument("--out", type=Path, required=True, help="selected.jsonl; a report is written next to it")
    line.add_argument("--score", choices=list(NEEDS), default="gateau")
    line.add_argument("--combine", choices=selectors.VARIANTS, default="rank", help="how gateau adds HMP and CAM (default: rank)")
    line.add_argument("--alpha", type=float, default=0.8, help="weight of HMP against CAM (default: 0.8)")
    many = line.add_mutually_exclusive_group()
    many.add_argument("--fraction", type=float, default=0.1, help="share of the usable samples (default: 0.1)")
    many.add_argument("--top", type=int, help="number of samples")
    line.add_argument("--seed", type=int, default=0, help="of --score random")
    return line


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Rows of a score table.

    Raises:
        DataError: no such file, not a score table, an id twice, a NaN or infinity.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; write it with python -m gateau_lib.score")
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    if not rows or not {"id", "error", *LENGTHS} <= rows[0].keys():
        raise DataError(f"{path}: not a score table; write it with python -m gateau_lib.score")
    for number, row in enumerate(rows, 1):
        bad = [k for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)]
        if bad:
            raise DataError(f"{path}, row {number}, id {row['id']!r}: {bad[0]} is {row[bad[0]]}; score this sample again")
    twice = [name for name, n in Counter(row["id"] for row in rows if row["error"] is None).items() if n > 1]
    if twice:
        raise DataError(f"{path}: id {twice[0]!r} stands twice; ids must be unique")
    return rows


def read_data(path: Path) -> dict[str, tuple[Any, str]]:
    """Records and their places by id; the first record with an id counts, as in scoring."""
    found: dict[str, tuple[Any, str]] = {}
    for where, record in read_records(path):
        if isinstance(record, dict) and record.get("id") not in (None, ""):
            found.setdefault(str(record["id"]), (record, where))
    return found


def check_join(rows: Sequence[dict[str, Any]], records: dict[str, Any], scores: Path, data: Path) -> None:
    """Raise DataError unless scores and data hold the same ids."""
    scored = {row["id"] for row in rows if row["id"] is not None}
    if lost := sorted(scored - records.keys()):
        raise DataError(f"{data}: {len(lost)} scored ids are not in it (first {lost[0]!r}); give the data that was scored")
    if new := sorted(records.keys() - scored):
        raise DataError(f"{scores}: {len(new)} records of {data} have no row (first {new[0]!r}); score the data again")


def usable(rows: Sequence[dict[str, Any]], score: str, path: Path) -> tuple[pd.DataFrame, Counter]:
    """Rows that the score can rank, and how many are left out for which reason.

    Raises:
        DataError: the table does not hold what the score needs, or nothing is left.
    """
    why: Counter = Counter()
    kept = []
    for column, method in NEEDS[score].items():
        if all(row.get(column) is None for row in rows):
            raise DataError(f"{path}: no {column} in it; score with --methods {method} among others, or choose another --score")
    for row in rows:
        if row["error"] is not None:
            why["an error in scoring"] += 1
        elif missing := [column for column in NEEDS[score] if row[column] is None]:
            why[f"no {missing[0]}"] += 1
        elif score == "ifd" and row["ifd"] > 1:  # Cherry: the instruction makes the response less likely, so they do not match
            why["ifd above 1"] += 1
        else:
            kept.append(row)
    if not kept:
        raise DataError(f"{path}: no usable row for --score {score} ({'; '.join(f'{n} with {k}' for k, n in why.items())})")
    return pd.DataFrame(kept), why


def score_pool(pool: pd.DataFrame, score: str, combine: str, alpha: float, seed: int) -> np.ndarray:
    """One number a usable sample, high = select."""
    if score in ("gateau", "hmg"):
        hmp = hmg.homologous_models_perplexity(pool["nll_short"].to_numpy(), pool["nll_long"].to_numpy())
        return hmp if score == "hmg" else selectors.combine(hmp, pool["cam"].to_numpy(), combine, alpha)
    if score == "random":
        order = selectors.random_subset(pool["id"].tolist(), len(pool), seed)
        places = {name: place for place, name in enumerate(order)}
        return np.array([1 - places[name] / len(pool) for name in pool["id"]])
    if score == "longest":
        return pool["tokens"].to_numpy(dtype=float)
    return pool["nll_long" if score == "perplexity" else score].to_numpy(dtype=float)


def choose(pool: pd.DataFrame, given: argparse.Namespace) -> pd.DataFrame:
    """The pool best first with the columns ``score`` and ``chosen``."""
    ids = pool["id"].tolist()
    scores = score_pool(pool, given.score, given.combine, given.alpha, given.seed)
    ranking = selectors.top_fraction(ids, scores, 1.0)
    if given.top is not None and given.top > len(ranking):
        raise DataError(f"--top {given.top}: only {len(ranking)} samples are usable; give at most that")
    chosen = set(ranking[: given.top] if given.top is not None else selectors.top_fraction(ids, scores, given.fraction))
    ranked = pool.assign(score=scores).set_index("id").loc[ranking].reset_index()
    return ranked.assign(chosen=ranked["id"].isin(chosen)).dropna(axis="columns", how="all")


def facts_of(ranked: pd.DataFrame, why: Counter, given: argparse.Namespace, total: int) -> list[tuple[str, str]]:
    """What the summary and the report say about a selection."""
    chosen = ranked[ranked["chosen"]]
    how = given.score + (f", combined by {given.combine}, alpha {given.alpha:g}" if given.score == "gateau" else "")
    left_out = "; ".join(f"{n} with {reason}" for reason, n in sorted(why.items())) or "none"
    return [
        ("score", how + (f", seed {given.seed}" if given.score == "random" else "")),
        ("records", f"{total:,}"),
        ("left out", left_out),
        ("usable", f"{len(ranked):,} ({ranked['tokens'].sum():,} tokens, median {ranked['tokens'].median():,.0f})"),
        ("read in part", f"{int((ranked['n_dropped'] > 0).sum()):,} usable samples, context cut on the left to fit --max-length"),
        ("selected", f"{len(chosen):,} ({chosen['tokens'].sum():,} tokens, median {chosen['tokens'].median():,.0f})"),
    ]


def run(given: argparse.Namespace) -> str:
    """Do what the command line asks; returns the summary to print.

    Raises:
        DataError: options, scores or data that cannot be used.
    """
    if not 0 < given.fraction <= 1 or not 0 <= given.alpha <= 1 or (given.top is not None and given.top < 1):
        raise DataError("--fraction must lie in (0, 1], --alpha in [0, 1], and --top must be at least 1")
    rows, records = read_scores(given.scores), read_data(given.data)
    check_join(rows, records, given.scores, given.data)
    pool, why = usable(rows, given.score, given.scores)
    ranked = choose(pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns")), given)
    samples: dict[str, Sample] = {name: from_record(*records[name]) for name in ranked["id"]}
    chosen = [json.dumps(records[name][0], ensure_ascii=False) for name in ranked.loc[ranked["chosen"], "id"]]
    facts = facts_of(ranked, why, given, len(rows))
    page = given.out.with_suffix(".report.html")
    atomic_write(page, report.page(ranked, samples, facts, given.score))
    atomic_write(given.out, "".join(line + "\n" for line in chosen))
    return "\n".join([*(f"{name}: {value}" for name, value in facts), f"written: {given.out} and {page}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr)."""
    try:
        print(run(parser().parse_args(arguments)))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
