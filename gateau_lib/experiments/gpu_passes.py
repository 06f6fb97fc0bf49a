"""Scoring passes of a 7B-shaped model with random weights on a card: seconds, memory, share of its rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.experiments import gpu_record
from gateau_lib.experiments.gpu_card import Shapes, seven_b, timed
from gateau_lib.methods import model_passes, pair_passes
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Lengths
from gateau_lib.models import rope
from gateau_lib.models.sizes import Size, of_config
from gateau_lib.scoring import pass_costs
from gateau_lib.study.errors import reason

PART = "passes"


@dataclass(frozen=True)
class Bench:
    """The record that rows go to, and the model that is measured."""

    path: Path
    shapes: Shapes
    model: PreTrainedModel
    size: Size
    rate: float | None  # operations a second of the card's own matrix product

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device


def sample(shapes: Shapes, length: int, seed: int = 0) -> Encoded:
    """A sample of random tokens, ``length`` in all."""
    rng = np.random.default_rng(seed)
    context = length - 1 - shapes.instruction - shapes.response
    sizes = (context, shapes.instruction, shapes.response)
    return Encoded(f"{length}-{seed}", [1], *(rng.integers(3, shapes.vocabulary, n).tolist() for n in sizes))


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Single passes by length, one sample read as the methods do, passes of lengths that were never met."""
    model = seven_b(shapes, device)
    rates = [row["rate"] for row in gpu_record.read(path)["rows"] if row["what"] == "matrix product"]
    bench = Bench(path, shapes, model, of_config(model.config), next(iter(rates), None))
    for length in shapes.lengths:
        _single(bench, length)
    _ways(bench)
    _new_lengths(bench)


def _single(bench: Bench, length: int) -> None:
    """The plain pass over one sample, and the one that also reads attention to its segments."""
    one, shapes = sample(bench.shapes, length), bench.shapes
    operations = bench.size.flops(length, shapes.response)
    # In full: each query with every key, the way many published utilisations count.
    full = operations + 4 * bench.size.layers * bench.size.width * (length**2 - length * (length + 1) / 2)
    ways: dict[str, Callable[[], Any]] = {
        "plain pass": partial(model_passes.response_nll, bench.model, [one]),
        "pass with attention": partial(model_passes.long_pass, bench.model, [one], shapes.segment),
    }
    for what, work in ways.items():
        _row(bench, what, work, length, length, operations, operations_full=full)


def _ways(bench: Bench) -> None:
    """What HMG, CAM and ProLong ask about one sample of the middle length."""
    shapes, model, length = bench.shapes, bench.model, bench.shapes.middle
    one = sample(shapes, length)
    # The same weights serve as the short model: what counts is that it is stretched.
    short = rope.with_rope_theta(model, 1e4, shapes.short_window)
    document = one.context + one.instruction + one.response
    stretched = rope.extend_window(short, length)
    pairs: dict[str, Any] = {"segment_length": shapes.segment, "pairs": shapes.pairs}
    pairs["window_segments"] = length // shapes.segment
    ways: dict[str, tuple[str, Callable[[], Any]]] = {
        "short model, stretched (HMG)": ("hmg", partial(model_passes.response_nll, stretched, [one])),
        "each segment alone (CAM)": (
            "cam",
            partial(model_passes.segment_importance, model, [one], shapes.segment),
        ),
        f"{shapes.pairs} pairs (ProLong)": (
            "prolong",
            partial(pair_passes.score_documents, model, [document], **pairs),
        ),
    }
    options = Options(
        methods=("hmg", "cam", "prolong"),
        reading="ntk",
        segment_length=shapes.segment,
        max_length=length,
        short_window=shapes.short_window,
        prolong_pairs=shapes.pairs,
    )
    parts = Lengths(1, len(one.context), len(one.instruction), len(one.response))
    costs = pass_costs.totals([parts], 1, bench.size, bench.size, options)
    for what, (name, work) in ways.items():
        tokens, operations = int(costs.loc[name, "tokens"]), float(costs.loc[name, "flops"])
        _row(bench, what, work, length, tokens, operations)


def _new_lengths(bench: Bench, count: int = 6) -> None:
    """Passes of lengths that were never met: a kernel that plans each length anew shows here."""
    base = min(bench.shapes.lengths)
    for what, step in (("lengths never met, odd", 17), ("lengths never met, multiples of 128", 128)):
        lengths = [base - step * (n + 1) for n in range(count) if base - step * (n + 1) > 0]
        if not lengths or min(lengths) <= bench.shapes.instruction + bench.shapes.response + 1:
            continue
        first, again = [], []
        for length in lengths:
            work = partial(model_passes.response_nll, bench.model, [sample(bench.shapes, length)])
            once, best, _ = timed(bench.device, work, 1)
            first.append(once)
            again.append(best)
        gpu_record.add(
            bench.path,
            PART,
            what,
            length=base,
            tokens=sum(lengths),
            first_seconds=sum(first),
            seconds=sum(again),
        )


def _row(
    bench: Bench,
    what: str,
    work: Callable[..., Any],
    length: int,
    tokens: int,
    operations: float,
    operations_full: float | None = None,
) -> None:
    """Measure one kind of pass, or leave the reason why it could not be done."""
    on_card = bench.device.type == "cuda"
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)
    count: Counter[str] = Counter()
    try:
        first, seconds, _ = timed(bench.device, partial(work, count=count), 2)
    except Exception as error:  # the next row may still be measured
        gpu_record.add(
            bench.path,
            PART,
            what,
            length=length,
            seconds=None,
            note=f"{type(error).__name__}: {reason(error)}",
        )
        return
    gpu_record.add(
        bench.path,
        PART,
        what,
        length=length,
        tokens=tokens,
        padded=count["padded"] // 3,  # of the three times it was done
        forwards=count["forwards"] // 3,
        first_seconds=first,
        seconds=seconds,
        peak_bytes=torch.cuda.max_memory_allocated(bench.device) if on_card else None,
        operations=operations,
        operations_full=operations_full,
        share=_share(operations, seconds, bench.rate),
        share_full=_share(operations_full, seconds, bench.rate),
    )


def _share(operations: float | None, seconds: float, rate: float | None) -> float | None:
    return operations / seconds / rate if operations and rate else None
