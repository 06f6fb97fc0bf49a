"""Matching of words against loops over characters, and the border cases of empty parts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.model_free import slow_distance, slow_share
from scoring_command import WORDS

from gateau_lib.data.samples import Sample, encode
from gateau_lib.methods import METHODS, word_matching

TEXTS = st.lists(st.sampled_from([*WORDS, "The", "KEY,", "mill."]), max_size=25).map(" ".join)


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_share_of_words_matches_slow_reference(far, near, question, response):
    got = word_matching.only_far(far, near, question, response)
    assert got == slow_share(far, near, question, response) and 0 <= got <= 1


@given(TEXTS, st.sets(st.sampled_from(WORDS)))
def test_distance_matches_slow_reference(context, wanted):
    got = word_matching.distance_to_end(context, wanted)
    assert got == slow_distance(context, wanted) and 0 <= got <= len(context)


def test_share_by_hand():
    far, near = "The code of Freya is maple zinc.", "Otto sells zinc."
    got = word_matching.only_far(
        far, near, "What is the code of Freya?", "The code of Freya is maple zinc heron."
    )
    assert got == pytest.approx(1 / 8)  # maple of eight words: zinc is near too, heron nowhere
    assert word_matching.only_far(far, near, "Which?", "...") == 0
    assert word_matching.only_far("", far, "Which?", "maple") == 0


def test_distance_by_hand():
    wanted = word_matching.content_words("What is the code of Freya?")
    assert wanted == {"code", "freya"}
    assert word_matching.distance_to_end("Freya left. Decode it.", wanted) == len("Freya left. Decode it.")
    assert word_matching.distance_to_end("The CODE. End", wanted) == len("CODE. End")
    assert word_matching.distance_to_end("", wanted) == 0
    assert word_matching.distance_to_end("all of it", set()) == len("all of it")
    # One letter that is two in lower case moves no place.
    assert word_matching.distance_to_end("\u0130\u0130 code", wanted) == 4


def test_samples_without_context_have_defined_values(tokenizer):
    sample = Sample("a", "", "Which key?", "copper")
    pair, options = SimpleNamespace(tokenizer=tokenizer), SimpleNamespace(short_window=8)
    read = SimpleNamespace(samples=[sample], encoded=[encode(sample, tokenizer)], pair=pair, options=options)
    assert METHODS["word_overlap"].fill(read) == {"word_overlap": [0.0]}
    assert METHODS["question_distance"].fill(read) == {"question_distance": [0.0]}


def test_the_kept_context_counts(tokenizer):
    sample = Sample("a", "key " + "stone " * 10, "Which key?", "copper")
    encoded = [encode(sample, tokenizer, limit) for limit in (None, 50)]
    pair, options = SimpleNamespace(tokenizer=tokenizer), SimpleNamespace(short_window=30)
    read = SimpleNamespace(samples=[sample] * 2, encoded=encoded, pair=pair, options=options)
    assert encoded[1].dropped > 4
    found = METHODS["question_distance"].fill(read)["question_distance"]
    assert found == [len(sample.context), len(sample.context) - encoded[1].dropped]
