"""Negative log-likelihood of a continuation given a prefix, in nats per token: the number under every score of this study.

Batches hold sequences of similar length, padded on the right: a causal model never looks to the right, so a plain mask of
ones is exact, the fast causal kernels apply, and no N x N mask is built. The mask and the positions are always passed,
because transformers guesses packing from positions when there is no mask. The output head runs on response rows only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from gateau_lib.models.attention import Tap, exact
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.output_head import _HEAD_ROWS, head_on
from gateau_lib.models.rope import rope_edge
from gateau_lib.study.errors import UserError

BATCH_TOKENS = 16384  # padded tokens a forward pass, unless a single sequence is longer
CPU_TOKENS = 4096  # the most on a processor: larger batches outgrow its caches and take a quarter longer

Result = TypeVar("Result")


class SequenceError(UserError):
    """A sequence that cannot be scored; ``index`` is its place in the call."""

    reason = "cannot be scored"

    def __init__(self, index: int, name: str | None = None) -> None:
        super().__init__(f"{name or f'sequence {index}'}: {self.reason}")
        self.index = index


class NonFiniteLoss(SequenceError):
    """A loss that is NaN or infinite."""

    reason = "the model's loss is NaN or infinite; load the model in float32 or bfloat16, and check that its folder is whole"


class OutOfMemory(SequenceError):
    """A sequence that does not fit into memory even alone."""

    reason = "does not fit into memory even alone; lower --max-length, or load the model in bfloat16 or on a larger device"




def plan_batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS, edge: int | None = None) -> list[list[int]]:
    """Indices grouped by similar length, longest group first, each at most ``batch_tokens`` padded tokens (or one sequence).

    Args:
        edge: sequences longer than this never share a batch with the others, see `rope.rope_edge`.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        apart = edge is not None and longest > edge >= lengths[index]
        # A quarter is the most padding that a sequence may get: past that, another forward pass is cheaper.
        if groups and not apart and (len(groups[-1]) + 1) * longest <= batch_tokens and lengths[index] >= 0.75 * longest:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = lengths[index]
    return groups


def run_batches(
    lengths: Sequence[int], batch_tokens: int, run: Callable[[list[int]], Sequence[Result]], edge: int | None = None
) -> list[Result]:
    """``run(group)`` for groups of indices of similar length; all results in the order of ``lengths``.

    A group that does not fit into memory is halved, and so are all groups after it that are as large.

    Args:
        run: one result an index of the group, in its order.

    Raises:
        OutOfMemory: one sequence alone does not fit.
    """
    done: dict[int, Result] = {}
    todo = plan_batches(lengths, batch_tokens, edge)
    while todo:
        group = todo.pop(0)
        try:
            done.update(zip(group, run(group), strict=True))
            continue
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Past the handler, so that the failed pass's tensors are no longer held by the traceback.
        if len(group) == 1:
            raise OutOfMemory(group[0])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        rest = [index for left in (group, *todo) for index in left]
        smaller = plan_batches([lengths[i] for i in rest], len(group) // 2 * lengths[group[0]], edge)
        todo = [[rest[i] for i in part] for part in smaller]
    return [done[i] for i in range(len(lengths))]


def named(error: SequenceError, index: int, name: str) -> SequenceError:
    """The same error for the caller's own numbering and name of the sequence."""
    return type(error)(index, name)




def batch_nll(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    n_targets: Sequence[int],
    count: Counter | None = None,
    tap: Tap | None = None,
) -> list[np.ndarray]:
    """One forward pass: NLL of the last ``n_targets[b]`` tokens of each sequence.

    Args:
        tap: sees every attention layer on the way, see `attention.exact`.

    Returns:
        For each sequence an array (n_targets[b],), float64, nats; the softmax is in fp32 whatever the model's dtype.
    """
    longest = max(map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)  # (B, N), what stands in the padding is never looked at
    rows, targets = [], []
    for b, (sequence, n) in enumerate(zip(sequences, n_targets, strict=True)):
        ids[b, : len(sequence)] = torch.as_tensor(sequence)
        rows.append(torch.arange(len(sequence) - n - 1, len(sequence) - 1) + b * longest)  # a row predicts the next token
        targets.append(torch.as_tensor(sequence[-n:]))
    ids = ids.to(model.device)
    positions = torch.arange(longest, device=ids.device).expand(len(sequences), -1)
    with exact(model, tap), head_on(model, torch.cat(rows)):
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False)
    logits = output.logits[0]  # (R, vocabulary)
    wanted = torch.cat(targets).to(logits.device)
    chunks = zip(logits.split(_HEAD_ROWS), wanted.split(_HEAD_ROWS), strict=True)
    losses = torch.cat([functional.cross_entropy(part.float(), target, reduction="none") for part, target in chunks])
    if count is not None:
        count.update(tokens=sum(map(len, sequences)), padded=ids.numel(), forwards=1)
    return [part.double().cpu().numpy() for part in losses.split(list(n_targets))]


@torch.inference_mode()
def continuation_nll(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> list[np.ndarray]:
    """NLL of every target token given its prefix and the target tokens before it.

    Args:
        prefixes: token ids, at least one each (the start token, if nothing else).
        targets: token ids, at least one each.
        batch_tokens: padded tokens a forward pass, on a processor `CPU_TOKENS` at most; a longer sequence goes alone.
        count: its ``tokens`` (real), ``padded`` and ``forwards`` are increased.

    Returns:
        One array (number of target tokens,) a pair, float64, nats, in the order of the call.

    Raises:
        ValueError: an empty prefix or target.
        NonFiniteLoss, OutOfMemory: with the index.
    """
    for index, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        if not len(prefix) or not len(target):
            raise ValueError(f"sequence {index}: prefix and target need at least one token each; give a start token as prefix")

    def run(group: list[int]) -> list[np.ndarray]:
        losses = batch_nll(model, [[*prefixes[i], *targets[i]] for i in group], [len(targets[i]) for i in group], count)
        for index, loss in zip(group, losses, strict=True):
            if not np.isfinite(loss).all():
                raise NonFiniteLoss(index)
        return losses

    lengths = [len(p) + len(t) for p, t in zip(prefixes, targets, strict=True)]
    if model.device.type == "cpu":
        batch_tokens = min(batch_tokens, CPU_TOKENS)
    return run_batches(lengths, batch_tokens, run, rope_edge(model))


