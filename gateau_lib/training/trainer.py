"""The transformers `Trainer` of a fine-tuning run: the loss of a step from response logits, read in parts.

An optimizer step is one planned batch (`minibatches`): each process reads its part in one or more passes, and
divides by the terms of the whole step. So any number of processes, and passes of any size, give the same loss
curve up to the order of summation.
"""

import math
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from gateau_lib.models.output_head import nll_at
from gateau_lib.study import devices
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.progress import track
from gateau_lib.training import reports
from gateau_lib.training.input_rows import IGNORED, Row, collate
from gateau_lib.training.minibatches import deal, terms
from gateau_lib.training.recipe import FineTune

# Names that transformers changes between the versions supported here; peft and its own Trainer call them.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)

SAVE_STEPS = 100  # as in GATEAU's train/scripts
DEEPSPEED = Path(__file__).with_name("deepspeed_zero3.json")  # LongAlign's stage3.json; never run here


def processes_and_rank() -> tuple[int, int]:
    """Number of processes that train together, and which of them this is; (1, 0) outside of torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


def response_loss(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], loss: str = "token", over: int | None = None
) -> torch.Tensor:
    """Mean NLL of the labelled tokens of a batch of `input_rows.collate`, nats; no other logits are computed.

    ``loss``: ``token``, every labelled token counts the same; ``sample``, every sample does (LongAlign's loss
        weighting): 1/M sum_i L_i/N_i over the M samples of the batch.
    ``over``: what to divide by where the batch is part of a step (`minibatches.terms`); None: its own terms.
    """
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    wanted = (labels != IGNORED).flatten()  # (B * L,); a row's first token is part of a prompt
    places = wanted.nonzero().squeeze(-1)
    nll = nll_at(model, inputs, places - 1, labels.flatten()[places])
    if loss == "token":
        return nll.sum() / (over or len(nll))
    first = wanted & ~wanted.roll(1)  # prompts part the responses of rows and of packed samples
    sample = first.cumsum(0)[places] - 1
    counts = torch.bincount(sample).to(nll.dtype)
    return (nll / counts[sample]).sum() / (over or len(counts))


class ResponseTrainer(Trainer):
    """`Trainer` whose step is the sum of `response_loss` over the passes of this process's part."""

    job: FineTune

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any) -> torch.Tensor:
        """Passes of one step; returns the loss of this process's part, nats, times the processes."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        for at, (batch, weight) in enumerate(zip(inputs["passes"], inputs["weights"], strict=True), 1):
            last = at == len(inputs["passes"])
            self.accelerator.gradient_state._set_sync_gradients(last)  # DeepSpeed steps where this is true
            # Sharded gradients are reduced after each pass: kept whole, they would be as large as the model.
            wait = not last and self.job.sharding == "ddp"
            with self.accelerator.no_sync(model) if wait else nullcontext():
                with self.compute_loss_context_manager():
                    loss = response_loss(model, batch, self.job.loss, inputs["terms"]) * weight
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the `Trainer`'s own estimate looks for one batch of inputs."""
        return 0


class Watch(TrainerCallback):
    """Reports progress, and stops a run as soon as its loss is no number."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.steps: Iterator[int] = iter(())

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Start counting the steps that are left; a worker among several does not report, its pool does."""
        if not state.is_world_process_zero or multiprocessing.parent_process() is not None:
            return
        left = range(state.global_step, state.max_steps)
        told = reports.launched()  # to the process that launched this one, which shows it
        self.steps = reports.counted(left, self.name) if told else track(left, f"{self.name}: steps")
        next(self.steps, None)

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """One step further."""
        next(self.steps, None)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **also: Any) -> None:
        """Raise at a loss that is not finite; it is the mean over all processes, so all of them raise."""
        loss = also["logs"].get("loss", 0.0)
        if not math.isfinite(loss):
            step = f"step {state.global_step}"
            raise TrainingError(f"{self.name}: the loss is {loss} at {step}; lower learning_rate")


def make_trainer(job: FineTune, model: Any, steps: Sequence[list[Row]], folder: Path) -> ResponseTrainer:
    """The `Trainer` of a job over its steps; checkpoints, if asked for, go below ``folder``."""
    processes, _ = processes_and_rank()
    if processes == 1 and devices.device().type == "cuda" and torch.cuda.device_count() > 1:
        visible = f"{torch.cuda.device_count()} GPUs are visible and a run uses one"
        raise TrainingError(f"{visible}: set CUDA_VISIBLE_DEVICES to one")  # `fine_tuning` does
    if job.gradient_checkpointing:  # the Trainer's argument for it changes its name between versions
        model.gradient_checkpointing_enable({"use_reentrant": False})
    pad = max(0, model.config.pad_token_id or 0)  # -1 is none; masked and never a label, so any id will do

    def part(items: list[int]) -> dict[str, Any]:
        """What a process reads in a step; accelerate deals it the item ``step * processes + process``."""
        step, process = divmod(items[0], processes)
        passes, counted = zip(*deal(job, steps[step], processes, process), strict=True)
        # Gradients and logged losses are averaged over the processes, so each gives its part that many times.
        weights = [float(processes * counts) for counts in counted]
        batches = [collate(rows, pad) for rows in passes]
        return {"passes": batches, "weights": weights, "terms": terms(steps[step], job.loss)}

    data: Any = range(len(steps) * processes)
    arguments = _arguments(job, len(steps), folder)
    trainer = ResponseTrainer(model, arguments, part, data, callbacks=[Watch(job.name)])
    trainer.remove_callback(PrinterCallback)
    trainer.job = job
    return trainer


def _arguments(job: FineTune, steps: int, folder: Path) -> TrainingArguments:
    on_cpu = devices.device().type == "cpu"
    shared: dict[str, Any] = {"ddp_find_unused_parameters": False}
    if job.sharding == "fsdp":
        # Each process writes its part of a checkpoint; the final model is gathered by `sft`.
        shared = {"fsdp": True, "fsdp_config": {"fsdp_version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}
        shared["fsdp_config"] |= {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True}
    elif job.sharding == "deepspeed":  # never run here: it needs GPUs and a package that the lock leaves out
        if not find_spec("deepspeed"):
            fix = "pip install deepspeed, or give sharding 'fsdp'"
            raise TrainingError(f"{job.name}: deepspeed is not installed; {fix}")
        shared = {"deepspeed": str(DEEPSPEED)}
    save_steps = save_steps_of(job, steps)
    return TrainingArguments(
        str(folder),
        use_cpu=on_cpu,
        full_determinism=True,
        seed=job.seed,
        data_seed=job.seed,
        per_device_train_batch_size=1,  # one process's part of a step
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.03 * steps),
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        bf16=job.dtype == "bfloat16",
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or 500,
        save_total_limit=1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        **shared,
    )


def save_steps_of(job: FineTune, steps: int) -> int | None:
    """Steps between the checkpoints of a run of so many steps; None: no checkpoints."""
    if job.save_steps:
        return job.save_steps
    # For large models a quarter of the run, 20 to 100 steps; else 100 steps, in runs more than twice as long.
    if job.tuning == "lora" or job.gradient_checkpointing or job.sharding != "ddp":
        every = min(SAVE_STEPS, max(20, steps // 4))  # their steps take minutes
        return every if steps > every else None
    return SAVE_STEPS if steps > 2 * SAVE_STEPS else None
