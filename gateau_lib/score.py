"""Score the long samples of a data set: ``python -m gateau_lib.score DATA.jsonl --short M --long M --out scores.parquet``.

Writes one row a sample in input order. A killed run goes on at the next shard when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from gateau_lib.methods import SCORED
from gateau_lib.methods.base import READINGS
from gateau_lib.scoring import data_set, pass_costs, settings
from gateau_lib.study.command import command

DTYPES = ("float32", "bfloat16", "float16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.score", description=__doc__.split("\n")[0])
    line.add_argument("data", type=Path, help="JSONL or Parquet file of LongAlign records")
    line.add_argument(
        "--short",
        help="short-window model: folder or hub id (without --short and --long: the shipped tiny pair)",
    )
    line.add_argument("--long", help="long-window model of the same family: folder or hub id")
    line.add_argument(
        "--out", type=Path, help="scores.parquet; finished shards lie in OUT.parts, a manifest beside it"
    )
    line.add_argument(
        "--methods", default="hmg,cam", help=f"comma-separated, of {', '.join(SCORED)} (default: hmg,cam)"
    )
    line.add_argument(
        "--reading", choices=READINGS, default="ntk", help="how the short model reads beyond its window"
    )
    line.add_argument(
        "--segment-length",
        type=int,
        help="tokens a segment (default: 128, at most an eighth of the short window)",
    )
    line.add_argument(
        "--max-length",
        type=int,
        help="tokens a sample, cut on the left (default: the long model's window, stretched for the shipped pair)",
    )
    line.add_argument(
        "--prolong-pairs",
        type=int,
        default=500,
        help="pairs a sample for prolong (default: 500; its paper 5000)",
    )
    line.add_argument(
        "--chat-template",
        action="store_true",
        help="the tokenizer's chat template, not the papers' plain prompt",
    )
    line.add_argument(
        "--adaptive",
        action="store_true",
        help="read a third of the segments, estimate the importance of the rest",
    )
    line.add_argument("--dtype", choices=DTYPES, default="float32")
    line.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    line.add_argument("--shard-size", type=int, default=16, help="samples a shard (default: 16)")
    line.add_argument(
        "--engine",
        choices=get_args(settings.Engine),
        default="local",
        help="this process, or workers of a Ray cluster",
    )
    line.add_argument(
        "--workers", type=int, help="Ray workers (default: one a GPU, or one a machine without GPUs)"
    )
    line.add_argument(
        "--threads", type=int, help="CPU threads a worker (default: all cores, shared by the workers)"
    )
    line.add_argument(
        "--plan",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="only print tokens, FLOPs and GPU-hours, for as many records as DATA has, or for N like them",
    )
    return line


def run(words: argparse.Namespace) -> str:
    """Do what the command line asks; returns the text to print.

    Raises:
        UserError: input, models or options that cannot be used.
    """
    start, given = time.monotonic(), vars(words)
    records, methods = given.pop("plan"), given.pop("methods").split(",")
    asked = settings.resolve(**given, methods=methods, only_plan=records is not None)
    if records is not None:
        return pass_costs.plan(asked, records)
    return data_set.summary_text(asked, data_set.score(asked), time.monotonic() - start)


@command(kept="finished shards are kept")
def main(words: Sequence[str] | None = None) -> None:
    """Score the samples that the command line names."""
    print(run(parser().parse_args(words)))


if __name__ == "__main__":
    sys.exit(main())
