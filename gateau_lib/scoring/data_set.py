"""A whole data set scored, in six stations: index, models, shards, table, manifest, summary."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.scoring import cluster, part_files, score_table
from gateau_lib.scoring.score_table import Part
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import whole_files
from gateau_lib.study.code_hash import digest, path_hash
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write


def score(run: ScoringRun) -> list[Part]:
    """Leave the table and the manifest of a run (from `settings.resolve`); its parts, without their rows.

    Finished shards are reused. Raises DataError, ModelError, ScoreError: what cannot be used.
    """
    shards = sharded.index(run.data, run.shard_size)
    with whole_files.locked(run.parts):
        if run.engine == "ray":
            job = cluster.score(run, shards)
        else:
            job, pair = part_files.begin(run)
            for shard in track(shards, f"scoring, shards of {run.shard_size}"):
                part_files.finish(job, shard, pair)
        about = _describe(run, job.made_by)
        done = score_table.write_table(part_files.parts(job, shards), about, run.out)
        facts = _manifest(job, shards, done, about)
        atomic_write(run.manifest, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return done


def _describe(run: ScoringRun, made_by: dict[str, Any]) -> dict[str, Any]:
    """What the table says about itself: the options, and which models scored."""
    called = {"long": run.long} if run.short is None else {"short": run.short, "long": run.long}
    models = {
        role: {"name": f"the shipped tiny pair, {role}" if run.shipped else name, "sha256": made_by[role]}
        for role, name in called.items()
    }
    return asdict(run.options) | {"models": models, "shipped_pair": run.shipped, "dtype": made_by["dtype"]}


def _manifest(
    job: part_files.Job, shards: Sequence[sharded.Shard], done: Sequence[Part], about: dict[str, Any]
) -> dict[str, Any]:
    """What made a table: content of data, models, options and code, and what each shard took."""
    run, listed = job.run, []
    for shard, part in zip(shards, done, strict=True):
        entry = {"part": job.part(shard).name, "rows": shard.rows, "sha256": shard.sha256}
        listed.append(entry | {"seconds": part.seconds, "passes": part.counts})
    content = {"name": run.data.name, "sha256_of_shards": digest("".join(s.sha256 for s in shards))}
    return {
        "table": {"sha256": path_hash(run.out), "rows": sum(shard.rows for shard in shards)},
        "data": content,
        "options": about | {"shard_size": run.shard_size},
        "made_by": job.made_by,
        "passes": _total(done),
        "seconds": round(sum(part.seconds for part in done), 3),  # of work, added over workers
        "shards": listed,
    }


def _total(parts: Sequence[Part]) -> dict[str, dict[str, int]]:
    """Tokens of each pass over many shards, the dearest first."""
    sums: dict[str, Counter[str]] = {}
    for part in parts:
        for name, count in part.counts.items():
            sums.setdefault(name, Counter()).update(count)
    return {name: dict(sums[name]) for name in sorted(sums, key=lambda name: -sums[name]["tokens"])}


def summary_text(run: ScoringRun, done: Sequence[Part], seconds: float) -> str:
    """A finished run in two lines."""
    rows = pd.read_parquet(run.out, columns=["error", "n_context", "n_dropped"])
    errors, lost = int(rows["error"].notna().sum()), int(rows["n_dropped"].sum())
    cut = f"{(rows['n_dropped'] > 0).sum()} cut to {run.options.max_length} tokens, losing {lost:,}"
    bare = ((rows["n_context"] == 0) & rows["error"].isna()).sum()
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in _total(done).items()) or "none"
    notes = f"{len(rows)} rows, {errors} with an error, {cut}, {bare} without context"
    return f"{run.out}: {notes}; {seconds:.0f} s\ntokens forwarded: {passes}"
