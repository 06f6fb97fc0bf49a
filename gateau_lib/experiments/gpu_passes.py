"""Scoring passes of a 7B-shaped model with random weights on a card: seconds, memory, operations."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.experiments import gpu_record
from gateau_lib.experiments.gpu_card import Shapes, seven_b
from gateau_lib.methods import model_passes, pair_passes
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Lengths
from gateau_lib.models import nll, rope
from gateau_lib.models.output_head import nll_at
from gateau_lib.models.sizes import of_config
from gateau_lib.scoring import pass_costs

PART = "passes"
NEW = 12  # lengths that were never met


def sample(shapes: Shapes, length: int) -> Encoded:
    """A sample of random tokens, ``length`` in all."""
    sizes = (length - 1 - shapes.instruction - shapes.response, shapes.instruction, shapes.response)
    rng = np.random.default_rng(0)
    return Encoded(f"{length}", [1], *(rng.integers(3, shapes.model[-1], n).tolist() for n in sizes))


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Single passes by length, one sample read as the methods do, passes of lengths that were never met."""
    model, segment = seven_b(shapes, device), shapes.segment
    row, size = partial(gpu_record.measure, path, PART, device=device), of_config(model.config)
    for length in shapes.lengths:
        one, operations = sample(shapes, length), size.flops(length, shapes.response)
        # In full: each query with every key, the way many published utilisations count.
        full = operations + 4 * size.layers * size.width * (length**2 - length * (length + 1) / 2)
        about: dict[str, Any] = {
            "length": length,
            "tokens": length,
            "operations": operations,
            "operations_full": full,
        }
        row("plain pass", work=partial(model_passes.response_nll, model, [one]), **about)
        row("pass with attention", work=partial(model_passes.long_pass, model, [one], segment), **about)

    length = shapes.middle
    one = sample(shapes, length)
    # The same weights serve as the short model: what counts is that it is stretched.
    short = rope.extend_window(rope.with_rope_theta(model, 1e4, shapes.short_window), length)
    document = one.context + one.instruction + one.response
    pairs: dict[str, Any] = {"pairs": shapes.pairs, "window_segments": length // segment}
    ways: dict[str, tuple[str, Callable[[], Any]]] = {
        "hmg": ("stretched short model (HMG)", partial(model_passes.response_nll, short, [one])),
        "cam": ("each segment alone (CAM)", partial(model_passes.segment_importance, model, [one], segment)),
        "prolong": (
            f"{shapes.pairs} pairs (ProLong)",
            partial(pair_passes.score_documents, model, [document], segment_length=segment, **pairs),
        ),
    }
    options = Options(tuple(ways), "ntk", segment, length, shapes.short_window, shapes.pairs)
    parts = Lengths(1, len(one.context), shapes.instruction, shapes.response)
    costs = pass_costs.totals([parts], 1, size, size, options)
    for name, (what, work) in ways.items():
        tokens, operations = map(float, costs.loc[name, ["tokens", "flops"]])
        row(what, work=work, length=length, tokens=tokens, operations=operations)

    # A kernel that plans each length anew shows here: before lengths are rounded up to few ones, and since.
    base = min(shapes.lengths)
    ways_of_padding: dict[str, tuple[int, Callable[[Encoded], Any]]] = {
        "as they are": (-17, partial(_as_it_is, model)),
        "rounded up": (-13, lambda one: model_passes.response_nll(model, [one])),
    }
    for what, (step, read) in ways_of_padding.items():
        new = [sample(shapes, base + step * (n + 1)) for n in range(NEW)]
        tokens = sum(len(one.ids) for one in new)
        work = partial(_each, read, new)
        row(f"{NEW} lengths never met, {what}", work=work, repeats=1, length=base, tokens=tokens)


def _each(read: Callable[[Encoded], Any], samples: Sequence[Encoded]) -> None:
    for one in samples:
        read(one)


@torch.inference_mode()
def _as_it_is(model: PreTrainedModel, one: Encoded) -> torch.Tensor:
    """The response's losses by a pass over a sample's own length."""
    inputs, targets = nll.padded([one.ids], model.device), torch.tensor(one.response, device=model.device)
    rows = torch.arange(len(one.prompt), len(one.ids), device=model.device) - 1
    return nll_at(model, inputs, rows, targets)
