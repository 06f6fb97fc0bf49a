"""A whole data set scored, in six stations: index, models, shards, table, manifest, summary; none is visited
twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from gateau_lib.data import sharded
from gateau_lib.scoring import cluster, part_files, score_table
from gateau_lib.scoring.score_table import Summary
from gateau_lib.scoring.settings import ScoringRun, asked_methods
from gateau_lib.scoring.worker import prepare
from gateau_lib.study import whole_files
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write


def score(run: ScoringRun) -> Summary:
    """Leave the table and the manifest of a run (from `settings.resolve`), reusing the shards that are
    finished.

    Raises:
        DataError, ModelError, ScoreError: input, models or files that cannot be used.
        OSError: something cannot be written; what is finished stays.
    """
    shards = sharded.index(run.data, run.shard_size)
    with whole_files.locked(run.parts):
        job = cluster.score(run, shards) if run.engine == "ray" else score_here(run, shards)
        about = describe(run, job.made_by)
        out = cast(Path, run.out)  # missing only where nothing is scored
        summary = score_table.write_table(part_files.parts(job, shards), about, out)
        facts = part_files.manifest(job, shards, summary.parts, about, out)
        atomic_write(run.manifest, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return summary


def score_here(run: ScoringRun, shards: Sequence[sharded.Shard]) -> part_files.Job:
    """Every shard finished in this process."""
    pair = prepare(run)
    made_by = part_files.makers(pair, asked_methods(run.options.methods))
    job = part_files.Job(run.data, run.parts, run.options, made_by, run.shard_size)
    for shard in track(shards, f"scoring, shards of {job.size}"):
        part_files.finish(job, shard, pair)
    return job


def describe(run: ScoringRun, made_by: dict[str, Any]) -> dict[str, Any]:
    """What the table says about itself: the options, and which models scored."""
    called = {"long": run.long} if run.short is None else {"short": run.short, "long": run.long}
    models = {
        role: {"name": f"the shipped tiny pair, {role}" if run.shipped else name, "sha256": made_by[role]}
        for role, name in called.items()
    }
    return asdict(run.options) | {"models": models, "shipped_pair": run.shipped, "dtype": made_by["dtype"]}


def summary_text(run: ScoringRun, summary: Summary, seconds: float) -> str:
    """A finished run in two lines."""
    cut = f"{summary.cut} cut to {run.options.max_length} tokens, losing {summary.lost:,}"
    notes = f"{summary.errors} with an error, {cut}, {summary.bare} without context"
    counts = part_files.total(part.counts for part in summary.parts)
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in counts.items()) or "none"
    return f"{run.out}: {summary.rows} rows, {notes}; {seconds:.0f} s\ntokens forwarded: {passes}"
