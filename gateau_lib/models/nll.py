"""Negative log-likelihood of a continuation given a prefix, in nats per token: the number under every score.

Batches hold sequences of similar length, padded on the right: a causal model never looks to the right, so a
plain mask of ones is exact, the fast causal kernels apply, and no N x N mask is built. Mask and positions are
always passed: without, transformers guesses packing. The output head runs on response rows only.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from gateau_lib.models.attention import Tap, reading_rows
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.output_head import entropies, logits_at, token_nll
from gateau_lib.models.rope import rope_edge, window
from gateau_lib.study.errors import UserError

BATCH_TOKENS = 16384  # padded tokens a forward pass, unless a single sequence is longer
CPU_TOKENS = 2048  # the most on a processor: larger batches outgrow its caches and take a tenth longer
# A card plans its attention kernel for each length it has not met (45 ms on an H200, docs/gpu.md), so lengths
# are rounded up to one of `LENGTHS_AN_OCTAVE` between a power of two and the next, or to `LENGTH_STEP`.
LENGTHS_AN_OCTAVE, LENGTH_STEP = 32, 256
LEAST_FILLED = 0.75  # of a batch's row: past a quarter of padding, another forward pass is cheaper

Count = Counter[str] | None  # what a pass adds to: real ``tokens``, ``padded`` ones too, ``forwards``
Result = TypeVar("Result")


@dataclass(frozen=True)
class TokenLosses:
    """What a model says of each target token of one sequence."""

    nll: np.ndarray  # (targets,) float64, nats
    entropy: np.ndarray | None = None  # (targets,) float64, nats, of what it predicted there; None: not asked


class SequenceError(UserError):
    """A sequence that cannot be scored: its place in the call, and sample (an id) and segment where known."""

    reason = "cannot be scored"

    def __init__(self, index: int, sample: str | None = None, segment: int | None = None) -> None:
        self.index, self.sample, self.segment = index, sample, segment
        names = [] if sample is None else [f"sample {sample!r}"]
        names += [] if segment is None else [f"segment {segment}"]
        super().__init__(f"{', '.join(names) or f'sequence {index}'}: {self.reason}")


class NonFiniteLoss(SequenceError):
    """A loss that is NaN or infinite."""

    reason = (
        "the model's loss is NaN or infinite; load the model in float32 or bfloat16, and check that its "
        "folder is whole"
    )


class OutOfMemory(SequenceError):
    """A sequence that does not fit into memory even alone."""

    reason = (
        "does not fit into memory even alone; lower --max-length, or load the model in bfloat16 or on a "
        "larger device"
    )


@contextmanager
def naming(ids: Sequence[str]) -> Iterator[None]:
    """Let a `SequenceError` of the block name the sample; ``ids`` are those of the sequences, in order."""
    try:
        yield
    except SequenceError as error:
        raise type(error)(error.index, ids[error.index]) from None


def planned_length(model: PreTrainedModel, length: int) -> int:
    """To which length a batch's rows are padded: more than ``length`` on a card only, where it plans kernels.

    Padding reaches neither beyond the model's window nor past `rope.rope_edge`: it never changes a loss.
    """
    if model.device.type != "cuda":
        return length
    octave = 1 << (length.bit_length() - 1)
    step = min(max(8, octave // LENGTHS_AN_OCTAVE), LENGTH_STEP)
    planned = -(-length // step) * step
    room = (window(model), rope_edge(model))
    return length if any(end and length <= end < planned for end in room) else planned


def most_tokens(model: PreTrainedModel, asked: int | None = None) -> int:
    """Padded tokens of a pass: `BATCH_TOKENS` or what is asked for, on a processor `CPU_TOKENS` at most."""
    most = BATCH_TOKENS if asked is None else asked
    return min(most, CPU_TOKENS) if model.device.type == "cpu" else most


def padded(
    sequences: Sequence[Sequence[int]], device: torch.device, past: int = 0, length: int = 0
) -> dict[str, torch.Tensor]:
    """A model's inputs for token ids padded on the right to N, after ``past`` cached tokens.

    N is the longest of them, or ``length`` if that is more.
    Returns ``input_ids`` and ``position_ids`` (B, N), ``attention_mask`` of ones (B, past + N).
    """
    longest = max(length, *map(len, sequences))
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)  # what is in the padding is never looked at
    for b, sequence in enumerate(sequences):
        ids[b, : len(sequence)] = torch.as_tensor(sequence)
    ids = ids.to(device)
    return {
        "input_ids": ids,
        "attention_mask": ids.new_ones(len(sequences), past + longest),
        "position_ids": torch.arange(past, past + longest, device=device).expand(len(sequences), -1),
    }


def plan_batches(
    lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS, edge: int | None = None
) -> list[list[int]]:
    """Indices grouped by similar length, longest group first.

    ``batch_tokens``: padded tokens of a group at most, unless it is one sequence.
    ``edge``: sequences longer than this never share a batch with the others, see `rope.rope_edge`.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
    groups: list[list[int]] = []
    longest = 0  # of the last group
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        fits = bool(groups) and (len(groups[-1]) + 1) * longest <= batch_tokens
        apart = edge is not None and longest > edge >= length
        if fits and not apart and length >= LEAST_FILLED * longest:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = length
    return groups


def run_batches(
    lengths: Sequence[int],
    batch_tokens: int,
    run: Callable[[list[int]], Sequence[Result]],
    edge: int | None = None,
) -> list[Result]:
    """``run(group)``, a result an index, for groups of `plan_batches`; all in the order of ``lengths``.

    A group that does not fit into memory is halved, and so are all groups after it that are as large.
    Raises OutOfMemory: one sequence alone does not fit.
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
        half = len(group) // 2 * lengths[group[0]]
        todo = [[rest[i] for i in part] for part in plan_batches([lengths[i] for i in rest], half, edge)]
    return [done[i] for i in range(len(lengths))]


def batch_nll(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    n_targets: Sequence[int],
    count: Count = None,
    tap: Tap | None = None,
    cache: DynamicCache | None = None,
    entropy: list[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """NLL of the last ``n_targets[b]`` tokens of each sequence, nats, fp32 whatever the dtype, from one pass.

    ``tap``: sees every attention layer on the way, see `attention.reading_rows`.
    ``cache``: keys and values of tokens before the sequences; those of the sequences are added.
    ``entropy``: is given the entropy of each prediction, nats, an array a sequence like the result's.
    """
    lengths = [len(sequence) for sequence in sequences]
    past, length = (0, planned_length(model, max(lengths))) if cache is None else (cache.get_seq_length(), 0)
    inputs = padded(sequences, model.device, past, length)
    ids = inputs["input_ids"]
    places = target_places(lengths, n_targets, ids.shape[1]).to(ids.device)
    more = {} if cache is None else {"past_key_values": cache}
    with reading_rows(model, tap):  # a row predicts the next token
        logits = logits_at(model, places - 1, **inputs, **more, use_cache=cache is not None)
    add(count, ids, sum(map(len, sequences)))
    if entropy is not None:
        entropy += entropies(logits).split(list(n_targets))
    return list(token_nll(logits, ids.flatten()[places]).split(list(n_targets)))


def as_losses(nll: Sequence[torch.Tensor], entropy: Sequence[torch.Tensor] | None) -> list[TokenLosses]:
    """What `batch_nll` gave, off the device."""
    losses = [part.double().cpu().numpy() for part in nll]
    if entropy is None:
        return [TokenLosses(loss) for loss in losses]
    uncertain = [part.double().cpu().numpy() for part in entropy]
    return [TokenLosses(*both) for both in zip(losses, uncertain, strict=True)]


def add(count: Count, ids: torch.Tensor, tokens: int) -> None:
    """Count one forward pass of padded ids (B, N), of which so many are real."""
    if count is not None:
        count.update(tokens=tokens, padded=ids.numel(), forwards=1)


def target_places(lengths: Sequence[int], n_targets: Sequence[int], padded: int = 0) -> torch.Tensor:
    """Places of the last ``n_targets[b]`` tokens of each row b, (R,): indices into (B x N).

    Rows are ``padded`` to N tokens, by default to the longest.
    """
    padded = padded or max(lengths)
    rows = zip(lengths, n_targets, strict=True)
    return torch.cat([torch.arange(length - n, length) + b * padded for b, (length, n) in enumerate(rows)])


@torch.inference_mode()
def continuation_nll(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    batch_tokens: int | None = None,
    count: Count = None,
) -> list[np.ndarray]:
    """NLL of every target token given its prefix and the target tokens before it, as `token_losses`.

    Returns one array (number of target tokens,) a pair, float64, nats, in the order of the call.
    """
    losses = token_losses(model, prefixes, targets, batch_tokens=batch_tokens, count=count)
    return [loss.nll for loss in losses]


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel,
    prefixes: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    entropy: bool = False,
    batch_tokens: int | None = None,
    count: Count = None,
) -> list[TokenLosses]:
    """NLL of every target token, and where ``entropy`` is asked for that of the prediction, from one pass.

    ``prefixes``, ``targets``: token ids, at least one each (the start token, if nothing else).
    ``batch_tokens``: see `most_tokens`; a longer sequence goes alone.
    Returns one a pair, in the order of the call.
    Raises ValueError: an empty prefix or target; NonFiniteLoss, OutOfMemory: with the index.
    """
    for index, (prefix, target) in enumerate(zip(prefixes, targets, strict=True)):
        if not len(prefix) or not len(target):
            fix = "give a start token as prefix"
            raise ValueError(f"sequence {index}: prefix and target need at least one token each; {fix}")

    def run(group: list[int]) -> list[TokenLosses]:
        sequences, counted = [[*prefixes[i], *targets[i]] for i in group], [len(targets[i]) for i in group]
        uncertain: list[torch.Tensor] | None = [] if entropy else None
        losses = as_losses(batch_nll(model, sequences, counted, count, entropy=uncertain), uncertain)
        for index, loss in zip(group, losses, strict=True):
            if not np.isfinite(loss.nll).all():
                raise NonFiniteLoss(index)
        return losses

    lengths = [len(prefix) + len(target) for prefix, target in zip(prefixes, targets, strict=True)]
    return run_batches(lengths, most_tokens(model, batch_tokens), run, rope_edge(model))
