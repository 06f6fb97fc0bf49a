"""The yardstick of scoring: the tightest forward passes over the same tokens, written out by hand."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.models.pair import Pair

AT_ONCE = 2048  # tokens of a pass over short rows on a processor: more outgrow its caches


@torch.inference_mode()
def by_hand(
    model: Any,
    rows: Sequence[tuple[list[int], int]],
    count: Counter[str],
    at_once: int = 1,
    after: Sequence[int] = (),
) -> list[float]:
    """The tightest forward pass: mean loss of the last tokens of each row, nats, and logits of no others.

    ``rows``: ids and how many of the last ones are scored; ``at_once`` rows of one length share a pass.
    ``after``: ids before every row; their keys are there, once a place in the batch, and only read.
    """
    found = []
    caches: dict[int, DynamicCache] = {}  # by rows of a pass
    for begin in range(0, len(rows), at_once):
        part = rows[begin : begin + at_once]
        ids = torch.tensor([row for row, _ in part], device=model.device)
        n = part[0][1]
        more: dict[str, Any] = {"use_cache": False}
        if after:
            if len(part) not in caches:
                caches[len(part)] = _keys(model, after, len(part))
            more = {"use_cache": True, "past_key_values": caches[len(part)]}
        hidden = model.model(input_ids=ids, **more).last_hidden_state[:, -n - 1 : -1]
        if after:
            caches[len(part)].crop(-ids.shape[1])
        logits = model.lm_head(hidden).float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, -n:].flatten(), reduction="none"
        )
        found += losses.view(len(part), n).double().mean(1).tolist()
        count.update(tokens=ids.numel(), padded=ids.numel(), forwards=1)
    return found


@torch.inference_mode()
def all_logits(model: Any, samples: Sequence[Encoded], count: Counter[str]) -> list[float]:
    """The plain loop that anybody writes: mean loss of each response, nats, from the logits of all tokens."""
    found = []
    for one in samples:
        ids = torch.tensor([one.ids], device=model.device)
        logits = model(input_ids=ids).logits[0, -len(one.response) - 1 : -1].float()
        found.append(float(torch.nn.functional.cross_entropy(logits, ids[0, -len(one.response) :])))
        count.update(tokens=ids.numel(), padded=ids.numel(), forwards=1)
    return found


def _keys(model: Any, ids: Sequence[int], rows: int) -> DynamicCache:
    """Keys and values of the tokens, once for each of the rows."""
    cache = DynamicCache()
    model.model(input_ids=torch.tensor([list(ids)] * rows, device=model.device), past_key_values=cache)
    return cache


def whole(samples: Sequence[Encoded]) -> list[tuple[list[int], int]]:
    """Samples as rows of `by_hand`."""
    return [(sample.ids, len(sample.response)) for sample in samples]


def losses_by_hand(pair: Pair, samples: Sequence[Encoded], segment: int, count: Counter[str]) -> np.ndarray:
    """What exact HMG and CAM read, by hand: both models over whole samples, each segment of them alone.

    Returns the gap of the losses, (n,) nats a token.
    """
    short, long = (np.array(by_hand(model, whole(samples), count)) for model in (pair.short, pair.long))
    for one in samples:
        parts = segments(one.context, segment)
        rows = [(one.start + part + one.instruction + one.response, len(one.response)) for part in parts]
        equal = [row for row in rows if len(row[0]) == len(rows[0][0])]
        at_once = max(1, AT_ONCE // len(rows[0][0])) if pair.long.device.type == "cpu" else len(rows)
        by_hand(pair.long, equal, count, at_once)
        by_hand(pair.long, rows[len(equal) :], count)
    return short - long
