"""Shards scored once each, a row a record: part files that are right or absent.

A part file is named by the content of all that decides its rows: records, weights, options, code, versions.
So a restarted run ends with the same bytes, and a changed option never meets old parts. Whoever scores
shards (`crew`), in this process or on another machine, calls `begin` once, then `finish` for each.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import torch

from gateau_lib.data import sharded
from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.data.sharded import Item, Shard
from gateau_lib.methods.base import Method, Options
from gateau_lib.methods.reader import Reader, extended
from gateau_lib.models.nll import SequenceError
from gateau_lib.models.pair import Pair, choose_device, identity, load_pair
from gateau_lib.scoring.score_table import LENGTHS, Part, text_hash
from gateau_lib.scoring.settings import ScoringRun, asked_methods, needs_short
from gateau_lib.study import devices
from gateau_lib.study.code_hash import digest, source_hash
from gateau_lib.study.errors import DataError, ScoreError
from gateau_lib.study.store import versions
from gateau_lib.study.whole_files import atomic_write

Ready = tuple[Sample, Encoded, dict[str, Any]]  # as it stands in its record, as tokens, the row to fill
log = logging.getLogger(__name__)


def passes_of(methods: Sequence[Method]) -> set[str]:
    """What some methods together read of a `Reader`."""
    return {name for method in methods for name in method.passes}


def score_items(
    items: Sequence[Item],
    pair: Pair,
    options: Options,
    methods: Sequence[Method],
    counts: dict[str, Counter[str]] | None = None,
) -> list[dict[str, Any]]:
    """Rows with ``id``, ``error``, `score_table.LENGTHS` and the methods' columns, one an item in its order.

    A value is None where nothing was computed. A sample whose loss is not finite, or that does not fit into
    memory alone, is an error row and does not touch the others. ``pair`` is from `reader.extended`, and
    ``methods`` are those that the options name; ``counts`` is `Reader`'s.
    """
    columns = [column for method in methods for column in (*method.columns, *method.details)]
    documents = [method for method in methods if method.documents]
    rows = [{"id": item.id, "error": item.error} | dict.fromkeys((*LENGTHS, *columns)) for item in items]
    ready: list[Ready] = []
    for item, row in zip(items, rows, strict=True):
        if item.sample is None:
            continue
        try:
            encoded = encode(item.sample, pair.tokenizer, options.max_length, chat=options.chat)
        except DataError as error:
            row["error"] = str(error)
            continue
        sizes = len(encoded.context), len(encoded.instruction), len(encoded.response), encoded.dropped
        row |= dict(zip(LENGTHS, sizes, strict=True))
        ready.append((item.sample, encoded, row))

    def fill(some: Sequence[Ready]) -> None:
        samples, encoded, rows = zip(*some, strict=True)
        asked = documents if samples[0].is_document else methods
        passes = passes_of(asked)
        reader = Reader(samples, encoded, pair, options, passes, {} if counts is None else counts)
        for method in asked:
            of = cast(Callable[[Reader], Mapping[str, Any]], method.fill)  # of a method that is scored
            for name, values in of(reader).items():
                for row, value in zip(rows, values, strict=True):
                    row[name] = _plain(value)

    answered, plain = ([each for each in ready if each[0].is_document is which] for which in (False, True))
    if answered:
        _fill_or_mark(answered, fill)
    if plain and documents:
        _fill_or_mark(plain, fill)
    for *_, row in plain if not documents else []:
        why = f"sample {row['id']!r}: a document without a response; score it with --methods prolong"
        row.update(dict.fromkeys(LENGTHS), error=why)
    return rows


def _fill_or_mark(ready: Sequence[Ready], fill: Callable[[Sequence[Ready]], None]) -> None:
    """Fill the rows; a sample that cannot be scored is found by halving, and marked."""
    try:
        fill(ready)
    except SequenceError as error:
        if len(ready) > 1:
            half = len(ready) // 2
            _fill_or_mark(ready[:half], fill)
            _fill_or_mark(ready[half:], fill)
            return
        row, segment = ready[0][-1], "" if error.segment is None else f", segment {error.segment}"
        filled = row.keys() - {"id", *LENGTHS}
        row.update(dict.fromkeys(filled), error=f"sample {row['id']!r}{segment}: {error.reason}")


def _plain(value: Any) -> Any:
    """A number or a list of numbers as JSON knows them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return float(value) if isinstance(value, float | np.floating) else value


@dataclass(frozen=True)
class Job:
    """A scoring run as a worker sees it, its models apart."""

    run: ScoringRun
    made_by: dict[str, Any]  # see `makers`
    kernels: Mapping[str, str | None] = field(default_factory=dict)  # of the first worker, for the manifest

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
    pair = extended(pair, run.options, passes_of(asked))
    computed = devices.kernels(str(pair.long.dtype), pair.long.device.type)
    return Job(run, makers(pair, asked), computed), pair


def makers(pair: Pair, methods: Sequence[Method]) -> dict[str, Any]:
    """What decides a row beside data and options: models (see `pair.identity`), code, versions below it.

    Of the methods only those that are asked for count: a new one, or an edit of another, makes no part stale.
    """
    code = source_hash([score_items, text_hash, sharded.read, extended, *(method.fill for method in methods)])
    # A loss that comes with the attention differs in its last bits from one that does not.
    asked = {"passes": sorted(passes_of(methods)), "columns": [method.columns for method in methods]}
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


def finish(job: Job, pair: Pair, shard: Shard) -> None:
    """Score the shard and leave its part file, whole or not at all, unless that is there already."""
    items = sharded.read(job.run.data, shard)
    leave(job, job.part(shard), items, pair, asked_methods(job.run.options.methods))


def leave(job: Job, path: Path, items: Sequence[Item], pair: Pair, methods: Sequence[Method]) -> None:
    """Score the items and leave a part file of this name, unless it is there already."""
    if read_part(path, len(items)) is not None:
        return
    start, counts = monotonic(), dict[str, Counter[str]]()
    rows = score_items(items, pair, job.run.options, methods, counts)
    for item, row in zip(items, rows, strict=True):
        if (sample := item.sample) and row["error"] is None:
            row |= {"n_earlier": sample.earlier, "n_system": int(bool(sample.system))}
        row["text_hash"] = sample and text_hash(sample)
    body = json.dumps(rows, allow_nan=False)
    about = {"sha256": digest(body), "counts": counts, "seconds": round(monotonic() - start, 3)}
    atomic_write(path, json.dumps(about) + "\n" + body)


def parts(job: Job, shards: Sequence[Shard]) -> Iterator[Part]:
    """The finished parts in the order of the data, one in memory at a time; ScoreError if one is gone."""
    for shard in shards:
        if (part := read_part(job.part(shard), shard.rows)) is None:
            raise ScoreError(f"{job.part(shard)}: this part is gone or damaged; give the same command again")
        yield part
