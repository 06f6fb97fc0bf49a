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

    def bare(units: int) -> int:
        return len(tokenizer(build(units), add_special_tokens=False, verbose=False)["input_ids"])

    least = prompt_tokens(build(0), tokenizer)
    if least > length:
        found = f"{least} tokens without any filling, more than the wanted {length}"
        raise DataError(f"{name}: {found}; ask for a longer one")
    empty = bare(0)
    room = length - least + empty  # for the text without what wraps it
    low, at_low, high = 0, empty, _TRIAL
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
