"""A fact hidden in real text: the needle test, with length and depth in the tokens that the model reads.

A needle stands between two sentences of the haystack. The text before it and after it is cut, at words, to as
many tokens as the depth asks for, so every tokenizer gets the depth that is named. (GATEAU's released test
looks for a full stop by a token id of another tokenizer, finds none, and puts every needle at the first
character.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data import world
from gateau_lib.data.samples import Sample, encode, evidence_tokens
from gateau_lib.evaluation.answers import exact_match
from gateau_lib.evaluation.benchmark_item import (
    Asked,
    Benchmark,
    Item,
    prompt_lengths,
    scored,
    tasks_by_length,
)
from gateau_lib.evaluation.fit_length import longest_prompt
from gateau_lib.models import loading
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.sources import conversion, published
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study

TASK = "needle"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
REPEATS = 3  # items of a length and depth, each with another needle in another place of the haystack
MAX_NEW_TOKENS = 64
TOLERANCE = (
    32  # tokens that length and depth may be off, or 2 % of the length if that is more: where words end
)
_WORD = 24  # characters at most that a cut moves to spare a word
# White space after the end of a sentence, with what begins another; the place after a Chinese full stop; an
# empty line.
_BORDER = re.compile(
    r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z\d])|(?<=[。！？])[”’」』]*\s*(?=.)|\n\s*\n", re.DOTALL
)


def items(
    texts: Sequence[str],
    tokenizer: Any,
    lengths: Sequence[int],
    depths: Sequence[float],
    seed: int,
    repeats: int = REPEATS,
) -> list[Item]:
    """Needle items of every length and depth.

    Args:
        texts: the haystack; read in their order, in a circle if they are too short for a length.
        lengths: tokens of the whole prompt (see `fit_length.prompt_tokens`).
        depths: tokens before the needle over all that are not it, 0 to 1.

    Returns:
        ``repeats`` items for each; ``extra`` holds ``length`` and ``depth`` as asked for, ``tokens`` and
        ``realised_depth`` as they are, ``needle``, and ``copies`` of the haystack (above 1 where it is too
        short).

    Raises:
        DataError: texts without two sentences, or a length that is too short; an item that is not as long or
            as deep as asked.
    """
    stack = SEPARATOR.join(text.strip() for text in texts) + SEPARATOR
    borders = [found.end() for found in _BORDER.finditer(stack)]
    if len(borders) < 2:
        raise DataError("the haystack has no two sentences; give real text")
    found = []
    for length in lengths:
        for place, depth in enumerate(depths):
            for repeat in range(repeats):
                rng = np.random.default_rng([seed, length, place, repeat])
                at = borders[int(rng.integers(len(borders)))]
                name = f"{TASK}-{length}-{depth:g}-{seed}-{repeat}"
                fact = cast(world.Fact, world.Cast(rng).fact())  # a new cast has someone without a fact
                found.append(_item(name, stack, at, fact, tokenizer, length, depth))
    return found


def _item(
    name: str, stack: str, at: int, fact: world.Fact, tokenizer: Any, length: int, depth: float
) -> Item:
    left = _Side(stack, at, tokenizer, round(depth * length), before=True)
    right = _Side(stack, at, tokenizer, length - round(depth * length), before=False)
    question = world.question([fact])[0]

    def context(tokens: int) -> tuple[str, int]:
        """The haystack with that many tokens of filling, and the character that the needle begins at."""
        before, after = left.cut(round(depth * tokens)), right.cut(tokens - round(depth * tokens))
        lead = before if not before or before[-1].isspace() else before + " "
        return f"{lead}{fact.sentence} {after}".rstrip(), len(lead)

    tokens, read = longest_prompt(
        lambda tokens: context(tokens)[0] + SEPARATOR + question, tokenizer, length, name
    )
    text, begin = context(tokens)
    sample = Sample(name, text, question, fact.sentence, evidence=((begin, begin + len(fact.sentence)),))
    realised = realised_depth(sample, tokenizer)
    allowed = max(TOLERANCE, length // 50)
    if length - read > allowed or abs(realised - depth) * read > allowed:
        raise DataError(
            f"{name}: {read} tokens, the needle at depth {realised:.3f}; give a haystack with shorter words"
        )
    copies = -(-(len(text) - len(fact.sentence)) // len(stack))
    extra: dict[str, Any] = {"length": length, "depth": depth, "tokens": read, "realised_depth": realised}
    extra |= {"needle": fact.sentence, "copies": copies}
    return Item(name, TASK, (text + SEPARATOR + question,), fact.value, MAX_NEW_TOKENS, extra=extra)


class _Side:
    """The text before or after a place of the haystack, cut to a number of tokens counted from there."""

    def __init__(self, stack: str, at: int, tokenizer: Any, tokens: int, before: bool):
        self.before, size = before, 6 * tokens + 1
        self.offsets: list[tuple[int, int]] = []
        while len(self.offsets) <= tokens:  # more characters, until there are more than enough tokens
            laps = size // len(stack) + 1
            end = at + laps * len(stack)
            self.text = (
                (stack * (laps + 1))[end - size : end] if before else (stack * (laps + 1))[at : at + size]
            )
            read = tokenizer(self.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            self.offsets, size = read["offset_mapping"], 2 * size

    def cut(self, tokens: int) -> str:
        """That many tokens or a few less, for it ends (or, before the place, begins) with a whole word."""
        tokens = min(tokens, len(self.offsets))
        if tokens == 0:
            return ""
        at, step = (self.offsets[-tokens][0], 1) if self.before else (self.offsets[tokens - 1][1], -1)
        for _ in range(_WORD):
            at += step * _inside_word(self.text, at)
        return self.text[at:] if self.before else self.text[:at]


def _inside_word(text: str, at: int) -> bool:
    """Whether a cut there would part a word; Chinese and the like have no words to part."""
    return 0 < at < len(text) and all(c.isalnum() and c < "\u2e80" for c in text[at - 1 : at + 1])


def cells(items: Sequence[Item]) -> pd.DataFrame:
    """The items' cells of the needle map: ``id, length, depth, realised_length, realised_depth``."""
    keys = {
        "length": "length",
        "depth": "depth",
        "realised_length": "tokens",
        "realised_depth": "realised_depth",
    }
    return pd.DataFrame(
        [{"id": item.id} | {name: item.extra[key] for name, key in keys.items()} for item in items]
    )


def score(items: Sequence[Item], answers: pd.DataFrame) -> pd.DataFrame:
    """``id, task, score``: the share of the needle's key words that are in the answer, 0 to 100."""

    def share(item: Item, said: Sequence[str]) -> float:
        return 100 * float(np.mean([exact_match(said[-1], [word]) for word in item.references]))

    return scored(items, answers, share)


def realised_depth(sample: Sample, tokenizer: Any) -> float:
    """Where a needle lies in its context: tokens before it over tokens that are not it, 0 to 1.

    Raises:
        DataError: not exactly one evidence span.
    """
    spans = evidence_tokens(sample, tokenizer)
    if len(spans) != 1:
        raise DataError(f"sample {sample.id!r}: a needle item has one evidence span, this has {len(spans)}")
    begin, end = spans[0]
    total = len(tokenizer(sample.context, add_special_tokens=False, verbose=False)["input_ids"])
    return begin / max(1, total - (end - begin))


def needle_cells(
    samples: Sequence[Sample],
    tokenizer: Any,
    lengths: Sequence[int],
    depths: Sequence[float],
    tolerance: float = 0.08,
) -> pd.DataFrame:
    """The cell of the needle map each item lies in, measured in tokens, not taken from how it was made.

    Args:
        lengths: nominal tokens of a whole item. depths: nominal depths, 0 to 1.
        tolerance: how far an item may be from its cell: of the nominal length, and of the depth.

    Returns:
        One row an item: ``id, length, depth, realised_length, realised_depth``.

    Raises:
        DataError: an item farther from every cell than ``tolerance``.
    """
    rows = []
    for sample in samples:
        tokens, at = len(encode(sample, tokenizer).ids), realised_depth(sample, tokenizer)
        length, depth = min(lengths, key=lambda n: abs(n - tokens)), min(depths, key=lambda d: abs(d - at))
        if abs(tokens - length) > tolerance * length or abs(at - depth) > tolerance:
            raise DataError(
                f"sample {sample.id!r}: {tokens} tokens, needle at depth {at:.3f} lies in no cell of lengths "
                f"{list(lengths)} and depths {list(depths)} (tolerance {tolerance}); make the item again"
            )
        rows.append(
            {
                "id": sample.id,
                "length": length,
                "depth": depth,
                "realised_length": tokens,
                "realised_depth": at,
            }
        )
    return pd.DataFrame(rows)


def needle_map(rows: pd.DataFrame, cells: pd.DataFrame, measure: str = "token_accuracy") -> pd.DataFrame:
    """Mean of a measure by depth (rows) and length (columns), from `planted.evaluate_model` and cells."""
    joined = cells.merge(rows, on="id", how="left", validate="one_to_one")
    if joined[measure].isna().any():
        raise DataError(
            f"item {joined.loc[joined[measure].isna(), 'id'].iloc[0]!r} of the needle map was not evaluated"
        )
    return joined.assign(value=joined[measure].astype(float)).pivot_table(
        index="depth", columns="length", values="value"
    )


def haystack(study: Study) -> list[str]:
    """The texts that needles are hidden in."""
    return conversion.texts(published.files_of(study, "haystack")[0])


def _of_study(study: Study, tokenizer: Any) -> list[Item]:
    return tasks_by_length(
        items(haystack(study), tokenizer, prompt_lengths(study.profile), DEPTHS, study.seed)
    )


def _cost(profile: Profile) -> list[Asked]:
    lengths = [min(length, profile.benchmark_window) for length in profile.eval_lengths]
    return [Asked(len(DEPTHS) * REPEATS, length, MAX_NEW_TOKENS) for length in lengths]


BENCHMARK = Benchmark(
    name="needle",
    title="Needle",
    source="Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack; GATEAU; places counted in tokens",
    items=_of_study,
    score=score,
    cost=_cost,
    data="haystack",
    read_whole=True,
)


def needle_maps(
    study: Study, scores: pd.DataFrame, folders: Mapping[str, Path], count: int = 3
) -> dict[str, pd.DataFrame]:
    """Share of needles found by depth (rows) and length (columns), of the first runs that have all answers.

    Args:
        scores: of `suite.scores`. folders: run name -> folder of its model.
        count: runs at most.
    """
    found = scores[scores["benchmark"] == BENCHMARK.name]
    if found.empty:
        return {}
    places = cells(BENCHMARK.items(study, loading.load_tokenizer(next(iter(folders.values())))))
    complete = [(run, rows) for run, rows in found.groupby("run", sort=False) if rows["score"].notna().all()]
    shares = {run: rows[["id"]].assign(score=rows["score"] / 100) for run, rows in complete[:count]}
    return {run: needle_map(rows, places, "score") for run, rows in shares.items()}
