"""The NLL of many tokens without all their logits at once: 39k tokens of a vocabulary of 128k have 20 GB of them, in float32.

Head and cross-entropy run on a part of the tokens at a time, and once more for the gradients (as gradient checkpointing does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

MANY = 4096  # tokens from which on this is worth the second computation
PART = 1024  # tokens whose logits are there at the same time


def applies(model: torch.nn.Module, tokens: int) -> bool:
    """Whether so many tokens are better read in parts; not under ZeRO-3, whose processes must call the head equally often."""
    inner = getattr(model, "module", model)
    return tokens > MANY and not hasattr(inner.get_output_embeddings().weight, "ds_id")


def nll_in_parts(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """NLL of each target at its row, nats, float32, ``(R,)``.

    All of it happens within one call of the model, since that is where wrappers (DDP, FSDP, autocast) have its weights ready.

    Args:
        model: also wrapped for several processes, or with adapters.
        rows: indices into (batch x positions), ``(R,)``. targets: token ids, ``(R,)``.
    """
    inner = getattr(model, "module", model)
    causal = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # without peft's shell
    head, body = causal.get_output_embeddings(), causal.base_model
    own, found = head.forward, []

    def part(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        # The model's own way from hidden states to logits: some families scale or cap them after the head.
        made = BaseModelOutputWithPast(last_hidden_state=hidden.unsqueeze(0))
        with _forward(head, own), _forward(body, lambda *_, **__: made):
            logits = type(causal).forward(causal, inputs_embeds=made.last_hidden_state, use_cache=False).logits[0]
        return functional.cross_entropy(logits.float(), wanted, reduction="none")

    def in_parts(hidden: torch.Tensor) -> torch.Tensor:
        kept = hidden.flatten(0, 1)[rows]
        pairs = zip(kept.split(PART), targets.split(PART), strict=True)
        found.append(torch.cat([checkpoint(part, *pair, use_reentrant=False, preserve_rng_state=False) for pair in pairs]))
        return hidden[..., :1]  # in place of logits; nobody reads it

    def exchange(_: torch.nn.Module, __: Any, output: Any) -> Any:
        output.logits = found.pop()
        return output

    # Before the hooks of FSDP, which gathers the weights again when the gradients reach what the model gave out.
    hook = inner.register_forward_hook(exchange, prepend=True)
    try:
        with _forward(head, in_parts):
            return model(**inputs, use_cache=False).logits
    finally:
        hook.remove()


@contextmanager
def _forward(module: torch.nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else."""
    before = module.__dict__.get("forward")  # what accelerate or peft may have put there
    module.forward = function
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


_HEAD_ROWS = 1024  # rows whose logits are in fp32 at the same time


@contextmanager
def head_on(model: PreTrainedModel, rows: torch.Tensor) -> Iterator[None]:
    """Let the output head see only ``rows``, indices into (batch x positions): all logits at 64k x 32k vocabulary are 8.4 GB.

    A hook rather than a call of the head keeps what a family does after it (soft caps, logit scales). ``logits_to_keep``
    takes the same positions in every row of the batch, so it would keep more than the response of right-padded rows.
    """

    def pick(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0].flatten(0, 1)  # (B * N, hidden)
        return (hidden[rows.to(hidden.device)].unsqueeze(0), *args[1:])  # (1, R, hidden)

    inner = getattr(model, "module", model)  # what training on several devices wraps around it
    handle = inner.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
