"""Word matching in the place of models: what a selection by a model has to beat.

With W(t) the set of words of a text, in lower case, x the instruction, y the response, and the context
parted into *far* and *near* where the short model's window begins:

    word_overlap      = |(W(y) ∩ W(far)) − W(near) − W(x)| / |W(y)|     words that only the far part has
    question_distance = characters from the last mention of a content word of x to the end of the context

Both high = select. A content word is a word of the instruction that is not in `FUNCTION_WORDS`. A context
that mentions none of them is all the way away: it counts with its whole length, so an empty one with 0.

Source: this study.

Open points: words are compared letter by letter, so *song* is no mention of *songs*; in texts without spaces
between words (Chinese) a run of letters is one word. The distance is in characters, which keeps it free of a
tokenizer; it grows with the length of a context that does not mention the question. A sample without far
context, or a response without words, has word_overlap 0: nothing in it needs the far context.
"""

import re
from collections.abc import Collection
from typing import Any

from gateau_lib.data.samples import far_and_near, kept_context
from gateau_lib.methods.base import Columns, Method, by, without_context

WORD = re.compile(r"\w+")
# Words that a question is made of whatever it asks for.
FUNCTION_WORDS = frozenset(
    "a an the this that these those it its and or but not no of to in on at by for from with as into about "
    "than then is are was were be been do does did has have had can could will would should may might must "
    "what which who whom whose where when why how many much i me my you your he his she her we our they "
    "their there here all any each some please list name tell give say write repeat answer following".split()
)


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(WORD.findall(text.lower()))


def only_far(far: str, near: str, question: str, response: str) -> float:
    """Share of the response's words that the far context holds, but not the near one or the question."""
    used = words(response)
    explained = (used & words(far)) - words(near) - words(question)
    return len(explained) / len(used) if used else 0.0


def content_words(question: str) -> set[str]:
    """Words of a question that say what it is about."""
    return words(question) - FUNCTION_WORDS


def distance_to_end(context: str, wanted: Collection[str]) -> int:
    """Characters from the last mention of one of the words to the context's end; without one, its length."""
    text = context.lower()
    if len(text) != len(context):  # a few letters become two in lower case
        text = "".join(small if len(small := letter.lower()) == 1 else letter for letter in context)
    begins = [found.start() for found in WORD.finditer(text) if found[0] in wanted]
    return len(text) - begins[-1] if begins else len(text)


def _overlap(reader: Any) -> Columns:
    found = []
    for sample, encoded in zip(reader.samples, reader.encoded, strict=True):
        parts = far_and_near(sample, reader.pair.tokenizer, encoded, reader.options.short_window)
        found.append(only_far(*parts, sample.instruction, sample.response))
    return {"word_overlap": found}


def _distance(reader: Any) -> Columns:
    found = []
    for sample, encoded in zip(reader.samples, reader.encoded, strict=True):
        context = kept_context(sample, reader.pair.tokenizer, encoded)
        found.append(float(distance_to_end(context, content_words(sample.instruction))))
    return {"question_distance": found}


WORD_OVERLAP = Method(
    name="word_overlap",
    title="words only from afar",
    source="this study",
    rank=by("word_overlap"),
    needs=("word_overlap",),
    fill=_overlap,
    needs_window=True,
    columns=("word_overlap",),
    unfit=without_context,
    look=("#44AA99", "v"),
)
QUESTION_DISTANCE = Method(
    name="question_distance",
    title="distance of the question's words",
    source="this study",
    rank=by("question_distance"),
    needs=("question_distance",),
    fill=_distance,
    columns=("question_distance",),
    unfit=without_context,
    look=("#6699CC", "<"),
)
