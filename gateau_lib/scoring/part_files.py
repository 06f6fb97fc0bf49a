"""Shards scored once each: part files that are right or absent, and the manifest of what they took.

A part file is named by the content of everything that decides its rows: the records, the models' weights, the
options, the library's code and the versions below it. A restarted run ends with the same bytes, and a changed
option never meets old parts. Whoever scores a shard, in this process or on another machine, calls `finish`.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from gateau_lib.data import sharded
from gateau_lib.data.sharded import Shard
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import Method, Options
from gateau_lib.methods.reader import extended
from gateau_lib.models.pair import Pair, identity
from gateau_lib.scoring import scorer
from gateau_lib.scoring.score_table import Part
from gateau_lib.study.code_hash import source_hash
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.store import versions
from gateau_lib.study.whole_files import atomic_write

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A scoring run as a worker sees it, its models apart: where the data and the parts lie, and what
    decides the rows."""

    data: Path
    folder: Path  # of the parts
    options: Options
    made_by: dict[str, Any]  # see `makers`
    size: int  # records a shard: how samples are batched moves the last bits of a loss

    def part(self, shard: Shard) -> Path:
        """The shard's part file."""
        common = [asdict(self.options), self.made_by, self.size]
        text = json.dumps([common, shard.content], sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"


def makers(pair: Pair, methods: Sequence[Method]) -> dict[str, Any]:
    """What decides a row beside data and options: the models (see `pair.identity`), the code, the versions
    below it.

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
        if hashlib.sha256(body.encode()).hexdigest() != about["sha256"]:
            raise ValueError("checksum")
        part = Part(json.loads(body), about["counts"], about["seconds"])
        if len(part.rows) != rows:
            raise ValueError("number of rows")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s: damaged (%s); this shard is scored again", path, error)
        return None
    return part


def finish(job: Job, shard: Shard, pair: Pair) -> Part:
    """Score the shard and leave its part file, unless that is there already.

    Raises:
        DataError: the data changed since the run began.
        OSError: the part cannot be written (a full disk, say); nothing half-written stays.
    """
    path = job.part(shard)
    if (done := read_part(path, shard.rows)) is not None:
        return done
    start = monotonic()
    counts: dict[str, Counter[str]] = {}
    methods = [METHODS[name] for name in job.options.methods]
    rows = scorer.score_items(sharded.read(job.data, shard), pair, job.options, methods, counts)
    part = Part(rows, {name: dict(count) for name, count in counts.items()}, round(monotonic() - start, 3))
    body = json.dumps(rows, allow_nan=False)
    about = {
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
        "counts": part.counts,
        "seconds": part.seconds,
    }
    atomic_write(path, json.dumps(about) + "\n" + body)
    return part


def parts(job: Job, shards: Sequence[Shard]) -> Iterator[Part]:
    """The finished parts in the order of the data, one in memory at a time.

    Raises:
        ScoreError: one of them is gone or damaged.
    """
    for shard in shards:
        part = read_part(job.part(shard), shard.rows)
        if part is None:
            raise ScoreError(f"{job.part(shard)}: this part is gone or damaged; give the same command again")
        yield part


def total(counts: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Tokens of each pass over many shards, the dearest first."""
    sums: dict[str, Counter[str]] = {}
    for each in counts:
        for name, count in each.items():
            sums.setdefault(name, Counter()).update(count)
    return {name: dict(sums[name]) for name in sorted(sums, key=lambda name: -sums[name]["tokens"])}


def manifest(
    job: Job, shards: Sequence[Shard], done: Sequence[Part], about: dict[str, Any], table: Path
) -> dict[str, Any]:
    """What made a table: content of data, models, options and code, and the tokens and seconds that each
    shard took."""
    with table.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    listed = [
        {
            "part": job.part(shard).name,
            "rows": shard.rows,
            "sha256": shard.sha256,
            "seconds": part.seconds,
            "passes": part.counts,
        }
        for shard, part in zip(shards, done, strict=True)
    ]
    return {
        "table": {"sha256": sha256, "rows": sum(shard.rows for shard in shards)},
        "data": {
            "name": job.data.name,
            "sha256_of_shards": hashlib.sha256(
                "".join(shard.sha256 for shard in shards).encode()
            ).hexdigest(),
        },
        "options": about | {"shard_size": job.size},
        "made_by": job.made_by,
        "passes": total(part.counts for part in done),
        "seconds": round(sum(part.seconds for part in done), 3),  # of work, added over workers
        "shards": listed,
    }
