"""The output head where it is needed: logits of chosen tokens, and losses of many in parts.

All logits of 64k tokens over a vocabulary of 32k take 8.4 GB in float32, and only those of response tokens
are asked for. Where even these are many (39k tokens of a vocabulary of 128k have 20 GB), head and
cross-entropy run on a part of the tokens at a time, and once more for the gradients (checkpointing).
"""

from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

MANY = 4096  # tokens from which on the second computation is worth its time
PART = 1024  # tokens whose logits are there in float32 at the same time


def token_nll(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """NLL of each target (R,), nats, in float32 whatever the dtype of the logits (R, vocabulary)."""
    parts = zip(logits.split(PART), targets.to(logits.device).split(PART), strict=True)
    return torch.cat(
        [functional.cross_entropy(part.float(), wanted, reduction="none") for part, wanted in parts]
    )


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each prediction (R,), nats, in float32 whatever the dtype of the logits (R, vocabulary)."""
    parts = [torch.special.entr(part.float().softmax(-1)).sum(-1) for part in logits.split(PART)]
    return torch.cat(parts)


def logits_at(model: torch.nn.Module, rows: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits (R, vocabulary) at ``rows``, indices into (batch x positions), from one forward pass.

    The head itself is called by the model, so that what a family does after it stays (soft caps, scales).
    ``logits_to_keep`` would take the same positions in every row, more than the responses of padded rows.
    """

    def pick(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = args[0].flatten(0, 1)  # (B * N, hidden)
        return (hidden[rows.to(hidden.device)].unsqueeze(0), *args[1:])  # (1, R, hidden)

    handle = _inner(model).get_output_embeddings().register_forward_pre_hook(pick)
    try:
        return model(**inputs).logits[0]
    finally:
        handle.remove()


def nll_at(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """NLL of each target (R,) at its row, with gradients, nats, float32, (R,); in parts if they are many.

    ``model``: also wrapped for several processes, or with adapters.
    ``rows``: indices into (batch x positions), (R,).
    """
    # Not under ZeRO-3: it gathers the head's weights at each call, which all processes must make as often.
    gathered_by_call = hasattr(_inner(model).get_output_embeddings().weight, "ds_id")
    if len(rows) > MANY and not gathered_by_call:
        return nll_in_parts(model, inputs, rows, targets)
    return token_nll(logits_at(model, rows, **inputs, use_cache=False), targets)


def nll_in_parts(
    model: torch.nn.Module, inputs: dict[str, torch.Tensor], rows: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """As `nll_at`, with the logits of `PART` tokens at a time."""
    # The losses are computed where the model is about to call its head, inside its own forward pass: only
    # there do wrappers (DDP, FSDP, autocast) have the weights gathered and the number format set.
    inner = _inner(model)
    causal = inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # without peft's shell
    head = _HeadOnly(causal)
    losses: list[torch.Tensor] = []

    def read(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        before_head.remove()  # the parts call the head as well
        hidden = args[0].flatten(0, 1)  # (B * N, hidden)
        for part, wanted in zip(hidden[rows].split(PART), targets.split(PART), strict=True):
            losses.append(checkpoint(head.nll, part, wanted, use_reentrant=False, preserve_rng_state=False))
        return (hidden[None, :0], *args[1:])  # the model's own logits: of no token

    def hand_out(_: torch.nn.Module, __: Any, output: Any) -> Any:
        output.logits = torch.cat(losses)
        return output

    before_head = causal.get_output_embeddings().register_forward_pre_hook(read)
    # The losses leave by the model's output, in front of FSDP's own hooks: FSDP watches what comes out, and
    # gathers the weights again, for the second computation, when the gradients reach it.
    after_model = inner.register_forward_hook(hand_out, prepend=True)
    try:
        return model(**inputs, use_cache=False).logits
    finally:
        before_head.remove()
        after_model.remove()


def _inner(model: torch.nn.Module) -> Any:
    """The model without what training in several processes wraps around it."""
    return getattr(model, "module", model)


class _HeadOnly:
    """A causal model without its layers: what is left is the family's way from hidden states to logits."""

    # It stands in for the model as ``self`` of the model's own forward pass, where the layers are one
    # attribute. So it has no weights, and neither the model nor a wrapper of it is changed.

    def __init__(self, causal: PreTrainedModel) -> None:
        self._causal = causal
        setattr(self, causal.base_model_prefix, self._hand_on)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._causal, name)

    @staticmethod
    def _hand_on(*_: Any, inputs_embeds: torch.Tensor, **__: Any) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)

    def nll(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """NLL (R,) of targets after hidden states (R, hidden)."""
        forward = type(self._causal).forward  # not the instance's, which accelerate may have wrapped
        return token_nll(forward(self, inputs_embeds=hidden[None], use_cache=False).logits[0], targets)
