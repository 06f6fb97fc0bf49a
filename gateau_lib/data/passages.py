"""Plain text of the planted world: sentences, passages with facts at wanted places, whole documents.

Lengths and places are counted in tokens, so that a distance between a fact and its use is one that a model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.data.world import Cast, Fact
from gateau_lib.study.profiles import Profile

DOCUMENT_KINDS = {
    "dependent": "facts are restated far from where they were stated",
    "local": "facts are restated in the next sentence only",
    "independent": "facts are never restated",
    "repetitive": "one passage repeated over and over",
}

Filler = Callable[[np.random.Generator], str]


def real_filler(rng: np.random.Generator) -> str:
    """One paragraph of the documentation that ships with Python."""
    return world.pick(rng, real_paragraphs())


def join(sentences: Sequence[Sentence]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text of sentences in their order, and where its evidence lies: ``(begin, end)`` in characters."""
    text, spans = "", []
    for i, sentence in enumerate(sentences):
        text += sentence.lead if i else ""
        if sentence.evidence:
            spans.append((len(text), len(text) + len(sentence.text)))
        text += sentence.text
    return text, tuple(spans)


def documents(profile: Profile, tokenizer: Any, seed: int, kind: str, count: int) -> list[tuple[str, str]]:
    """Plain documents ``(id, text)`` of one kind of `DOCUMENT_KINDS`, lengths as in the pools: what ProLong scores."""
    low, high = profile.pool_tokens
    result = []
    for n in range(count):
        rng = np.random.default_rng([seed, 888, list(DOCUMENT_KINDS).index(kind), n])
        length = int(rng.integers(low, high))
        writer, cast = Writer(tokenizer, rng, world.filler), Cast(rng)
        facts = [fact for _ in range(max(4, length // 80)) if (fact := cast.fact())]
        again = {fact: writer.sentence(f"Again, {fact.sentence[0].lower()}{fact.sentence[1:]}") for fact in facts}
        if kind == "repetitive":
            block = writer.passage(60, facts[:2])
            sentences = block * max(2, length // sum(s.tokens for s in block))
        elif kind == "dependent":  # stated in the first half, restated in the second in another order
            half = length // 2
            shuffled = [facts[i] for i in rng.permutation(len(facts))]
            filling = writer.passage(max(0, half - sum(again[f].tokens for f in facts)))
            second = [*filling, *(again[f] for f in shuffled)]
            sentences = writer.passage(half, facts) + [second[i] for i in rng.permutation(len(second))]
        else:
            sentences = writer.passage(length - (sum(s.tokens for s in again.values()) if kind == "local" else 0), facts)
            if kind == "local":
                told = {fact.sentence: again[fact] for fact in facts}
                sentences = [t for s in sentences for t in ([s, told[s.text]] if s.text in told else [s])]
        result.append((f"document-{seed}-{kind}-{n:03d}", join(sentences)[0]))
    return result


@dataclass(frozen=True)
class Sentence:
    """One sentence of a passage, or one paragraph of real text."""

    text: str
    tokens: int  # with its lead
    lead: str = " "  # what separates it from the sentence before
    evidence: bool = False


class Writer:
    """Builds passages of a wanted token length with evidence at wanted distances from their end."""

    def __init__(self, tokenizer: Any, rng: np.random.Generator, filler: Filler):
        self.rng, self.filler = rng, filler

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        # After a full stop, as in a passage: some tokenizers (Llama-2's) begin every text with a token of its own.
        self.count = cache(lambda text: tokens("." + text) - tokens("."))

    def sentence(self, text: str, evidence: bool = False) -> Sentence:
        """``text`` with its tokens counted and what separates it from the sentence before drawn."""
        lead = "\n" if self.rng.random() < 0.15 and not evidence else " "
        return Sentence(text, self.count(lead + text), lead, evidence)

    def passage(self, tokens: int, facts: Sequence[Fact] = ()) -> list[Sentence]:
        """Filler of about ``tokens`` tokens with ``facts`` at random places in it."""
        sentences = [self.sentence(fact.sentence) for fact in facts]
        left = tokens - sum(s.tokens for s in sentences)
        while left > 0:
            sentences.append(self.sentence(self.filler(self.rng)))
            left -= sentences[-1].tokens
        return [sentences[i] for i in self.rng.permutation(len(sentences))]

    def place(self, sentences: list[Sentence], fact: Fact, distance: int, room: float = float("inf")) -> list[Sentence]:
        """``fact`` inserted so that ``distance`` tokens of context or a few more follow it, at most ``room`` with its own."""
        evidence = self.sentence(fact.sentence, evidence=True)
        after = 0
        for cut in range(len(sentences), 0, -1):
            if after >= distance or evidence.tokens + after + sentences[cut - 1].tokens > room:
                return [*sentences[:cut], evidence, *sentences[cut:]]
            after += sentences[cut - 1].tokens
        return [evidence, *sentences]
