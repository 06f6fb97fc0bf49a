"""LongBench's measures: by hand in both languages, and against a slow reference
that follows the definition."""

from __future__ import annotations

import builtins
import random
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rouge import Rouge

from gateau_lib.evaluation import text_metrics
from gateau_lib.evaluation.benchmark_item import NotInstalled
from gateau_lib.evaluation.text_metrics import METRICS, chinese_words, f1_en, f1_zh, rouge_en, rouge_zh

TINY = 2e-6  # the package adds 1e-8 to a denominator


def test_english_f1_by_hand():
    # cat sat on mat / cat on mats: 2 words in common, precision 2/4, recall 2/3,
    # F1 = 2 * (1/2 * 2/3) / (1/2 + 2/3) = 4/7
    assert f1_en("The cat sat on a mat.", "cat on mats") == pytest.approx(100 * 4 / 7)
    # a bag: fox counts twice on the left, once on the right; precision 1/2, recall 1/1, F1 = 2/3
    assert f1_en("Fox, fox!", "the fox") == pytest.approx(100 * 2 / 3)
    assert f1_en("code-word", "codeword") == 100  # punctuation goes, the words close up
    assert f1_en("", "fox") == f1_en("owl", "fox") == f1_en("the", "a") == 0


def test_chinese_f1_by_hand():
    assert chinese_words("他在北京大学学习。") == ["他", "在", "北京大学", "学习", "。"]
    # 他 在 北京大学 学习 / 北京大学: precision 1/4, recall 1/1, F1 = 2 * 1/4 / (1/4 + 1) = 2/5
    assert f1_zh("他在北京大学学习。", "北京大学") == pytest.approx(40)
    # 他 学习 / 她 学习: 1 in common of 2 and 2, F1 = 1/2; as published, 《 is kept and 》 is not
    assert f1_zh("他，学习！", "她学习") == pytest.approx(50)
    assert f1_zh("《", "《") == 100 and f1_zh("》", "》") == 0
    assert f1_zh("", "北京") == f1_zh("。！", "北京") == 0 and f1_zh("GPU 很快", "gpu很快") == 100


def test_english_rouge_by_hand():
    # sets of 5 and 5 words; the longest common subsequence "the cat on the mat" has 4 different ones:
    # P = R = F = 4/5
    assert rouge_en("the cat sat on the mat", "the cat lay on the mat") == pytest.approx(80, abs=TINY * 100)
    # one sentence each: "a b" or "c d" is the longest, 2 of 4 words
    assert rouge_en("a b c d", "c d a b") == pytest.approx(50, abs=TINY * 100)
    # two sentences each: "c d" is found in the one, "a b" in the other, 4 of 4 words
    assert rouge_en("a b. c d", "c d. a b") == pytest.approx(100, abs=TINY * 100)
    # 2 of the prediction's 3 words and 2 of the reference's 6: P = 2/3, R = 1/3, F = 4/9
    assert rouge_en("he is here", "now he and she is late") == pytest.approx(100 * 4 / 9, abs=TINY * 100)
    for empty in ("", "."):
        assert rouge_en(empty, "a. b. ") == rouge_en("a. b. ", empty) == 0


def test_chinese_rouge_by_hand():
    # 他 在 北京大学 学习 / 北京大学: P = 1/4, R = 1, F = 2/5
    assert rouge_zh("他在北京大学学习", "北京大学") == pytest.approx(40, abs=TINY * 100)
    assert chinese_words("会议总结了工作") == ["会议", "总结", "了", "工作"]
    # 会议 总结 了 工作 / 会议 安排 工作: "会议 工作" is common; P = 2/4, R = 2/3, F = 4/7
    assert chinese_words("会议安排工作") == ["会议", "安排", "工作"]
    assert rouge_zh("会议总结了工作", "会议安排工作") == pytest.approx(100 * 4 / 7, abs=TINY * 100)
    assert rouge_zh("", "会议") == 0


def longest_common(x: list[str], y: list[str]) -> list[str]:
    """A longest common subsequence by its definition; of two equally long ones
    that which drops y's last word."""
    if not x or not y:
        return []
    if x[-1] == y[-1]:
        return [*longest_common(x[:-1], y[:-1]), x[-1]]
    left, right = longest_common(x[:-1], y), longest_common(x, y[:-1])
    return left if len(left) > len(right) else right


def slow_rouge(prediction: str, reference: str) -> float:
    sides = [[s.split() for s in text.split(".") if s.strip()] for text in (prediction, reference)]
    given, wanted = ({word for sentence in side for word in sentence} for side in sides)
    common = {word for theirs in sides[1] for ours in sides[0] for word in longest_common(theirs, ours)}
    return 200 * len(common) / (len(given) + len(wanted)) if common else 0.0


TEXT = st.lists(
    st.lists(st.sampled_from("red blue fox owl sun".split()), min_size=1, max_size=5), max_size=3
).map(lambda sentences: ". ".join(" ".join(words) for words in sentences))


@given(TEXT, TEXT)
def test_rouge_agrees_with_a_slow_reference(a, b):
    assert rouge_en(a, b) == pytest.approx(slow_rouge(a, b), abs=1e-4)


SPACED = st.text(alphabet="ab. \n", max_size=12)


@given(SPACED, SPACED)
@example("The cat sat on the mat.", "The cat sat on a mat.\n")
@example(" ", " ")
def test_rouge_is_that_of_longbenchs_metrics(a, b):
    """White space around a text counts as there: the package takes
    what is empty after the last full stop for a word."""
    try:
        official = Rouge().get_scores([a], [b], avg=True)["rouge-l"]["f"]
    except ValueError:  # LongBench's metrics.py gives 0 whatever the error
        official = 0.0
    assert rouge_en(a, b) == 100 * official


@given(st.permutations("abcdefg"), st.permutations("efghijk"))
def test_rouge_is_symmetric_where_no_word_comes_twice(a, b):
    assert rouge_en(" ".join(a), " ".join(b)) == pytest.approx(rouge_en(" ".join(b), " ".join(a)))


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_two_texts_score_between_0_and_100(a, b):
    for name, metric in METRICS.items():
        assert 0 <= metric(a, b) <= 100
        assert metric("", b) == 0
        if name.startswith("f1"):
            assert metric(a, b) == pytest.approx(metric(b, a))
            assert metric(a, a) in (0, 100)


@given(TEXT.filter(bool))
def test_a_text_is_all_of_itself(text):
    assert all(metric(text, text) == pytest.approx(100, abs=1e-4) for metric in METRICS.values())


def test_a_long_sentence_is_compared_in_full():
    """The package alone stops with an error, which the published code turns into 0."""
    reference = [f"w{i}" for i in range(700)]
    prediction = reference.copy()
    random.Random(0).shuffle(prediction)
    table = [[0] * 701 for _ in range(701)]
    for i, a in enumerate(reference):
        for j, b in enumerate(prediction):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    before = sys.getrecursionlimit()
    with pytest.raises(RecursionError):
        Rouge().get_scores(" ".join(prediction), " ".join(reference))
    assert rouge_en(" ".join(prediction), " ".join(reference)) == pytest.approx(
        100 * table[700][700] / 700, abs=1e-4
    )
    assert sys.getrecursionlimit() == before


def test_a_missing_package_is_named(monkeypatch):
    original = builtins.__import__
    monkeypatch.setattr(text_metrics, "import_module", lambda name: original("no_such_" + name))
    text_metrics._module.cache_clear()
    with pytest.raises(NotInstalled, match="pip install rouge"):
        rouge_en("a", "a")
    with pytest.raises(NotInstalled, match="pip install jieba"):
        f1_zh("a", "a")
    text_metrics._module.cache_clear()
