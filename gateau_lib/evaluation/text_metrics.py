"""LongBench's measures of a written answer, English and Chinese: F1 of words, ROUGE-L; 0 to 100.

They give what LongBench's metrics.py gives (github.com/THUDM/LongBench, MIT licence), but compare a long
sentence in full: the published code recurses once a word, Python stops it at 1,000, and that error counts as
0. A Chinese summary is one sentence, for it has no ASCII full stop.
"""

from __future__ import annotations

import string
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from types import ModuleType

from gateau_lib.evaluation.answers import bag_f1, normalize
from gateau_lib.evaluation.benchmark_item import NotInstalled

# As published: opening angle brackets are not among them.
CHINESE_PUNCTUATION = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛"
CHINESE_PUNCTUATION += "〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."
_DROPPED = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)

Metric = Callable[[str, str], float]


@cache
def _module(name: str) -> ModuleType:
    """A package that only these measures need; NotInstalled says how to get it."""
    try:
        module = import_module(name)
    except ImportError:
        how = f"install it: pip install {name}"
        raise NotInstalled(f"LongBench is scored with the package {name}; {how}") from None
    if name == "jieba":
        module.setLogLevel("WARNING")  # else it reports on stderr where its dictionary lies
    return module


def chinese_words(text: str) -> list[str]:
    """A text cut into words by jieba, nothing left out."""
    return _module("jieba").lcut(text, cut_all=False)


def f1_en(prediction: str, reference: str) -> float:
    """F1 of words as bags, normalised as in SQuAD: lower case, without punctuation and articles."""
    return _f1(normalize(prediction), normalize(reference))


def f1_zh(prediction: str, reference: str) -> float:
    """F1 of jieba's words as bags, lower case, without punctuation and space."""
    return _f1(_bare_words(prediction), _bare_words(reference))


def _bare_words(text: str) -> list[str]:
    bare = ("".join(word.lower().translate(_DROPPED).split()) for word in chinese_words(text))
    return [word for word in bare if word]


def _f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    return 100 * bag_f1(Counter(given), Counter(wanted)) if given else 0.0


def rouge_en(prediction: str, reference: str) -> float:
    """ROUGE-L F of the package `rouge`: how much of two texts' words is in the longest common subsequences.

    Sentences end at full stops and nowhere else; each of the reference is compared with each of the
    prediction, and a word that is in any of the subsequences counts once. White space after the last full
    stop counts as one more word.
    """
    rouge = _module("rouge").Rouge(metrics=["rouge-l"])
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + len(prediction) + len(reference))
    try:
        return 100 * rouge.get_scores(prediction, reference)[0]["rouge-l"]["f"]
    except ValueError:  # no sentence in one of them
        return 0.0
    finally:
        sys.setrecursionlimit(before)


def rouge_zh(prediction: str, reference: str) -> float:
    """`rouge_en` of jieba's words with spaces between them."""
    return rouge_en(" ".join(chinese_words(prediction)), " ".join(chinese_words(reference)))


METRICS: dict[str, Metric] = {"f1_en": f1_en, "f1_zh": f1_zh, "rouge_en": rouge_en, "rouge_zh": rouge_zh}
