"""What one of two processes does for test_training_scale.py: ``torch.distributed.run ... JOBS.json OUT``.

Runs all jobs one after the other, each into a folder of its name. A job whose name ends in ``-killed`` is
stopped in its sixth step and started again; in one whose name ends in ``-parts`` the output head reads seven
tokens at a time. A job that is to be sharded goes through accelerate's FSDP2 (`fully_shard`) although there
is no GPU: accelerate leaves it out on a CPU, so its state is set by hand to what it is on GPUs; the rest is
what runs there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import distributed
from torch.distributed.tensor import DTensor

from gateau_lib.models import output_head
from gateau_lib.training import recipe, sft
from gateau_lib.training.trainer import ResponseTrainer, make_trainer


def sharding(job, model, steps, folder) -> ResponseTrainer:
    trainer = make_trainer(job, model, steps, folder)
    if job.sharding == "fsdp":
        plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        plugin.set_mixed_precision("bf16" if job.dtype == "bfloat16" else "fp32")
        state = trainer.accelerator.state
        state.distributed_type, state.fsdp_plugin, trainer.is_fsdp_enabled = (
            DistributedType.FSDP,
            plugin,
            True,
        )
        assert trainer.accelerator.is_fsdp2
    return trainer


def gathered_halves(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Before the model is gathered: each process holds about half of every tensor, and no other half."""
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.to_local().numel() <= (parameter.shape[0] + 1) // 2 * parameter[0].numel(), name
    return gathered(model)


class Killed(Exception):
    pass


def stopped(trainer: ResponseTrainer, *arguments) -> torch.Tensor:
    if trainer.state.global_step == 5:
        raise Killed
    return step(trainer, *arguments)


os.environ["ACCELERATE_USE_CPU"] = "true"
torch.set_num_threads(1)
gathered, step = sft.gathered, ResponseTrainer.training_step
whole = output_head.MANY, output_head.PART
sft.make_trainer, sft.gathered = sharding, gathered_halves
for text in json.loads(Path(sys.argv[1]).read_text()):
    job = recipe.from_json(text)
    output_head.MANY, output_head.PART = (0, 7) if job.name.endswith("-parts") else whole
    if job.name.endswith("-killed"):
        ResponseTrainer.training_step = stopped
        try:
            sft.fine_tune(job, Path(sys.argv[2]) / job.name)
        except Killed:
            ResponseTrainer.training_step = step
    sft.fine_tune(job, Path(sys.argv[2]) / job.name)
distributed.barrier()
distributed.destroy_process_group()
