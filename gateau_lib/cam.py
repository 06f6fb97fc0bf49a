"""Contextual awareness measurement: does a model attend to the segments that make the response likely? (GATEAU, select/cam)

Two vectors over the segments of a context. *Importance*: how likely the response is given one segment and the instruction
alone. *Attention*: how much the response tokens look at the segment when the model reads the whole sample. The attention
rows are taken beside the fast kernel in the pass that also gives the response's NLL, for response queries only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.models.attention import Layer, check_layers
from gateau_lib.models.nll import BATCH_TOKENS, NonFiniteLoss, SequenceError, batch_nll, continuation_nll, named, run_batches
from gateau_lib.models.rope import rope_edge

IMPORTANCES = ("softmax_nll", "softmax_ppl", "ppl")
ATTENTIONS = ("sum", "softmax")
SIGNS = ("misaligned", "aligned")


@dataclass(frozen=True)
class LongPass:
    """What one pass over a whole sample gives.

    ``attention[l, i]`` is the attention weight from response-token queries to a key of segment i in layer l, averaged over
    heads, response tokens and the keys of the segment (GATEAU averages over keys, so a short last segment counts by its
    density). ``keys[i]`` is the number of tokens of segment i.
    """

    nll: float  # nats per response token
    token_nll: np.ndarray  # (|y|,) nats
    attention: np.ndarray  # (layers, segments)
    keys: np.ndarray  # (segments,)

    @property
    def mass(self) -> np.ndarray:
        """Share of the response's attention that a segment gets, (layers, segments): the sum over its keys, not the mean."""
        return self.attention * self.keys


def segment_mean(layer: Layer, b: int, sample: Encoded, segment_length: int) -> torch.Tensor:
    """Attention from the response's rows of sequence b to each segment: mean over heads, rows and keys, (segments,), float64."""
    start, stop = len(sample.prompt), len(sample.ids)
    first, last = len(sample.start), len(sample.start) + len(sample.context)
    total = torch.zeros(last - first, dtype=torch.float64, device=layer.query.device)
    for begin, end in layer.chunks(start, stop):
        seen, weights = layer.weights(b, begin, end)  # (Hq, rows, keys from `seen` on)
        if seen < last:
            total[max(0, seen - first) :] += weights[:, :, max(0, first - seen) : last - seen].sum((0, 1)).double()
    padding = -(last - first) % segment_length
    sums = torch.nn.functional.pad(total, (0, padding)).view(-1, segment_length).sum(1)  # (segments,)
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
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> list[LongPass]:
    """Response NLL and attention to every context segment, from one forward pass a sample.

    Queries are the positions of the response tokens (all of them, the last one too). No N x N matrix is built; softmax of the
    attention rows is in fp32 for every model dtype. A sample without context has no segments: ``attention`` is (layers, 0).

    Layers with a sliding window give segments out of the window's sight exactly 0, and layers with soft-capped scores are capped.

    Raises:
        ValueError: segment length below 1, a sample with nothing before its response.
        ModelError: a family whose attention cannot be read, or a layer without softmax attention.
        NonFiniteLoss, OutOfMemory: naming the sample.
    """
    if segment_length < 1:
        raise ValueError(f"segment_length must be at least 1 token, got {segment_length}")
    for sample in encoded:
        if not sample.prompt:
            raise ValueError(f"sample {sample.id!r}: nothing stands before the response; give it an instruction")

    def run(group: list[int]) -> list[LongPass]:
        chosen, layers = [encoded[i] for i in group], []

        def tap(layer: Layer) -> None:
            layers.append([segment_mean(layer, b, sample, segment_length) for b, sample in enumerate(chosen)])

        losses = batch_nll(model, [s.ids for s in chosen], [len(s.response) for s in chosen], count, tap)
        check_layers(model, len(layers))
        passes = []
        for b, (index, loss) in enumerate(zip(group, losses, strict=True)):
            attention = torch.stack([layer[b].cpu() for layer in layers]).numpy()  # (layers, segments)
            if not (np.isfinite(loss).all() and np.isfinite(attention).all()):
                raise NonFiniteLoss(index)
            keys = np.array([len(s) for s in segments(encoded[index].context, segment_length)], dtype=int)
            passes.append(LongPass(float(loss.mean()), loss, attention, keys))
        return passes

    try:
        return run_batches([len(s.ids) for s in encoded], batch_tokens, run, rope_edge(model))
    except SequenceError as error:
        raise named(error, error.index, f"sample {encoded[error.index].id!r}") from None


def segment_importance(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    segment_length: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    count: Counter | None = None,
) -> list[np.ndarray]:
    """Mean response NLL given one segment and the instruction, for every segment; low means important (GATEAU, select/cam).

    A context shorter than a segment is one short segment; the last segment of a context may be short.

    Returns:
        For each sample an array (segments,), nats per token; empty for a sample without context.

    Raises:
        NonFiniteLoss, OutOfMemory: naming the sample and the segment; ``index`` is the sample's place.
    """
    result = []
    # One call a sample: its segments have one length, so they fill batches without padding.
    for place, sample in enumerate(encoded):
        prefixes = [sample.start + s + sample.instruction for s in segments(sample.context, segment_length)]
        try:
            losses = continuation_nll(model, prefixes, [sample.response] * len(prefixes), batch_tokens=batch_tokens, count=count)
        except SequenceError as error:
            raise named(error, place, f"sample {sample.id!r}, segment {error.index}") from None
        result.append(np.array([loss.mean() for loss in losses]))
    return result


def importance_vector(segment_nll: np.ndarray, importance: str = "softmax_nll") -> np.ndarray:
    """Segment NLL (segments,) as a weight a segment.

    ``softmax_nll``: softmax of -NLL, which is 1/PPL normalised to sum one; ``softmax_ppl``: softmax of -PPL;
    ``ppl``: PPL itself over its maximum, where *low* means important.
    """
    nll = np.asarray(segment_nll, dtype=float)
    if importance == "softmax_nll":
        return softmax(-nll)
    if importance == "softmax_ppl":
        return softmax(-np.exp(np.minimum(nll, 700.0)))  # exp overflows at 709
    if importance == "ppl":
        return np.exp(nll - nll.max())
    raise ValueError(f"unknown importance {importance!r}: choose one of {', '.join(IMPORTANCES)}")


def attention_vector(attention_layers: np.ndarray, attention: str = "sum") -> np.ndarray:
    """One weight a segment from attention (layers, segments).

    ``sum``: mean over layers, normalised to sum one; ``softmax``: the softmax of those shares, nearly uniform by construction.
    """
    mean = np.asarray(attention_layers, dtype=float).mean(axis=0)
    total = mean.sum()
    # Attention that underflowed everywhere tells nothing about the segments: no preference, rather than 0/0.
    shares = mean / total if total > 0 else np.full(mean.shape, 1 / mean.size)
    if attention == "sum":
        return shares
    if attention == "softmax":
        return softmax(shares)
    raise ValueError(f"unknown attention normalisation {attention!r}: choose one of {', '.join(ATTENTIONS)}")


def contextual_awareness(
    segment_nll: np.ndarray,
    attention_layers: np.ndarray,
    *,
    importance: str = "softmax_nll",
    attention: str = "sum",
    sign: str = "misaligned",
) -> float:
    """How little (``misaligned``: 1 - cosine) or how much (``aligned``: cosine) attention follows importance.

    The cosine's sign and normalisation are in no commit of the released code; the defaults are this study's, high = select.

    Args:
        segment_nll: (segments,), from `segment_importance`.
        attention_layers: (layers, segments), from `long_pass`.

    Raises:
        ValueError: no segments, shapes that differ, NaN, or an unknown variant.
    """
    nll, layers = np.asarray(segment_nll, dtype=float), np.asarray(attention_layers, dtype=float)
    if nll.size == 0:
        raise ValueError("no context segments: contextual awareness is defined for samples with a context only")
    if layers.ndim != 2 or layers.shape[1:] != nll.shape:
        raise ValueError(f"attention has shape {layers.shape}, expected (layers, {nll.size}); use one segment length for both")
    if not (np.isfinite(nll).all() and np.isfinite(layers).all()):
        raise ValueError("segment NLL and attention must be finite; score the sample again")
    if sign not in SIGNS:
        raise ValueError(f"unknown sign {sign!r}: choose one of {', '.join(SIGNS)}")
    a, b = importance_vector(nll, importance), attention_vector(layers, attention)
    cosine = float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1.0, 1.0))
    return 1.0 - cosine if sign == "misaligned" else cosine
