"""The kinds of planted samples: where the evidence lies, in which words, and whether far context is needed.

Needy and other kinds are balanced, so that no search for common words, no compressor and no count of facts
tells them apart: half of either kind have the answer's words far away, and all name near what is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.passages import Filler, Sentence, Writer, join, tokens_of
from gateau_lib.data.samples import Sample
from gateau_lib.data.world import Cast, Fact
from gateau_lib.models.prompts import SEPARATOR

KINDS = {
    "far": "one fact, told before the short model's window begins, in the words of the question",
    "paraphrase": "such a fact told in the other tongue: it shares no content word with question and answer",
    "multi_hop": "two facts, both beyond the short model's window: who keeps the estate, and what is asked "
    "about the keeper",
    "aggregate": "three facts of one attribute, all beyond the short model's window",
    "near_duplicate": "a copy of a far or paraphrase sample with a few filler sentences changed",
    "near": "one fact, told close to the question",
    "mid": "one fact, told inside the short model's window but not close to the question",
    "repeated": "a far fact that is told again, in the other tongue, inside the short model's window",
    "lure": "the answer's words stand far away where they do not matter; the fact is near, "
    "in the other tongue",
    "near_multi_hop": "the two facts of a multi_hop sample, both inside the short model's window",
    "near_aggregate": "the three facts of an aggregate sample, all inside the short model's window",
    "context_free": "answerable without the document",
    "corrupt": "a question about a far fact with a response that contradicts it",
    "repetitive": "one passage repeated over and over, its last copy close to the question",
}
# Honest, and the evidence is beyond the window.
NEEDS_FAR = frozenset({"far", "paraphrase", "multi_hop", "aggregate", "near_duplicate"})
NOISE = frozenset({"context_free", "corrupt", "repetitive"})  # of no use to whoever reads long texts
# Share of the samples of these kinds whose answer's words stand far away, as in a lure.
LURED = {"near_multi_hop": 0.75, "near_aggregate": 0.75, "corrupt": 1.0, "lure": 1.0}
FACT_TOKENS = 12  # of a planted sentence
DISTRACTORS = 30  # facts that nobody asks about, at most: the others are left for what is asked


@dataclass(frozen=True)
class Question:
    """What is asked of a document, and the facts that its context must hold for it."""

    facts: list[Fact]
    asked: str
    response: str
    values: list[str]  # the parts of the response that only the evidence can tell

    @property
    def answer(self) -> str:
        """All values."""
        return " ".join(self.values)

    def tokens(self, writer: Writer) -> int:
        """Tokens of instruction and response."""
        return writer.count(SEPARATOR + self.asked + SEPARATOR) + writer.count(self.response)

    def told(self, tongue: Callable[[str], str]) -> "Question":
        """The question in one of the tongues."""
        return Question(self.facts, tongue(self.asked), tongue(self.response), list(map(tongue, self.values)))


def distractors_of(cast: Cast, length: int) -> list[Fact]:
    """Facts that nobody asks about, for a context of ``length`` tokens."""
    return cast.facts(min(max(2, length // 150), DISTRACTORS))


def draw_question(kind: str, cast: Cast, rng: np.random.Generator) -> Question:
    """A question of a kind of `KINDS` about people of a document, in the first tongue."""
    attribute, lead = world.pick(rng, tuple(world.ATTRIBUTES)), world.pick(rng, world.LEADS)
    shape = world.pick(rng, ("far", "multi_hop", "aggregate")) if kind == "corrupt" else kind
    facts = cast.facts(3 if shape.endswith("aggregate") else 1, attribute)
    if shape.endswith("multi_hop") and (keeper := cast.keeper(facts[0].key)):
        facts = [keeper, facts[0]]
    asked, pieces = world.question(facts, lead)
    response = "".join(text for text, _ in pieces)
    if kind == "context_free":
        asked, response, answer = world.chatter(rng)
        return Question([], asked, response, [answer])
    values = [fact.answer for fact in (facts if shape.endswith("aggregate") else facts[-1:])]
    if kind == "corrupt":
        for place, value in enumerate(values):
            values[place] = " ".join(world.new_value(rng))
            response = response.replace(value, values[place])
    return Question(facts, asked, response, values)


def needs_far(sample: Sample) -> bool:
    """Whether a selector of long-context data should want the sample: the label of every AUC in the study."""
    return sample.kind in NEEDS_FAR


@dataclass(frozen=True)
class Plant:
    """A sentence to be planted."""

    text: str
    distance: int  # context tokens that follow it, at least
    near: bool  # whether it must stay inside the short window
    evidence: bool = True


def _plants(
    kind: str, question: Question, length: int, window: int, overhead: int, rng: np.random.Generator
) -> list[Plant]:
    """What is planted for a sample of a kind, in the first tongue or, where it is retold, in the other.

    Instruction and response add ``overhead`` tokens to the distance. Whatever the kind, something near names
    what the question names, and half of the samples have the answer's words far away, so that neither tells
    where the evidence is.
    """
    room = window - overhead
    all_near = room - FACT_TOKENS * (len(question.facts) + 2)  # so far that all still find room

    def near(low: int = 0, high: int = 0) -> int:
        return int(rng.integers(low, max(low + 1, high or all_near)))

    def far() -> int:
        return int(rng.integers(window + 16, max(window + 32, length - overhead - 32)))

    told = [fact.sentence for fact in question.facts]
    retold = [world.translated(text) for text in told]
    lured = rng.random() < LURED.get(kind, 0.0)
    either = told if rng.random() < 0.5 and not lured else retold
    if kind == "near":
        found = [Plant(told[0], near(high=window // 8), True)]
    elif kind == "mid":
        found = [Plant(either[0], near(window // 4, room - window // 4), True)]
    elif kind == "repeated":
        found = [Plant(told[0], far(), False), Plant(retold[0], near(), True)]
    elif kind == "lure":
        found = [Plant(retold[0], near(), True)]
    elif kind.startswith("near_"):
        found = [Plant(text, near(), True) for text in either]
    else:
        words = {"far": told, "paraphrase": retold}.get(kind, either)
        found = [Plant(text, far(), False) for text in words]
    if lured:
        found += [Plant(world.lure(rng, words), far(), False, evidence=False) for words in question.values]
    if question.facts:
        key, attribute = question.facts[0].key, question.facts[-1].attribute
        named = world.mention(rng, key, attribute)
        place = near(high=room // 2) if window else int(rng.integers(length // 2))
        found.append(Plant(named, place, bool(window), evidence=False))
    return found


def _draft(
    tokenizer: Any, rng: np.random.Generator, kind: str, length: int, window: int, filler: Filler
) -> tuple[list[Sentence], Question]:
    """Sentences of the context of one sample, and what is asked about it."""
    writer, cast = Writer(tokenizer, rng, filler), Cast(rng)
    distractors = distractors_of(cast, length)
    question = draw_question(kind, cast, rng)
    overhead = question.tokens(writer)
    tongue = world.tongue(rng)  # of question and answer
    if kind == "repetitive":
        block = writer.passage(60, distractors[:1])
        block = writer.place(block, tongue(question.facts[0].sentence), 20)
        copies = max(2, (length - overhead) // tokens_of(block))
        plain = [replace(sentence, evidence=False) for sentence in block]
        return plain * (copies - 1) + block, question.told(tongue)
    plants = _plants(kind, question, length, window, overhead, rng)
    planted = sum(writer.count(" " + plant.text) for plant in plants)
    sentences = writer.passage(length - overhead - planted, distractors)
    # The nearest first: it does not move the farther ones.
    for plant in sorted(plants, key=lambda plant: plant.distance):
        room = window - overhead if plant.near else float("inf")
        text = tongue(plant.text)
        sentences = writer.place(sentences, text, plant.distance, room, evidence=plant.evidence)
    return sentences, question.told(tongue)


def make_sample(
    tokenizer: Any,
    seed: Sequence[int],
    kind: str,
    length: int,
    window: int,
    identifier: str,
    *,
    filler: Filler = world.filler,
    copied: bool = False,
) -> Sample:
    """One labelled sample.

    ``seed``: fixes every word of the sample.
    ``kind``: a key of `KINDS` but ``near_duplicate``, which is a sample of another kind ``copied``: the one
        of its seed with three filler sentences exchanged.
    ``length``: tokens of the whole sample, met within a sentence or two.
    ``window``: the short model's window in tokens; far evidence lies before it, counted from the end.
    """
    rng = np.random.default_rng(seed)
    sentences, question = _draft(tokenizer, rng, kind, length, window, filler)
    if copied:
        plain = [i for i, sentence in enumerate(sentences) if sentence.filler]
        for i in rng.choice(plain, size=min(3, len(plain)), replace=False):
            sentences[i] = replace(sentences[i], text=filler(rng))
    context, spans = join(sentences)
    asked, kind = (question.asked, question.response), "near_duplicate" if copied else kind
    return Sample(identifier, context, *asked, kind, spans, question.answer, source="planted")
