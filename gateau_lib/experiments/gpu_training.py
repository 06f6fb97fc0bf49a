"""Training steps with adapters of a 7B-shaped model on a card: seconds, memory, what logits cost."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from gateau_lib.experiments import gpu_record
from gateau_lib.experiments.gpu_card import Shapes, seven_b
from gateau_lib.methods.skipalign import skip_positions
from gateau_lib.models import adapters
from gateau_lib.training.input_rows import IGNORED, Row, collate
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.trainer import make_trainer, response_loss

PART = "training"


def row(shapes: Shapes, positions: Sequence[int] = (), whole: bool = False) -> Row:
    """Random tokens of the middle length, trained on their response or the ``whole``."""
    ids = np.random.default_rng(0).integers(3, shapes.model[-1], shapes.middle).tolist()
    asked = 1 if whole else shapes.middle - shapes.response
    return Row(ids, [IGNORED] * asked + ids[asked:], list(positions or range(shapes.middle)))


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Forward and backward with logits of the response and of all tokens, then whole steps of the trainer."""
    job = FineTune(
        "measured", "random weights", (), shapes.window, 1e-5, 0, ByTokens(shapes.middle, shapes.middle),
        dtype="bfloat16", tuning="lora", gradient_checkpointing=True,
    )  # fmt: skip
    model: Any = adapters.attach(seven_b(shapes, device), job.base, job.lora_rank, job.seed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    measured = partial(
        gpu_record.measure, path, PART, device=device, repeats=1, length=shapes.middle, tokens=shapes.middle
    )
    batch, every = (
        {name: tensor.to(device) for name, tensor in collate([row(shapes, whole=whole)], 0).items()}
        for whole in (False, True)
    )

    def backward(loss: Callable[[], torch.Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    losses: dict[str, Callable[[], torch.Tensor]] = {
        "loss of the response, its logits only": partial(response_loss, model, batch),
        # As transformers computes it: in float32.
        "loss of the response, logits of all tokens": lambda: model(**batch, use_cache=False).loss,
        "loss of all tokens, logits in parts": partial(response_loss, model, every),
    }
    for what, loss in losses.items():
        measured(f"forward and backward, {what}", work=partial(backward, loss))
    model.zero_grad(set_to_none=True)

    def step(one: Row) -> None:
        with TemporaryDirectory() as folder:
            make_trainer(job, model, [[one]], Path(folder)).train()

    turns = (shapes.middle - shapes.response, shapes.response)
    skipped = skip_positions(turns, shapes.window, "skip_all", np.random.default_rng(0)).tolist()
    measured("step of the trainer, positions 0, 1, 2, ...", work=partial(step, row(shapes)))
    measured("step of the trainer, skipped positions (SkipAlign)", work=partial(step, row(shapes, skipped)))
