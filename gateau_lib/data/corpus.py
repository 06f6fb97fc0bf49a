"""Samples with planted, labelled dependencies: candidate pools, short instructions, evaluation sets.

Every sample is a long text of the planted world with a question about it. Its *kind* says where the evidence
lies, and so whether a selector should want the sample: the truth against which selectors are measured.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.passages import DOCUMENT_KINDS, Filler, Sentence, Writer, documents, join, tokens_of
from gateau_lib.data.samples import Encoded, Sample, split_tokens
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.data.world import Cast, Fact
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.profiles import Profile

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
REAL_KINDS = ("far", "paraphrase", "near", "lure", "corrupt", "context_free")  # of the pool of real text
# Share of the samples of these kinds whose answer's words stand far away, as in a lure.
LURED = {"near_multi_hop": 0.75, "near_aggregate": 0.75, "corrupt": 1.0, "lure": 1.0}
FACT_TOKENS = 12  # of a planted sentence
DISTRACTORS = 30  # facts that nobody asks about, at most: the others are left for what is asked
POOLS = ("independent", "real", "common")
COMMON_SEED = 99_000  # of the common pool, which is the same one whatever the study's seed
NEEDLE_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Task of an evaluation set: the kind it is made as.
TASKS = {"single": "far", "paraphrase": "paraphrase", "multi_hop": "multi_hop", "aggregate": "aggregate"}


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


def samples_of(profile: Profile, kind: str, pool: str = "independent") -> int:
    """How many samples of a kind a pool holds; wrong answers are the commonest noise."""
    count = profile.pool_per_kind
    if kind in NOISE:
        count = profile.noise_per_kind * (2 if kind == "corrupt" else 1)
    return count if pool == "independent" else max(1, count // 2)


def candidate_pool(profile: Profile, tokenizer: Any, pool: str, seed: int) -> list[Sample]:
    """A shuffled candidate pool with ``profile.pool_per_kind`` samples of each kind, more of noise.

    ``independent``: lengths do not depend on the kind. ``real``: with real documentation as filler and the
    kinds of `REAL_KINDS` only. ``common``: like independent, and the same for every ``seed``, so that what
    different pairs of models choose of it can be compared. The latter two are half as large.
    """
    seed = COMMON_SEED if pool == "common" else seed
    kinds = REAL_KINDS if pool == "real" else tuple(KINDS)
    filler = partial(world.pick, words=real_paragraphs()) if pool == "real" else world.filler
    samples: list[Sample] = []
    for kind in kinds:
        for n in range(samples_of(profile, kind, pool)):
            copied = kind == "near_duplicate"  # it has the seed of what it copies
            drafted = ("far", "paraphrase")[n % 2] if copied else kind
            base = [seed, POOLS.index(pool), list(KINDS).index(drafted), n]
            length = int(np.random.default_rng([*base, 1]).integers(*profile.pool_tokens))
            shape = (length, profile.short_window, f"{pool}-{seed}-{kind}-{n:03d}")
            samples.append(make_sample(tokenizer, base, drafted, *shape, filler=filler, copied=copied))
    order = np.random.default_rng([seed, POOLS.index(pool)]).permutation(len(samples))
    return [samples[i] for i in order]


def short_instructions(profile: Profile, tokenizer: Any, seed: int, count: int | None = None) -> list[Sample]:
    """Short instruction samples that fit well into the short window: the stand-in for ShareGPT."""
    rng = np.random.default_rng([seed, 77])
    window = profile.short_window
    tasks = ("single", "single", "paraphrase", "multi_hop", "aggregate", "context_free")
    samples = []
    for n in range(count or profile.short_pool):
        task = tasks[int(rng.integers(len(tasks)))]
        kind, name = TASKS.get(task, task), f"short-{seed}-{n:04d}"
        length = int(rng.integers(window // 3, window * 3 // 4))
        # A window of 0 lets the evidence lie anywhere in the short context.
        sample = make_sample(tokenizer, [seed, 78, n], kind, length, 0, name)
        samples.append(replace(sample, kind=f"short_{task}", source="short"))
    return samples


def needles(profile: Profile, length: int) -> int:
    """Needle items of a length at each depth."""
    longest = length == max(profile.eval_lengths)
    return profile.eval_needles if longest else max(1, profile.eval_needles // 2)


def needle_set(profile: Profile, tokenizer: Any, seed: int) -> list[Sample]:
    """Single-fact samples at every evaluation length and depth (0: the context begins with the fact).

    ``profile.eval_needles`` of each depth at the longest length, half as many at the others.
    """
    samples = []
    for length in profile.eval_lengths:
        for d, depth in enumerate(NEEDLE_DEPTHS):
            for n in range(needles(profile, length)):
                rng = np.random.default_rng([seed, 555, length, d, n])
                writer, cast = Writer(tokenizer, rng, world.filler), Cast(rng)
                distractors = distractors_of(cast, length)
                question = draw_question("far", cast, rng)
                (fact,) = question.facts
                overhead = question.tokens(writer) + writer.count(" " + fact.sentence)
                sentences = writer.passage(length - overhead - 16, distractors)
                # Every other one is told in the other tongue than it is asked in.
                told = world.translated(fact.sentence) if n % 2 else fact.sentence
                sentences = writer.place(sentences, told, round((1 - depth) * tokens_of(sentences)))
                context, spans = join(sentences)
                name, kind = f"needle-{seed}-{length}-{depth:.2f}-{n:02d}", f"needle@{length}@{depth:.2f}"
                texts = (name, context, question.asked, question.response)
                samples.append(Sample(*texts, kind, spans, question.answer, source="needle"))
    return samples


def recall_items(tokenizer: Any, length: int, seed: int, count: int, retold: bool = False) -> list[Encoded]:
    """Facts restated in prose, as pretraining practises: ``count`` documents of ``length`` tokens.

    Context: the document, instruction: ``" Again, the code of Mira is"``, response: the value; ``retold``:
    both in the other tongue than the document.
    """
    items = []
    for n in range(count):
        rng = np.random.default_rng([seed, 444, length, n])
        writer, cast = Writer(tokenizer, rng, world.filler), Cast(rng)
        facts = cast.facts(min(max(3, length // 60), DISTRACTORS))
        fact = facts[int(rng.integers(len(facts)))]
        text, _ = join(writer.passage(length - 24, facts))
        cue, value = f" Again, the {fact.attribute} of {fact.key} is", f" {fact.answer}"
        if (fact.sentence in text) == retold:  # it was told in the first tongue, or in the second
            cue, value = world.translated(cue), world.translated(value)
        context, instruction, response = split_tokens(tokenizer, text, cue, value)
        cut = max(0, 1 + len(context) + len(instruction) + len(response) - length)
        context = context[cut:]
        left = tokenizer.decode(context)
        if any(f" {key} is" in left for key in (fact.key, world.OTHER[fact.key])):  # else the cut took it
            name, start = f"recall-{seed}-{length}-{n:03d}", [tokenizer.bos_token_id]
            items.append(Encoded(name, start, context, instruction, response, cut))
    return items


def long_tasks(profile: Profile, tokenizer: Any, seed: int) -> list[Sample]:
    """Held-out long samples: single fact, multi-hop and aggregate, with far evidence."""
    low, high = profile.pool_tokens
    samples = []
    for t, (task, kind) in enumerate(TASKS.items()):
        for n in range(profile.eval_items):
            base, name = [seed, 666, t, n], f"long-{seed}-{task}-{n:03d}"
            length = int(np.random.default_rng([*base, 1]).integers(low, high))
            sample = make_sample(tokenizer, base, kind, length, profile.short_window, name)
            samples.append(replace(sample, kind=task, source="long"))
    return samples


def short_tasks(profile: Profile, tokenizer: Any, seed: int) -> list[Sample]:
    """Held-out short samples of the same make as `short_instructions`."""
    return short_instructions(profile, tokenizer, seed + 10_000, count=2 * profile.eval_items)


def write_corpus(out: Path, profile: Profile, seed: int, tokenizer: Any) -> None:
    """Everything the study reads, in folders ``tokenizer, pools, short, plenty, documents`` and ``eval``."""
    tokenizer.save_pretrained(out / "tokenizer")
    for n in range(profile.pool_seeds):
        draw = seed * 100 + n
        for pool in POOLS:
            samples = candidate_pool(profile, tokenizer, pool, draw)
            write_samples(samples, out / "pools" / f"{pool}-{n}.jsonl")
        # Where short samples are scarce they are the first of those there are where they are plenty.
        counts = {"short": profile.short_pool, "plenty": profile.short_plenty}
        drawn = short_instructions(profile, tokenizer, draw, max(counts.values()))
        for folder, count in counts.items():
            write_samples(drawn[:count], out / folder / f"{n}.jsonl")
        plain = []
        for kind in DOCUMENT_KINDS:
            for name, text in documents(profile, tokenizer, draw, kind, profile.pool_per_kind):
                plain.append(json.dumps({"id": name, "kind": kind, "text": text}) + "\n")
        (out / "documents").mkdir(exist_ok=True)
        (out / "documents" / f"{n}.jsonl").write_text("".join(plain), encoding="utf-8")
    for name, make in (("needle", needle_set), ("long", long_tasks), ("short", short_tasks)):
        write_samples(make(profile, tokenizer, seed * 100 + 90_000), out / "eval" / f"{name}.jsonl")


def read_documents(path: Path) -> list[dict[str, str]]:
    """Plain documents of a file that `write_corpus` made: dicts with ``id``, ``kind`` and ``text``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
