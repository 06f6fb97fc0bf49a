"""The planted world: a small English in which every dependency is known, and its sentences.

What facts are made of has a word in each of two *tongues*: a sentence may use what another tells without
sharing a word with it, so that no search for common strings finds the two. Text is made of *pieces*, pairs of
a string and a flag that says whether a careful reader of the text so far could have predicted it (a recalled
value) or not (news): training weights in `pretrain_rows`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Piece = tuple[str, bool]  # (text, can it be predicted from what came before)


def _tongues(text: str) -> dict[str, str]:
    """Words of the first tongue and what they are in the second, from a text of such pairs."""
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


NAMES = _tongues(
    "Mira Aurel  Tomas Brenko  Edda Cyra  Jonas Doral  Leila Esmer  Oskar Fjodor  Freya Galen "
    "Ivan Hadria  Nora Ilario  Pavel Jorun  Greta Kasimir  Hugo Ludmil  Selma Maruk  Anton Neve "
    "Clara Orsola  Emil Pirmin  Dora Quirin  Felix Roswin  Hanna Sunna  Igor Tibor  Julia Ursin "
    "Karl Valko  Lotte Wanda  Marek Xaver  Nadia Yorick  Otto Zelda  Petra Alrik  Rosa Birger "
    "Stefan Corvin  Tilda Dagny  Vera Ewald  Walter Falk  Yusuf Gisela  Zora Hedda  Bruno Ingvar "
    "Celia Jutta"
)
ESTATES = _tongues(
    "Northgate Bergtor  Millford Furtmuhl  Ashby Eschhof  Brookhaven Bachheim  Carrick Felsen "
    "Dunmore Burgmoor  Elmstead Ulmenau  Fairwick Schonwik  Glenrock Talstein  Hartwell Hirschborn "
    "Kestrel Turmfalk  Larkspur Sporn  Moorland Heide  Oakham Eichen  Pinewood Kiefern "
    "Thornbury Dornburg"
)
ATTRIBUTES = _tongues(
    "code cipher  motto slogan  song ballad  recipe formula  oath pledge  badge emblem  route trail "
    "signal beacon"
)
VALUES = _tongues(
    "amber resin  river stream  copper metal  falcon hawk  cedar timber  silver argent  lantern lamp "
    "thunder storm  velvet plush  marble slate  otter weasel  saffron spice  cobalt azure "
    "willow osier  ember spark  granite boulder  raven crow  meadow pasture  bronze alloy "
    "tiger panther  violet purple  anchor mooring  maple sycamore  pebble gravel  dolphin porpoise "
    "ivory tusk  walnut hazel  canyon ravine  comet meteor  clover trefoil  feather plume "
    "glacier icefield  magnet lodestone  prism crystal  acorn seed  dragon wyvern  iris lily "
    "beetle scarab  zinc tin  opal gem"
)
_ADJECTIVES = "weary young quiet tired happy clever proud gentle busy lonely brave careful".split()
_PEOPLE = "baker farmer sailor teacher doctor painter hunter singer weaver soldier merchant gardener".split()
_VERBS = "walked looked talked waited worked rested sang returned listened slept laughed travelled".split()
_PREPOSITIONS = "near behind beside across around toward".split()
_SPOTS = "market bridge church tower garden forest valley station library castle harbor kitchen".split()
_TIMES = "morning evening winter summer spring autumn afternoon night".split()
_OBJECTS = "basket letter horse wagon blanket kettle hammer ladder mirror candle barrel carpet".split()
_ACTIONS = "carried found sold cleaned painted repaired borrowed lost kept bought".split()
WEEK = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
LEADS = ("The", "Surely the", "As told, the", "We know the", "It says the")  # how an answer may begin
_FUNCTION = (
    "The the A a of is are in on to and What Again Repeat Name List words days week after "
    "Surely As told We know It says spoke sang"
).split()

_PAIRED = NAMES | ESTATES | ATTRIBUTES | {"keeper": "warden"} | VALUES
OTHER = _PAIRED | {second: first for first, second in _PAIRED.items()}  # word: the one of the other tongue
_NAMES, _ESTATES, _ATTRIBUTES, _VALUES = map(tuple, (NAMES, ESTATES, ATTRIBUTES, VALUES))
_PLAIN = _ADJECTIVES + _PEOPLE + _VERBS + _PREPOSITIONS + _SPOTS + _TIMES + _OBJECTS + _ACTIONS + WEEK
WORDS = tuple(dict.fromkeys([*OTHER, *_PLAIN, *_FUNCTION]))


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


def translated(text: str) -> str:
    """The text with every word of a tongue in the other one; all other words stay."""
    return re.sub(r"\w+", lambda word: OTHER.get(word[0], word[0]), text)


def tongue(rng: np.random.Generator) -> Callable[[str], str]:
    """One of the two tongues, drawn: what puts a text of the first one into it."""
    return translated if rng.random() < 0.5 else str


def pick(rng: np.random.Generator, words: Sequence[str]) -> str:
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
    return tuple(_VALUES[i] for i in rng.choice(len(_VALUES), size=words, replace=False))


def mention(rng: np.random.Generator, key: str, attribute: str) -> str:
    """A sentence that names what a fact is about and tells nothing of it."""
    return f"{key} spoke of the {attribute} in the {pick(rng, _TIMES)}."


def lure(rng: np.random.Generator, words: str) -> str:
    """A sentence that holds words of an answer and does not matter."""
    return f"A {pick(rng, _ADJECTIVES)} {pick(rng, _PEOPLE)} sang {words} in the {pick(rng, _SPOTS)}."


class Cast:
    """People and estates not yet used in one document, so that no two facts of it share a key."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.names = [_NAMES[i] for i in rng.permutation(len(_NAMES))]
        self.estates = [_ESTATES[i] for i in rng.permutation(len(_ESTATES))]

    def fact(self, attribute: str | None = None) -> Fact | None:
        """A new fact about a person of the document, or None when everybody has one."""
        if not self.names:
            return None
        return Fact(attribute or pick(self.rng, _ATTRIBUTES), self.names.pop(), new_value(self.rng))

    def facts(self, count: int, attribute: str | None = None) -> list[Fact]:
        """Facts about ``count`` people, fewer when everybody has one."""
        return [fact for _ in range(count) if (fact := self.fact(attribute))]

    def keeper(self, name: str) -> Fact | None:
        """A new fact that makes ``name`` the keeper of an estate, or None when every estate has one."""
        return Fact("keeper", self.estates.pop(), (name,)) if self.estates else None


def question(facts: list[Fact], lead: str = LEADS[0]) -> tuple[str, list[Piece]]:
    """The instruction that asks for ``facts`` and its response as pieces, which begins with one of `LEADS`.

    One fact: a plain question. A keeper and the keeper's fact: two hops. Several of one attribute: a list.
    """
    if len(facts) == 1:
        asked = f"What is the {facts[0].attribute} of {facts[0].key}?"
    elif facts[0].attribute == "keeper":
        asked = f"What is the {facts[1].attribute} of the keeper of {facts[0].key}?"
    else:
        keys = [fact.key for fact in facts]
        asked = f"List the {facts[0].attribute} of {', '.join(keys[:-1])} and {keys[-1]}."
    pieces: list[Piece] = [(lead, False)]
    for i, fact in enumerate(facts):
        begin = f"{' The' if i else ''} {fact.attribute} of {fact.key} is"
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
