"""Sets of planted samples (`kinds`): candidate pools, short instructions, evaluation sets.

Every sample is a long text of the planted world with a question about it. Its *kind* says where the evidence
lies, and so whether a selector should want the sample: the truth against which selectors are measured.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gateau_lib.data import world
from gateau_lib.data.kinds import DISTRACTORS, KINDS, NOISE, distractors_of, draw_question, make_sample
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.passages import DOCUMENT_KINDS, Writer, documents, join, tokens_of
from gateau_lib.data.samples import Encoded, Sample, split_tokens
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.data.world import Cast
from gateau_lib.study.profiles import Profile

REAL_KINDS = ("far", "paraphrase", "near", "lure", "corrupt", "context_free")  # of the pool of real text
POOLS = ("independent", "real", "common")
COMMON_SEED = 99_000  # of the common pool, which is the same one whatever the study's seed
NEEDLE_DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Task of an evaluation set: the kind it is made as.
TASKS = {"single": "far", "paraphrase": "paraphrase", "multi_hop": "multi_hop", "aggregate": "aggregate"}


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
