"""Which rows a fine-tuning run trains on, step by step; `sft` says how it is trained.

Everything here follows from the job and its data alone: the same steps for any number of processes, before
and after a kill.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, Sample
from gateau_lib.methods.skipalign import sample_turns, skip_positions
from gateau_lib.study.errors import DataError
from gateau_lib.training.input_rows import IGNORED, Row, pack_rows, sample_row, unpack_row
from gateau_lib.training.packing import plan_batches, plan_epochs, split_step
from gateau_lib.training.recipe import ByTokens, FineTune, check


def training_samples(job: FineTune) -> list[Sample]:
    """The samples of a job: its files, then the selected part of its pool in pool order.

    Raises:
        DataError: a selected id that is not in the pool, or no samples at all.
    """
    samples = [sample for path in job.samples for sample in read_samples(path)]
    if job.pool is not None:
        pool, wanted = read_samples(job.pool), set(job.selected)
        missing = wanted - {sample.id for sample in pool}
        if missing:
            lost = f"{len(missing)} selected ids are missing, first {min(missing)!r}"
            raise DataError(f"{job.pool}: {lost}; select from this pool")
        samples += [sample for sample in pool if sample.id in wanted]
    if not samples:
        raise DataError(
            f"fine-tuning run {job.name!r} has no samples; give it sample files, or a pool and selected ids"
        )
    return samples


def compact(encoded: Encoded) -> Encoded:
    """The same ids in four bytes each.

    As Python's own lists, the published data would take tens of gigabytes a process.
    """
    parts: dict[str, Any] = {
        part: array("i", getattr(encoded, part)) for part in ("start", "context", "instruction", "response")
    }
    return replace(encoded, **parts)


class Batches(Sequence[list[Row]]):
    """The rows of every optimizer step of a run; positions are drawn at once, rows are made when asked for.

    Args:
        ending: ids after each response, trained on as well (end-of-text).

    Raises:
        TrainingError: a job that contradicts itself (`recipe.check`), or nothing to train on.
    """

    def __init__(self, job: FineTune, encoded: Sequence[Encoded], ending: Sequence[int]) -> None:
        check(job)
        self.job, self.encoded, self.ending = job, encoded, ending
        self.lengths = [len(e.ids) + len(ending) for e in encoded]
        self.packed = job.strategy == "packed"
        window = job.window if self.packed else None
        length = job.length
        if isinstance(length, ByTokens):
            self.plan = plan_batches(self.lengths, length.tokens, length.batch_tokens, job.seed, window)
        else:
            self.plan = plan_epochs(self.lengths, length.epochs, length.batch_samples, job.seed, window)
        # Apart from the plan's, so strategies share their order of samples.
        rng = np.random.default_rng([job.seed, 1])
        # None: 0, 1, 2, ...
        self.positions = [[[self._draw(i, rng) for i in row] for row in step] for step in self.plan]

    def _draw(self, index: int, rng: np.random.Generator) -> np.ndarray | None:
        job, encoded = self.job, self.encoded[index]
        strategy = job.strategy if rng.random() < job.skip_share else "normal"
        if strategy in ("normal", "packed"):
            return None
        turns = sample_turns(encoded, self.ending)
        return skip_positions(turns, job.window, strategy, rng, job.jumps, reach=job.reach).astype(np.int32)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int | slice) -> Any:
        if isinstance(step, slice):
            return [self[i] for i in range(*step.indices(len(self)))]
        rows = []
        for indices, drawn in zip(self.plan[step], self.positions[step], strict=True):
            made = [
                sample_row(
                    self.encoded[i], self.ending, range(self.lengths[i]) if positions is None else positions
                )
                for i, positions in zip(indices, drawn, strict=True)
            ]
            isolated = self.job.packed_isolated
            rows.append(
                pack_rows(made, continuing=not isolated, isolated=isolated) if self.packed else made[0]
            )
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
        return {
            "tokens": sum(self.lengths[i] for i in used),
            "response_tokens": sum(len(self.encoded[i].response) + len(self.ending) for i in used),
            "padded": sum(self._padded_tokens(step, processes) for step in self.plan),
            "samples": len(used),
            "distinct": len(set(used)),
            "epochs": round(len(used) / len(self.encoded), 4),
            "steps": len(self),
            "max_position": max(map(self._largest_position, self.plan, self.positions)),
        }

    def _padded_tokens(self, step: list[tuple[int, ...]], processes: int) -> int:
        """Tokens that the forward passes of a step read, padding included."""
        if self.job.packed_isolated and _is_split(self.job, processes):
            step = [(i,) for row in step for i in row]  # as `deal` reads them
        lengths = [sum(self.lengths[i] for i in row) for row in step]
        padded = 0
        for passes in split_step(lengths, processes, self.job.micro_tokens):
            for rows, _ in passes:
                padded += len(rows) * max(lengths[row] for row in rows)
        return padded

    def _largest_position(self, step: list[tuple[int, ...]], drawn: list[list[np.ndarray | None]]) -> int:
        """The largest position id of a step's rows."""
        largest = 0
        for row, positions in zip(step, drawn, strict=True):
            lasts = [
                self.lengths[i] - 1 if p is None else int(p[-1]) for i, p in zip(row, positions, strict=True)
            ]
            if not self.job.packed_isolated and len(row) > 1:
                lasts = [sum(self.lengths[i] for i in row) - 1]  # positions of an open pack run on
            largest = max(largest, *lasts)
        return largest


def deal(job: FineTune, rows: Sequence[Row], processes: int, process: int) -> list[tuple[list[Row], bool]]:
    """One process's part of a step: the rows of each of its passes, and whether they count (`split_step`).

    A step that is split does not keep packed samples together: those that must not see each other are read as
    rows of their own.
    """
    if _is_split(job, processes):
        rows = [part for row in rows for part in unpack_row(row)]
    parts = split_step([len(row.input_ids) for row in rows], processes, job.micro_tokens)[process]
    return [([rows[i] for i in together], counts) for together, counts in parts]


def _is_split(job: FineTune, processes: int) -> bool:
    return processes > 1 or job.micro_tokens is not None


def terms(rows: Sequence[Row], loss: str) -> int:
    """What the loss of a step is a mean over: labelled tokens, or samples with ``sample``."""
    if loss == "token":
        return sum(label != IGNORED for row in rows for label in row.labels)
    # A prompt parts the responses of a pack, so every sample begins one run of labels.
    return sum(
        sum(a == IGNORED != b for a, b in zip(row.labels, row.labels[1:], strict=False)) for row in rows
    )
