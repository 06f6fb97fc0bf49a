"""Select long samples by their scores: ``python -m gateau_lib.select scores.parquet --data DATA.jsonl --out selected.jsonl``.

Scores and data are joined by id. Statements about the whole pool (min-max, softmax, ranks) are made here, over the usable rows.
Then near-identical contexts are dropped if asked for, and the best of what is left are taken, within quotas if there are any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gateau_lib.methods import METHODS, gateau
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring.choice import Selection, run
from gateau_lib.study.command import command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.select", description=__doc__.split("\n")[0])
    line.add_argument("scores", type=Path, help="scores.parquet, written by python -m gateau_lib.score")
    line.add_argument("--data", type=Path, required=True, help="the data that was scored")
    line.add_argument(
        "--out", type=Path, required=True, help="selected.jsonl; a report is written next to it"
    )
    line.add_argument("--score", choices=list(METHODS), default="gateau")
    line.add_argument(
        "--combine",
        choices=gateau.VARIANTS,
        default="rank",
        help="how gateau adds HMP and CAM (default: rank)",
    )
    line.add_argument("--alpha", type=float, default=0.8, help="weight of HMP against CAM (default: 0.8)")
    many = line.add_mutually_exclusive_group()
    many.add_argument(
        "--fraction", type=float, default=0.1, help="share of the usable samples (default: 0.1)"
    )
    many.add_argument("--top", type=int, help="number of samples")
    line.add_argument(
        "--per-source", action="store_true", help="take that share, or that number, of every source by itself"
    )
    line.add_argument(
        "--quota",
        action="append",
        default=[],
        metavar="SOURCE=N",
        help="at most N of this source; repeatable",
    )
    line.add_argument(
        "--dedup",
        type=float,
        metavar="J",
        help="of contexts whose word 5-shingles have a Jaccard index of J or more keep the best-scored, for example 0.8",
    )
    line.add_argument("--seed", type=int, default=0, help="of --score random")
    return line


def selection_of(words: argparse.Namespace) -> Selection:
    """What the command line asks for.

    Raises:
        DataError: words that make no sense by themselves.
    """
    given = vars(words)
    ranking = RankOptions(given.pop("combine"), given.pop("alpha"), given.pop("seed"))
    return Selection(**given | {"quota": tuple(words.quota)}, ranking=ranking)


@command()
def main(words: Sequence[str] | None = None) -> None:
    """Select as the command line says."""
    print(run(selection_of(parser().parse_args(words))))


if __name__ == "__main__":
    sys.exit(main())
