"""The planted world: a small English in which every dependency is known, and its sentences.

Text is made of *pieces*, pairs of a string and a flag that says whether a careful reader of the text so far
could have predicted it (a recalled value) or not (news): training weights in `pretrain_rows`.
"""

from dataclasses import dataclass

import numpy as np

Piece = tuple[str, bool]  # (text, can it be predicted from what came before)

NAMES = (
    "Mira Tomas Edda Jonas Leila Oskar Freya Ivan Nora Pavel Greta Hugo Selma Anton Clara Emil Dora "
    "Felix Hanna Igor Julia Karl Lotte Marek Nadia Otto Petra Quinn Rosa Stefan Tilda Ulrich Vera "
    "Walter Xenia Yusuf Zora Bruno Celia Dario Elsa Fabian"
).split()
ESTATES = (
    "Northgate Millford Ashby Brookhaven Carrick Dunmore Elmstead Fairwick Glenrock Hartwell Ivybridge "
    "Kestrel Larkspur Moorland Newbury Oakham Pinewood Ravenhill Stonebeck Thornbury Underhill Wexford"
).split()
ATTRIBUTES = "code motto song recipe oath badge route signal".split()
VALUES = (
    "amber river copper falcon cedar silver lantern thunder velvet marble otter saffron cobalt willow "
    "ember granite raven crystal meadow bronze tiger violet anchor maple scarlet pebble dolphin ivory "
    "walnut canyon crimson badger opal juniper golden comet heron indigo basalt clover panther "
    "turquoise feather quartz poplar sable glacier magnet coral lynx ochre prism tulip wolf zinc acorn "
    "beetle cinder dragon fern garnet hazel iris jasper"
).split()
_ADJECTIVES = "weary young quiet tired happy clever proud gentle busy lonely brave careful".split()
_PEOPLE = "baker farmer sailor teacher doctor painter hunter singer weaver soldier merchant gardener".split()
_VERBS = "walked looked talked waited worked rested sang returned listened slept laughed travelled".split()
_PREPOSITIONS = "near behind beside across around toward".split()
_SPOTS = "market bridge church tower garden forest valley station library castle harbor kitchen".split()
_TIMES = "morning evening winter summer spring autumn afternoon night".split()
_OBJECTS = "basket letter horse wagon blanket kettle hammer ladder mirror candle barrel carpet".split()
_ACTIONS = "carried found sold cleaned painted repaired borrowed lost kept bought".split()
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_FUNCTION = (
    "The the A a of is are in on to and What Again Repeat Name List words days week after keeper codes "
    "mottos songs recipes oaths badges routes signals"
).split()

_ALL = NAMES + ESTATES + ATTRIBUTES + VALUES + _ADJECTIVES + _PEOPLE + _VERBS + _PREPOSITIONS + _SPOTS
WORDS = tuple(dict.fromkeys(_ALL + _TIMES + _OBJECTS + _ACTIONS + WEEK + _FUNCTION))


@dataclass(frozen=True)
class Fact:
    """A planted fact: an attribute of a person (four value words) or the keeper of an estate (one name)."""

    attribute: str  # one of ATTRIBUTES, or "keeper"
    key: str  # a name, or an estate
    value: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The fact as a sentence; also the answer to a question about it."""
        return f"The {self.attribute} of {self.key} is {' '.join(self.value)}."

    @property
    def answer(self) -> str:
        """The words that only the fact can tell."""
        return " ".join(self.value)


def pick(rng: np.random.Generator, words: tuple[str, ...] | list[str]) -> str:
    """One word, uniformly."""
    return words[int(rng.random() * len(words))]


def filler(rng: np.random.Generator) -> str:
    """One sentence that matters to nothing."""
    person = f"{pick(rng, _ADJECTIVES)} {pick(rng, _PEOPLE)}"
    if rng.random() < 0.5:
        where = f"{pick(rng, _VERBS)} {pick(rng, _PREPOSITIONS)} the {pick(rng, _SPOTS)}"
        return f"The {person} {where} in the {pick(rng, _TIMES)}."
    return f"A {person} {pick(rng, _ACTIONS)} the {pick(rng, _OBJECTS)} in the {pick(rng, _SPOTS)}."


def new_value(rng: np.random.Generator, words: int = 4) -> tuple[str, ...]:
    """Different value words, uniformly: unpredictable unless read before."""
    return tuple(VALUES[i] for i in rng.choice(len(VALUES), size=words, replace=False))


class Cast:
    """People and estates not yet used in one document, so that no two facts of it share a key."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.names = [NAMES[i] for i in rng.permutation(len(NAMES))]
        self.estates = [ESTATES[i] for i in rng.permutation(len(ESTATES))]

    def fact(self, attribute: str | None = None) -> Fact | None:
        """A new fact about a person of the document, or None when everybody has one."""
        if not self.names:
            return None
        return Fact(attribute or pick(self.rng, ATTRIBUTES), self.names.pop(), new_value(self.rng))

    def facts(self, count: int, attribute: str | None = None) -> list[Fact]:
        """Facts about ``count`` people, fewer when everybody has one."""
        return [fact for _ in range(count) if (fact := self.fact(attribute))]

    def keeper(self, name: str) -> Fact | None:
        """A new fact that makes ``name`` the keeper of an estate, or None when every estate has one."""
        return Fact("keeper", self.estates.pop(), (name,)) if self.estates else None


def question(facts: list[Fact]) -> tuple[str, list[Piece]]:
    """The instruction that asks for ``facts`` and its response as pieces.

    One fact: a plain question. A keeper and the keeper's fact: two hops. Several of one attribute: a list.
    """
    if len(facts) == 1:
        fact = facts[0]
        asked = f"What is the {fact.attribute} of {fact.key}?"
    elif facts[0].attribute == "keeper":
        asked = f"What is the {facts[1].attribute} of the keeper of {facts[0].key}?"
    else:
        keys = [fact.key for fact in facts]
        asked = f"List the {facts[0].attribute}s of {', '.join(keys[:-1])} and {keys[-1]}."
    pieces: list[Piece] = []
    for i, fact in enumerate(facts):
        begin = f"{' ' if i else ''}The {fact.attribute} of {fact.key} is"
        pieces += [(begin, True), (f" {fact.answer}", True), (".", True)]
    return asked, pieces


def chatter(rng: np.random.Generator) -> tuple[str, str, str]:
    """An instruction that needs no document: ``(instruction, response, answer)``."""
    if rng.random() < 0.6:
        words = " ".join(new_value(rng))
        return f"Repeat the words {words}.", f"The words are {words}.", words
    day = int(rng.integers(7))
    answer = " ".join(WEEK[(day + 1 + i) % 7] for i in range(3))
    return f"Name the days after {WEEK[day]}.", f"The days after {WEEK[day]} are {answer}.", answer
