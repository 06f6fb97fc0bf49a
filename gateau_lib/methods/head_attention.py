"""Attention to segments head by head, and of a segment's strongest tokens only: variants of CAM's attention.

With w_h,k the mean weight of head h from the response tokens to key k, as CAM averages it (`cam`):

    mean    A_h,i = mean of w_h,k over all keys k of segment i
    top     A_h,i = mean of the K largest w_h,k of segment i                K = 5
    heads   the heads whose A_h,i agrees best with what leaving a segment out does (`leave_one_out`)

Source: top tokens: AttnTrace; heads by agreement with ablations: AT2, arXiv 2504.13752, which learns a weight
a head; both are known to us at second hand. The mean is GATEAU's, arXiv 2410.15633.

Open points: heads are chosen here, not weighted, by the mean over a few samples of Spearman's correlation
with leave-one-out, in which every sample counts alike. Heads chosen on some samples must be judged on others.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from scipy.stats import rankdata
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.models import nll
from gateau_lib.models.attention import Layer, check_layers
from gateau_lib.models.nll import Count, NonFiniteLoss, batch_nll, naming
from gateau_lib.models.rope import rope_edge

TOP = 5  # tokens of a segment
Head = tuple[int, int]  # layer and head


def key_weights(layer: Layer, b: int, sample: Encoded) -> torch.Tensor:
    """Attention of each head from the response in sequence b to each context token, (heads, context)."""
    start, stop = len(sample.prompt), len(sample.ids)  # the response's rows
    first, last = len(sample.start), len(sample.start) + len(sample.context)  # the context's keys
    heads = layer.query.shape[1]
    total = torch.zeros(heads, last - first, dtype=torch.float64, device=layer.query.device)
    for begin, end in layer.chunks(start, stop):
        seen, weights = layer.weights(b, begin, end)  # (Hq, rows, keys from `seen` on)
        if seen < last:  # a sliding window may begin behind the context
            in_context = weights[:, :, max(0, first - seen) : last - seen]
            total[:, max(0, seen - first) :] += in_context.sum(1).double()
    return total / (stop - start)


def by_segment(weights: np.ndarray, segment_length: int, top: int | None = None) -> np.ndarray:
    """Weights (heads, context) as (heads, segments): mean of a segment's keys, or of its ``top`` largest.

    A segment of fewer keys counts with all of them.
    """
    parts = [weights[:, i : i + segment_length] for i in range(0, weights.shape[1], segment_length)]
    if top is not None:
        parts = [np.sort(part, axis=1)[:, -top:] for part in parts]
    means = [part.mean(axis=1) for part in parts]
    return np.stack(means, axis=1) if means else np.empty((len(weights), 0))


@torch.inference_mode()
def head_attention(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    segment_length: int,
    *,
    top: int | None = None,
    count: Count = None,
) -> list[np.ndarray]:
    """Attention from the response to every context segment, (layers, heads, segments) each, from one pass.

    ``top``: only so many of a segment's most attended tokens, of each head; None: all. The mean over heads is
        then `model_passes.LongPass.attention`.
    Raises ValueError: segment length or ``top`` below 1; ModelError: attention that cannot be read;
        NonFiniteLoss, OutOfMemory: naming the sample.
    """
    if segment_length < 1 or (top is not None and top < 1):
        raise ValueError(f"segment_length {segment_length} and top {top} must be at least 1 token")

    def run(group: list[int]) -> list[np.ndarray]:
        chosen = [encoded[i] for i in group]
        layers: list[list[np.ndarray]] = []  # (heads, segments) of each sample, a layer

        def tap(layer: Layer) -> None:
            weights = [key_weights(layer, b, sample).cpu().numpy() for b, sample in enumerate(chosen)]
            layers.append([by_segment(each, segment_length, top) for each in weights])

        batch_nll(model, [s.ids for s in chosen], [len(s.response) for s in chosen], count, tap)
        check_layers(model, len(layers))
        found = [np.stack([layer[b] for layer in layers]) for b in range(len(group))]
        for index, attention in zip(group, found, strict=True):
            if not np.isfinite(attention).all():
                raise NonFiniteLoss(index)
        return found

    with naming([sample.id for sample in encoded]):
        lengths = [len(sample.ids) for sample in encoded]
        return nll.run_batches(lengths, nll.most_tokens(model), run, rope_edge(model))


def agreement(attention: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each head's attention with the importance of segments, (layers, heads).

    ``attention``: (layers, heads, segments). ``importance``: (segments,).
    0 for a head that attends to all segments alike; NaN if importance tells no segments apart.
    """
    both = [rankdata(each, axis=-1) for each in (attention, np.asarray(importance, dtype=float))]
    a, b = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in both)
    if not b.any():
        return np.full(a.shape[:2], np.nan)
    spread = np.linalg.norm(a, axis=-1) * np.linalg.norm(b)
    return cast(np.ndarray, np.divide(a @ b, spread, out=np.zeros(a.shape[:2]), where=spread > 0))


def best_heads(
    attentions: Sequence[np.ndarray], importances: Sequence[np.ndarray], heads: int = TOP
) -> list[Head]:
    """The heads that agree best with importance, best first, ties in the order of layers and heads.

    ``attentions``: of `head_attention`. ``importances``: of `leave_one_out`, for the same samples; one that
        tells no segments apart (fewer than two of them) does not count.
    Raises ValueError: no sample that counts, or more heads asked for than there are.
    """
    pairs = zip(attentions, importances, strict=True)
    each = [agreement(attention, importance) for attention, importance in pairs if len(importance) > 1]
    each = [found for found in each if np.isfinite(found).all()]
    if not each:
        raise ValueError("no sample tells its segments apart; give samples of at least two segments")
    mean = np.mean(each, axis=0)
    if not 1 <= heads <= mean.size:
        raise ValueError(f"heads must be between 1 and {mean.size}, got {heads}")
    order = np.argsort(-mean, axis=None, kind="stable")[:heads]
    return [(int(place) // mean.shape[1], int(place) % mean.shape[1]) for place in order]


def of_heads(attention: np.ndarray, heads: Sequence[Head]) -> np.ndarray:
    """Attention of some heads, (heads, segments), in the place of layers for `cam.contextual_awareness`."""
    layers, columns = zip(*heads, strict=True)
    return np.asarray(attention)[list(layers), list(columns)]
