"""One item of a benchmark, and how it is cut and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from gateau_lib.study.errors import DataError


@dataclass(frozen=True)
class Item:
    """One question to a model, or several that follow one another; ``references`` are answers that count as right."""

    id: str
    task: str
    turns: tuple[str, ...]  # what the user says, one after the other
    references: tuple[str, ...] = ()
    max_new_tokens: int = 128  # a turn
    language: str = "en"
    extra: dict[str, Any] = field(default_factory=dict)  # lengths, depths and the like; no model sees them


def middle(ids: list[int], room: int) -> list[int]:
    """At most ``room`` of the ids: the first half and the last half of them, as LongBench cuts (pred.py: both halves equal).

    The cut is in token ids, wrapping included, so that nothing is read that the window cannot hold; LongBench decodes the halves
    and tokenizes them again, which can make other tokens at the seam.
    """
    half = room // 2
    return ids if len(ids) <= room else ids[:half] + ids[len(ids) - half :]


def scored(items: Sequence[Item], answers: pd.DataFrame, measure: Callable[[Item, Sequence[str]], float]) -> pd.DataFrame:
    """Every item's score.

    Args:
        answers: of `answer`, in any order, of these items at least.
        measure: 0 to 100, from an item and what was said, a text a turn.

    Returns:
        ``id, task, score``; the score is missing where there is no answer.

    Raises:
        DataError: an item that was not asked.
    """
    said = dict(zip(answers["id"], answers["answers"], strict=True))
    if lacking := [item.id for item in items if item.id not in said]:
        raise DataError(
            f"{len(lacking)} items have no row of answers, {lacking[0]!r} the first; answer all items, then score them"
        )
    rows = [(item.id, item.task, measure(item, said[item.id]) if len(said[item.id]) else float("nan")) for item in items]
    return pd.DataFrame(rows, columns=["id", "task", "score"])
