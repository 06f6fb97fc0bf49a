"""Score the long samples of a data set: ``python -m gateau_lib.score DATA.jsonl --short M --long M --out scores.parquet``.

Writes one row a sample in input order. A killed run goes on at the next shard when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from gateau_lib import engine, shards
from gateau_lib.data import sharded
from gateau_lib.methods import model_passes
from gateau_lib.models import loading, rope
from gateau_lib.models.pair import Pair, choose_device, load_pair, names
from gateau_lib.study import errors, whole_files
from gateau_lib.study.errors import DataError, ScoreError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write

DTYPES = ("float32", "bfloat16", "float16")
SEGMENT_LENGTH = 128  # GATEAU select/cam
SHIPPED_STRETCH = 2  # times the long window


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.score", description=__doc__.split("\n")[0])
    line.add_argument("data", type=Path, help="JSONL or Parquet file of LongAlign records")
    line.add_argument("--short", help="short-window model: folder or hub id (without --short and --long: the shipped tiny pair)")
    line.add_argument("--long", help="long-window model of the same family: folder or hub id")
    line.add_argument("--out", type=Path, help="scores.parquet; finished shards lie in OUT.parts, a manifest beside it")
    line.add_argument("--methods", default="hmg,cam", help=f"comma-separated, of {', '.join(engine.METHODS)} (default: hmg,cam)")
    line.add_argument("--reading", choices=model_passes.READINGS, default="ntk", help="how the short model reads beyond its window")
    line.add_argument("--segment-length", type=int, help="tokens a segment (default: 128, at most an eighth of the short window)")
    line.add_argument(
        "--max-length",
        type=int,
        help="tokens a sample, cut on the left (default: the long model's window, stretched for the shipped pair)",
    )
    line.add_argument("--prolong-pairs", type=int, default=500, help="pairs a sample for prolong (default: 500; its paper 5000)")
    line.add_argument("--chat-template", action="store_true", help="the tokenizer's chat template, not the papers' plain prompt")
    how = line.add_mutually_exclusive_group()
    how.add_argument("--adaptive", action="store_true", help="read a third of the segments, estimate the importance of the rest")
    how.add_argument("--as-released", action="store_true", help="GATEAU's and ProLong's public code with its defects, slow")
    line.add_argument("--dtype", choices=DTYPES, default="float32")
    line.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    line.add_argument("--shard-size", type=int, default=16, help="samples a shard (default: 16)")
    line.add_argument("--engine", choices=("local", "ray"), default="local", help="this process, or workers of a Ray cluster")
    line.add_argument("--workers", type=int, help="Ray workers (default: one a GPU, or one a machine without GPUs)")
    line.add_argument("--threads", type=int, help="CPU threads a worker (default: all cores, shared by the workers)")
    line.add_argument(
        "--plan",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="only print tokens, FLOPs and GPU-hours, for as many records as DATA has, or for N like them",
    )
    return line


def methods_of(text: str) -> tuple[str, ...]:
    """The methods asked for, in the library's order.

    Raises:
        ScoreError: an unknown name, or none.
    """
    asked = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(asked - set(engine.METHODS)):
        raise ScoreError(f"--methods: unknown method {unknown[0]!r}; choose from {', '.join(engine.METHODS)}")
    if not asked:
        raise ScoreError(f"--methods: none given; choose from {', '.join(engine.METHODS)}")
    return tuple(name for name in engine.METHODS if name in asked)


def check(given: argparse.Namespace) -> None:
    """Raise ScoreError or DataError for options that cannot be meant, before anything is read or loaded."""
    methods = methods_of(given.methods)
    for name in ("segment_length", "max_length", "shard_size", "prolong_pairs", "workers", "threads"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise ScoreError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if given.plan is None and (given.out is None or given.out.suffix != ".parquet"):
        raise ScoreError(f"--out {given.out or 'is missing'}: give a name that ends in .parquet")
    if given.workers and given.engine == "local":
        raise ScoreError("--workers is for --engine ray; a local run is one process with --threads threads")
    if given.adaptive and "cam" not in methods:
        raise ScoreError("--adaptive is about segment importance; ask for --methods cam among others")
    if given.as_released and (odd := sorted(set(methods) - set(engine.AS_RELEASED))):
        raise ScoreError(f"--as-released: no code to reproduce for {odd[0]}; choose from {', '.join(engine.AS_RELEASED)}")
    if given.plan is None:
        check_out(given.out, [given.data], [_manifest(given.out)], _parts(given.out))


def _manifest(out: Path) -> Path:
    return out.with_suffix(".manifest.json")


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def options_of(given: argparse.Namespace, short_window: int, long_window: int) -> engine.Options:
    """Lengths from the models' windows where the command line does not give them.

    Raises:
        ScoreError: segments too short for ProLong.
    """
    methods = methods_of(given.methods)
    if given.long is None:  # the shipped pair; lengths must not depend on whether a method reads with its short model
        short_window = loading.load_config(loading.SHIPPED / "short").max_position_embeddings
    segment = given.segment_length if given.segment_length is not None else min(SEGMENT_LENGTH, max(1, short_window // 8))
    # The shipped pair's window is short for real text: stretched, it still holds long instructions and responses whole.
    usual = long_window * (SHIPPED_STRETCH if given.long is None else 1)
    if segment < 2 and "prolong" in methods:
        raise ScoreError("--segment-length must be at least 2 for prolong: a segment's first token has no loss")
    return engine.Options(
        methods,
        given.reading,
        segment,
        given.max_length or usual,
        short_window,
        prolong_pairs=given.prolong_pairs,
        chat=given.chat_template,
        adaptive=given.adaptive,
        as_released=given.as_released,
    )


def prepare(given: argparse.Namespace) -> tuple[Pair, engine.Options]:
    """The models as they will read, in this process, and the options with every length decided."""
    if given.threads:
        torch.set_num_threads(given.threads)
    pair = load_pair(given.short, given.long, methods_of(given.methods), given.dtype, choose_device(given.device))
    options = options_of(given, rope.window(pair.short), rope.window(pair.long))
    # Beyond its window the long model is read as the short one is: with one fixed NTK base for the whole run.
    return replace(pair, long=rope.extend_window(pair.long, options.max_length)), options


def score_here(given: argparse.Namespace, all_shards: Sequence[sharded.Shard], folder: Path) -> shards.Job:
    """Every shard finished in this process."""
    pair, options = prepare(given)
    job = shards.Job(given.data, folder, options, shards.makers(pair), given.shard_size)
    for shard in track(all_shards, f"scoring, shards of {job.size}"):
        shards.finish(job, shard, pair)
    return job


def describe(given: argparse.Namespace, options: engine.Options, made_by: dict[str, Any]) -> dict[str, Any]:
    """What the table says about itself: the options, and which models scored."""
    short, long = names(given.short, given.long, options.methods)
    shipped = given.short is None and given.long is None
    called = ("the shipped tiny pair, short", "the shipped tiny pair, long") if shipped else (short, long)
    about = {name: {"name": text, "sha256": made_by[name]} for name, text in zip(("short", "long"), called, strict=True)}
    if short is None:  # no method read with it
        del about["short"]
    return asdict(options) | {"models": about, "shipped_pair": shipped, "dtype": made_by["dtype"]}


def run(given: argparse.Namespace) -> str:
    """Do what the command line asks; returns the text to print.

    Raises:
        DataError, ModelError, ScoreError: input, models or options that cannot be used.
    """
    start = time.monotonic()
    check(given)
    if given.plan is not None:
        from gateau_lib import estimate

        return estimate.plan(given)
    all_shards = sharded.index(given.data, given.shard_size)
    folder = _parts(given.out)
    with whole_files.locked(folder):
        if given.engine == "ray":
            from gateau_lib import cluster

            job = cluster.score(given, all_shards, folder)
        else:
            job = score_here(given, all_shards, folder)
        about, done, tally = describe(given, job.options, job.made_by), [], Counter()
        shards.write_table(_rows(job, all_shards, done, tally), about, given.out)
        facts = shards.manifest(job, all_shards, done, about, given.out)
        atomic_write(_manifest(given.out), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    cut = f"{tally['cut']} cut to {job.options.max_length} tokens, losing {tally['lost']:,}"
    notes = [f"{tally['error']} with an error", cut, f"{tally['bare']} without context"]
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in facts["passes"].items()) or "none"
    rows = sum(shard.rows for shard in all_shards)
    seconds = time.monotonic() - start
    return f"{given.out}: {rows} rows, {', '.join(notes)}; {seconds:.0f} s\ntokens forwarded: {passes}"


def _rows(
    job: shards.Job, all_shards: Sequence[sharded.Shard], done: list[shards.Part], tally: Counter
) -> Iterator[dict[str, Any]]:
    """All rows in the order of the data; what is worth knowing about them is put into ``done`` and ``tally``."""
    for part in shards.parts(job, all_shards):
        for row in part.rows:
            tally["error"] += row["error"] is not None
            tally["cut"] += bool(row["n_dropped"])
            tally["lost"] += row["n_dropped"] or 0
            tally["bare"] += row["error"] is None and row["n_context"] == 0
            yield row
        done.append(replace(part, rows=[]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr), 130 stopped by the user."""
    try:
        print(run(parser().parse_args(arguments)))
    except (DataError, errors.ModelError, ScoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        after = "finished shards are kept, mend it and give the same command"
        print(f"error: {where}{error.strerror or error}; {after}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished shards are kept, give the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
