"""How fast scoring is, against the published procedure in the same run: ``python -m gateau_lib.bench``.

The published procedure pads every sample to the whole window, reads one sample at a time, keeps all logits, takes the
attention from full matrices, and scores every segment of the padded window. Both procedures see the same samples and must
agree on the losses. Prints a table and writes ``results/bench/<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from gateau_lib import cam, hmg, models, profiles
from gateau_lib.engine import Pair, ScoreError
from gateau_lib.nll import response_nll
from gateau_lib.samples import Encoded, segments
from gateau_lib.score import load_pair
from gateau_lib.store import atomic_write, results_root, versions

INSTRUCTION, RESPONSE = 24, 16  # tokens of the made-up samples


def random_pair(device: torch.device) -> Pair:
    """The cpu profile's sizes with random weights: speed does not depend on what a model knows."""
    p = profiles.CPU
    sizes = {"hidden_size": p.hidden_size, "layers": p.layers, "heads": p.heads, "window": p.short_window}
    short = models.build_llama(2048, **sizes, rope_theta=p.rope_theta, seed=0).to(device).eval()
    return Pair(short, models.with_rope_theta(short, p.rope_theta * p.long_rope_factor, p.long_window), None)


def made_up(pair: Pair, lengths: Sequence[int], seed: int = 0) -> list[Encoded]:
    """Samples of random tokens with the given whole lengths."""
    rng, size = np.random.default_rng(seed), pair.long.config.vocab_size
    samples = []
    for i, length in enumerate(lengths):
        parts = [rng.integers(3, size, n).tolist() for n in (length - INSTRUCTION - RESPONSE - 1, INSTRUCTION, RESPONSE)]
        samples.append(Encoded(f"b{i}", [1], *parts))
    return samples


@torch.inference_mode()
def _all_logits_nll(model: PreTrainedModel, ids: Sequence[int], window: int, n: int, count: Counter, **more: Any) -> float:
    """Mean NLL of the last ``n`` tokens, padded on the left to the window, every logit computed."""
    pad = window - len(ids)
    row = torch.tensor([[0] * pad + list(ids)], device=model.device)
    mask = torch.tensor([[0] * pad + [1] * len(ids)], device=model.device)
    count.update(tokens=len(ids), padded=row.numel(), forwards=1)
    logits = model(input_ids=row, attention_mask=mask, use_cache=False, **more).logits[0].float()
    return float(functional.cross_entropy(logits[-n - 1 : -1], row[0, -n:]))


def published(pair: Pair, samples: Sequence[Encoded], window: int, segment: int, count: Counter) -> list[float]:
    """HMG and CAM as the released code computes them; the gap of each sample."""
    short, gaps = models.extend_window(pair.short, window), []
    for sample in samples:
        n = len(sample.response)
        gap = _all_logits_nll(short, sample.ids, window, n, count)
        gaps.append(gap - _all_logits_nll(pair.long, sample.ids, window, n, count))
        pair.long.set_attn_implementation("eager")
        _all_logits_nll(pair.long, sample.ids, window, n, count, output_attentions=True)
        pair.long.set_attn_implementation("sdpa")
        padded = [0] * (window - len(sample.context)) + sample.context
        for part in segments(padded, segment):
            ids = sample.start + part + sample.instruction + sample.response
            _all_logits_nll(pair.long, ids, len(ids), n, count)
    return gaps


def ours(pair: Pair, samples: Sequence[Encoded], window: int, segment: int, count: Counter) -> list[float]:
    """HMG and CAM by the library; the gap of each sample."""
    passes = cam.long_pass(pair.long, samples, segment, count=count)
    cam.segment_importance(pair.long, samples, segment, count=count)
    return list(hmg.short_reader_nll(pair.short, samples, "ntk", target=window, count=count) - [p.nll for p in passes])


def _timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result; waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, result


def compare_procedures(pair: Pair, n: int) -> list[dict[str, Any]]:
    """Seconds and tokens of HMG and CAM over ``n`` samples of a third of the window up to all of it, by both procedures.

    Raises:
        ScoreError: the two procedures disagree about a loss.
    """
    window, device = pair.long.config.max_position_embeddings, pair.long.device
    segment = min(128, max(2, pair.short.config.max_position_embeddings // 8))
    samples = made_up(pair, np.linspace(window // 3, window, n, dtype=int).tolist())
    rows, gaps = [], []
    for name, procedure in (("library", ours), ("published", published)):
        procedure(pair, samples[:1], window, segment, Counter())  # first calls of a kernel are slow
        count: Counter = Counter()
        seconds, gap = _timed(device, lambda run=procedure, c=count: run(pair, samples, window, segment, c))
        gaps.append(np.array(gap))
        rows.append({"what": f"HMG + CAM, {name}", "samples": n, "seconds": seconds, **count})
    if not np.allclose(*gaps, atol=1e-3 if pair.long.dtype == torch.float32 else 0.1):
        raise ScoreError(f"the procedures differ by {np.abs(gaps[0] - gaps[1]).max():.2g} nats; this is a defect, report it")
    return rows


def compare_passes(pair: Pair, repeats: int = 5) -> list[dict[str, Any]]:
    """Median seconds of CAM's long pass (loss and attention) and of a plain pass (loss) at three lengths."""
    window, device, rows = pair.long.config.max_position_embeddings, pair.long.device, []
    for length in (window // 4, window // 2, window):
        samples = made_up(pair, [length])
        works = {
            "plain pass": lambda s=samples, c=None: response_nll(pair.long, s, count=c),
            "pass with attention": lambda s=samples, c=None: cam.long_pass(pair.long, s, 32, count=c),
        }
        for name, work in works.items():
            count: Counter = Counter()
            work(c=count)
            seconds = float(np.median([_timed(device, work)[0] for _ in range(repeats)]))
            rows.append({"what": f"{name}, {length:,} tokens", "samples": 1, "seconds": seconds, **count})
    return rows


def machine_name(device: torch.device) -> str:
    """Architecture and size of the machine, no host name: the file may be published."""
    name = f"{platform.machine()}-{os.cpu_count()}cpu-{torch.get_num_threads()}threads"
    return f"{name}-{torch.cuda.get_device_name(device).replace(' ', '_')}" if device.type == "cuda" else name


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [f"{'':40}{'samples':>8}{'seconds':>10}{'forwards':>10}{'tokens':>12}{'with padding':>14}"]
    for row in rows:
        counts = f"{row['forwards']:>10,}{row['tokens']:>12,}{row['padded']:>14,}"
        lines.append(f"{row['what']:40}{row['samples']:>8}{row['seconds']:>10.3f}{counts}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr)."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.bench", description=__doc__.split("\n")[0])
    line.add_argument("--short", help="short-window model (without --short and --long: random weights, the cpu profile's sizes)")
    line.add_argument("--long", help="long-window model of the same family")
    line.add_argument("--samples", type=int, default=6, help="samples of the comparison of procedures (default: 6)")
    given = line.parse_args(arguments)
    device = models.device()
    try:
        named = given.short or given.long
        pair = load_pair(given.short, given.long, ("hmg",), "float32", device) if named else random_pair(device)
        rows = compare_procedures(pair, max(1, given.samples)) + compare_passes(pair)
    except (ScoreError, models.ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    name = machine_name(device)
    about = {"machine": name, "date": datetime.now(UTC).date().isoformat(), "versions": versions(), "rows": rows}
    path = atomic_write(results_root() / "bench" / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(table(rows) + f"\nwritten: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
