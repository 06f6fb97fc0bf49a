"""How fast scoring is: the library against the released procedures and plain passes, in the same run."""

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from gateau_lib.data import corpus
from gateau_lib.data.samples import Encoded, encode
from gateau_lib.methods import cam, cam_adaptive, model_passes, pair_passes, released, released_prolong
from gateau_lib.models import loading, memory, rope, tiny
from gateau_lib.models.pair import Pair, load_pair
from gateau_lib.scoring import fixed_cost, speed_goals, speed_limit, speed_peers
from gateau_lib.study import devices, manifest, profiles
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.store import versions

Row = dict[str, Any]

WINDOW, SEGMENT = 8192, 128  # tokens
LONGEST_WINDOW = 65_536  # tokens of a named model's window that are used
INSTRUCTION, RESPONSE = 40, 176  # tokens of random samples: medians of long instruction data
# A model so large that matrix products, not calls, take the time: 60 million parameters.
LARGE = {"vocabulary": 32_000, "hidden_size": 640, "layers": 8, "heads": 10}
LARGE_SAMPLES: dict[str, Any] = {"n": 6, "window": 2048, "repeats": 3}
PASS_LENGTHS, PASS_RESPONSE = (1024, 2048, 4096, 8192, 16384), 200
LOSSES = "response losses"  # a section of rows; those of a larger model name its size
KINDS = ("plain pass", "pass with attention", "attention matrices")
MEMORY_LENGTH, PAIRS = 8192, 5_000  # pairs of ProLong, in the paper


def measure(short: str | None, long: str | None, samples: int) -> dict[str, Any]:
    """Everything that the benchmark measures, on two named models or a pair of random weights.

    Returns ``rows`` of `measurement`, ``fidelity`` of `adaptive_fidelity`, ``goals`` of
    `speed_goals.reached`, and what ran.
    Raises ScoreError, ModelError: no models that fit together, or procedures that disagree.
    """
    device, named = devices.device(), bool(short or long)
    pair = load_pair(short, long, True, "float32", device) if named else random_pair(device)
    window = min(pair.long.config.max_position_embeddings, LONGEST_WINDOW) // SEGMENT * SEGMENT
    rows = compare_memory(long) + compare_passes(pair) + compare_losses(pair, peers=not named)
    rows += compare_prolong(pair) + compare_procedures(pair, samples, window, SEGMENT)
    if not named:
        rows += compare_losses(random_pair(device, **LARGE), **LARGE_SAMPLES)
    rows += [measurement("fixed cost", what, seconds, {}) for what, seconds in fixed_cost.measure().items()]
    fidelity, parameters = adaptive_fidelity(), sum(p.numel() for p in pair.long.parameters())
    date, model = datetime.now(UTC), {"parameters": parameters, "window": window, "named": named}
    about = {"machine": machine_name(device), "date": date.isoformat(timespec="seconds")}
    computed = devices.kernels(str(pair.long.dtype), device.type) | {"processor": manifest.machine()["cpu"]}
    about |= {"versions": versions() | computed | speed_peers.versions(), "model": model} | manifest.commit()
    return about | {"rows": rows, "fidelity": fidelity, "goals": speed_goals.reached(rows, fidelity)}


def machine_name(device: torch.device) -> str:
    """Architecture and size of the machine, no host name: the file may be published."""
    name = f"{platform.machine()}-{os.cpu_count()}cpu-{torch.get_num_threads()}threads"
    return f"{name}-{torch.cuda.get_device_name(device).replace(' ', '_')}" if device.type == "cuda" else name


def measurement(section: str, what: str, seconds: float | None, count: Mapping[str, int], **more: Any) -> Row:
    """One row: seconds, tokens with and without padding, forward passes, and what else the section has."""
    counted = {key: count.get(key) for key in ("tokens", "padded", "forwards")}
    return {"section": section, "what": what, "seconds": seconds, **counted, **more}


def _best(
    device: torch.device, works: Mapping[str, Callable[..., Any]], repeats: int = 1
) -> dict[str, tuple[float, Counter[str], Any]]:
    """Best seconds, counts and result of each work; they take turns, so that other load meets all of them."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda _: None
    found: dict[str, tuple[float, Counter[str], Any]] = {}
    for name, work in list(works.items()) * repeats:
        count = Counter[str]()
        wait(device)
        start = time.perf_counter()
        result = work(count=count)
        wait(device)
        best = min(time.perf_counter() - start, found[name][0] if name in found else float("inf"))
        found[name] = best, count, result
    return found


def random_pair(device: torch.device, vocabulary: int = 2048, **sizes: int) -> Pair:
    """Sizes, the cpu profile's if not given, with random weights: speed does not depend on what it knows."""
    p = profiles.PROFILES["cpu"]
    sizes = {"hidden_size": p.hidden_size, "layers": p.layers, "heads": p.heads} | sizes
    built = tiny.build_llama(vocabulary, **sizes, window=p.short_window, rope_theta=p.rope_theta, seed=0)
    short = built.to(device).eval()  # type: ignore[arg-type]  # transformers' wrapper hides self
    long = rope.with_rope_theta(short, p.rope_theta * p.long_rope_factor, WINDOW)
    return Pair(short, long, loading.load_tokenizer(loading.SHIPPED / "long"))  # for its padding token


def random_samples(pair: Pair, lengths: Sequence[int], response: int = RESPONSE) -> list[Encoded]:
    """Samples of random tokens with the given lengths, three eighths at most instruction and response."""
    rng, size, samples = np.random.default_rng(0), pair.long.config.vocab_size, []
    for i, length in enumerate(lengths):
        x, y = min(INSTRUCTION, length // 8), min(response, length // 4)
        parts = [rng.integers(3, size, n).tolist() for n in (length - x - y - 1, x, y)]
        samples.append(Encoded(f"b{i}", [1], *parts))
    return samples


def log_uniform(n: int, window: int) -> list[int]:
    """The middles of ``n`` equal parts of the log-uniform distribution from an eighth of the window to it."""
    return [int(window / 8 * 8 ** ((i + 0.5) / n)) for i in range(n)]


def compare_losses(
    pair: Pair, n: int = 16, window: int = WINDOW // 2, repeats: int = 5, peers: bool = True
) -> list[Row]:
    """Seconds of response losses by the library, by hand, and by a loop that computes all logits.

    ``peers``: also by the `speed_peers` that are installed; the samples are then words of the tokenizer's.
    Each row has ``times`` the library's seconds, and by how many nats a token its losses are ``apart``.
    """
    lengths, model = log_uniform(n, window), pair.long
    texts = speed_peers.texts(pair.tokenizer, lengths, RESPONSE) if peers else []
    samples = [speed_peers.encoded(text, pair.tokenizer) for text in texts] or random_samples(pair, lengths)
    works: dict[str, Callable[..., Any]] = {
        "by hand": partial(speed_limit.by_hand, model, speed_limit.whole(samples)),
        "library": partial(model_passes.response_nll, model, samples),
        "loop, all logits": partial(speed_limit.all_logits, model, samples),
    }
    with speed_peers.ready(pair, texts, peers) as beside:
        works |= beside
        _best(model.device, works)  # first calls of a kernel are slow
        found = _best(model.device, works, repeats)
    seconds, _, ours = found["library"]
    millions = round(sum(p.numel() for p in model.parameters()) / 1e6)
    section, rows = f"{LOSSES}, {millions}M parameters" if millions > 1 else LOSSES, []
    for name, (best, count, losses) in found.items():
        more: dict[str, Any] = {
            "times": best / seconds,
            "apart": float(np.abs(np.subtract(losses, ours)).max()),
        }
        if name in beside:
            more |= beside[name].about(samples)
        if more["apart"] > tolerance(pair) and (name not in beside or beside[name].exact):
            raise ScoreError(
                f"response losses by the library and by {name} differ; this is a defect, report it"
            )
        rows.append(measurement(section, name, best, count, samples=n, **more))
    return rows


def score(
    how: str, pair: Pair, samples: Sequence[Encoded], window: int, segment: int, count: Counter[str]
) -> np.ndarray:
    """HMG and CAM by the library, "exact" or "adaptive", or as "released"; the gap of the losses, (n,)."""
    if how == "released":
        # The short model is stretched, which costs nothing, so that the losses can be compared.
        on = replace(released.Defects(), raw_short_reader=False)
        short, long = released.released_hmg(pair, samples, window, defects=on, count=count)
        released.released_cam(pair, samples, window, segment, count=count)
        return short - long
    reader = rope.extend_window(pair.short, window)
    if how == "by hand":
        return speed_limit.losses_by_hand(replace(pair, short=reader), samples, segment, count)
    if how == "two whole passes":
        rows = speed_limit.whole(samples)
        gaps = [speed_limit.by_hand(model, rows, count) for model in (reader, pair.long)]
        return np.subtract(gaps[0], gaps[1])
    passes = model_passes.long_pass(pair.long, samples, segment, count=count)
    if how == "adaptive":
        cam_adaptive.adaptive_importance(pair.long, samples, passes, segment, count=count)
    else:
        model_passes.segment_importance(pair.long, samples, segment, count=count)
    gap: np.ndarray = model_passes.response_nll(reader, samples, count=count) - [p.nll for p in passes]
    return gap


def compare_procedures(pair: Pair, n: int, window: int, segment: int, repeats: int = 2) -> list[Row]:
    """Best seconds and tokens of HMG and CAM over ``n`` samples; ScoreError if the losses differ."""
    samples, works = random_samples(pair, log_uniform(n, window)), {}
    for how in ("by hand", "exact", "two whole passes", "adaptive", "released"):
        score(how, pair, samples[:1], window, segment, Counter())  # first calls of a kernel are slow
        works[how] = partial(score, how, pair, samples, window, segment)
    found = _best(pair.long.device, works, repeats)
    rows = {name: measurement("HMG + CAM", name, *best[:2], samples=n) for name, best in found.items()}
    rows["exact"]["fewest_tokens"] = cam_adaptive.minimum_tokens(samples, segment)
    for name in ("exact", "adaptive", "by hand"):
        worst = np.abs(found[name][-1] - found["released"][-1]).max()
        if not np.allclose(found[name][-1], found["released"][-1], atol=tolerance(pair)):
            what = f"{name} and released procedure differ by {worst:.2g} nats"
            raise ScoreError(f"{what}; this is a defect, report it")
    return list(rows.values())


def tolerance(pair: Pair) -> float:
    """How far two procedures may differ by rounding."""
    return 1e-3 if pair.long.dtype == torch.float32 else 0.1


def compare_prolong(pair: Pair, pairs: int = PAIRS, segment: int = SEGMENT) -> list[Row]:
    """The same of ProLong on one document that has just more than ``pairs`` pairs of segments."""
    n = next(n for n in range(2, pairs + 2) if n * (n - 1) // 2 >= pairs)
    document = np.random.default_rng(0).integers(3, pair.long.config.vocab_size, n * segment).tolist()
    shape: dict[str, Any] = {"segment_length": segment, "pairs": pairs, "window_segments": max(n, 256)}
    ways = {"exact": pair_passes.score_documents, "released": released_prolong.released_prolong}
    works: dict[str, Any] = {name: partial(way, pair.long, [document], **shape) for name, way in ways.items()}
    # Its bound: each segment read once alone, and once for each pair, as if nothing stood before it.
    halves = [(document[:segment], segment - 1)] * (n + pairs)
    at_once = max(1, speed_limit.AT_ONCE // segment) if pair.long.device.type == "cpu" else 128
    works["bound"] = partial(speed_limit.by_hand, pair.long, halves, at_once=at_once)
    # What reading another segment's keys costs is no choice: the same with keys that lie there for every row.
    works["bound, keys read"] = partial(works["bound"], after=document[:segment])
    found = _best(pair.long.device, works)
    a, b = found["exact"][-1]["lds"].to_numpy(), found["released"][-1]
    if not np.allclose(a, b, rtol=tolerance(pair)):
        raise ScoreError(f"ProLong's scores differ: {a[0]:.6g} and {b[0]:.6g}; this is a defect, report it")
    return [measurement("ProLong", name, *best[:2], samples=1, pairs=pairs) for name, best in found.items()]


def compare_passes(
    pair: Pair, lengths: Sequence[int] = PASS_LENGTHS, response: int = PASS_RESPONSE
) -> list[Row]:
    """Best seconds of a plain SDPA pass (loss of the response) and of CAM's (attention, too) by length."""
    rows = []
    for n in lengths:
        samples = random_samples(pair, [n], response)
        works = {kind: partial(_pass, kind, pair, samples) for kind in KINDS[:2]}
        _best(pair.long.device, works)  # first calls of a kernel are slow
        found = _best(pair.long.device, works, max(2, min(14, 2**16 // n - 1)))
        rows += [measurement("passes", k, *best[:2], samples=1, length=n) for k, best in found.items()]
    return rows


def _pass(kind: str, pair: Pair, samples: Sequence[Encoded], count: Counter[str] | None = None) -> None:
    if kind == "plain pass":
        model_passes.response_nll(pair.long, samples, count=count)
    elif kind == "pass with attention":
        model_passes.long_pass(pair.long, samples, SEGMENT, count=count)
    else:
        pair.long.set_attn_implementation("eager")
        ids = torch.tensor([samples[0].ids], device=pair.long.device)
        how = {"attention_mask": torch.ones_like(ids), "use_cache": False, "output_attentions": True}
        with torch.inference_mode():
            pair.long(input_ids=ids, **how)


def prepare_pass(kind: str, length: int, long: str | None) -> tuple[memory.Work, memory.Work]:
    """A short pass and one of ``length`` tokens, for `memory.peak`."""
    device = devices.device()
    pair = random_pair(device) if long is None else load_pair(long, long, False, "float32", device)
    short, whole = (random_samples(pair, [n], PASS_RESPONSE) for n in (512, length))
    return partial(_pass, kind, pair, short), partial(_pass, kind, pair, whole)


def compare_memory(long: str | None, length: int = MEMORY_LENGTH) -> list[Row]:
    """Peak memory of one pass beyond the model and a pass of 512 tokens, each in a process of its own."""
    peaks = {kind: round(memory.peak(prepare_pass, kind, length, long) / 2**20, 1) for kind in KINDS}
    what: dict[str, Any] = {"samples": 1, "length": length}
    return [measurement("memory", k, None, {}, **what, peak_mib=peak) for k, peak in peaks.items()]


def adaptive_fidelity(per_kind: int | None = None) -> dict[str, Any]:
    """What the adaptive estimate does to the shipped pair's ranking of a planted pool, and tokens read."""
    few = dict.fromkeys(("pool_per_kind", "noise_per_kind"), per_kind) if per_kind else {}
    profile = profiles.resolve("cpu", **few)
    pair = load_pair(None, None, False, "float32", devices.device())
    pool = corpus.candidate_pool(profile, pair.tokenizer, "independent", 0)
    samples = [encode(sample, pair.tokenizer, profile.max_length) for sample in pool]
    model, size, exact, adaptive = pair.long, profile.segment_length, Counter[str](), Counter[str]()
    passes = model_passes.long_pass(model, samples, size)
    importances = [model_passes.segment_importance(model, samples, size, count=exact)]
    importances += [cam_adaptive.adaptive_importance(model, samples, passes, size, count=adaptive)]
    attentions = [p.attention for p in passes]
    scores = [list(map(cam.contextual_awareness, found, attentions)) for found in importances]
    like = fidelity(scores[0], scores[1])
    tokens = {"importance_tokens_exact": exact["tokens"], "importance_tokens_adaptive": adaptive["tokens"]}
    return {"samples": len(samples), **like, **tokens}


def fidelity(exact: Sequence[float], adaptive: Sequence[float], fraction: float = 0.1) -> dict[str, float]:
    """How like the exact ranking of a pool the adaptive one is, both contextual awareness, high = select.

    ``rank_correlation``: Spearman's; ``top_overlap``: share of the exact top ``fraction`` in the other's.
    """
    a, b = np.asarray(exact, dtype=float), np.asarray(adaptive, dtype=float)
    k = max(1, round(fraction * a.size))
    common = set(np.argsort(-a, kind="stable")[:k]) & set(np.argsort(-b, kind="stable")[:k])
    like = {"rank_correlation": float(spearmanr(a, b).statistic), "top_overlap": len(common) / k}
    return like | {"largest_error": float(np.abs(a - b).max())}
