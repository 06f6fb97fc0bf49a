"""The training loss, sample by sample."""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from gateau_lib.data.samples import encode
from gateau_lib.models import loading
from gateau_lib.training import minibatches
from gateau_lib.training.input_rows import IGNORED, Row
from gateau_lib.training.recipe import FineTune


def encoded_batches(job: FineTune) -> list[list[Row]]:
    tokenizer = loading.load(job.base)[1]
    encoded = [encode(s, tokenizer, job.window - 1) for s in minibatches.training_samples(job)]
    return minibatches.Batches(job, encoded, [tokenizer.eos_token_id])


def reference_loss(model: LlamaForCausalLM, rows: list[Row], by_sample: bool = False) -> torch.Tensor:
    """Row by row, unpadded, eager attention under an explicit 4-D mask; response tokens only."""
    means, every = [], []
    for row in rows:
        bounds = [0, *torch.tensor(row.blocks or (len(row.input_ids),)).cumsum(0).tolist()]
        blocks = [torch.ones(b - a, b - a) for a, b in zip(bounds, bounds[1:], strict=False)]
        mask = torch.where(torch.block_diag(*blocks).tril() == 1, 0.0, float("-inf"))[None, None]
        ids, positions = torch.tensor([row.input_ids]), torch.tensor([row.position_ids])
        logits = model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits[0]
        nll = [
            (i, -torch.log_softmax(logits[i - 1], -1)[label])
            for i, label in enumerate(row.labels)
            if label != IGNORED
        ]
        every += [loss for _, loss in nll]
        for begin, end in zip(bounds, bounds[1:], strict=False):
            means.append(torch.stack([loss for i, loss in nll if begin <= i < end]).mean())
    return torch.stack(means if by_sample else every).mean()
