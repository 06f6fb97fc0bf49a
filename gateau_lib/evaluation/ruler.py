"""Tasks in RULER's manner at any length: one of several keys, a chain of variables, commonest words.

Tasks, sizes and score follow RULER (Hsieh et al. 2024, github.com/NVIDIA/RULER, Apache-2.0). Text and prompts
are ours, without its worked example and answer's beginning, so the numbers are not those of its table.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data import world
from gateau_lib.evaluation import benchmark_item
from gateau_lib.evaluation.benchmark_item import Benchmark, Item, longest_prompt, made_to_length, scored
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.profiles import Profile

KEYS = 4  # access numbers in a text, one of them asked for
HOPS = 4  # assignments after the first
ANSWER = 64  # tokens of an answer, assumed mean
_SPARE = 64  # words beyond one a token, for a first trial
# From this length on: common words, how often each of them comes, how often any other (below 1,024 tokens
# ours, not RULER's).
SIZES = {4096: (10, 30, 3), 1024: (10, 6, 1), 0: (4, 3, 1)}

Build = Callable[[int], str]
Made = tuple[Build, tuple[str, ...], int]  # the prompt by units of filling, the references, new tokens


def items(tokenizer: Any, length: int, seed: int, count: int) -> list[Item]:
    """``count`` items of each task, of at most ``length`` tokens of prompt; DataError: too few for a task."""
    found = []
    for place, (task, make) in enumerate(TASKS.items()):
        for n in range(count):
            build, references, new = make(np.random.default_rng([seed, length, place, n]), length)
            name = f"{task}-{length}-{seed}-{n}"
            units, tokens = longest_prompt(build, tokenizer, length, name)
            extra = {"length": length, "tokens": tokens}  # as asked for, and as it is
            found.append(Item(name, task, (build(units),), references, new, extra=extra))
    return found


def _hide(statements: Sequence[str], rng: np.random.Generator) -> Build:
    """Filler sentences, a line each, with the statements between them, in their order, at random depths."""
    depths = np.sort(rng.random(len(statements)))
    sentences: list[str] = []

    def build(units: int) -> str:
        while len(sentences) < units:
            sentences.append(world.filler(rng))
        lines = sentences[:units]
        for depth, statement in sorted(zip(depths, statements, strict=True), reverse=True):
            lines.insert(int(depth * (units + 1)), statement)
        return "\n".join(lines)

    return build


def _multi_key(rng: np.random.Generator, length: int) -> Made:
    """Several keys with a number each; one is asked for."""
    words = rng.choice(list(world.VALUES), 2 * KEYS, replace=False).tolist()
    keys = [f"{a} {b}" for a, b in zip(words[::2], words[1::2], strict=True)]
    numbers = [str(n) for n in rng.choice(9_000_000, KEYS, replace=False) + 1_000_000]
    told = [f"The number of {key} is {number}." for key, number in zip(keys, numbers, strict=True)]
    hide, asked = _hide(told, rng), int(rng.integers(KEYS))
    question = f"{SEPARATOR}What is the number of {keys[asked]}?"
    return lambda units: hide(units) + question, (numbers[asked],), 128


def _variables(rng: np.random.Generator, length: int) -> Made:
    """A value that is handed on from variable to variable; all that hold it are asked for."""
    names: dict[str, None] = {}
    while len(names) <= HOPS:
        names["".join(chr(65 + int(letter)) for letter in rng.integers(26, size=5))] = None
    chain, value = list(names), str(rng.integers(10_000, 100_000))
    sources = [value, *(f"VAR {name}" for name in chain)]
    hide = _hide([f"VAR {name} = {source}" for name, source in zip(chain, sources, strict=False)], rng)
    question = f"{SEPARATOR}List all {len(chain)} variables that have the value {value}."
    return lambda units: hide(units) + question, tuple(chain), 64


def _common_words(rng: np.random.Generator, length: int) -> Made:
    """A numbered list in which some words come many times more often than all others; these are asked for."""
    common, often, seldom = next(size for least, size in SIZES.items() if length >= least)
    # More made-up words of three syllables than a list of ``length`` tokens holds, all different.
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    size = len(syllables)
    codes = rng.choice(size**3, size=min(length + _SPARE, size**3), replace=False)
    words = ["".join(syllables[code // size**place % size] for place in range(3)) for code in map(int, codes)]
    order = int(rng.integers(2**32))

    def build(units: int) -> str:
        entries = [word for word in words[:common] for _ in range(often)]
        entries += [words[common + i // seldom] for i in range(units)]
        shuffled = np.random.default_rng(order).permutation(entries)
        listed = " ".join(f"{place}. {entry}" for place, entry in enumerate(shuffled, 1))
        return f"{listed}{SEPARATOR}List the {common} words that come most often."

    return build, tuple(words[:common]), 120


TASKS: dict[str, Callable[[np.random.Generator, int], Made]] = {
    "multi-key needle": _multi_key,
    "variable tracking": _variables,
    "common words": _common_words,
}


def score(items: Sequence[Item], answers: pd.DataFrame) -> pd.DataFrame:
    """`scored` by the share of the references that are in the answer; case is ignored."""
    return scored(items, answers, lambda said, reference: reference.lower() in said.lower())


def _count(profile: Profile) -> int:
    return profile.benchmark_items or profile.eval_items


BENCHMARK = Benchmark(
    name="ruler",
    title="RULER",
    source="after Hsieh et al. 2024, github.com/NVIDIA/RULER; text and prompts are ours",
    items=lambda study, tokenizer: made_to_length(
        study.profile, lambda length: items(tokenizer, length, study.seed, _count(study.profile))
    ),
    score=score,
    cost=lambda profile: benchmark_item.cost_by_length(profile, len(TASKS) * _count(profile), ANSWER),
    read_whole=True,
)
