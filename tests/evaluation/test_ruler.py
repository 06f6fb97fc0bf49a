"""RULER-style tasks: their lengths for three tokenizers, their answers found again by reading,
and the score by hand."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from tiny import other_tokenizers

from gateau_lib.evaluation.answering import answer
from gateau_lib.evaluation.benchmark_item import Item
from gateau_lib.evaluation.ruler import TASKS, items, score
from gateau_lib.models.prompts import prompt_ids
from gateau_lib.study.errors import DataError


@pytest.fixture(scope="module", params=["bytes", *other_tokenizers()])
def any_tokenizer(request, tokenizer):
    return tokenizer if request.param == "bytes" else other_tokenizers()[request.param]()


def solve(item: Item) -> set[str]:
    """The answers, found by reading the prompt."""
    text, question = item.turns[0].rsplit("\n\n", 1)
    if item.task == "multi-key needle":
        key = re.fullmatch(r"What is the number of (.+)\?", question)[1]
        return set(re.findall(rf"The number of {key} is (\d+)\.", text))
    if item.task == "variable tracking":
        value, holds = re.search(r"value (\d+)\.", question)[1], set()
        for name, source in re.findall(r"^VAR (\w+) = (.+)$", text, re.MULTILINE):
            if source == value or source.removeprefix("VAR ") in holds:
                holds.add(name)
        return holds
    wanted = int(re.search(r"List the (\d+) words", question)[1])
    counts = Counter(re.findall(r"\d+\. (\w+)", text)).most_common()
    assert counts[wanted - 1][1] >= 2 * counts[wanted][1]  # nothing to argue about
    return {word for word, _ in counts[:wanted]}


@pytest.mark.parametrize("length", [320, 1500])
def test_length_and_answers(any_tokenizer, length):
    found = items(any_tokenizer, length, seed=1, count=3)
    assert (
        Counter(item.task for item in found) == dict.fromkeys(TASKS, 3)
        and len({item.id for item in found}) == 9
    )
    for item in found:
        tokens = max(len(prompt_ids(any_tokenizer, item.turns, [], chat)) for chat in (False, True))
        lines = [line for line in item.turns[0].split("\n")[:-2] if len(line) < 100]
        counts = (len(any_tokenizer(line)["input_ids"]) for line in lines)
        longest = max(counts) if item.task != "common words" else 24
        assert item.extra == {"length": length, "tokens": tokens} and length - longest - 8 <= tokens <= length
        assert solve(item) == set(item.references) and len(set(item.references)) == len(item.references)
    needles = [item for item in found if item.task == "multi-key needle"]
    assert all(len(re.findall("The number of", item.turns[0])) == 4 for item in needles)


def test_items_are_the_same_for_one_seed_and_others_for_another(tokenizer):
    first, again, other = (items(tokenizer, 400, seed, 2) for seed in (0, 0, 1))
    assert first == again and len({item.turns for item in first + other}) == 12
    assert items(tokenizer, 400, 0, 3)[:2] == first[:2]
    with pytest.raises(DataError, match="multi-key needle-100-0-0: .* more than the wanted 100"):
        items(tokenizer, 100, 0, 1)


def test_long_lists_have_rulers_sizes(tokenizer):
    (item,) = [item for item in items(tokenizer, 8000, 0, 1) if item.task == "common words"]
    counts = Counter(re.findall(r"\d+\. (\w+)", item.turns[0]))
    assert {counts[word] for word in item.references} == {30} and len(item.references) == 10
    others = [count for word, count in counts.items() if word not in item.references]
    assert set(others[:-1]) <= {1, 2, 3} and sum(count < 3 for count in others) <= 1


def test_scores_by_hand():
    asked = [
        Item("a", "t", ("?",), ("XAB", "YCD", "ZEF", "QGH")),
        Item("b", "t", ("?",), ("12",)),
        Item("c", "t", ("?",), ("1",)),
    ]
    rows = [("a", ["They are xab, QGH and YC."]), ("b", ["It is 7125."]), ("c", [])]
    found = score(asked, pd.DataFrame(rows, columns=["id", "answers"]))
    # a: XAB and QGH of four; b: containment, whatever stands around it
    assert found["score"].tolist()[:2] == [50, 100] and np.isnan(found["score"][2])


def test_from_items_to_scores(llama, tokenizer, tmp_path):
    asked = items(tokenizer, 320, 0, 1)
    found = score(asked, answer(llama, tokenizer, asked, tmp_path, room=320, chat=False))
    assert found["task"].tolist() == list(TASKS) and found["score"].between(0, 100).all()
