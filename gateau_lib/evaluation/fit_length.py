"""Prompts of a wanted length in tokens, for any tokenizer: a text is made longer until nothing more fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateau_lib.models.prompts import prompt_ids
from gateau_lib.study.errors import DataError

_TRIAL = 16  # units of a first trial, which tells how many tokens one has


def prompt_tokens(text: str, tokenizer: Any) -> int:
    """Tokens of a prompt of one turn in the longer of its two forms, plain or as in a conversation."""
    return max(len(prompt_ids(tokenizer, (text,), [], chat)) for chat in (False, True))


def longest_prompt(build: Callable[[int], str], tokenizer: Any, length: int, name: str) -> tuple[int, int]:
    """How many units of filling make the longest text whose prompt has at most ``length`` tokens.

    Args:
        build: the text with that many units of filling (sentences, words, tokens); more units never make it
            much shorter.
        name: for the error message.

    Returns:
        The units, of which one more would be too many, and the tokens of the prompt (see `prompt_tokens`).

    Raises:
        DataError: not even the text without filling is short enough.
    """

    def count(units: int) -> int:
        return len(tokenizer(build(units), add_special_tokens=False, verbose=False)["input_ids"]) + wrapping

    wrapping = 0
    bare = prompt_tokens(build(0), tokenizer)
    if bare > length:
        raise DataError(
            f"{name}: {bare} tokens without any filling, more than the wanted {length}; ask for a longer one"
        )
    wrapping = bare - count(0)
    low, at_low, high = 0, bare, _TRIAL
    while (at_high := count(high)) <= length:
        low, at_low = high, at_high
        high = low + 1 + int(1.02 * (length - at_low) / _slope(bare, low, at_low))
    while high - low > 1:  # towards where the line through both ends meets the wanted length
        between = low + int((length - at_low) / _slope(0, high - low, at_high - at_low))
        between = min(max(between, low + 1), high - 1)
        at = count(between)
        low, at_low, high, at_high = (
            (between, at, high, at_high) if at <= length else (low, at_low, between, at)
        )
    while (
        tokens := prompt_tokens(build(low), tokenizer)
    ) > length:  # a wrapping that takes more around another text
        low -= 1
    return low, tokens


def _slope(begin: int, units: int, end: int) -> float:
    return max(1, end - begin) / units
