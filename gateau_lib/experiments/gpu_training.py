"""Training steps with adapters of a model of 7B's shape on a card: seconds, memory, what each logit costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from gateau_lib.experiments import gpu_record
from gateau_lib.experiments.gpu_card import Shapes, seven_b
from gateau_lib.methods.skipalign import skip_positions
from gateau_lib.models import adapters
from gateau_lib.study.errors import reason
from gateau_lib.training.input_rows import IGNORED, Row, collate
from gateau_lib.training.recipe import ByTokens, FineTune
from gateau_lib.training.trainer import make_trainer, response_loss

PART = "training"


def row(shapes: Shapes, positions: Sequence[int] | None = None, whole: bool = False) -> Row:
    """A row of random tokens of the middle length, trained on its response.

    Args:
        positions: 0, 1, 2, ... by default. whole: trained on all tokens but the first.
    """
    length = shapes.middle
    ids = np.random.default_rng(0).integers(3, shapes.vocabulary, length).tolist()
    asked = 1 if whole else length - shapes.response
    return Row(ids, [IGNORED] * asked + ids[asked:], list(positions or range(length)))


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Forward and backward with logits of the response and of all tokens, then whole steps of the trainer."""
    job = FineTune(
        "measured",
        "random weights",
        (),
        shapes.window,
        1e-5,
        0,
        ByTokens(shapes.middle, shapes.middle),
        dtype="bfloat16",
        tuning="lora",
        gradient_checkpointing=True,
    )
    model: Any = adapters.attach(seven_b(shapes, device), job.base, job.lora_rank, job.seed)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    batch, every = (
        {key: value.to(device) for key, value in collate([row(shapes, whole=whole)], 0).items()}
        for whole in (False, True)
    )
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "loss of the response, its logits only": partial(response_loss, model, batch),
        "loss of the response, logits of all tokens": partial(_usual_loss, model, batch),
        "loss of all tokens, logits in parts": partial(response_loss, model, every),
    }
    for what, loss in losses.items():
        _row(path, shapes, device, f"forward and backward, {what}", partial(_backward, model, loss))
    turns = (shapes.middle - shapes.response, shapes.response)
    skipped = skip_positions(turns, shapes.window, "skip_all", np.random.default_rng(0)).tolist()
    for what, positions in (("positions 0, 1, 2, ...", None), ("skipped positions (SkipAlign)", skipped)):
        steps = partial(_steps, job, model, row(shapes, positions))
        _row(path, shapes, device, f"optimizer step, {what}", steps)


def _usual_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss as transformers computes it: logits of all tokens, in float32."""
    return model(**batch, use_cache=False).loss


def _backward(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> list[float]:
    """Two forward and backward passes; the seconds of each."""
    found = []
    for _ in range(2):
        _wait()
        begin = time.perf_counter()
        loss().backward()
        _wait()
        found.append(time.perf_counter() - begin)
        model.zero_grad(set_to_none=True)
    return found


class _Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note when a step begins."""
        _wait()
        self.begins.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note when it ends."""
        _wait()
        self.ends.append(time.perf_counter())


def _steps(job: FineTune, model: Any, one: Row, count: int = 2) -> list[float]:
    """Steps of the trainer on one row each; the seconds of each, and a loss that is a number."""
    clock = _Clock()
    with TemporaryDirectory() as folder:
        trainer = make_trainer(job, model, [[one]] * count, Path(folder))
        trainer.add_callback(clock)
        trainer.train()
    return [end - begin for begin, end in zip(clock.begins, clock.ends, strict=True)]


def _row(
    path: Path, shapes: Shapes, device: torch.device, what: str, work: Callable[[], list[float]]
) -> None:
    """Measure one kind of step, or leave the reason why it could not be done."""
    on_card = device.type == "cuda"
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = work()
    except Exception as error:  # the next one may fit
        note = f"{type(error).__name__}: {reason(error)}"
        gpu_record.add(path, PART, what, length=shapes.middle, seconds=None, note=note)
        return
    peak = torch.cuda.max_memory_allocated(device) if on_card else None
    measured = {"first_seconds": seconds[0], "seconds": min(seconds[1:]), "peak_bytes": peak}
    gpu_record.add(path, PART, what, length=shapes.middle, tokens=shapes.middle, **measured)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
