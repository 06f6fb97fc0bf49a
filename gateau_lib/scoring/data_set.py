"""A whole data set scored: shards, table, manifest, summary."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gateau_lib.data import sharded
from gateau_lib.models.pair import names
from gateau_lib.scoring import part_files, score_table, settings
from gateau_lib.scoring.settings import methods_of
from gateau_lib.scoring.worker import prepare
from gateau_lib.study import whole_files
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write


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
    if given.as_released and (odd := sorted(set(methods) - set(settings.AS_RELEASED))):
        raise ScoreError(f"--as-released: no code to reproduce for {odd[0]}; choose from {', '.join(settings.AS_RELEASED)}")
    if given.plan is None:
        check_out(given.out, [given.data], [_manifest(given.out)], _parts(given.out))


def _manifest(out: Path) -> Path:
    return out.with_suffix(".manifest.json")


def _parts(out: Path) -> Path:
    return out.with_name(out.name + ".parts")


def score_here(given: argparse.Namespace, all_shards: Sequence[sharded.Shard], folder: Path) -> part_files.Job:
    """Every shard finished in this process."""
    pair, options = prepare(given)
    job = part_files.Job(given.data, folder, options, part_files.makers(pair), given.shard_size)
    for shard in track(all_shards, f"scoring, shards of {job.size}"):
        part_files.finish(job, shard, pair)
    return job


def describe(given: argparse.Namespace, options: settings.Options, made_by: dict[str, Any]) -> dict[str, Any]:
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
        from gateau_lib.scoring import pass_costs

        return pass_costs.plan(given)
    all_shards = sharded.index(given.data, given.shard_size)
    folder = _parts(given.out)
    with whole_files.locked(folder):
        if given.engine == "ray":
            from gateau_lib.scoring import cluster

            job = cluster.score(given, all_shards, folder)
        else:
            job = score_here(given, all_shards, folder)
        about, done, tally = describe(given, job.options, job.made_by), [], Counter()
        score_table.write_table(_rows(job, all_shards, done, tally), about, given.out)
        facts = part_files.manifest(job, all_shards, done, about, given.out)
        atomic_write(_manifest(given.out), json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    cut = f"{tally['cut']} cut to {job.options.max_length} tokens, losing {tally['lost']:,}"
    notes = [f"{tally['error']} with an error", cut, f"{tally['bare']} without context"]
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in facts["passes"].items()) or "none"
    rows = sum(shard.rows for shard in all_shards)
    seconds = time.monotonic() - start
    return f"{given.out}: {rows} rows, {', '.join(notes)}; {seconds:.0f} s\ntokens forwarded: {passes}"


def _rows(
    job: part_files.Job, all_shards: Sequence[sharded.Shard], done: list[part_files.Part], tally: Counter
) -> Iterator[dict[str, Any]]:
    """All rows in the order of the data; what is worth knowing about them is put into ``done`` and ``tally``."""
    for part in part_files.parts(job, all_shards):
        for row in part.rows:
            tally["error"] += row["error"] is not None
            tally["cut"] += bool(row["n_dropped"])
            tally["lost"] += row["n_dropped"] or 0
            tally["bare"] += row["error"] is None and row["n_context"] == 0
            yield row
        done.append(replace(part, rows=[]))
