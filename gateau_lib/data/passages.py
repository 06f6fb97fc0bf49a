"""Plain text of the planted world: sentences, passages with facts at wanted places, whole documents.

Lengths and places are counted in tokens: a distance between a fact and its use is one that a model sees.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.world import Cast, Fact
from gateau_lib.study.profiles import Profile

DOCUMENT_KINDS = {
    "dependent": "facts are restated far from where they were stated",
    "local": "facts are restated in the next sentence only",
    "independent": "facts are never restated",
    "repetitive": "one passage repeated over and over",
}

Filler = Callable[[np.random.Generator], str]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a passage, or one paragraph of real text."""

    text: str
    tokens: int  # with its lead
    lead: str = " "  # what separates it from the sentence before
    evidence: bool = False
    filler: bool = False


def tokens_of(sentences: Sequence[Sentence]) -> int:
    """Tokens of sentences that follow one another."""
    return sum(sentence.tokens for sentence in sentences)


def join(sentences: Sequence[Sentence]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of sentences in their order, and where its evidence lies: ``(begin, end)`` in characters."""
    text, spans = "", []
    for i, sentence in enumerate(sentences):
        text += sentence.lead if i else ""
        if sentence.evidence:
            spans.append((len(text), len(text) + len(sentence.text)))
        text += sentence.text
    return text, tuple(spans)


class Writer:
    """Builds passages of a wanted token length with evidence at wanted distances from their end."""

    def __init__(self, tokenizer: Any, rng: np.random.Generator, filler: Filler):
        self.rng, self.filler = rng, filler

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        # After a full stop, as in a passage: some tokenizers (Llama-2's) put a token before every text.
        self.count = cache(lambda text: tokens("." + text) - tokens("."))

    def sentence(self, text: str, evidence: bool = False) -> Sentence:
        """``text`` with its tokens counted; what separates it from the sentence before is drawn."""
        lead = "\n" if self.rng.random() < 0.15 and not evidence else " "
        return Sentence(text, self.count(lead + text), lead, evidence)

    def passage(self, tokens: int, facts: Sequence[Fact] = ()) -> list[Sentence]:
        """Filler of about ``tokens`` tokens with ``facts`` at random places, each in one of the tongues."""
        sentences = [self.sentence(world.tongue(self.rng)(fact.sentence)) for fact in facts]
        left = tokens - tokens_of(sentences)
        while left > 0:
            sentences.append(replace(self.sentence(self.filler(self.rng)), filler=True))
            left -= sentences[-1].tokens
        return self.shuffled(sentences)

    def shuffled(self, items: list[Any]) -> list[Any]:
        """The items in an order that is drawn."""
        return [items[i] for i in self.rng.permutation(len(items))]

    def place(
        self,
        sentences: list[Sentence],
        text: str,
        distance: int,
        room: float = float("inf"),
        evidence: bool = True,
    ) -> list[Sentence]:
        """``text`` put where ``distance`` tokens follow it or a few more, ``room`` with it at most."""
        placed = replace(self.sentence(text, evidence=True), evidence=evidence)  # evidence opens no line
        after = 0
        for cut in range(len(sentences), 0, -1):
            before = sentences[cut - 1]
            if after >= distance or placed.tokens + after + before.tokens > room:
                return [*sentences[:cut], placed, *sentences[cut:]]
            after += before.tokens
        return [placed, *sentences]


def documents(profile: Profile, tokenizer: Any, seed: int, kind: str, count: int) -> list[tuple[str, str]]:
    """Plain documents ``(id, text)`` of one of `DOCUMENT_KINDS`, as long as pool samples."""
    low, high = profile.pool_tokens
    result = []
    for n in range(count):
        rng = np.random.default_rng([seed, 888, list(DOCUMENT_KINDS).index(kind), n])
        length = int(rng.integers(low, high))
        sentences = _document(kind, length, Writer(tokenizer, rng, world.filler), Cast(rng))
        result.append((f"document-{seed}-{kind}-{n:03d}", join(sentences)[0]))
    return result


def _document(kind: str, length: int, writer: Writer, cast: Cast) -> list[Sentence]:
    facts = cast.facts(max(4, length // 80))
    again = []  # each fact restated, in one of the tongues
    for fact in facts:
        text = world.tongue(writer.rng)(fact.sentence)
        again.append(writer.sentence(f"Again, {text[0].lower()}{text[1:]}"))
    restated = tokens_of(again)
    if kind == "repetitive":
        block = writer.passage(60, facts[:2])
        return block * max(2, length // tokens_of(block))
    if kind == "dependent":  # stated in the first half, restated in the second in another order
        half = length // 2
        second = writer.passage(max(0, half - restated)) + again
        return writer.passage(half, facts) + writer.shuffled(second)
    if kind == "independent":
        return writer.passage(length, facts)
    told = {text: place for place, fact in enumerate(facts) for text in both(fact.sentence)}
    sentences = []
    for sentence in writer.passage(length - restated, facts):
        sentences.append(sentence)
        if sentence.text in told:
            sentences.append(again[told[sentence.text]])
    return sentences


def both(text: str) -> tuple[str, str]:
    """A text in either tongue."""
    return text, world.translated(text)
