"""Supervised fine-tuning: a job (`recipe`) in, a model folder out; loss on responses only, exact resume.

All steps of a run follow from its job and its data, so a resumed run sees the same ones.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed
from transformers.trainer_utils import get_last_checkpoint

from gateau_lib.data.samples import encode, encode_asked
from gateau_lib.models import adapters, loading, rope
from gateau_lib.study.code_hash import digest
from gateau_lib.study.store import keyed_fields
from gateau_lib.training.minibatches import Batches, compact, training_samples
from gateau_lib.training.recipe import FineTune
from gateau_lib.training.trainer import ResponseTrainer, make_trainer, processes_and_rank

LOG = "log.json"


def steps_of(job: FineTune, tokenizer: Any) -> Batches:
    """The rows of all steps of a job; its template, if any, is put on the tokenizer."""
    if job.template is not None:
        tokenizer.chat_template = job.template
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    read = encode if job.template is None else encode_asked
    room = job.window - len(ending)
    encoded = [compact(read(sample, tokenizer, room)) for sample in training_samples(job)]
    return Batches(job, encoded, ending)


def identity(job: FineTune, steps: Batches) -> str:
    """The run's name, "-" and 12 hex digits of what it trains and on what, not of how that is computed."""
    fields = asdict(job)
    content = {name: fields[name] for name in keyed_fields(job)}
    return f"{job.name}-{digest(json.dumps([content, steps.digest()], default=str))[:12]}"


@contextmanager
def _restored_determinism() -> Iterator[None]:
    """Undo full determinism after a run: it is a switch of the whole process, and scoring needs none."""
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    before = dict(os.environ)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        for switch in os.environ.keys() - before.keys():
            del os.environ[switch]
        os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


def fine_tune(job: FineTune, output: Path) -> dict[str, Any]:
    """Train a job, or this process's part of it, and save model, tokenizer and ``log.json`` in ``output``.

    Checkpoints, if it makes any (`trainer.save_steps_of`), lie beside ``output`` under the run's `identity`
    until its end; a run that was killed goes on from the last one and ends with the same weights (bitwise on
    CPU with one or two processes). Of adapters, ``output`` holds only them and the model's configuration.
    Returns the log, {} in all processes but the first: ``identity``, ``losses`` (nats, one an optimizer
        step), ``tokens`` used, ``response_tokens``, ``padded`` (tokens forwarded, padding included),
        ``samples`` seen, ``distinct`` ones, ``epochs``, ``steps``, ``max_position``, ``seconds``.
    Raises TrainingError: the loss is not finite; names run and step.
    """
    started = time.monotonic()
    processes, rank = processes_and_rank()
    with _restored_determinism():
        model, tokenizer = _model(job)
        steps = steps_of(job, tokenizer)
        name = identity(job, steps)
        folder = output.parent / f"{name}.checkpoints"  # the next try of the same run finds it again
        folder.mkdir(parents=True, exist_ok=True)
        try:
            trainer = make_trainer(job, model, steps, folder)
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        except BaseException:
            with suppress(OSError):
                folder.rmdir()  # only if it holds no checkpoint
            raise
        _save(job, trainer, output)
        _meet()
    if rank > 0:
        return {}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    log = {"identity": name, "losses": losses, **steps.usage(processes)}
    log["seconds"] = round(time.monotonic() - started, 2)
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer.save_pretrained(output)
    (output / LOG).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    return log


def _model(job: FineTune) -> tuple[torch.nn.Module, Any]:
    """The base of a job at the RoPE base and window to train at, with adapters if asked for; tokenizer."""
    lora = job.tuning == "lora"
    # Where a model is to be sharded, a device may not hold the whole of it: its parts go there one by one.
    to = torch.device("cpu") if job.sharding != "ddp" else None
    model, tokenizer = loading.load(job.base, job.dtype if lora else "float32", to)
    theta, window = job.rope_theta or rope.rope_theta(model), max(job.window, rope.window(model) or 0)
    if (theta, window) != (rope.rope_theta(model), rope.window(model)):
        model = rope.with_rope_theta(model, theta, window)
    return adapters.attach(model, job.base, job.lora_rank, job.seed) if lora else model.train(), tokenizer


def _save(job: FineTune, trainer: ResponseTrainer, output: Path) -> None:
    """Write the model as safetensors; all processes take part in gathering it, the first one writes."""
    model: Any = getattr(trainer.model, "module", trainer.model)
    state, dtype = None, getattr(torch, job.dtype)
    if job.sharding == "deepspeed":  # never run here
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    elif job.sharding == "fsdp":
        state = gathered(model)
    if processes_and_rank()[1] > 0:
        return
    if job.tuning == "lora":
        model.save_pretrained(output, save_embedding_layers=False)
        model.config.save_pretrained(output)
        return
    if state is not None or dtype != torch.float32:
        once = dict([*model.named_parameters(), *model.named_buffers()])  # tied weights under one name only
        whole = state or model.state_dict()
        state = {name: tensor.to(dtype) for name, tensor in whole.items() if name in once}
        model.config.dtype = dtype
    model.save_pretrained(output, state_dict=state)


def gathered(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a sharded model, on the CPU of the first process; every process must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))


def _meet() -> None:
    """Wait for the other processes, if any."""
    if distributed.is_initialized():
        distributed.barrier()


def _last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint; one that a kill cut short is removed (`Trainer` writes its state last)."""
    while processes_and_rank()[1] == 0 and (found := get_last_checkpoint(str(folder))):
        try:
            json.loads((Path(found) / "trainer_state.json").read_text(encoding="utf-8"))
            break
        except (OSError, ValueError):
            shutil.rmtree(found)
    _meet()
    return get_last_checkpoint(str(folder))


def training_log(folder: Path) -> dict[str, Any]:
    """The log that `fine_tune` left in a model folder."""
    return json.loads((folder / LOG).read_text(encoding="utf-8"))
