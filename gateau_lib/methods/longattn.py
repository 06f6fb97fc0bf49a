"""LongAttn: how much of a text's attention goes far back, and how evenly.

Source: Wu et al., arXiv 2502.16860; code src/LongAttn.py.

In one attention layer, a pair of tokens is *far* if the key lies at least a quarter of the text before the
query. *Strength* is the mean over tokens of the attention that goes to far keys, *variance* the variance of
the far attention over all N x N pairs (zero where a pair is not far); both are means over heads. The released
code min-maxes both over the pool and ranks by strength - variance / 2. It reads windows of exactly 32,768
tokens with the first layer of Llama-3.1-70B.

Where this study departs from it: a sample is read whole and without padding, at its own length N (a quarter
of N is *far*); the reader is the long model at hand, in the first of its layers that sees the whole text; and
`long_attention_score` needs no pool, so that a sample's score does not depend on its company: it multiplies
the variance by N, after which both lie between 0 and 3/4. The variance then weighs less than after min-max,
where each part is stretched to the pool's whole range.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.models import nll
from gateau_lib.models.attention import Layer, reading_rows
from gateau_lib.models.nll import Count, NonFiniteLoss
from gateau_lib.models.rope import rope_edge
from gateau_lib.study.errors import ModelError

VARIANCE_WEIGHT = 0.5  # of the released ranking


class _Read(Exception):
    """Raised by the tap when it has what it needs: the layers above would be computed for nothing."""


def nearest_far(n: int) -> int:
    """Tokens between a query and the nearest key that counts as far, in a text of ``n`` tokens."""
    return n - 3 * (n // 4)


def _far(layer: Layer, b: int, n: int) -> tuple[float, float]:
    """Strength and variance of far attention of sequence b, its first ``n`` tokens."""
    near, heads = nearest_far(n), layer.query.shape[1]
    total = torch.zeros(heads, dtype=torch.float64, device=layer.query.device)
    squares = torch.zeros_like(total)
    for begin, end in layer.chunks(near, n):  # earlier rows have no far key
        first, weights = layer.weights(b, begin, end)  # (Hq, rows, keys)
        # Row r sees far keys up to begin + r - near: a triangle at the right of what all rows share.
        far = weights[:, :, : end - near - first].tril(begin - near - first)
        total += far.sum((1, 2), dtype=torch.float64)
        squares += torch.linalg.vector_norm(far, dim=(1, 2), dtype=torch.float64).square()
    pairs = n * n
    variance = (squares - total.square() / pairs) / max(1, pairs - 1)  # unbiased, as torch's var
    return float((total / n).mean()), float(variance.mean())


@torch.inference_mode()
def long_attention(
    model: PreTrainedModel, encoded: Sequence[Encoded], *, count: Count = None
) -> tuple[np.ndarray, np.ndarray]:
    """Strength (share of a token's attention, in [0, 1]) and variance of far attention, each (n,).

    The forward pass ends at the layer that is read; its weights are taken in chunks of rows, never N x N.
    Raises ModelError: no layer to read sees the whole text; NonFiniteLoss, OutOfMemory: naming the sample.
    """

    def run(group: list[int]) -> list[tuple[float, float]]:
        sequences = [encoded[i].ids for i in group]
        inputs = nll.padded(sequences, model.device)
        found: list[tuple[float, float]] = []

        def tap(layer: Layer) -> None:
            if layer.sees_all:
                found.extend(_far(layer, b, len(sequence)) for b, sequence in enumerate(sequences))
                raise _Read

        try:
            with reading_rows(model, tap):
                model(**inputs, use_cache=False)
        except _Read:
            pass
        if not found:
            why = "no layer sees the whole text, which LongAttn needs; leave out longattn"
            raise ModelError(f"{model.config.model_type}: {why}")
        nll.add(count, inputs["input_ids"], sum(map(len, sequences)))
        for index, values in zip(group, found, strict=True):
            if not np.isfinite(values).all():
                raise NonFiniteLoss(index)
        return found

    with nll.naming([sample.id for sample in encoded]):
        found = nll.run_batches([len(s.ids) for s in encoded], nll.most_tokens(model), run, rope_edge(model))
    strength, variance = np.array(found, dtype=float).reshape(-1, 2).T
    return strength, variance


def long_attention_score(
    model: PreTrainedModel, encoded: Sequence[Encoded], *, count: Count = None
) -> np.ndarray:
    """Strength - N x variance / 2 of a sample's far attention, (n,), high = select; see `long_attention`."""
    strength, variance = long_attention(model, encoded, count=count)
    lengths = np.array([len(sample.ids) for sample in encoded])
    return cast(np.ndarray, strength - VARIANCE_WEIGHT * lengths * variance)
