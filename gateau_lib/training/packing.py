"""Which samples go into which optimizer step, and how a step is dealt to processes and their forward passes.

Both ways to plan the steps sort samples as LongAlign does, so that hardly anything is padding.
"""

from collections.abc import Sequence

import numpy as np

from gateau_lib.study.errors import TrainingError

GROUP = 8  # samples of similar length side by side, see plan_epochs
Plan = list[list[tuple[int, ...]]]  # step, row: the samples of it


def plan_batches(
    lengths: Sequence[int], tokens: int, batch_tokens: int, seed: int, pack_window: int | None = None
) -> Plan:
    """Which samples go into which row of which batch: ``plan[step][row]`` are indices into ``lengths``.

    Samples are cycled in a new seeded order each epoch until the budget ``tokens`` is spent, so runs on
    selections of different size cost the same; the last sample is taken if the total comes nearer to it.
    ``pack_window``: rows are samples packed up to this many tokens (first fit); None: a row is one sample.
    Raises TrainingError: no samples, or a budget that not even one sample comes near.
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
        # Rows of similar length together, batches of nearly equal tokens, none of them a small rest.
        rows = _rows(epoch, lengths, pack_window)
        rows.sort(key=lambda row: sum(lengths[i] for i in row))  # stable: equal lengths stay shuffled
        sizes = np.array([sum(lengths[i] for i in row) for row in rows], np.float64)
        count = max(1, round(sizes.sum() / batch_tokens))
        batch = ((np.cumsum(sizes) - sizes / 2) * count / max(sizes.sum(), 1)).astype(int)
        groups = [[row for row, b in zip(rows, batch, strict=True) if b == wanted] for wanted in range(count)]
        batches = [group for group in groups if group]
        plan += [batches[i] for i in rng.permutation(len(batches))]
        if len(epoch) < len(lengths):
            break
    if not plan:
        found = f"{len(lengths)} samples, budget {tokens} tokens"
        raise TrainingError(f"nothing to train on: {found}; raise the budget or give samples")
    return plan


def plan_epochs(
    lengths: Sequence[int], epochs: float, batch_samples: int, seed: int, pack_window: int | None = None
) -> Plan:
    """Which samples go into which row of which step, as `plan_batches`, with ``batch_samples`` a step.

    As in LongAlign's ``sort_and_group.py``, samples are sorted by length, grouped by eight, and the groups
    shuffled; a step is as many groups as it takes. Unlike there, each epoch has an order of its own and no
    sample is left out. Steps run on over the end of an epoch, so only the last one may be smaller; a step of
    packs ends with the one that fills it. Of a last pass that is not whole, a random part is read.
    Raises TrainingError: no samples, or less than one sample in all.
    """
    rng = np.random.default_rng(seed)
    total, rows = round(epochs * len(lengths)), []
    while total > 0:
        epoch = rng.permutation(len(lengths))[:total].tolist()
        total -= len(epoch)
        if pack_window is None:
            epoch.sort(key=lengths.__getitem__)
        size, made = GROUP if pack_window is None else 1, _rows(epoch, lengths, pack_window)
        groups = [made[at : at + size] for at in range(0, len(made), size)]
        rows += [row for i in rng.permutation(len(groups)) for row in groups[i]]
    if not rows:
        found = f"{len(lengths)} samples, {epochs} epochs"
        raise TrainingError(f"nothing to train on: {found}; give samples or more epochs")
    plan: Plan = [[]]
    for row in rows:
        if sum(map(len, plan[-1])) >= batch_samples:
            plan.append([])
        plan[-1].append(row)
    return plan


def split_step(
    lengths: Sequence[int], processes: int = 1, micro_tokens: int | None = None
) -> list[list[tuple[list[int], bool]]]:
    """Deal the rows of a step: ``split[process][k]`` are the rows of a k-th pass, and whether they count.

    Every process makes the same number of passes, since processes that share a model meet in each of them.
    The rows of the k-th passes are of similar length, so no process waits long. Where there are fewer rows
    than passes, a pass repeats the shortest row and does not count.
    ``micro_tokens``: padded tokens of a pass at most, or those of the longest row; None: a process's share.
    """
    # Stable, so rows that are sorted already keep their places.
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longest = lengths[order[-1]]
    most = max(longest, micro_tokens or len(lengths) * longest)
    places = -(-len(_fill(order, lengths, most)) // processes) * processes
    # The smallest passes for which the places suffice: even loads, least memory.
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_fill(order, lengths, middle)) <= places else (middle + 1, high)
    groups = _fill(order, lengths, low)
    dealt = [([order[0]], False)] * (places - len(groups)) + [(group, True) for group in groups]
    return [dealt[process::processes] for process in range(processes)]


def _fill(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows in ascending length, as many together as ``capacity`` padded tokens allow, at least one."""
    groups: list[list[int]] = []
    for row in order:
        if not groups or (len(groups[-1]) + 1) * lengths[row] > capacity:
            groups.append([])
        groups[-1].append(row)
    return groups


def _rows(order: Sequence[int], lengths: Sequence[int], window: int | None) -> list[tuple[int, ...]]:
    """Samples as rows of their own, or packed up to ``window`` tokens, first fit."""
    if window is None:
        return [(i,) for i in order]
    packs: list[list[int]] = []
    rooms: list[int] = []
    for index in order:
        place = next((p for p, room in enumerate(rooms) if room >= lengths[index]), len(packs))
        if place == len(packs):
            packs.append([])
            rooms.append(window)
        packs[place].append(index)
        rooms[place] -= lengths[index]
    return [tuple(pack) for pack in packs]
