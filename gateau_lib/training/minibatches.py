"""Which rows a fine-tuning run trains on, step by step; `sft` says how it is trained.

All follows from the job and its data: the same steps for any number of processes, before and after a kill.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, Sample
from gateau_lib.methods.skipalign import sample_turns, skip_positions
from gateau_lib.study.errors import DataError
from gateau_lib.training.input_rows import IGNORED, Row, pack_rows, sample_row, unpack_row
from gateau_lib.training.packing import plan_batches, plan_epochs, split_step
from gateau_lib.training.recipe import ByTokens, FineTune


def training_samples(job: FineTune) -> list[Sample]:
    """A job's samples: its files, then the selected of its pool, in pool order; DataError: one is missing."""
    samples = [sample for path in job.samples for sample in read_samples(path)]
    if job.pool is not None:
        pool, wanted = read_samples(job.pool), set(job.selected)
        if missing := wanted - {sample.id for sample in pool}:
            lost = f"{len(missing)} selected ids are missing, first {min(missing)!r}"
            raise DataError(f"{job.pool}: {lost}; select from this pool")
        samples += [sample for sample in pool if sample.id in wanted]
    if not samples:
        fix = "give it sample files, or a pool and selected ids"
        raise DataError(f"fine-tuning run {job.name!r} has no samples; {fix}")
    return samples


def compact(encoded: Encoded) -> Encoded:
    """The same ids in four bytes each: lists of the published data would take tens of gigabytes a process."""
    names = "start", "context", "instruction", "response"
    parts: dict[str, Any] = {name: array("i", getattr(encoded, name)) for name in names}
    return replace(encoded, **parts)


class Batches(Sequence[list[Row]]):
    """The rows of every optimizer step, made when asked for; ``ending``: ids after responses, trained on."""

    def __init__(self, job: FineTune, encoded: Sequence[Encoded], ending: Sequence[int]) -> None:
        self.job, self.encoded, self.ending = job, encoded, ending
        self.lengths = [len(e.ids) + len(ending) for e in encoded]
        self.packed, length = job.strategy == "packed", job.length
        window = job.window if self.packed else None
        if isinstance(length, ByTokens):
            self.plan = plan_batches(self.lengths, length.tokens, length.batch_tokens, job.seed, window)
        else:
            self.plan = plan_epochs(self.lengths, length.epochs, length.batch_samples, job.seed, window)
        rng = np.random.default_rng([job.seed, 1])  # apart from the plan's: strategies share its order
        self.positions = [[[self._draw(i, rng) for i in row] for row in step] for step in self.plan]

    def _draw(self, index: int, rng: np.random.Generator) -> np.ndarray | None:
        """Positions of a sample; None: 0, 1, 2, ..."""
        job, encoded = self.job, self.encoded[index]
        strategy = job.strategy if rng.random() < job.skip_share else "normal"
        if strategy in ("normal", "packed"):
            return None
        turns = sample_turns(encoded, self.ending, job.document_turn)
        return skip_positions(turns, job.window, strategy, rng, job.jumps, reach=job.reach).astype(np.int32)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int | slice) -> Any:
        if isinstance(step, slice):
            return [self[i] for i in range(*step.indices(len(self)))]
        rows = []
        for indices, drawn in zip(self.plan[step], self.positions[step], strict=True):
            pairs = zip(indices, drawn, strict=True)
            placed = [(i, range(self.lengths[i]) if p is None else p) for i, p in pairs]
            made = [sample_row(self.encoded[i], self.ending, positions) for i, positions in placed]
            rows.append(pack_rows(made, self.job.packed_isolated) if self.packed else made[0])
        return rows

    def digest(self) -> str:
        """Hash of all that the steps are made of, 12 hex digits."""
        parts = hashlib.sha256(json.dumps([self.plan, list(self.ending)]).encode())
        for encoded in self.encoded:
            for part in (encoded.prompt, encoded.response):
                parts.update(np.asarray(part, np.int32).tobytes() + b"|")
        for positions in (p for step in self.positions for row in step for p in row if p is not None):
            parts.update(positions.tobytes())
        return parts.hexdigest()[:12]

    def usage(self, processes: int = 1) -> dict[str, Any]:
        """What the run takes: see `sft.fine_tune`."""
        used = [i for step in self.plan for row in step for i in row]
        padded = largest = 0
        for rows in self:
            passes = (part for n in range(processes) for part, _ in deal(self.job, rows, processes, n))
            padded += sum(len(part) * max(len(row.input_ids) for row in part) for part in passes)
            largest = max(largest, *(max(row.position_ids) for row in rows))
        answers = sum(len(self.encoded[i].response) + len(self.ending) for i in used)
        found = {"tokens": sum(self.lengths[i] for i in used), "response_tokens": answers, "padded": padded}
        found |= {"samples": len(used), "distinct": len(set(used))}
        epochs = round(len(used) / len(self.encoded), 4)
        return found | {"epochs": epochs, "steps": len(self), "max_position": largest}


def deal(job: FineTune, rows: Sequence[Row], processes: int, process: int) -> list[tuple[list[Row], bool]]:
    """One process's part of a step: the rows of each of its passes, and whether they count (`split_step`)."""
    # A step that is split does not keep packed samples together: they are read as rows of their own.
    if processes > 1 or job.micro_tokens is not None:
        rows = [part for row in rows for part in unpack_row(row)]
    parts = split_step([len(row.input_ids) for row in rows], processes, job.micro_tokens)[process]
    return [([rows[i] for i in together], counts) for together, counts in parts]


def terms(rows: Sequence[Row], loss: str) -> int:
    """What the loss of a step is a mean over: labelled tokens, or samples with ``sample``."""
    if loss == "token":
        return sum(label != IGNORED for row in rows for label in row.labels)
    # A prompt parts the responses of a pack, so every sample begins one run of labels.
    return sum(a == IGNORED != b for row in rows for a, b in pairwise(row.labels))
