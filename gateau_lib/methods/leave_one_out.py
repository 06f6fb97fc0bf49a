"""Leave one segment out: what a response loses with a segment, the truth that CAM is judged by.

    importance_i = NLL(y | c without s_i, x) − NLL(y | c, x)      nats per token, high = the response needs it

with context c, its segments s_i of 128 tokens, instruction x, response y, all by the long model. What stands
before and after the segment is joined, as if it had never been there.

Source: ablation of sources, as in ContextCite (arXiv 2409.00729) and AT2 (arXiv 2504.13752), both known to us
at second hand. GATEAU (arXiv 2410.15633) takes NLL(y | s_i, x) in its place, see `cam`.

Open points: evidence that stands twice makes neither copy important; evidence in two parts makes both. A
sample costs its number of segments times a whole pass, so this is no method of the registry: it is a measure
for a few samples.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models.nll import Count, SequenceError, continuation_nll


def without_segment(sample: Encoded, segment_length: int, left_out: int) -> list[int]:
    """Ids of the prompt without one segment of the context."""
    begin = left_out * segment_length
    kept = sample.context[:begin] + sample.context[begin + segment_length :]
    return sample.start + kept + sample.instruction


def leave_one_out(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    segment_length: int,
    *,
    nll_long: Sequence[float] | None = None,
    count: Count = None,
) -> list[np.ndarray]:
    """Importance of each segment, (segments,) a sample, nats per token; empty for a sample without context.

    ``nll_long``: losses given the whole context, (n,), where they are known; else they are read here.
    Raises ValueError: nothing before a response, with or without the segment; NonFiniteLoss, OutOfMemory:
        naming the sample and the segment; ``index`` is the sample's place.
    """
    whole = response_nll(model, encoded, count=count) if nll_long is None else np.asarray(nll_long)
    found = []
    # One call a sample: all its readings but the last have one length, so they fill batches without padding.
    for place, (sample, loss) in enumerate(zip(encoded, whole, strict=True)):
        parts = range(len(segments(sample.context, segment_length)))
        prefixes = [without_segment(sample, segment_length, i) for i in parts]
        try:
            losses = continuation_nll(model, prefixes, [sample.response] * len(prefixes), count=count)
        except SequenceError as error:
            raise type(error)(place, sample.id, segment=error.index) from None
        found.append(np.array([each.mean() for each in losses]) - loss)
    return found
