"""What counts in a response: where its answer stands, and whether a generated text holds it.

A sample's *answer* is the part of its response that only the evidence can tell; the words around it are its
frame. Text is normalised as in SQuAD: lower case; punctuation, articles and extra space removed.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError


def normalize(text: str) -> list[str]:
    """Words of a text, lower case, without punctuation and articles (SQuAD's official evaluation script)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _words(text: str) -> list[str]:
    """As `normalize`, but punctuation parts words: text that goes on after its answer still holds it."""
    return normalize(re.sub(rf"[{re.escape(string.punctuation)}]", " ", text))


def answer_parts(sample: Sample) -> list[tuple[int, int]]:
    """Where the answer stands in the response: character spans ``[start, end)``, in order.

    One span if the response holds the answer as it is (its last occurrence) or there is none (the whole
    response). Otherwise its words must stand there in order; words with only space between are one span.

    Raises:
        DataError: a word of the answer is not in the response.
    """
    response, answer = sample.response, sample.answer.strip() or sample.response
    if answer in response:
        begin = response.rindex(answer)
        return [(begin, begin + len(answer))]
    spans: list[tuple[int, int]] = []
    place = 0
    for word in answer.split():
        whole = re.compile(rf"(?<!\w){re.escape(word.strip(string.punctuation))}(?!\w)")
        if (found := whole.search(response, place)) is None:
            why = f"the answer's {word!r} is not in the response"
            raise DataError(f"sample {sample.id!r}: {why}; quote it in 'answer'")
        joined = spans and not response[spans[-1][1] : found.start()].strip()
        spans[-1:] = [(spans[-1][0], found.end())] if joined else [*spans[-1:], found.span()]
        place = found.end()
    return spans


def answer_tokens(sample: Sample, tokenizer: Any) -> np.ndarray:
    """Indices of the response's tokens that overlap its answer, from the tokenizer's offsets."""
    how = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    offsets, parts = tokenizer(sample.response, **how)["offset_mapping"], answer_parts(sample)
    inside = [i for i, (a, b) in enumerate(offsets) if any(a < end and b > begin for begin, end in parts)]
    return np.array(inside, np.int64)


def exact_match(prediction: str, parts: Sequence[str]) -> bool:
    """Whether every part of an answer occurs in the prediction as consecutive normalised words, in order."""
    words, place = _words(prediction), 0
    for part in parts:
        wanted = _words(part)
        starts = range(place, len(words) - len(wanted) + 1)
        found = next((s for s in starts if words[s : s + len(wanted)] == wanted), None)
        if found is None:
            return False
        place = found + len(wanted)
    return True


def token_f1(prediction: str, reference: str, frame: str = "") -> float:
    """F1 of normalised words as bags (SQuAD), 0 to 1; words of ``frame`` leave the prediction, once each."""
    return bag_f1(Counter(normalize(prediction)) - Counter(normalize(frame)), Counter(normalize(reference)))


def bag_f1(given: Counter[str], wanted: Counter[str]) -> float:
    """Harmonic mean of precision and recall of bags of words; if either is empty, 1 when both are, else 0."""
    if not given or not wanted:
        return float(given == wanted)
    return 2 * (given & wanted).total() / (given.total() + wanted.total())


def matches(text: str, sample: Sample) -> tuple[bool, float]:
    """Exact match and F1 of a text for a sample: its answer against the text; F1 without the frame."""
    parts, frame, place = answer_parts(sample), "", 0
    for begin, end in parts:
        frame, place = frame + sample.response[place:begin], end
    answer = [sample.response[begin:end] for begin, end in parts]
    return exact_match(text, answer), token_f1(text, " ".join(answer), frame + sample.response[place:])
