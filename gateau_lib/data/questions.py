"""What is asked of a planted document: the facts that it must hold, instruction, response and answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.passages import Writer
from gateau_lib.data.world import Cast, Fact
from gateau_lib.models.prompts import SEPARATOR

DISTRACTORS = 30  # facts that nobody asks about, at most: the others are left for what is asked


@dataclass(frozen=True)
class Question:
    """What is asked of a document, and the facts that its context must hold for it."""

    facts: list[Fact]
    asked: str
    response: str
    answer: str

    def tokens(self, writer: Writer) -> int:
        """Tokens of instruction and response."""
        return writer.count(SEPARATOR + self.asked + SEPARATOR) + writer.count(self.response)


def distractors_of(cast: Cast, length: int) -> list[Fact]:
    """Facts that nobody asks about, for a context of ``length`` tokens."""
    return cast.facts(min(max(2, length // 150), DISTRACTORS))


def draw_question(kind: str, cast: Cast, rng: np.random.Generator) -> Question:
    """A question of a kind of `corpus.KINDS` about people of a document."""
    attribute = world.pick(rng, world.ATTRIBUTES)
    facts = cast.facts(3 if kind == "aggregate" else 1, attribute)
    if kind == "multi_hop" and (keeper := cast.keeper(facts[0].key)):
        facts = [keeper, facts[0]]
    asked, pieces = world.question(facts)
    response = "".join(text for text, _ in pieces)
    if kind == "context_free":
        return Question([], *world.chatter(rng))
    if kind == "corrupt":
        wrong = " ".join(world.new_value(rng))
        return Question(facts, asked, response.replace(facts[0].answer, wrong), wrong)
    return Question(facts, asked, response, response if kind == "aggregate" else facts[-1].answer)
