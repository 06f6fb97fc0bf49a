"""A benchmark, its items, and what all share: prompts cut or made to length, few items of many, scores."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gateau_lib.models.prompts import prompt_ids
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
    items: Callable[[Study, Any], list[Item]]  # at the profile's size, for a tokenizer; for all runs the same
    score: Callable[..., pd.DataFrame]  # (items, answers' table[, judge, its folder]): id, task, score
    cost: Callable[[Profile], list[Asked]]
    data: str = ""  # the data set of the registry that it reads
    packages: tuple[str, ...] = ()  # that it needs beside the library's, as pip knows them
    judged: bool = False  # whether a judge rates the answers
    read_whole: bool = False  # what is asked for may stand anywhere in the prompt: no part may be cut
    # How runs (name -> folder of the model) come to their answers; None: the model writes them (`answering`).
    answers: Callable[[Study, Sequence[Item], Mapping[str, Path]], dict[str, Answers]] | None = None


def middle(ids: list[int], room: int) -> list[int]:
    """At most ``room`` of a whole prompt's ids: the first half and the last, as LongBench cuts (pred.py).

    LongBench decodes the halves and tokenizes them again, which can make other tokens at the seam.
    """
    half = room // 2
    return ids if len(ids) <= room else ids[:half] + ids[len(ids) - half :]


def prompt_tokens(text: str, tokenizer: Any) -> int:
    """Tokens of a prompt of one turn in the longer of its two forms, plain or as in a conversation."""
    return max(len(prompt_ids(tokenizer, (text,), [], chat)) for chat in (False, True))


def longest_prompt(build: Callable[[int], str], tokenizer: Any, length: int, name: str) -> tuple[int, int]:
    """How many units of filling make the longest text whose prompt has at most ``length`` tokens.

    ``build``: the text with that many units (sentences, words, tokens); more never make it much shorter.
    Returns the units, of which one more would be too many, and the prompt's tokens (see `prompt_tokens`).
    Raises DataError, with ``name``: not even the text without filling is short enough.
    """

    def bare(units: int) -> int:
        return len(tokenizer(build(units), add_special_tokens=False, verbose=False)["input_ids"])

    least = prompt_tokens(build(0), tokenizer)
    if least > length:
        found = f"{least} tokens without any filling, more than the wanted {length}"
        raise DataError(f"{name}: {found}; ask for a longer one")
    empty = bare(0)
    room = length - least + empty  # for the text without what wraps it
    low, at_low, high = 0, empty, 16  # a first trial, which tells how many tokens a unit has
    while (at_high := bare(high)) <= room:
        low, at_low = high, at_high
        per_unit = max(1, at_high - empty) / high
        high += 1 + int(1.02 * (room - at_high) / per_unit)
    while high - low > 1:  # towards where the line through both ends meets the wanted length
        per_unit = max(1, at_high - at_low) / (high - low)
        between = min(max(low + int((room - at_low) / per_unit), low + 1), high - 1)
        if (at := bare(between)) <= room:
            low, at_low = between, at
        else:
            high, at_high = between, at
    # A wrapping may take more around another text.
    while (tokens := prompt_tokens(build(low), tokenizer)) > length:
        low -= 1
    return low, tokens


def first_of_each_task(items: Sequence[Item], count: int | None) -> list[Item]:
    """At most ``count`` items of each task, the first ones; None or 0: all."""
    taken, first = Counter[str](), []
    for item in items:
        if not count or taken[item.task] < count:
            taken[item.task] += 1
            first.append(item)
    return first


def made_to_length(profile: Profile, make: Callable[[int], Sequence[Item]]) -> list[Item]:
    """What ``make`` makes for each evaluation length (tokens), with a task for each."""
    # What a prompt longer than the benchmarks' window hides would be cut out of its middle: make it shorter.
    lengths = sorted({min(length, profile.benchmark_window) for length in profile.eval_lengths})
    made = [(length, item) for length in lengths for item in make(length)]
    return [replace(item, task=f"{item.task}, {length:,} tokens") for length, item in made]


def cost_by_length(profile: Profile, items: int, answer: int) -> list[Asked]:
    """The cost of ``items`` for each evaluation length, with answers of so many tokens."""
    return [Asked(items, min(n, profile.benchmark_window), answer) for n in profile.eval_lengths]


def fixed_size(items: int, prompt: int, answer: int, tasks: int = 1) -> Callable[[Profile], list[Asked]]:
    """The cost of a published benchmark: items, assumed mean tokens of an uncut prompt and of an answer."""

    def cost(profile: Profile) -> list[Asked]:
        few, window = profile.benchmark_items, profile.benchmark_window
        return [Asked(min(items, few * tasks) if few else items, min(prompt, window), min(answer, window))]

    return cost


def scored_by(
    items: Sequence[Item], answers: pd.DataFrame, measure: Callable[[Item, str], float]
) -> pd.DataFrame:
    """``id, task, score`` of items: ``measure``, 0 to 100, of what was said last; missing: no answer."""
    said = answers_of(items, answers)
    values = [measure(item, said[item.id][-1]) if len(said[item.id]) else math.nan for item in items]
    return pd.DataFrame({"id": [i.id for i in items], "task": [i.task for i in items], "score": values})


def scored(items: Sequence[Item], answers: pd.DataFrame, holds: Callable[[str, str], bool]) -> pd.DataFrame:
    """`scored_by` the share of an item's references that ``holds(said, reference)`` finds, 0 to 100."""

    def share(item: Item, said: str) -> float:
        return 100 * float(np.mean([holds(said, reference) for reference in item.references]))

    return scored_by(items, answers, share)


def answers_of(items: Sequence[Item], answers: pd.DataFrame) -> dict[str, Sequence[str]]:
    """What was said to each item, a text a turn; DataError for an item that was not asked."""
    said = dict(zip(answers["id"].astype(str), answers["answers"], strict=True))
    if lacking := [item.id for item in items if item.id not in said]:
        count = f"{len(lacking)} items have no row of answers, {lacking[0]!r} the first"
        raise DataError(f"{count}; answer all items, then score them")
    return said
