"""The cpu study's scoring and fine-tuning as library calls: on a card and on its host, same verdicts?

Both read the shipped pair and the planted pools of the cpu profile. The gpu profile's pretraining runs a few
steps of each stage, for tokens a second, and memory against what the plan says of the largest.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch

from gateau_lib.experiments import (
    claims,
    compositions,
    gpu_record,
    machine_check,
    pool,
    ranking,
    skip_runs,
    study_corpus,
)
from gateau_lib.experiments.gpu_card import Shapes
from gateau_lib.methods.skipalign import Strategy
from gateau_lib.models.loading import SHIPPED
from gateau_lib.models.tiny import build_llama
from gateau_lib.study.errors import reason
from gateau_lib.study.profiles import Profile, resolve
from gateau_lib.study.store import Study
from gateau_lib.training import pretrain, sft

PART = "study"
RUNS: tuple[Strategy, ...] = ("normal", "skip_all")
STEPS = 2 * pretrain.LOG_EVERY  # of pretraining a stage


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Verdicts and losses on both devices, the card first."""
    # Three pools, so that claims can be judged by one pair.
    profile = replace(resolve("cpu"), short_model="shipped", long_model="shipped", pool_seeds=3, workers=0)
    if shapes.tiny:
        few: dict[str, Any] = {
            "pool_per_kind": 2,
            "noise_per_kind": 2,
            "short_plenty": 24,
            "pool_tokens": (450, 700),
            "short_pool": 24,
            "skip_steps": 2,
        }
        profile = replace(profile, **few, prolong_pairs=10, eval_items=2, eval_lengths=(256,))
    found, losses = {}, {}
    with TemporaryDirectory() as folder:
        for where in dict.fromkeys((device.type, "cpu")):
            # The models are tiny: the host is fastest with many processes of one thread each.
            many = 0 if where == "cuda" or shapes.tiny else min(12, len(os.sched_getaffinity(0)))
            study = Study(replace(profile, workers=many), 0, Path(folder) / where)
            with _on(where):
                found[where] = _verdicts(path, study, where)
                losses[where] = _fine_tuned(path, study, where)
            if where == device.type:  # before the host, which takes longest and may be cut short
                try:
                    pretraining(path, resolve("gpu" if where == "cuda" else "smoke"), device)
                except Exception as error:  # the host is still to be measured
                    note = f"{type(error).__name__}: {reason(error)}"
                    gpu_record.add(path, PART, "pretraining", note=note)
    compare(path, device.type, found, losses)


@contextmanager
def _on(device: str) -> Iterator[None]:
    """Let the library compute on a device for a while."""
    before = os.environ.get("GATEAU_DEVICE")
    os.environ["GATEAU_DEVICE"] = device
    try:
        yield
    finally:
        del os.environ["GATEAU_DEVICE"]
        if before is not None:
            os.environ["GATEAU_DEVICE"] = before


def _verdicts(path: Path, study: Study, where: str) -> dict[str, str]:
    """Score the pools, and judge every claim about areas and precisions that they decide."""
    data, begin = study_corpus.prepared(study), time.perf_counter()
    table = pool.scored(study, SHIPPED, data, ("independent",), list(pool.PARTS))
    seconds = time.perf_counter() - begin
    samples = len(table)
    tokens = sum(count["tokens"] for count in table.attrs["count"].values())
    mixtures = compositions.mixed(table, study.seed)
    table = ranking.by_pool(
        ranking.by_pool(mixtures, ranking.guidance), ranking.combined, study.profile.alpha
    )
    names = (*ranking.GUIDANCE, *ranking.COMBINATIONS, *ranking.NAMES, "prolong", "ifd", "longest")
    methods = [name for name in names if name in table]
    rows = [*ranking.auc_rows(table, methods), *ranking.precision_rows(table, methods)]
    judged = claims.verdicts(pd.DataFrame(rows), study.profile.name)
    decided = judged[judged["pairs"] > 0]
    measured = {"samples": samples, "tokens": tokens, "seconds": seconds, "claims": len(decided)}
    gpu_record.add(path, PART, f"scoring of the pools, {where}", **measured, **_peak(where))
    note = ", ".join(f"{n} {name}" for name, n in decided["verdict"].value_counts().items())
    by_claim = dict(zip(decided["id"], decided["verdict"], strict=True))
    gpu_record.add(path, PART, f"verdicts, {where}", note=note, verdicts=by_claim)
    return by_claim


def _fine_tuned(path: Path, study: Study, where: str) -> dict[str, list[float]]:
    """The first run of each strategy; its losses, nats, a step."""
    jobs = skip_runs.skip_jobs(study, study_corpus.prepared(study), SHIPPED)
    losses: dict[str, list[float]] = {}
    for strategy in RUNS:
        job = next(job for job in jobs if job.strategy == strategy)
        log = sft.fine_tune(job, study.root / strategy)
        measured = {name: log[name] for name in ("tokens", "steps", "seconds")}
        gpu_record.add(path, PART, f"fine-tuning {strategy}, {where}", **measured, **_peak(where))
        losses[strategy] = log["losses"]
    return losses


def _peak(where: str) -> dict[str, int]:
    """The most bytes on the card since this was asked last; nothing of a host."""
    if where != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes": peak}


def compare(
    path: Path, card: str, found: dict[str, dict[str, str]], losses: dict[str, dict[str, list[float]]]
) -> None:
    """Rows of what differs between card and host: verdicts by claim, losses by step."""
    changed = [name for name, verdict in found["cpu"].items() if found[card].get(name) != verdict]
    note = f"changed: {', '.join(changed)}" if changed else ""
    gpu_record.add(path, PART, "verdicts", claims=len(found["cpu"]), changed=len(changed), note=note)
    for strategy in RUNS:
        a, b = (np.array(losses[where][strategy]) for where in (card, "cpu"))
        apart = float(np.abs(a - b).max())
        gpu_record.add(path, PART, f"losses of {strategy}", steps=len(a), largest_difference=apart)


def pretraining(path: Path, profile: Profile, device: torch.device) -> None:
    """A few steps at the window and tokens of each stage, on a model of the profile's sizes."""
    tokenizer = study_corpus.load_tokenizer(Study(profile, 0, Path()))
    sizes = {name: getattr(profile, name) for name in ("hidden_size", "layers", "heads", "rope_theta")}
    model: Any = build_llama(len(tokenizer), **sizes, window=profile.long_window, seed=0)
    how: dict[str, Any] = {
        "seed": 0,
        "question_share": profile.question_share,
        "micro_tokens": profile.micro_tokens,
        "dtype": profile.dtype,
    }
    train: Any = partial(pretrain.train, model.to(device), tokenizer, **how)
    planned = {"planned_bytes": machine_check.memory(profile, 1).get("pretraining")}
    for length, _, tokens in (*profile.short_stages, *profile.long_stages):
        _peak(device.type)
        first, *_, last = train(((length, STEPS, tokens),))  # the first half warms up
        measured = {name: last[name] - first[name] for name in ("tokens", "seconds")}
        measured |= _peak(device.type)
        what = f"pretraining, {profile.name}"
        gpu_record.add(path, PART, what, length=length, **measured, **planned)
