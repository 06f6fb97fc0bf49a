"""A benchmark, its items, and what all benchmarks share: how a prompt is cut and how items are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gateau_lib.study.errors import DataError, UserError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study


class NotInstalled(UserError):
    """A package (or its data) that a benchmark needs is not there; the message says how to get it."""


@dataclass(frozen=True)
class Item:
    """One question to a model, or several that follow one another."""

    id: str
    task: str
    turns: tuple[str, ...]  # what the user says, one after the other
    references: tuple[str, ...] = ()  # answers that count as right
    max_new_tokens: int = 128  # a turn
    language: str = "en"
    extra: dict[str, Any] = field(default_factory=dict)  # lengths, depths and the like; no model sees them


class Asked(NamedTuple):
    """What one model is asked, for the plan of a run."""

    items: int
    prompt: int  # tokens
    answer: int  # tokens, all turns together


class Answers(NamedTuple):
    """One run's answers, a row an item, and the artefact that holds them, if any."""

    table: pd.DataFrame
    folder: Path | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the published part; `gateau_lib.evaluation.suite` lists them all."""

    name: str  # in profiles and tables
    title: str  # for a reader
    source: str  # paper and code it follows
    items: Callable[
        [Study, Any], list[Item]
    ]  # at the profile's size, for a tokenizer; the same for every run
    score: Callable[
        ..., pd.DataFrame
    ]  # (items, answers table), with a judge also (judge, folder): id, task, score
    cost: Callable[[Profile], list[Asked]]
    data: str = ""  # the data set of the registry that it reads
    packages: tuple[str, ...] = ()  # that it needs beside the library's, as pip knows them
    judged: bool = False  # whether a judge rates the answers
    read_whole: bool = (
        False  # whether what is asked for may stand anywhere in the prompt, so that no part may be cut
    )
    # How runs (name -> folder of the model) come to their answers; None: the model writes them (`answering`).
    answers: Callable[[Study, Sequence[Item], Mapping[str, Path]], dict[str, Answers]] | None = None


def middle(ids: list[int], room: int) -> list[int]:
    """At most ``room`` of the ids: the first and the last half of them, as LongBench cuts (pred.py).

    The cut is in token ids, wrapping included, so that nothing is read that the window cannot hold; LongBench
    decodes the halves and tokenizes them again, which can make other tokens at the seam.
    """
    half = room // 2
    return ids if len(ids) <= room else ids[:half] + ids[len(ids) - half :]


def first_of_each_task(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most ``count`` items of each task, the first ones; None or 0: all."""
    seen: Counter[str] = Counter()
    kept = []
    for item in items:
        seen[item.task] += 1
        if not count or seen[item.task] <= count:
            kept.append(item)
    return kept


def prompt_lengths(profile: Profile) -> list[int]:
    """Tokens of prompts that are made to length: what a longer one hides would be cut out of its middle."""
    return sorted({min(length, profile.benchmark_window) for length in profile.eval_lengths})


def tasks_by_length(items: Sequence[Item]) -> list[Item]:
    """The items with a task for each length."""
    return [replace(item, task=f"{item.task}, {item.extra['length']:,} tokens") for item in items]


def fixed_size(items: int, prompt: int, answer: int, tasks: int = 1) -> Callable[[Profile], list[Asked]]:
    """The cost of a published benchmark: items, assumed mean tokens of an uncut prompt and an answer."""

    def cost(profile: Profile) -> list[Asked]:
        few, window = profile.benchmark_items, profile.benchmark_window
        return [Asked(min(items, few * tasks) if few else items, min(prompt, window), min(answer, window))]

    return cost


def scored(
    items: Sequence[Item], answers: pd.DataFrame, measure: Callable[[Item, Sequence[str]], float]
) -> pd.DataFrame:
    """Every item's score.

    Args:
        answers: of `answering.answer`, in any order, of these items at least.
        measure: 0 to 100, from an item and what was said, a text a turn.

    Returns:
        ``id, task, score``; the score is missing where there is no answer.

    Raises:
        DataError: an item that was not asked.
    """
    said = answers_of(items, answers)
    rows = [
        (item.id, item.task, measure(item, said[item.id]) if len(said[item.id]) else float("nan"))
        for item in items
    ]
    return pd.DataFrame(rows, columns=["id", "task", "score"])


def answers_of(items: Sequence[Item], answers: pd.DataFrame) -> dict[str, Sequence[str]]:
    """What was said to each item, a text a turn.

    Raises:
        DataError: an item that was not asked.
    """
    said = dict(zip(answers["id"].astype(str), answers["answers"], strict=True))
    if lacking := [item.id for item in items if item.id not in said]:
        count = f"{len(lacking)} items have no row of answers, {lacking[0]!r} the first"
        raise DataError(f"{count}; answer all items, then score them")
    return said
