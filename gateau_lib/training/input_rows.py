"""Samples as rows of ids, labels and positions, packed and collated.

A batch ALWAYS carries an attention mask. Where there is neither mask nor cache, and training has no cache,
transformers takes any position step other than 1 for a new document: skipped positions (`skipalign`) would
silently be block-diagonal.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from gateau_lib.data.samples import Encoded

IGNORED = -100  # label of a token that is not trained on, as torch and transformers have it


@dataclass(frozen=True)
class Row:
    """One row of a batch."""

    input_ids: list[int]
    labels: list[int]  # IGNORED outside responses; labels[i] is the id to be predicted from position i - 1
    position_ids: list[int]
    blocks: tuple[int, ...] = ()  # tokens of each packed sample, which see no other; empty: one sample


def sample_row(encoded: Encoded, ending: Sequence[int], positions: Iterable[int]) -> Row:
    """The training row of one sample: loss on the response and its ending only."""
    prompt, target = encoded.prompt, [*encoded.response, *ending]
    return Row([*prompt, *target], [IGNORED] * len(prompt) + target, [int(p) for p in positions])


def pack_rows(rows: Sequence[Row], isolated: bool = True) -> Row:
    """Several samples in one row, one after the other.

    ``isolated``: block-diagonal attention (LongAlign), and positions that restart with each sample; otherwise
        samples see the samples before them, and positions run on over the whole row.
    """
    lengths = [len(row.input_ids) for row in rows]
    positions = (p for row in rows for p in row.position_ids) if isolated else range(sum(lengths))
    ids = [i for row in rows for i in row.input_ids]
    # The first token of a sample would be predicted from the sample before it: never a target.
    labels = [label for row in rows for label in (IGNORED, *row.labels[1:])]
    return Row(ids, labels, list(positions), tuple(lengths) if isolated else ())


def unpack_row(row: Row) -> list[Row]:
    """The samples of an isolated pack as rows: same losses without a mask of the square (16 GiB at 64k)."""
    lengths = row.blocks or (len(row.input_ids),)
    parts = [slice(end - length, end) for length, end in zip(lengths, accumulate(lengths), strict=True)]
    return [Row(row.input_ids[part], row.labels[part], row.position_ids[part]) for part in parts]


def collate(batch: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows padded on the right: ``input_ids``, ``labels``, ``position_ids`` (B, L) and ``attention_mask``.

    The mask is additive float (B, 1, L, L) when a row packs isolated samples. Else it is (B, L), all ones,
    padding included: causal attention never looks to the right, and with ones the fast causal kernels apply.
    Padding continues the positions of its row.
    """
    width = max(len(row.input_ids) for row in batch)
    ids = torch.full((len(batch), width), pad_id)
    labels = torch.full((len(batch), width), IGNORED)
    positions, mask = torch.zeros_like(ids), torch.ones_like(ids)
    for b, row in enumerate(batch):
        n = len(row.input_ids)
        ids[b, :n], labels[b, :n] = torch.tensor(row.input_ids), torch.tensor(row.labels)
        positions[b, :n] = torch.tensor(row.position_ids)
        positions[b, n:] = row.position_ids[-1] + 1 + torch.arange(width - n)
    if any(len(row.blocks) > 1 for row in batch):  # eager and SDPA read an additive mask alike
        blocks = torch.full((len(batch), width), -1)
        for row, line in zip(batch, blocks, strict=True):
            lengths = torch.tensor(row.blocks or (len(row.input_ids),))
            line[: len(row.input_ids)] = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        seen = (blocks[:, :, None] == blocks[:, None, :]) & torch.ones(width, width, dtype=torch.bool).tril()
        # Padding sees earlier padding, so no row of the mask is empty and no NaN can arise.
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.bfloat16).min)[:, None]
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask}
