"""Score the long samples of a data set: ``python -m gateau_lib.score DATA.jsonl --short M --long M --out scores.parquet``.

Writes one row a sample in input order. A killed run goes on at the next shard when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gateau_lib import engine, hmg, models
from gateau_lib.samples import DataError

DTYPES = ("float32", "bfloat16", "float16")
SEGMENT_LENGTH = 128  # GATEAU select/cam
SHIPPED_STRETCH = 2  # times the long window
NEEDS_SHORT = {"hmg", "contrast"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.score", description=__doc__.split("\n")[0])
    line.add_argument("data", type=Path, help="JSONL or Parquet file of LongAlign records")
    line.add_argument("--short", help="short-window model: folder or hub id (without --short and --long: the shipped tiny pair)")
    line.add_argument("--long", help="long-window model of the same family: folder or hub id")
    line.add_argument("--out", type=Path, required=True, help="scores.parquet; finished shards lie in OUT.parts")
    line.add_argument("--methods", default="hmg,cam", help=f"comma-separated, of {', '.join(engine.METHODS)} (default: hmg,cam)")
    line.add_argument("--reading", choices=hmg.READINGS, default="ntk", help="how the short model reads beyond its window")
    line.add_argument("--segment-length", type=int, help="tokens a segment (default: 128, at most an eighth of the short window)")
    line.add_argument(
        "--max-length",
        type=int,
        help="tokens a sample, cut on the left (default: the long model's window, stretched for the shipped pair)",
    )
    line.add_argument("--dtype", choices=DTYPES, default="float32")
    line.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    line.add_argument("--shard-size", type=int, default=16, help="samples a shard (default: 16)")
    return line


def methods_of(text: str) -> tuple[str, ...]:
    """The methods asked for, in the library's order.

    Raises:
        ScoreError: an unknown name, or none.
    """
    asked = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(asked - set(engine.METHODS)):
        raise engine.ScoreError(f"--methods: unknown method {unknown[0]!r}; choose from {', '.join(engine.METHODS)}")
    if not asked:
        raise engine.ScoreError(f"--methods: none given; choose from {', '.join(engine.METHODS)}")
    return tuple(name for name in engine.METHODS if name in asked)


def _device(name: str | None) -> torch.device:
    try:
        chosen = torch.device(name) if name else models.device()
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise engine.ScoreError(f"--device {name}: cannot be used here ({reason}); leave it out or give cpu") from None
    return chosen


def load_pair(short: str | None, long: str | None, methods: Sequence[str], dtype: str, device: torch.device) -> engine.Pair:
    """The two models; the shipped pair if neither is named. A short model is only loaded when a method reads with it.

    Raises:
        ScoreError: only one model named though both are needed, or models that are not homologous.
        ModelError: no model there.
    """
    if short is None and long is None:
        short, long = str(models.SHIPPED / "short"), str(models.SHIPPED / "long")
    if long is None:
        raise engine.ScoreError("--long is missing; name both models, or neither for the shipped tiny pair")
    long_model, tokenizer = models.load(long, dtype, device)
    if not NEEDS_SHORT & set(methods):
        return engine.Pair(long_model, long_model, tokenizer)
    if short is None:
        raise engine.ScoreError("--short is missing; hmg and contrast need it, or choose other --methods")
    short_model, short_tokenizer = models.load(short, dtype, device)
    engine.check_homologous(short_model, short_tokenizer, long_model, tokenizer)
    return engine.Pair(short_model, long_model, tokenizer)


def options_of(given: argparse.Namespace, pair: engine.Pair) -> engine.Options:
    """Lengths from the models where the command line does not give them.

    Raises:
        ScoreError: a length that is not positive.
    """
    methods = methods_of(given.methods)
    short_window, long_window = (int(model.config.max_position_embeddings) for model in (pair.short, pair.long))
    segment = given.segment_length if given.segment_length is not None else min(SEGMENT_LENGTH, max(1, short_window // 8))
    # The shipped pair's window is short for real text: stretched, it still holds long instructions and responses whole.
    usual = long_window * (SHIPPED_STRETCH if given.long is None else 1)
    length = given.max_length if given.max_length is not None else usual
    for name, value in (("--segment-length", segment), ("--max-length", length), ("--shard-size", given.shard_size)):
        if value < 1:
            raise engine.ScoreError(f"{name} must be at least 1, got {value}")
    if segment < 2 and "prolong" in methods:
        raise engine.ScoreError("--segment-length must be at least 2 for prolong: a segment's first token has no loss")
    return engine.Options(methods, given.reading, segment, length, short_window)


def write_scores(rows: Sequence[dict[str, Any]], options: engine.Options, path: Path) -> None:
    """The rows as Parquet, whole or not at all; the options ride along as metadata. Equal rows give equal bytes."""
    kinds = {"id": pa.string(), "error": pa.string()} | dict.fromkeys(engine.COUNTS, pa.int64())
    about = {"gateau": json.dumps(asdict(options), sort_keys=True)}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in engine.COLUMNS], about)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def run(given: argparse.Namespace) -> str:
    """Do what the command line asks; returns the line to print."""
    start = time.monotonic()
    methods = methods_of(given.methods)
    if given.out.suffix != ".parquet":
        raise engine.ScoreError(f"--out {given.out}: give a name that ends in .parquet")
    items = engine.read_items(given.data)
    pair = load_pair(given.short, given.long, methods, given.dtype, _device(given.device))
    options = options_of(given, pair)
    # Beyond its window the long model is read as the short one is: with one fixed NTK base for the whole run.
    pair = replace(pair, long=models.extend_window(pair.long, options.max_length))
    rows = engine.score_shards(items, given.out.with_name(given.out.name + ".parts"), given.shard_size, pair, options)
    write_scores(rows, options, given.out)
    bad = sum(row["error"] is not None for row in rows)
    cut = sum(bool(row["n_dropped"]) for row in rows)
    bare = sum(row["error"] is None and row["n_context"] == 0 for row in rows)
    notes = [f"{bad} with an error", f"{cut} cut to {options.max_length} tokens", f"{bare} without context"]
    return f"{given.out}: {len(rows)} rows, {', '.join(notes)}; {time.monotonic() - start:.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr), 130 stopped by the user."""
    try:
        print(run(parser().parse_args(arguments)))
    except (DataError, models.ModelError, engine.ScoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished shards are kept, give the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
