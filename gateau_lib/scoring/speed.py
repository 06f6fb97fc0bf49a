"""How fast scoring is: the library against the released procedures and against plain passes, in the same run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from gateau_lib.data.samples import Encoded, encode
from gateau_lib.methods import cam, cam_adaptive, model_passes, pair_passes, released, released_prolong
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import memory, rope, tiny
from gateau_lib.models.pair import Pair, load_pair
from gateau_lib.study import devices, profiles
from gateau_lib.study.errors import ScoreError

WINDOW, SEGMENT = 8192, 128  # tokens
INSTRUCTION, RESPONSE = 40, 176  # tokens of the made-up samples: medians of long instruction data of several domains
PASS_LENGTHS, PASS_RESPONSE = (1024, 2048, 4096, 8192, 16384), 200
MEMORY_LENGTH = 8192
PAIRS = 5_000  # ProLong, in the paper


def random_pair(device: torch.device) -> Pair:
    """The cpu profile's sizes with random weights and a window of `WINDOW`: speed does not depend on what a model knows."""
    p = profiles.CPU
    sizes = {"hidden_size": p.hidden_size, "layers": p.layers, "heads": p.heads, "window": p.short_window}
    short = tiny.build_llama(2048, **sizes, rope_theta=p.rope_theta, seed=0).to(device).eval()
    return Pair(short, rope.with_rope_theta(short, p.rope_theta * p.long_rope_factor, WINDOW), None)


def made_up(pair: Pair, lengths: Sequence[int], response: int = RESPONSE, seed: int = 0) -> list[Encoded]:
    """Samples of random tokens with the given whole lengths; instruction and response take at most three eighths of them."""
    rng, size = np.random.default_rng(seed), pair.long.config.vocab_size
    samples = []
    for i, length in enumerate(lengths):
        x, y = min(INSTRUCTION, length // 8), min(response, length // 4)
        parts = [rng.integers(3, size, n).tolist() for n in (length - x - y - 1, x, y)]
        samples.append(Encoded(f"b{i}", [1], *parts))
    return samples


def log_uniform(n: int, window: int) -> list[int]:
    """The middles of ``n`` equal parts of the log-uniform distribution from an eighth of the window to all of it."""
    return [int(window / 8 * 8 ** ((i + 0.5) / n)) for i in range(n)]


def as_released(pair: Pair, samples: Sequence[Encoded], window: int, segment: int, count: Counter) -> np.ndarray:
    """HMG and CAM by the released procedures; the gap between the models' losses, (n,).

    The short model is stretched, which costs nothing, so that the losses can be compared.
    """
    on = replace(released.Defects(), raw_short_reader=False)
    short, long = released.released_hmg(pair, samples, window, defects=on, count=count)
    released.released_cam(pair, samples, window, segment, count=count)
    return short - long


def by_library(
    pair: Pair, samples: Sequence[Encoded], window: int, segment: int, count: Counter, *, estimated: bool = False
) -> np.ndarray:
    """HMG and CAM by the library, with exact or with adaptive importance; the gap, (n,)."""
    passes = model_passes.long_pass(pair.long, samples, segment, count=count)
    if estimated:
        cam_adaptive.adaptive_importance(pair.long, samples, passes, segment, count=count)
    else:
        model_passes.segment_importance(pair.long, samples, segment, count=count)
    return model_passes.short_reader_nll(pair.short, samples, "ntk", target=window, count=count) - [p.nll for p in passes]


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result; waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def _row(section: str, what: str, seconds: float | None, count: Mapping[str, int], **more: Any) -> dict[str, Any]:
    counted = {key: count.get(key) for key in ("tokens", "padded", "forwards")}
    return {"section": section, "what": what, "seconds": seconds, **counted, **more}


def compare_procedures(pair: Pair, n: int, window: int, segment: int, repeats: int = 2) -> list[dict[str, Any]]:
    """Best seconds and tokens of HMG and CAM over ``n`` samples, lengths log-uniform from an eighth of the window to all of it.

    Raises:
        ScoreError: the procedures disagree about a loss.
    """
    samples = made_up(pair, log_uniform(n, window))
    work = {"exact": by_library, "adaptive": partial(by_library, estimated=True), "released": as_released}
    rows: dict[str, dict[str, Any]] = {}
    gaps: dict[str, np.ndarray] = {}
    for procedure in work.values():
        procedure(pair, samples[:1], window, segment, Counter())  # first calls of a kernel are slow
    for name, procedure in list(work.items()) * repeats:
        count: Counter = Counter()
        run = partial(procedure, pair, samples, window, segment, count)
        seconds, gaps[name] = _timed(pair.long.device, run)
        rows[name] = _row("HMG + CAM", name, min(seconds, rows[name]["seconds"] if name in rows else seconds), count, samples=n)
    rows["exact"]["fewest_tokens"] = cam_adaptive.minimum_tokens(samples, segment)
    for name in ("exact", "adaptive"):
        if not np.allclose(gaps[name], gaps["released"], atol=1e-3 if pair.long.dtype == torch.float32 else 0.1):
            worst = np.abs(gaps[name] - gaps["released"]).max()
            raise ScoreError(f"{name} and released procedure differ by {worst:.2g} nats; this is a defect, report it")
    return list(rows.values())


def compare_prolong(pair: Pair, pairs: int = PAIRS, segment: int = SEGMENT) -> list[dict[str, Any]]:
    """Seconds and tokens of ProLong on one document that has just more than ``pairs`` pairs of segments.

    Raises:
        ScoreError: the two scores disagree.
    """
    n = next(n for n in range(2, pairs + 2) if n * (n - 1) // 2 >= pairs)
    document = np.random.default_rng(0).integers(3, pair.long.config.vocab_size, n * segment).tolist()
    shape = {"segment_length": segment, "pairs": pairs, "window_segments": max(n, 256)}
    work = {
        "exact": lambda c: pair_passes.score_documents(pair.long, [document], **shape, count=c)["lds"].to_numpy(),
        "released": lambda c: released_prolong.released_prolong(pair.long, [document], **shape, count=c),
    }
    rows, scores = [], []
    for name, run in work.items():
        count: Counter = Counter()
        seconds, score = _timed(pair.long.device, partial(run, count))
        rows.append(_row("ProLong", name, seconds, count, samples=1, pairs=pairs))
        scores.append(score)
    if not np.allclose(*scores, rtol=1e-3 if pair.long.dtype == torch.float32 else 0.1):
        raise ScoreError(f"ProLong's scores differ: {scores[0][0]:.6g} and {scores[1][0]:.6g}; this is a defect, report it")
    return rows


def compare_passes(pair: Pair, lengths: Sequence[int] = PASS_LENGTHS, response: int = PASS_RESPONSE) -> list[dict[str, Any]]:
    """Seconds of a plain SDPA pass (loss of the response) and of CAM's pass (attention too) by length; each the best of several.

    The two take turns, so that what else the machine does meets both.
    """
    rows = []
    for length in lengths:
        samples = made_up(pair, [length], response)
        work = {
            "plain pass": lambda c, s=samples: response_nll(pair.long, s, count=c),
            "pass with attention": lambda c, s=samples: model_passes.long_pass(pair.long, s, SEGMENT, count=c),
        }
        found: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(max(3, min(15, 2**16 // length))):
            for name, run in work.items():
                count: Counter = Counter()
                found[name].append(_timed(pair.long.device, partial(run, count))[0])
        rows += [_row("passes", name, min(times[1:]), count, samples=1, length=length) for name, times in found.items()]
    return rows


def prepare_pass(kind: str, length: int, long: str | None) -> tuple[memory.Work, memory.Work]:
    """A short pass and one of ``length`` tokens, for `memory.peak`."""
    pair = random_pair(devices.device()) if long is None else load_pair(long, long, ("cam",), "float32", devices.device())
    passes: dict[str, Callable[[Sequence[Encoded]], Any]] = {
        "plain pass": lambda samples: response_nll(pair.long, samples),
        "pass with attention": lambda samples: model_passes.long_pass(pair.long, samples, SEGMENT),
        "attention matrices": lambda samples: _eager(pair, samples),
    }
    short, whole = (made_up(pair, [n], PASS_RESPONSE) for n in (512, length))
    return lambda: passes[kind](short), lambda: passes[kind](whole)


@torch.inference_mode()
def _eager(pair: Pair, samples: Sequence[Encoded]) -> None:
    pair.long.set_attn_implementation("eager")
    ids = torch.tensor([samples[0].ids], device=pair.long.device)
    pair.long(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, output_attentions=True)


def compare_memory(long: str | None, length: int = MEMORY_LENGTH) -> list[dict[str, Any]]:
    """Peak memory that one pass needs beyond the model and a pass of 512 tokens, each measured in a process of its own."""
    kinds = ("plain pass", "pass with attention", "attention matrices")
    mib = {kind: round(memory.peak(prepare_pass, kind, length, long) / 2**20, 1) for kind in kinds}
    return [_row("memory", kind, None, {}, samples=1, length=length, peak_mib=peak) for kind, peak in mib.items()]


def adaptive_fidelity(per_kind: int | None = None) -> dict[str, Any]:
    """What the adaptive estimate does to the shipped pair's ranking of a planted pool (`cam_adaptive.fidelity`), with its tokens."""
    from gateau_lib.data import corpus

    profile = replace(profiles.CPU, pool_per_kind=per_kind or profiles.CPU.pool_per_kind)
    pair = load_pair(None, None, ("cam",), "float32", devices.device())
    pool = corpus.candidate_pool(profile, pair.tokenizer, "independent", 0)
    samples = [encode(sample, pair.tokenizer, profile.max_length) for sample in pool]
    size = profile.segment_length
    passes = model_passes.long_pass(pair.long, samples, size)
    counts = {"exact": Counter(), "adaptive": Counter()}
    nlls = [
        model_passes.segment_importance(pair.long, samples, size, count=counts["exact"]),
        cam_adaptive.adaptive_importance(pair.long, samples, passes, size, count=counts["adaptive"]),
    ]
    scores = [[cam.contextual_awareness(n, p.attention) for n, p in zip(nll, passes, strict=True)] for nll in nlls]
    tokens = {f"importance_tokens_{name}": counted["tokens"] for name, counted in counts.items()}
    return {"samples": len(samples), **fidelity(*scores), **tokens}
def fidelity(exact: Sequence[float], adaptive: Sequence[float], fraction: float = 0.1) -> dict[str, float]:
    """How like the exact ranking of a pool the adaptive one is, both given as contextual awareness scores, high = select.

    Returns:
        ``rank_correlation`` (Spearman), ``top_overlap`` (share of the exact top ``fraction`` that the adaptive top has, too),
        ``largest_error`` (of a score).
    """
    a, b = np.asarray(exact, dtype=float), np.asarray(adaptive, dtype=float)
    k = max(1, round(fraction * a.size))
    common = set(np.argsort(-a, kind="stable")[:k]) & set(np.argsort(-b, kind="stable")[:k])
    return {
        "rank_correlation": float(spearmanr(a, b).statistic),
        "top_overlap": len(common) / k,
        "largest_error": float(np.abs(a - b).max()),
    }
