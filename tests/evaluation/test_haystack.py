"""Needles in real text: length and depth as tokens of three tokenizers that cut text in three ways."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny import other_tokenizers

from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.evaluation import haystack
from gateau_lib.evaluation.answering import answer
from gateau_lib.evaluation.benchmark_item import longest_prompt
from gateau_lib.evaluation.haystack import TOLERANCE, items, score
from gateau_lib.models import loading
from gateau_lib.models.prompts import prompt_ids
from gateau_lib.study.errors import DataError

LENGTHS, DEPTHS = (320, 900), (0.0, 0.3, 0.5, 1.0)
TEXTS = real_paragraphs()[:200]


@pytest.fixture(scope="module", params=["bytes", *other_tokenizers()])
def any_tokenizer(request, tokenizer):
    return tokenizer if request.param == "bytes" else other_tokenizers()[request.param]()


def test_length_and_depth_are_those_of_the_tokens_that_are_read(any_tokenizer):
    found = items(TEXTS, any_tokenizer, LENGTHS, DEPTHS, seed=3, repeats=2)
    assert len(found) == 16 and len({item.id for item in found}) == 16
    begins = set()
    for item in found:
        (prompt,), needle, about = item.turns, item.extra["needle"], item.extra
        read = [len(prompt_ids(any_tokenizer, item.turns, [], chat)) for chat in (False, True)]
        assert (
            max(read) == about["tokens"] and about["length"] - TOLERANCE <= about["tokens"] <= about["length"]
        )
        text, question = prompt.rsplit("\n\n", 1)
        assert prompt.count(needle) == 1 and question.endswith("?") and about["copies"] == 1
        begin = text.index(needle)
        begins.add(begin)
        # Between two sentences: what stands before the needle is nothing, or has ended.
        assert (
            not text[:begin].strip()
            or text[:begin].rstrip()[-1] in ".!?\"')"
            or text[:begin].endswith("\n\n")
        )
        # The depth, counted again from the tokens of the text.
        offsets = any_tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        before = sum(b <= begin for _, b in offsets)
        inside = sum(b > begin and a < begin + len(needle) for a, b in offsets)
        assert abs(before - about["depth"] * (len(offsets) - inside)) <= TOLERANCE
        assert about["realised_depth"] == before / (len(offsets) - inside)
        assert all(word in needle for word in item.references) and len(item.references) == 4
    assert len(begins) > 8  # not all at one place, as with a full stop's token id of another tokenizer


def test_items_are_the_same_for_one_seed_and_others_for_another(tokenizer):
    first, again, other = (items(TEXTS, tokenizer, [400], [0.5], seed) for seed in (0, 0, 1))
    assert first == again and len({item.turns for item in first + other}) == 2 * haystack.REPEATS
    assert (
        items(TEXTS, tokenizer, [320, 400], [0.5], 0)[haystack.REPEATS :] == first
    )  # whatever else is asked for


def test_a_short_haystack_is_read_in_a_circle_and_that_is_said(tokenizer):
    found = items(["One is here. Two is there.", "Three goes. Four stays."], tokenizer, [500], [0.5], 0)
    assert all(item.extra["copies"] >= 7 and item.extra["tokens"] > 468 for item in found)
    text = found[0].turns[0].replace(found[0].extra["needle"] + " ", "")
    assert "One is here. Two is there.\n\nThree goes. Four stays.\n\nOne is here." in text


def test_chinese_sentences_are_borders_too(tokenizer):
    found = items(["今天天气很好。我们去公园散步。那里有很多人！"], tokenizer, [600], [0.25, 0.75], 0)
    for item in found:
        begin = item.turns[0].index(item.extra["needle"])
        assert (
            item.turns[0][:begin].rstrip()[-1] in "。！"
            and abs(item.extra["realised_depth"] - item.extra["depth"]) < 0.05
        )


def test_bad_haystacks_and_lengths_are_named(tokenizer):
    with pytest.raises(DataError, match="no two sentences"):
        items(["word " * 50], tokenizer, [400], [0.5], 0)
    with pytest.raises(
        DataError, match="needle-60-0.5-0-0: .* tokens without any filling, more than the wanted 60"
    ):
        items(TEXTS, tokenizer, [60], [0.5], 0)


def test_scores_and_map_by_hand(tokenizer):
    found = items(TEXTS, tokenizer, [400], [0.0, 1.0], seed=0, repeats=2)
    words = [item.references for item in found]
    said = [" ".join(words[0]) + ".", f"{words[1][2].upper()}, {words[1][0]}s", "", "I cannot tell"]
    rows = [{"id": item.id, "answers": [text]} for item, text in zip(found, said, strict=True)]
    rows[3]["answers"] = []
    scores = score(found, pd.DataFrame(rows))
    assert scores["score"].tolist()[:3] == [100, 25, 0] and np.isnan(
        scores["score"][3]
    )  # a word, not its plural
    cells = pd.DataFrame(
        [{"id": i.id} | {name: i.extra[name] for name in ("length", "depth")} for i in found]
    )
    wide = haystack.needle_map(scores[:3], cells[:3], "score")
    assert wide.to_numpy().tolist() == [[62.5], [0]] and wide.index.tolist() == [0, 1]


def test_the_shipped_long_model_finds_needles_that_its_window_holds(tmp_path):
    model, shipped = loading.load(loading.SHIPPED / "long")
    asked = items(TEXTS, shipped, [300], [0.0, 0.5], seed=0)
    found = score(asked, answer(model, shipped, asked, tmp_path / "whole", room=336, chat=False))
    assert found["score"].mean() > 75
    cut = score(asked, answer(model, shipped, asked, tmp_path / "cut", room=200, chat=False))
    assert (
        cut["score"][: haystack.REPEATS].mean() > 75 > 25 > cut["score"][haystack.REPEATS :].mean()
    )  # the middle is lost


@pytest.mark.parametrize("unit", ["ab ", "a", "longer than that. "])
@pytest.mark.parametrize("length", [40, 41, 100, 333])
def test_filling_ends_where_one_unit_more_is_too_much(tokenizer, unit, length):
    def build(units: int) -> str:
        return "Begin. " + unit * units

    expected = 0
    while len(prompt_ids(tokenizer, (build(expected + 1),), [], True)) <= length:
        expected += 1
    assert longest_prompt(build, tokenizer, length, "x") == (
        expected,
        len(prompt_ids(tokenizer, (build(expected),), [], True)),
    )
