"""What the study computes at a profile's scale: tokens, operations, optimizer steps and written tokens of each part.

Scoring is counted by `pass_costs.passes`, the planted part by what its notebooks do, the published part by its list of runs. Not
counted: tokenizing, figures, and the few samples that show what the released code's defects change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gateau_lib.models.sizes import Size, of
from gateau_lib.study.profiles import REHEARSED, Profile

if TYPE_CHECKING:
    from gateau_lib.experiments.replication import Run
    from gateau_lib.models.sizes import Shape
    from gateau_lib.scoring.pass_costs import Lengths

INSTRUCTION, RESPONSE = 12, 10  # tokens of a planted sample's question and answer
SHORT = (1 / 3 + 3 / 4) / 2  # of the short window, mean length of a planted short instruction
TRAINED_ON = 0.4  # share of pretraining tokens that have a loss
# Lengths of public data, assumed where their source gives no mean. LongAlign (paper, 3.3): "8k to 64k", fairly even.
LONG_TOKENS, LONG_RESPONSE = (8_192, 65_536), 256
SHORT_TOKENS, SHORT_RESPONSE = 500, 300  # the first question of a conversation and its answer
# Benchmarks of fixed size: items, tokens of a prompt before it is cut, tokens of an answer with all its turns; assumed means.
ASKED = {"longbench": (12 * 200, 12_000, 150), "longbench-chat": (50, 40_000, 512), "mt-bench": (80, 800, 1_000)}
SHORT_TASKS = (60_000, 100)  # sequences that the harness reads for one model, and their tokens; assumed
RULER_TASKS, FOUND = 3, 64  # tasks of RULER's style, tokens of an answer that names what was hidden
SINGLE = 19.5 / 312  # speed of an A100 in single precision over that in bfloat16 (its data sheet): pretraining is not in bfloat16
BANDWIDTH = 2.039e12  # bytes a second of an A100 of 80 GB (its data sheet): a written token reads all weights


class Work(NamedTuple):
    """One part of the study."""

    notebook: str
    what: str
    tokens: float  # that models read or are trained on
    operations: float
    steps: int = 0  # of an optimizer
    written: float = 0.0  # tokens, one after the other
    speed: float = 1.0  # of its operations, over bfloat16's
    alone: bool = False  # one GPU does it, however many there are

    def hours(self, parameters: int) -> float:
        """Hours of one A100 at the utilisation that `estimate` assumes; answers are written one by one."""
        from gateau_lib.scoring.pass_costs import PEAK, UTILISATION

        return (self.operations / (PEAK * UTILISATION * self.speed) + self.written * 2 * parameters / BANDWIDTH) / 3600


def work(profile: Profile) -> list[Work]:
    """Everything the profile computes, in the order of the notebooks.

    Raises:
        UnknownSize: of a model.
    """
    found = [*_pretraining(profile), *_scoring(profile), *_training(profile), *_evaluation(profile)]
    return found + (_published(profile) if profile.long_data else [])


def planted(profile: Profile, count: int = 16) -> list[Lengths]:
    """Lengths of the samples of a planted pool, evenly spread."""
    from gateau_lib.scoring.pass_costs import Lengths

    wholes = [min(n, profile.max_length) for n in _spread(*profile.pool_tokens, count)]
    return [Lengths(1, n - 1 - INSTRUCTION - RESPONSE, INSTRUCTION, RESPONSE) for n in wholes]


def published(profile: Profile, count: int = 16) -> list[Lengths]:
    """Lengths of the published long samples, cut to what the profile reads."""
    from gateau_lib.scoring.pass_costs import Lengths

    wholes = [min(n, profile.max_length) for n in _spread(*LONG_TOKENS, count)]
    room = min(LONG_RESPONSE, profile.max_length // 4)
    return [Lengths(1, n - 1 - 64 - room, 64, room) for n in wholes]


def _spread(low: int, high: int, count: int) -> list[int]:
    return [round(n) for n in np.linspace(low, high, count)]


def _passes(
    profile: Profile, samples: Sequence[Lengths], times: float, methods: str, reading: str = "ntk"
) -> dict[str, np.ndarray]:
    """``times`` as many samples as these, read for some methods: pass -> tokens and operations."""
    from gateau_lib.scoring import pass_costs, settings

    short, long = (size.shape for size in pair(profile))
    options = settings.Options(
        tuple(methods.split()),
        reading,
        profile.segment_length,
        profile.max_length,
        profile.short_window,
        prolong_pairs=profile.prolong_pairs,
    )
    rows = pass_costs.totals(samples, times / len(samples), short, long, options)
    return {row["pass"]: np.array([row["tokens"], row["flops"]]) for row in rows}


def _pretraining(profile: Profile) -> list[Work]:
    found, (short, long) = [], pair(profile)
    for name, stages, size in (("short", profile.short_stages, short), ("long", profile.long_stages, long)):
        if stages:
            tokens = sum(steps * each for _, steps, each in stages)
            reads = [(steps * each / window, window) for window, steps, each in stages]
            operations = 3 * sum(rows * size.shape.flops(window, round(TRAINED_ON * window)) for rows, window in reads)
            count = sum(steps for _, steps, _ in stages)
            found.append(Work("02", f"pretrain the {name} model", tokens, operations, count, speed=SINGLE, alone=True))
    return found


def _scoring(profile: Profile) -> list[Work]:
    """Notebooks 02 to 05: recall of the pair, and every score of the planted pools."""
    from gateau_lib.data import corpus
    from gateau_lib.data.passages import DOCUMENT_KINDS
    from gateau_lib.study.intervals import SEEDS

    samples, alike = planted(profile), profile.pool_per_kind * profile.pool_seeds
    many = alike * 2 * len(corpus.KINDS)  # samples of the pools independent and confounded; the real one has four kinds
    all_pools = many + 4 * alike
    homologous = _passes(profile, samples, all_pools, "hmg contrast ifd")["all"]
    homologous = homologous + sum(_passes(profile, samples, all_pools, "hmg", reading)["hmg"] for reading in ("truncate", "raw"))
    awareness = _passes(profile, samples, many, "cam")["all"]
    dependencies = _passes(profile, samples, many + len(DOCUMENT_KINDS) * alike, "prolong")["all"]
    short, long = (size.shape for size in pair(profile))
    lengths = [*profile.eval_lengths, 2 * profile.long_window]
    recall = SEEDS * profile.eval_items * sum(lengths)
    operations = SEEDS * profile.eval_items * sum(2 * short.flops(n, RESPONSE) + long.flops(n, RESPONSE) for n in lengths)
    return [
        Work("02", "recall of the pair", 3 * recall, operations, alone=True),
        Work("03", "HMG and its relatives", *homologous),
        Work("04", "CAM", *awareness),
        Work("05", "ProLong", *dependencies),
    ]


def _training(profile: Profile) -> list[Work]:
    """Notebook 06: the selections, and SkipAlign with its rivals."""
    from gateau_lib.experiments import tuning_runs

    samples, seeds = planted(profile), profile.pool_seeds
    mean = np.mean([sample.whole for sample in samples])
    pool = mean * profile.pool_per_kind * 9  # kinds of a pool
    short = profile.short_pool * SHORT * profile.short_window
    longer = (short + pool) / (short + profile.fraction * pool)  # the whole pool with as many epochs as a selection
    tuned = seeds * profile.sft_tokens * (len(tuning_runs.SELECTORS) + 1 + longer)
    skipped = seeds * len(tuning_runs.STRATEGIES) * profile.skip_steps * profile.sft_batch_tokens
    near = round(SHORT * profile.short_window)
    model, factor = pair(profile)[1].shape, passes_a_step(profile)
    operations = factor * skipped * model.flops(near, RESPONSE) / near
    return [
        Work("06", "fine-tune on selections", tuned, factor * _forward(model, samples, tuned), _steps(profile, tuned)),
        Work("06", "SkipAlign, its rivals", skipped, operations, _steps(profile, skipped)),
    ]


def _forward(model: Shape, samples: Sequence[Lengths], tokens: float) -> float:
    """Operations to read that many tokens of samples like these once."""
    cost = sum(model.flops(sample.whole, sample.response) for sample in samples)
    return tokens * cost / sum(sample.whole for sample in samples)


def _steps(profile: Profile, tokens: float) -> int:
    return math.ceil(tokens / profile.sft_batch_tokens)


def checkpointed(profile: Profile) -> bool:
    """Whether training recomputes the layers instead of keeping what they computed: models from the hub do."""
    return profile.short_model not in ("scratch", "shipped")


def passes_a_step(profile: Profile) -> int:
    """Forward passes that a training step costs: backward twice one (once if only adapters have gradients), recomputing one."""
    return (3 if profile.tuning == "full" else 2) + checkpointed(profile)


def _evaluation(profile: Profile) -> list[Work]:
    """Notebook 07: every tuned model on the held-out planted sets, with answers written to the long ones."""
    from gateau_lib.data import corpus
    from gateau_lib.experiments import outcomes, tuning_runs

    seeds, samples = profile.pool_seeds, planted(profile)
    selected, skipping = seeds * (len(tuning_runs.SELECTORS) + 2) + 1, seeds * (len(tuning_runs.STRATEGIES) + 1) + 2
    model, near = pair(profile)[1].shape, round(SHORT * profile.short_window)
    short = 2 * profile.eval_items * near
    long = len(corpus.TASKS) * profile.eval_items * np.mean([sample.whole for sample in samples])
    cell = len(corpus.NEEDLE_DEPTHS) * max(1, profile.eval_items // 4)
    texts = max(2, profile.eval_items // 2)  # documents of `outcomes.perplexities`
    rows = [selected * _forward(model, samples, long)]
    rows += [(selected + skipping) * 2 * profile.eval_items * model.flops(near, RESPONSE)]
    rows += [skipping * cell * model.flops(n, RESPONSE) for n in profile.eval_lengths]
    rows += [(skipping - seeds) * texts * model.flops(n, outcomes.PERPLEXITY_TAIL) for n in profile.eval_lengths]
    tokens = selected * (long + short) + skipping * (cell * sum(profile.eval_lengths) + short)
    tokens += (skipping - seeds) * texts * sum(profile.eval_lengths)
    written = selected * (len(corpus.TASKS) + 2) * profile.eval_items * RESPONSE
    return [Work("07", "evaluate", tokens, sum(rows), written=written)]


def _published(profile: Profile) -> list[Work]:
    """Notebook 09: the published samples scored once, every run tuned, every model on the benchmarks."""
    from gateau_lib.experiments.replication import UNTUNED, runs

    long, samples = pair(profile)[1], published(profile)
    readings = [("hmg cam ifd", "ntk"), ("hmg", "raw")]
    scored = sum(_passes(profile, samples, profile.long_samples, *reading)["all"] for reading in readings)
    tuned = [run for run in runs(profile) if run.row != UNTUNED]
    costs = [tuning(profile, run.short, _share(run) * profile.long_samples) for run in tuned]
    tokens, operations, steps = (sum(getattr(cost, name) for cost in costs) for name in ("tokens", "operations", "steps"))
    found = [Work("09", "score the long samples", *scored, alone=not find_spec("ray"))]
    found.append(Work("09", f"fine-tune {len(tuned)} models", tokens, operations, steps))
    models = len(tuned) + 1  # and the one that is not tuned
    for name in profile.benchmarks:
        items = asked(profile, name)
        tokens, written = (models * sum(each[0] * each[i] for each in items) for i in (1, 2))
        operations = models * sum(count * long.shape.flops(length, 1) for count, length, _ in items)
        found.append(Work("09", name, tokens, operations, written=written, alone=name == "short-tasks"))
    return found


def _share(run: Run) -> float:
    """Share of the long samples that a run trains on."""
    return run.share if run.share is not None else float(run.row == "Full")


def tuning(profile: Profile, short: float, long: float) -> Work:
    """One run of the published part on that many short and long samples."""
    model, samples, factor = pair(profile)[1].shape, published(profile), passes_a_step(profile)
    near = min(SHORT_TOKENS, profile.max_length)
    tokens = profile.epochs * np.array([short * near, long * np.mean([sample.whole for sample in samples])])
    operations = tokens[0] * model.flops(near, min(SHORT_RESPONSE, near)) / near + _forward(model, samples, tokens[1])
    steps = math.ceil(profile.epochs * (short + long) / profile.batch_samples)
    return Work("09", "fine-tune", tokens.sum(), factor * operations, steps)


def asked(profile: Profile, benchmark: str) -> list[tuple[int, int, int]]:
    """What one model is asked: items, tokens of a prompt, tokens of an answer."""
    from gateau_lib.evaluation import haystack

    window, few = profile.benchmark_window, profile.benchmark_items
    if benchmark in ASKED:
        items, prompt, answer = ASKED[benchmark]
        tasks = 12 if benchmark == "longbench" else 1
        return [(min(items, few * tasks) if few else items, min(prompt, window), min(answer, window))]
    if benchmark == "needle":
        return [(len(haystack.DEPTHS) * haystack.REPEATS, min(length, window), FOUND) for length in profile.eval_lengths]
    if benchmark == "ruler":
        return [(RULER_TASKS * (few or profile.eval_items), min(length, window), FOUND) for length in profile.eval_lengths]
    return [(*SHORT_TASKS, 0)]


def pair(profile: Profile) -> tuple[Size, Size]:
    """Sizes of the profile's short and long model; a rehearsal's are those of the shipped pair.

    Raises:
        UnknownSize: a model that is neither in the registry nor readable.
    """
    if profile.short_model == "scratch":
        return _scratch(profile, profile.short_window), _scratch(profile, profile.long_window)
    if profile.short_model == "shipped" or profile.name.startswith(REHEARSED):
        from gateau_lib.models.loading import SHIPPED

        return of(str(SHIPPED / "short")), of(str(SHIPPED / "long"))
    return of(profile.short_model), of(profile.long_model)


def _scratch(profile: Profile, window: int) -> Size:
    """As `tiny.build_llama` builds them."""
    from gateau_lib.data.tokenizer import build_tokenizer

    hidden, heads, mlp = profile.hidden_size, profile.heads, -(-profile.hidden_size * 8 // 3 // 32) * 32
    return Size(
        profile.layers, hidden, mlp, heads, heads, hidden // heads, len(build_tokenizer()), tied=True, window=window, biased=True
    )
