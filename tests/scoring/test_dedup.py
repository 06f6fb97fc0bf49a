"""Near-identical contexts against every pair compared."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.scoring import dedup

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]


def text(seed, n=300):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(n))


def changed(words, at):
    """The text with the words at some places replaced: each takes up to five shingles with it."""
    words = words.split()
    for i in at:
        words[i] = "zzz"
    return " ".join(words)


def slow(contexts, threshold):
    """Every sample against every kept one, best first."""
    kept, dropped = [], {}
    for name, context in enumerate(contexts):
        mine = dedup.shingles(context)
        close = [(len(mine & other) / len(mine | other), twin) for twin, other in kept if mine]
        if close and max(each for each, _ in close) >= threshold:
            similarity = max(each for each, _ in close)
            dropped[name] = next(twin for each, twin in close if each == similarity), similarity
        else:
            kept.append((name, mine))
    return dropped


def test_shingles_by_hand():
    assert dedup.shingles("One two, three FOUR\nfive six.") == {
        "one two three four five",
        "two three four five six",
    }
    assert dedup.shingles("Two words") == {"two words"} and dedup.shingles(" \n") == set()
    assert dedup.shingles("山下有一条河流 ok") == {
        "山 下 有 一 条",
        "下 有 一 条 河",
        "有 一 条 河 流",
        "一 条 河 流 ok",
    }
    assert dedup.shingles("--- ***") == {"--- ***"}
    assert dedup.jaccard(set(), set()) == 0 and dedup.jaccard({"a", "b"}, {"b", "c"}) == 1 / 3


COPIES = st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 299), max_size=14)), max_size=12)


@given(COPIES, st.sampled_from([0.5, 0.8, 1]))
def test_same_as_comparing_every_pair(made, threshold):
    contexts = [changed(text(seed), at) for seed, at in made]
    assert dedup.near_identical(len(made), contexts.__getitem__, threshold) == slow(contexts, threshold)


def test_the_first_is_kept_and_the_nearest_named():
    base = text(0)
    contexts = [changed(base, range(60)), base, changed(base, [5]), "", "", changed(base, range(61)), text(1)]
    found = dedup.near_identical(7, contexts.__getitem__, 0.8)
    assert {place: twin for place, (twin, _) in found.items()} == {2: 1, 5: 0}
    assert found[2][1] == pytest.approx(291 / 301)  # of 296 shingles five are lost and five are new


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 0.9, 0.99, 1])
def test_few_pairs_are_overlooked(threshold):
    bands, rows = dedup._bands(threshold)
    assert bands * rows <= dedup.PERMUTATIONS and (1 - threshold**rows) ** bands <= 0.01
    assert threshold < 0.8 or rows > 1  # else every sample that shares a word or two would be a candidate


def test_signature_does_not_depend_on_the_process():
    code = "from gateau_lib.scoring import dedup; "
    code += "print(dedup.signature(dedup.shingles('a b c d e f g')).digest().tolist())"
    said = set()
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        said.add(done.stdout)
    assert len(said) == 1


def test_a_large_group_is_compared_with_its_kept_one_only():
    """Copies of copies: no sample is compared with one that was dropped."""
    asked = Counter[int]()

    def context_of(place: int) -> str:
        asked[place] += 1
        return text(place % 2)

    found = dedup.near_identical(40, context_of, 0.8)
    assert found == {place: (place % 2, 1.0) for place in range(2, 40)}
    assert all(asked[place] == 2 for place in range(2, 40)) and asked[0] == asked[1] == 20


def test_threshold_outside_its_range_is_refused():
    for threshold in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="threshold must be above 0"):
            dedup.near_identical(1, str, threshold)
