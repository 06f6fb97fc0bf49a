"""What the models are asked for: response losses, the short reader, attention to segments, segments alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.methods.base import READINGS, Reading
from gateau_lib.models import nll, rope
from gateau_lib.models.attention import Layer, check_layers
from gateau_lib.models.nll import (
    Count,
    NonFiniteLoss,
    SequenceError,
    TokenLosses,
    batch_nll,
    continuation_nll,
    naming,
    token_losses,
)

Parts = tuple[list[int], list[int]]  # of a sample: a prefix, and the targets that follow it


@dataclass(frozen=True)
class LongPass:
    """What one pass over a whole sample gives.

    ``attention[l, i]`` is the weight from response-token queries to a key of segment i in layer l, averaged
    over heads, response tokens and the keys of the segment (GATEAU averages over keys, so a short last
    segment counts by its density). ``keys[i]`` is the number of tokens of segment i.
    """

    tokens: TokenLosses  # of the response, (|y|,)
    attention: np.ndarray  # (layers, segments)
    keys: np.ndarray  # (segments,)

    @property
    def nll(self) -> float:
        """Mean loss of the response, nats per token."""
        return float(self.tokens.nll.mean())

    @property
    def mass(self) -> np.ndarray:
        """Share of the response's attention that a segment gets, summed over its keys, (layers, segments)."""
        return cast(np.ndarray, self.attention * self.keys)


def _check_prompts(encoded: Sequence[Encoded]) -> None:
    for sample in encoded:
        if not sample.prompt:
            fix = "give it an instruction"
            raise ValueError(f"sample {sample.id!r}: nothing stands before the response; {fix}")


def _losses(
    model: PreTrainedModel, encoded: Sequence[Encoded], parts: Sequence[Parts], entropy: bool, count: Count
) -> list[TokenLosses]:
    prefixes, targets = [prefix for prefix, _ in parts], [target for _, target in parts]
    with naming([sample.id for sample in encoded]):
        return token_losses(model, prefixes, targets, entropy=entropy, count=count)


def mean_nll(losses: Sequence[TokenLosses]) -> np.ndarray:
    """Mean NLL of each sample's tokens, (n,), nats per token."""
    return np.array([loss.nll.mean() for loss in losses])


def response_losses(
    model: PreTrainedModel, encoded: Sequence[Encoded], *, entropy: bool = False, count: Count = None
) -> list[TokenLosses]:
    """Loss, and where asked for entropy, of every response token given the whole prompt; errors as below."""
    _check_prompts(encoded)
    return _losses(model, encoded, [(sample.prompt, sample.response) for sample in encoded], entropy, count)


def cut_losses(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    window: int,
    *,
    entropy: bool = False,
    count: Count = None,
) -> list[TokenLosses]:
    """As `response_losses`, of what ``window`` tokens hold (`last_window`): its last tokens, if not all."""
    return _losses(model, encoded, [last_window(sample, window) for sample in encoded], entropy, count)


def response_nll(model: PreTrainedModel, encoded: Sequence[Encoded], *, count: Count = None) -> np.ndarray:
    """Mean NLL of each response given its whole prompt, (n,), nats per token; exp is PPL(y | c, x) (GATEAU).

    Raises ValueError: nothing before a response; NonFiniteLoss, OutOfMemory: naming the sample.
    """
    return mean_nll(response_losses(model, encoded, count=count))


def last_window(sample: Encoded, window: int) -> Parts:
    """Prefix and targets of a sample cut to ``window`` tokens, the start token included.

    The context is cut on the left; instruction and response stay. If those two alone exceed the window, the
    last tokens of both are read, and a response that alone exceeds it is scored on the tokens that are left,
    each with a predecessor.
    """
    if window < 2:
        raise ValueError(f"window must be at least 2 tokens, got {window}")
    room = window - len(sample.start)
    body = (sample.context + sample.instruction + sample.response)[-room:]
    cut = max(0, len(body) - len(sample.response))
    prefix, targets = sample.start + body[:cut], body[cut:]
    return (prefix, targets) if prefix else (targets[:1], targets[1:])


def short_reader_nll(
    short_model: PreTrainedModel,
    encoded: Sequence[Encoded],
    reading: Reading,
    *,
    window: int | None = None,
    target: int | None = None,
    count: Count = None,
) -> np.ndarray:
    """Mean response NLL of the short model, (n,), nats per token; it must somehow read beyond its window.

    ``reading``: ``ntk``: RoPE stretched to ``target`` tokens by one fixed NTK base (GATEAU; its ablation "w/o
        extended window" is worse); ``truncate``: the last ``window`` tokens only, see `last_window`; ``raw``:
        as if it had no window; ``ntk_each``: RoPE stretched to each sample's own length, so that one within
        the window is read as it is (what dynamic NTK does, without its memory of what was read before).
    ``window``: tokens the short model was trained for; by default those that its configuration names.
    ``target``: tokens to stretch to. Give a fixed number in a run over shards: the default, the longest
        sample of this call, makes a sample's score depend on its company.
    Raises ValueError: unknown reading, no window to cut to; NonFiniteLoss, OutOfMemory: naming the sample.
    """
    if reading not in READINGS:
        raise ValueError(f"unknown reading {reading!r}: choose one of {', '.join(READINGS)}")
    own = rope.window(short_model)
    window = window or own
    if reading == "truncate":
        if window is None:
            raise ValueError("the model's configuration names no window to cut to; give one")
        return mean_nll(cut_losses(short_model, encoded, window, count=count))
    reader = short_model
    if reading != "raw" and own is not None and window != own:
        reader = rope.with_rope_theta(reader, rope.rope_theta(reader), window)
    if reading == "ntk_each":
        return _each_stretched(reader, encoded, count)
    if reading == "ntk":
        longest = max((len(sample.ids) for sample in encoded), default=1)
        reader = rope.extend_window(reader, target or longest)
    return response_nll(reader, encoded, count=count)


def _each_stretched(model: PreTrainedModel, encoded: Sequence[Encoded], count: Count) -> np.ndarray:
    """`response_nll` with the model stretched to each sample's length; equal lengths are read together."""
    groups: dict[int, list[int]] = {}
    for place, sample in enumerate(encoded):
        groups.setdefault(max(rope.window(model) or 0, len(sample.ids)), []).append(place)
    found = np.empty(len(encoded))
    for length, places in groups.items():
        try:
            read = response_nll(
                rope.extend_window(model, length), [encoded[place] for place in places], count=count
            )
        except SequenceError as error:
            place = places[error.index]
            raise type(error)(place, encoded[place].id) from None
        found[places] = read
    return found


def segment_mean(layer: Layer, b: int, sample: Encoded, segment_length: int) -> torch.Tensor:
    """Attention of the response in sequence b to each segment, (segments,), mean over heads, rows, keys."""
    start, stop = len(sample.prompt), len(sample.ids)  # the response's rows
    first, last = len(sample.start), len(sample.start) + len(sample.context)  # the context's keys
    total = torch.zeros(last - first, dtype=torch.float64, device=layer.query.device)
    for begin, end in layer.chunks(start, stop):
        seen, weights = layer.weights(b, begin, end)  # (Hq, rows, keys from `seen` on)
        if seen < last:  # a sliding window may begin behind the context
            in_context = weights[:, :, max(0, first - seen) : last - seen]
            total[max(0, seen - first) :] += in_context.sum((0, 1)).double()
    padding = -(last - first) % segment_length
    sums = torch.nn.functional.pad(total, (0, padding)).view(-1, segment_length).sum(1)
    sizes = torch.full_like(sums, segment_length)
    if padding:
        sizes[-1] -= padding
    return sums / sizes / (layer.query.shape[1] * (stop - start))


@torch.inference_mode()
def long_pass(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    segment_length: int,
    *,
    entropy: bool = False,
    count: Count = None,
) -> list[LongPass]:
    """Response NLL and attention to every context segment, from one forward pass a sample.

    Queries are the positions of all response tokens. No N x N matrix is built; softmax of the attention rows
    is in fp32 for every model dtype. Segments out of a sliding window's sight get exactly 0, soft-capped
    scores are capped. A sample without context has no segments: ``attention`` is (layers, 0).
    Raises ValueError: segment length below 1, nothing before a response; ModelError: attention that cannot be
        read; NonFiniteLoss, OutOfMemory: naming the sample.
    """
    if segment_length < 1:
        raise ValueError(f"segment_length must be at least 1 token, got {segment_length}")
    _check_prompts(encoded)

    def run(group: list[int]) -> list[LongPass]:
        chosen = [encoded[i] for i in group]
        layers: list[list[torch.Tensor]] = []  # (segments,) of each sample, a layer

        def tap(layer: Layer) -> None:
            layers.append([segment_mean(layer, b, sample, segment_length) for b, sample in enumerate(chosen)])

        ids, counted = [s.ids for s in chosen], [len(s.response) for s in chosen]
        uncertain: list[torch.Tensor] | None = [] if entropy else None
        parts = batch_nll(model, ids, counted, count, tap, entropy=uncertain)
        losses = nll.as_losses(parts, uncertain)
        check_layers(model, len(layers))
        passes = []
        for b, (index, sample, loss) in enumerate(zip(group, chosen, losses, strict=True)):
            attention = torch.stack([layer[b].cpu() for layer in layers]).numpy()  # (layers, segments)
            if not (np.isfinite(loss.nll).all() and np.isfinite(attention).all()):
                raise NonFiniteLoss(index)
            keys = np.array([len(part) for part in segments(sample.context, segment_length)], dtype=int)
            passes.append(LongPass(loss, attention, keys))
        return passes

    with naming([sample.id for sample in encoded]):
        lengths, edge = [len(s.ids) for s in encoded], rope.rope_edge(model)
        return nll.run_batches(lengths, nll.most_tokens(model), run, edge)


def segment_importance(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    segment_length: int,
    *,
    chosen: Sequence[Sequence[int]] | None = None,
    count: Count = None,
) -> list[np.ndarray]:
    """Mean response NLL given one segment and the instruction; low means important (GATEAU, select/cam).

    ``chosen``: for each sample, the indices of the segments that are read; None: all of them.
    Returns for each sample an array (segments read,), nats per token; empty for a sample without context.
    Raises NonFiniteLoss, OutOfMemory: naming the sample and the segment; ``index`` is the sample's place.
    """
    # All samples in one call: segments of short samples fill batches together.
    asked: list[tuple[int, int]] = []  # the sample's place, the segment
    prefixes: list[list[int]] = []
    for place, sample in enumerate(encoded):
        parts = segments(sample.context, segment_length)
        read = range(len(parts)) if chosen is None else chosen[place]
        asked += [(place, i) for i in read]
        prefixes += [sample.start + parts[i] + sample.instruction for i in read]
    targets = [encoded[place].response for place, _ in asked]
    try:
        losses = continuation_nll(model, prefixes, targets, count=count)
    except SequenceError as error:
        place, segment = asked[error.index]
        raise type(error)(place, encoded[place].id, segment=segment) from None
    result: list[list[float]] = [[] for _ in encoded]
    for (place, _), loss in zip(asked, losses, strict=True):
        result[place].append(loss.mean())
    return [np.array(found, dtype=float) for found in result]
