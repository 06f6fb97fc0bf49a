"""A row of the score table the slow, obvious way."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import softmax
from scoring_command import LENGTH, SEGMENT
from torch.nn import functional

from gateau_lib.data import samples
from gateau_lib.scoring import score_table


def slow_nll(model, prefix, target):
    """One sequence, no padding, eager attention, all logits."""
    ids = torch.tensor([[*prefix, *target]])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double()
    rows = logits[len(prefix) - 1 : -1]
    return float(functional.cross_entropy(rows, torch.tensor(target)))


def slow_row(sample, short, long, tokenizer):
    e = samples.encode(sample, tokenizer, LENGTH)
    row = {
        "nll_short": slow_nll(short, e.prompt, e.response),
        "nll_long": slow_nll(long, e.prompt, e.response),
    }
    row["ifd"] = row["nll_long"] / slow_nll(long, e.start, e.response)
    cut = (e.context + e.instruction)[-(128 - 1 - len(e.response)) :]
    row["contrast"] = slow_nll(long, e.start + cut, e.response) - row["nll_long"]
    row["hmg"] = row["nll_short"] - row["nll_long"]
    row |= dict.fromkeys(("cam", "cam_mode", *score_table.SEGMENTS))
    if parts := samples.segments(e.context, SEGMENT):
        row["cam_mode"], row["segment_nll"] = (
            "exact",
            [slow_nll(long, e.start + s + e.instruction, e.response) for s in parts],
        )
        importance = softmax(-np.array(row["segment_nll"]))
        with torch.inference_mode():
            ids = torch.tensor([e.ids])
            maps = long(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions
        mass = torch.stack(maps)[:, 0, :, len(e.prompt) :, 1 : 1 + len(e.context)].mean((0, 1, 2)).numpy()
        row["segment_attention"] = [mass[i : i + SEGMENT].sum() for i in range(0, len(mass), SEGMENT)]
        # One token a byte, all of them ASCII: a segment's characters are its tokens.
        row["segment_chars"] = [*range(e.dropped, e.dropped + len(mass), SEGMENT), e.dropped + len(mass)]
        attention = np.array([mass[i : i + SEGMENT].mean() for i in range(0, len(mass), SEGMENT)])
        row["cam"] = 1 - importance @ attention / np.linalg.norm(importance) / np.linalg.norm(attention)
    return row
