"""Whether a sample needs its far context, asked of the long model: evidence is taken out, the loss compared.

The planted label says where the evidence is. What the model loses without it says how much it is needed: with
y the response, c the context and E the sentences that hold the evidence,

    effect = NLL_B(y | c \\ E, x) − NLL_B(y | c, x)                  nats per response token
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, Sample, encode, evidence_tokens
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models.nll import Count


def effects(
    model: PreTrainedModel,
    tokenizer: Any,
    samples: Sequence[Sample],
    window: int,
    max_length: int | None = None,
    count: Count = None,
) -> pd.DataFrame:
    """What each sample's evidence does for its response, one row a sample in order.

    ``window``: of the short model, tokens; evidence that begins before it, from the sample's end, is far.
    Columns ``id``; ``effect``: of all evidence; ``effect_far``: of the far evidence (both 0 where there is
    none); ``distance``: tokens from the begin of the nearest evidence to the sample's end, NaN without any.
    """
    whole = [encode(sample, tokenizer, max_length) for sample in samples]
    found = [evidence_spans(sample, each, tokenizer) for sample, each in zip(samples, whole, strict=True)]
    far = [[s for s in spans if _to_end(each, s) > window] for each, spans in zip(whole, found, strict=True)]
    kept = response_nll(model, whole, count=count)
    table = pd.DataFrame({"id": [each.id for each in whole]})
    for column, spans in (("effect", found), ("effect_far", far)):
        table[column] = np.zeros(len(whole))
        asked = [i for i, each in enumerate(spans) if each]
        cut = [without(whole[i], spans[i]) for i in asked]
        table.loc[asked, column] = response_nll(model, cut, count=count) - kept[asked]
    near = [
        min((_to_end(each, s) for s in spans), default=np.nan)
        for each, spans in zip(whole, found, strict=True)
    ]
    return table.assign(distance=near)


def evidence_spans(sample: Sample, encoded: Encoded, tokenizer: Any) -> list[tuple[int, int]]:
    """Where the evidence stands in the kept context, ``[start, end)`` in tokens; what was cut off is none."""
    spans = [
        (max(0, a - encoded.dropped), b - encoded.dropped) for a, b in evidence_tokens(sample, tokenizer)
    ]
    return [(begin, end) for begin, end in spans if end > 0]


def without(encoded: Encoded, spans: Sequence[tuple[int, int]]) -> Encoded:
    """The sample without these context tokens."""
    gone = {token for begin, end in spans for token in range(begin, end)}
    return replace(encoded, context=[t for i, t in enumerate(encoded.context) if i not in gone])


def _to_end(encoded: Encoded, span: tuple[int, int]) -> int:
    """Tokens from the begin of a span of the context to the sample's end."""
    return len(encoded.ids) - len(encoded.start) - span[0]
