"""A whole data set scored, in six stations: index, models, shards, table, manifest, summary.

Who scores the shards is `crew`'s business: on every engine the same functions are called, and the part files
are the same.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from gateau_lib.data import sharded
from gateau_lib.data.inputs import not_read
from gateau_lib.data.sharded import Shard
from gateau_lib.methods.cascade import told as told_of_cascade
from gateau_lib.scoring import cascade, crew, part_files, ray_crew, score_table
from gateau_lib.scoring.score_table import Part
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study import whole_files
from gateau_lib.study.code_hash import digest, path_hash
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import atomic_write

log = logging.getLogger(__name__)
ENGINES = {"local": crew.local, "ray": ray_crew.cluster}


def score(run: ScoringRun) -> list[Part]:
    """Leave the table and the manifest of a run (from `settings.resolve`); its parts, without their rows.

    Finished shards are reused. Raises DataError, ModelError, ScoreError: what cannot be used.
    """
    shards = sharded.index(run.data, run.shard_size, run.read_as)
    if others := not_read(run.data):
        log.warning("%s: not read: %s", run.data, ", ".join(map(str, others)))
    with whole_files.locked(run.parts):
        whole_files.sweep(run.out, run.manifest)
        begin = part_files.begin if run.cascade is None else cascade.begin
        with ENGINES[run.engine](run, begin, len(shards)) as scorers:
            job, found = scorers.job, dict[str, Any]()
            if run.cascade is None:
                scored = scorers.each(part_files.finish, ((shard,) for shard in shards))
                for _ in track(scored, f"scoring, shards of {run.shard_size}", len(shards)):
                    pass
                finished = part_files.parts(job, shards)
            else:
                finished, found["cascade"] = cascade.score(scorers, shards, run.cascade)
        about = _describe(run, job.made_by) | {"forms": sharded.forms_of(shards)} | found
        done = score_table.write_table(finished, about, run.out)
        facts = manifest(job, shards, done, about)
        atomic_write(run.manifest, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return done


def _describe(run: ScoringRun, made_by: dict[str, Any]) -> dict[str, Any]:
    """What the table says about itself: the options, and which models scored."""
    called = {"long": run.long} if run.short is None else {"short": run.short, "long": run.long}
    models = {
        role: {"name": f"the shipped tiny pair, {role}" if run.shipped else name, "sha256": made_by[role]}
        for role, name in called.items()
    }
    about = asdict(run.options) | {"models": models, "shipped_pair": run.shipped, "dtype": made_by["dtype"]}
    return about | {"read_as": asdict(run.read_as)}


def manifest(
    job: part_files.Job, shards: Sequence[Shard], done: Sequence[Part], about: dict[str, Any]
) -> dict[str, Any]:
    """What made a table: content of data, models, options and code, and what each shard took."""
    run, listed = job.run, []
    for shard, part in zip(shards, done, strict=True):
        entry = {"part": job.part(shard).name, "rows": shard.rows, "sha256": shard.sha256}
        listed.append(entry | {"seconds": part.seconds, "passes": part.counts})
    content = {"name": run.data.name, "sha256_of_shards": digest("".join(s.sha256 for s in shards))}
    return {
        "table": {"sha256": path_hash(run.out)} | score_table.counted(_told(run)),
        "data": content,
        "options": about | {"shard_size": run.shard_size},
        "made_by": job.made_by,
        "kernels": job.kernels,
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


def summary(run: ScoringRun, done: Sequence[Part], seconds: float) -> tuple[str, int]:
    """A finished run in some lines, with the commonest reasons for errors; how many rows have scores."""
    rows = _told(run)
    found, lost = score_table.counted(rows), int(rows["n_dropped"].sum())
    more = {"cut on the left": f"cut to {run.options.max_length} tokens, losing {lost:,}"}
    notes = ", ".join(f"{number} {more.get(what, what)}" for what, number in found.items())
    passes = ", ".join(f"{name} {count['tokens']:,}" for name, count in _total(done).items()) or "none"
    told = rows[["id", "error"]].astype(object)
    errors = told.where(told.notna(), None).itertuples(index=False, name=None)
    lines = [f"error: {why}" for why in score_table.reasons(errors)]
    forms = score_table.read_about(run.out)["forms"].items()
    read = ", ".join(f"{number:,} {form or 'of no known form'}" for form, number in forms)
    made = score_table.read_about(run.out).get("cascade")
    partly = [f"cascade: {told_of_cascade(made)}"] if made else []
    lines = [
        f"{run.out}: {notes}; {seconds:.0f} s",
        f"read as: {read}",
        *lines,
        *partly,
        f"tokens forwarded: {passes}",
    ]
    return "\n".join(lines), found["rows"] - found["with an error"]


def _told(run: ScoringRun) -> pd.DataFrame:
    """What the summary tells of the rows of the table."""
    return pd.read_parquet(run.out, columns=["id", "error", "n_context", "n_dropped", *score_table.TURNS])
