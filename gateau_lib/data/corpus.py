"""Samples with planted, labelled dependencies: candidate pools, short instructions, evaluation sets.

Every sample is a long text of the planted world with a question about it. Its *kind* says where the evidence
lies, and so whether a selector should want the sample: the truth against which selectors are measured.
"""

import json
from collections.abc import Sequence
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
    "far": "one fact, stated before the short model's window begins",
    "mid": "one fact, stated inside the short model's window but not close to the question",
    "near": "one fact, stated close to the question",
    "multi_hop": "two facts, both beyond the short model's window: who keeps the estate, and what is asked "
    "about the keeper",
    "aggregate": "three facts of one attribute, all beyond the short model's window",
    "context_free": "answerable without the document",
    "corrupt": "a question about a far fact with a response that contradicts it",
    "repetitive": "one passage repeated over and over, its last copy close to the question",
    "near_duplicate": "a copy of a far sample with a few filler sentences changed",
}
# Honest, and the evidence is beyond the window.
NEEDS_FAR = frozenset({"far", "multi_hop", "aggregate", "near_duplicate"})
DISTRACTORS = 30  # facts that nobody asks about, at most: the others are left for what is asked
POOLS = ("independent", "confounded", "real")
NEEDLE_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TASKS = {"single": "far", "multi_hop": "multi_hop", "aggregate": "aggregate"}  # task: the kind it is made as


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
    """A question of a kind of `KINDS` about people of a document."""
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


def needs_far(sample: Sample) -> bool:
    """Whether a selector of long-context data should want the sample: the label of every AUC in the study."""
    return sample.kind in NEEDS_FAR


def _distances(kind: str, length: int, window: int, rng: np.random.Generator, overhead: int) -> list[int]:
    """Context tokens after each evidence sentence; instruction and response add ``overhead`` tokens."""
    if kind == "near":
        return [int(rng.integers(0, window // 8))]
    if kind == "mid":
        return [int(rng.integers(window // 4, window - overhead - window // 4))]
    many = {"multi_hop": 2, "aggregate": 3}.get(kind, 1)
    return [int(d) for d in rng.integers(window + 16, max(window + 32, length - overhead - 32), size=many)]


def _draft(
    tokenizer: Any, rng: np.random.Generator, kind: str, length: int, window: int, filler: Filler
) -> tuple[list[Sentence], Question]:
    """Sentences of the context of one sample, and what is asked about it."""
    writer, cast = Writer(tokenizer, rng, filler), Cast(rng)
    distractors = distractors_of(cast, length)
    question = draw_question(kind, cast, rng)
    overhead = question.tokens(writer)
    if kind == "repetitive":
        block = writer.place(writer.passage(60, distractors[:1]), question.facts[0], 20)
        copies = max(2, (length - overhead) // tokens_of(block))
        plain = [replace(sentence, evidence=False) for sentence in block]
        return plain * (copies - 1) + block, question
    planted = sum(writer.count(" " + fact.sentence) for fact in question.facts)
    sentences = writer.passage(length - overhead - planted, distractors)
    distances = _distances("far" if kind == "corrupt" else kind, length, window, rng, overhead)
    room = window - overhead if kind in ("near", "mid") else float("inf")
    # The nearest first: it does not move the farther ones.
    for fact, distance in zip(question.facts, sorted(distances), strict=False):
        sentences = writer.place(sentences, fact, distance, room)
    return sentences, question


def make_sample(
    tokenizer: Any,
    seed: Sequence[int],
    kind: str,
    length: int,
    window: int,
    identifier: str,
    *,
    filler: Filler = world.filler,
) -> Sample:
    """One labelled sample; a near duplicate is the far one of its seed with three filler sentences exchanged.

    ``seed``: fixes every word of the sample.
    ``kind``: a key of `KINDS`.
    ``length``: tokens of the whole sample, met within a sentence or two.
    ``window``: the short model's window in tokens; far evidence lies before it, counted from the end.
    """
    rng = np.random.default_rng(seed)
    drafted = "far" if kind == "near_duplicate" else kind
    sentences, question = _draft(tokenizer, rng, drafted, length, window, filler)
    if kind == "near_duplicate":
        plain = [i for i, s in enumerate(sentences) if not s.evidence and " is " not in s.text]
        for i in rng.choice(plain, size=min(3, len(plain)), replace=False):
            sentences[i] = replace(sentences[i], text=filler(rng))
    context, spans = join(sentences)
    asked = (question.asked, question.response)
    return Sample(identifier, context, *asked, kind, spans, question.answer, source="planted")


def candidate_pool(profile: Profile, tokenizer: Any, pool: str, seed: int) -> list[Sample]:
    """A shuffled candidate pool with ``profile.pool_per_kind`` samples of each kind.

    ``independent``: lengths do not depend on the kind. ``confounded``: needy samples are long and the others
    short, so that a selector may seem to find need by looking at length. ``real``: like independent, with
    real documentation as filler and four kinds only.
    """
    kinds = ("far", "near", "corrupt", "context_free") if pool == "real" else tuple(KINDS)
    filler = partial(world.pick, words=real_paragraphs()) if pool == "real" else world.filler
    samples: list[Sample] = []
    for k, kind in enumerate(kinds):
        twin = kinds.index("far") if kind == "near_duplicate" else k  # it has the seed of a far sample
        low, high = profile.pool_tokens
        if pool == "confounded":
            middle = (low + high) // 2
            low, high = (middle, high) if kind in NEEDS_FAR else (low, middle)
        for n in range(profile.pool_per_kind):
            base = [seed, POOLS.index(pool), twin, n]
            length = int(np.random.default_rng([*base, 1]).integers(low, high))
            name = f"{pool}-{seed}-{kind}-{n:03d}"
            window = profile.short_window
            samples.append(make_sample(tokenizer, base, kind, length, window, name, filler=filler))
    order = np.random.default_rng([seed, POOLS.index(pool)]).permutation(len(samples))
    return [samples[i] for i in order]


def short_instructions(profile: Profile, tokenizer: Any, seed: int, count: int | None = None) -> list[Sample]:
    """Short instruction samples that fit well into the short window: the stand-in for ShareGPT."""
    rng = np.random.default_rng([seed, 77])
    window = profile.short_window
    tasks = ("single", "single", "single", "multi_hop", "aggregate", "context_free")
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
                question = draw_question("single", cast, rng)
                (fact,) = question.facts
                overhead = question.tokens(writer) + writer.count(" " + fact.sentence)
                sentences = writer.passage(length - overhead - 16, distractors)
                sentences = writer.place(sentences, fact, round((1 - depth) * tokens_of(sentences)))
                context, spans = join(sentences)
                name, kind = f"needle-{seed}-{length}-{depth:.2f}-{n:02d}", f"needle@{length}@{depth:.2f}"
                texts = (name, context, question.asked, question.response)
                samples.append(Sample(*texts, kind, spans, question.answer, source="needle"))
    return samples


def recall_items(tokenizer: Any, length: int, seed: int, count: int) -> list[Encoded]:
    """Facts restated in prose, as pretraining practises: ``count`` documents of ``length`` tokens.

    Context: the document, instruction: ``" Again, the code of Mira is"``, response: the value.
    """
    items = []
    for n in range(count):
        rng = np.random.default_rng([seed, 444, length, n])
        writer, cast = Writer(tokenizer, rng, world.filler), Cast(rng)
        facts = cast.facts(min(max(3, length // 60), DISTRACTORS))
        fact = facts[int(rng.integers(len(facts)))]
        text, _ = join(writer.passage(length - 24, facts))
        cue, value = f" Again, the {fact.attribute} of {fact.key} is", f" {fact.answer}"
        context, instruction, response = split_tokens(tokenizer, text, cue, value)
        cut = max(0, 1 + len(context) + len(instruction) + len(response) - length)
        context = context[cut:]
        if f" {fact.key} is" in tokenizer.decode(context):  # the cut may have taken the fact away
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
    """Everything the study reads, in folders ``tokenizer, pools, short, documents`` and ``eval``."""
    tokenizer.save_pretrained(out / "tokenizer")
    for n in range(profile.pool_seeds):
        draw = seed * 100 + n
        for pool in POOLS:
            samples = candidate_pool(profile, tokenizer, pool, draw)
            write_samples(samples, out / "pools" / f"{pool}-{n}.jsonl")
        write_samples(short_instructions(profile, tokenizer, draw), out / "short" / f"{n}.jsonl")
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
