"""Shards scored once each: part files that are right or absent.

A part file is named by the content of all that decides its rows: records, weights, options, code, versions.
So a restarted run ends with the same bytes, and a changed option never meets old parts. Whoever scores
shards, in this process or on another machine, calls `begin` once, then `finish` for each.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from gateau_lib.data import sharded
from gateau_lib.data.sharded import Shard
from gateau_lib.methods.base import Method
from gateau_lib.methods.reader import extended
from gateau_lib.models.pair import Pair, choose_device, identity, load_pair
from gateau_lib.scoring import scorer
from gateau_lib.scoring.score_table import Part
from gateau_lib.scoring.settings import ScoringRun, asked_methods, needs_short
from gateau_lib.study.code_hash import digest, source_hash
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.store import versions
from gateau_lib.study.whole_files import atomic_write

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A scoring run as a worker sees it, its models apart."""

    run: ScoringRun
    made_by: dict[str, Any]  # see `makers`

    def part(self, shard: Shard) -> Path:
        """The shard's part file."""
        # How samples are batched moves the last bits of a loss, so the size of a shard counts.
        common = [asdict(self.run.options), self.made_by, self.run.shard_size]
        return self.run.parts / f"{digest(json.dumps([common, shard.content], sort_keys=True))[:20]}.json"


def begin(run: ScoringRun) -> tuple[Job, Pair]:
    """What a worker needs before its first shard; the models are stretched to the run's length here, once."""
    if run.threads:
        torch.set_num_threads(run.threads)
    asked = asked_methods(run.options.methods)
    pair = load_pair(run.short, run.long, needs_short(asked), run.dtype, choose_device(run.device))
    pair = extended(pair, run.options, scorer.passes_of(asked))
    return Job(run, makers(pair, asked)), pair


def makers(pair: Pair, methods: Sequence[Method]) -> dict[str, Any]:
    """What decides a row beside data and options: models (see `pair.identity`), code, versions below it.

    Of the methods only those that are asked for count: a new one, or an edit of another, makes no part stale.
    """
    code = source_hash([scorer.score_items, sharded.read, extended, *(method.fill for method in methods)])
    # A loss that comes with the attention differs in its last bits from one that does not.
    asked = {"passes": sorted(scorer.passes_of(methods)), "columns": [method.columns for method in methods]}
    return identity(pair) | {"code": code, "asked": asked, "versions": versions()}


def read_part(path: Path, rows: int) -> Part | None:
    """A finished part, or None if there is none that can be trusted: a damaged one is scored again."""
    try:
        head, body = path.read_text(encoding="utf-8").split("\n", 1)
        about = json.loads(head)
        if digest(body) != about["sha256"]:
            raise ValueError("checksum")
        part = Part(json.loads(body), about["counts"], about["seconds"])
        if len(part.rows) != rows:
            raise ValueError("number of rows")
        return part
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged (%s); this shard is scored again", path, error)
        return None


def finish(job: Job, shard: Shard, pair: Pair) -> None:
    """Score the shard and leave its part file, whole or not at all, unless that is there already."""
    path, options = job.part(shard), job.run.options
    if read_part(path, shard.rows) is not None:
        return
    start, counts = monotonic(), dict[str, Counter[str]]()
    items, asked = sharded.read(job.run.data, shard), asked_methods(options.methods)
    body = json.dumps(scorer.score_items(items, pair, options, asked, counts), allow_nan=False)
    about = {"sha256": digest(body), "counts": counts, "seconds": round(monotonic() - start, 3)}
    atomic_write(path, json.dumps(about) + "\n" + body)


def parts(job: Job, shards: Sequence[Shard]) -> Iterator[Part]:
    """The finished parts in the order of the data, one in memory at a time; ScoreError if one is gone."""
    for shard in shards:
        if (part := read_part(job.part(shard), shard.rows)) is None:
            raise ScoreError(f"{job.part(shard)}: this part is gone or damaged; give the same command again")
        yield part
