"""A data set scored by a cascade: HMG of every sample, then CAM of those that can still enter the selection.

Each reading of the data leaves part files of its own. The first keeps the long model's attention, so that the
others read segments only; a later one is named by the first and by the ids it reads. So a killed run goes on
where it was, and a part stands for another fraction only where that asks for the same.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gateau_lib.data import sharded
from gateau_lib.data.sharded import Shard
from gateau_lib.methods import cascade
from gateau_lib.methods.base import Columns, Method, by, without_context
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.hmg import HMG
from gateau_lib.methods.selection import size
from gateau_lib.models.pair import Pair
from gateau_lib.scoring import part_files
from gateau_lib.scoring.crew import Crew
from gateau_lib.scoring.part_files import Job
from gateau_lib.scoring.score_table import Part
from gateau_lib.scoring.settings import ScoringRun
from gateau_lib.study.code_hash import digest
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.progress import track


def _attended(reader: Any) -> Columns:
    """What CAM needs of the pass over whole samples; CAM takes the mean of its attention over layers."""
    passes = reader.long_pass
    return {
        "segment_attention": [read.mass.mean(0) for read in passes],
        "segment_chars": reader.segment_chars(),
        "attention": [read.attention.mean(0) for read in passes],
    }


def _segments(reader: Any) -> Columns:
    return {"segment_nll": reader.segment_nll}


ATTENDED = Method(
    name="attended",
    title="attention to segments",
    source="gateau_lib.methods.cam, its first half",
    rank=by("attention"),
    fill=_attended,
    passes=("long_pass",),
    details={"segment_attention": "numbers", "segment_chars": "integers", "attention": "numbers"},
)
SEGMENTS = Method(
    name="segments",
    title="losses given one segment",
    source="gateau_lib.methods.cam, its second half",
    rank=by("segment_nll"),
    fill=_segments,
    passes=("segment_nll",),
    details={"segment_nll": "numbers"},
)
FIRST, LATER = (HMG, ATTENDED), (SEGMENTS,)


class Readings:
    """What the readings of a data set have found: the usable samples of the pool, and who is read next.

    ``ids, shards, losses, candidate, drawn, cam``: of the samples without an error, in the order of the data.
    """

    def __init__(self, parts: Iterable[tuple[Shard, Part]], fraction: float, seed: int) -> None:
        ids, shards, losses = [], [], []  # no rows, whose segments may be larger than memory
        for shard, part in parts:
            for row in part.rows:
                if row["error"] is None and without_context(row) is None:
                    ids.append(row["id"])
                    shards.append(shard.number)
                    losses.append((row["nll_short"], row["nll_long"]))
        self.fraction, self.seed, self.begun = fraction, seed, False
        self.ids, self.shards = np.array(ids, dtype=object), np.array(shards, dtype=int)
        self.losses = np.array(losses, dtype=float).reshape(-1, 2)
        self.cam = np.full(len(ids), np.nan)
        self.candidate = self.drawn = np.zeros(len(ids), dtype=bool)

    def next_ids(self) -> dict[int, set[str]]:
        """Whose CAM is to be read now, by shard; none: no other can enter the selection."""
        wanted: dict[int, set[str]] = {}
        if not len(self.ids):
            return wanted
        hmp, count = cascade.hmp_ranks(*self.losses.T), size(len(self.ids), self.fraction)
        if self.begun:
            self.candidate = cascade.grown(hmp, self.cam, self.candidate, count)
        else:
            self.begun = True
            self.candidate, self.drawn = cascade.first(self.ids.tolist(), hmp, count, self.seed)
        unread = (self.candidate | self.drawn) & np.isnan(self.cam)
        for number, name in zip(self.shards[unread].tolist(), self.ids[unread], strict=True):
            wanted.setdefault(number, set()).add(name)
        return wanted

    def take(self, cams: Mapping[str, float | None]) -> None:
        """What was read, by id; a sample without a value could not be read, and leaves the pool."""
        self.cam = np.array(
            [cams.get(each, old) for each, old in zip(self.ids, self.cam, strict=True)], dtype=float
        )
        lost = {each for each, value in cams.items() if value is None}
        stays = np.array([each not in lost for each in self.ids], dtype=bool)
        for name in ("ids", "shards", "losses", "cam", "candidate", "drawn"):
            setattr(self, name, getattr(self, name)[stays])

    def modes(self) -> dict[str, str]:
        """Id -> why CAM was read, or that it was not."""
        read = ~np.isnan(self.cam)
        mode = np.where(self.candidate, cascade.CANDIDATE, np.where(read, cascade.DRAWN_ROW, cascade.UNREAD))
        return dict(zip(self.ids.tolist(), mode.tolist(), strict=True))


def begin(run: ScoringRun) -> tuple[Job, Pair]:
    """As `part_files.begin`, with the code of all readings in the names of parts."""
    job, pair = part_files.begin(run)
    return replace(job, made_by=part_files.makers(pair, [*FIRST, *LATER])), pair


def score(crew: Crew, shards: Sequence[Shard], fraction: float) -> tuple[Iterator[Part], dict[str, Any]]:
    """Every reading done by a crew that began with `begin`.

    Returns the finished parts in the order of the data, and what the table says of them.
    """
    job = crew.job
    done = crew.each(_read_all, ((shard,) for shard in shards))
    for _ in track(done, f"scoring, shards of {job.run.shard_size}", len(shards)):
        pass
    first = zip(shards, part_files.parts(job, shards), strict=True)
    readings, later = Readings(first, fraction, job.run.options.seed), dict[int, list[tuple[Path, int]]]()
    while wanted := readings.next_ids():
        cams: dict[str, float | None] = {}
        some = [(shard, wanted[shard.number]) for shard in shards if shard.number in wanted]
        for number, path, found in track(crew.each(_read, some), "segments of who can enter", len(some)):
            later.setdefault(number, []).append((path, len(found)))
            cams |= found
        readings.take(cams)
    modes = readings.modes()
    counts = Counter(modes.values())
    told = {mode: counts[mode] for mode in cascade.MODES}
    about = {"fraction": fraction, "alpha": cascade.ALPHA} | told
    return (_joined(job, shard, later.get(shard.number, []), modes) for shard in shards), about


def _read_all(job: Job, pair: Pair, shard: Shard) -> None:
    """The first reading of a shard."""
    part_files.leave(job, job.part(shard), sharded.read(job.run.data, shard), pair, FIRST)


def _read(job: Job, pair: Pair, shard: Shard, wanted: set[str]) -> tuple[int, Path, dict[str, float | None]]:
    """A shard's number, the part with the CAM of those wanted, and that by id; None: it could not be read."""
    first = {row["id"]: row for row in _part(job.part(shard), shard.rows).rows if row["error"] is None}
    ids = [name for name in first if name in wanted]
    path = job.run.parts / f"{digest(json.dumps([job.part(shard).stem, ids]))[:20]}.json"
    if part_files.read_part(path, len(ids)) is None:
        items = [item for item in sharded.read(job.run.data, shard) if item.sample and item.id in wanted]
        part_files.leave(job, path, items, pair, LATER)
    return shard.number, path, {row["id"]: _cam(first[row["id"]], row) for row in _part(path, len(ids)).rows}


def _cam(first: Mapping[str, Any], later: Mapping[str, Any]) -> float | None:
    if later["error"] is not None:
        return None
    return contextual_awareness(np.array(later["segment_nll"]), np.array([first["attention"]]))


def _part(path: Path, rows: int) -> Part:
    if (part := part_files.read_part(path, rows)) is None:
        raise ScoreError(f"{path}: this part is gone or damaged; give the same command again")
    return part


def _joined(job: Job, shard: Shard, later: Sequence[tuple[Path, int]], modes: Mapping[str, str]) -> Part:
    """A shard's rows as the exact run has them; CAM and losses of segments only where those were read."""
    part = _part(job.part(shard), shard.rows)
    rows = {row["id"]: row for row in part.rows if row["error"] is None}
    counts, seconds = dict(part.counts), part.seconds
    for each in rows.values():
        if each["id"] in modes:
            each["cam_mode"] = modes[each["id"]]
    for path, number in later:
        read = _part(path, number)
        seconds += read.seconds
        for name, count in read.counts.items():
            before = counts.get(name, {})
            counts[name] = {what: n + before.get(what, 0) for what, n in count.items()}
        for row in read.rows:
            whole = rows[row["id"]]
            if row["error"] is not None:
                kept = {"id", "text_hash", *part_files.LENGTHS}
                whole.update(dict.fromkeys(whole.keys() - kept), error=row["error"])
            else:
                whole |= {"segment_nll": row["segment_nll"], "cam": _cam(whole, row)}
    return Part(part.rows, counts, seconds)
