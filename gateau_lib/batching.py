"""Which samples go into which batch of a run: equal token budgets, sorted batching, packing.

Batches hold samples of similar length and come in shuffled order (LongAlign's sorted batching), so hardly anything is padding.
Samples are cycled in a new seeded order each epoch until the budget is spent: runs on selections of different size cost the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def plan_batches(
    lengths: Sequence[int], tokens: int, batch_tokens: int, seed: int, pack_window: int | None = None
) -> list[list[tuple[int, ...]]]:
    """Which samples go into which row of which batch: ``plan[step][row]`` are indices into ``lengths``.

    Args:
        lengths: tokens of each sample.
        tokens: budget; samples are cycled in a new shuffled order each epoch, and the last one is taken if that brings
            the total nearer to the budget.
        pack_window: rows are samples packed up to this many tokens (first fit); None: a row is one sample.

    Raises:
        ValueError: no samples, or a budget that not even one sample comes near.
    """
    rng = np.random.default_rng(seed)
    used, plan = 0, []
    while lengths and used < tokens:
        epoch: list[int] = []
        for index in map(int, rng.permutation(len(lengths))):
            if used + lengths[index] - tokens > tokens - used:
                break
            epoch.append(index)
            used += lengths[index]
        rows = [(i,) for i in epoch] if pack_window is None else _first_fit(epoch, lengths, pack_window)
        batches = _sorted_batches(rows, lengths, batch_tokens)
        plan += [batches[i] for i in rng.permutation(len(batches))]
        if len(epoch) < len(lengths):
            break
    if not plan:
        raise ValueError(f"nothing to train on: {len(lengths)} samples, budget {tokens} tokens; raise the budget or give samples")
    return plan


def _first_fit(order: Sequence[int], lengths: Sequence[int], window: int) -> list[tuple[int, ...]]:
    packs: list[list[int]] = []
    rooms: list[int] = []
    for index in order:
        place = next((p for p, room in enumerate(rooms) if room >= lengths[index]), None)
        if place is None:
            packs.append([])
            rooms.append(window)
            place = len(packs) - 1
        packs[place].append(index)
        rooms[place] -= lengths[index]
    return [tuple(pack) for pack in packs]


def _sorted_batches(rows: list[tuple[int, ...]], lengths: Sequence[int], batch_tokens: int) -> list[list[tuple[int, ...]]]:
    """Rows of similar length together, batches of nearly equal tokens, none of them a small rest."""
    rows = sorted(rows, key=lambda row: sum(lengths[i] for i in row))  # stable: equal lengths stay shuffled
    sizes = np.array([sum(lengths[i] for i in row) for row in rows], dtype=np.float64)
    count = max(1, round(sizes.sum() / batch_tokens))
    batch = ((np.cumsum(sizes) - sizes / 2) * count / max(sizes.sum(), 1)).astype(int)
    groups = [[row for row, b in zip(rows, batch, strict=True) if b == wanted] for wanted in range(count)]
    return [group for group in groups if group]
