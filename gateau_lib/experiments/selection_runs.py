"""The selection experiment: the long model, tuned on short instructions plus what a selector chose of a pool.

An *arm* is one run a pool: a selector, how much of the pool it takes, how many short samples stand beside it,
and what all arms of its condition have in common, tokens or epochs. Its metrics rows are its condition's.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import samples_of
from gateau_lib.data.kinds import KINDS, NOISE
from gateau_lib.experiments import ranking, workload
from gateau_lib.experiments.tuning_runs import sample_lengths, scale
from gateau_lib.methods import METHODS, baselines, selection
from gateau_lib.models.sizes import Work, work
from gateau_lib.study.errors import DataError
from gateau_lib.study.evidence import place
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write
from gateau_lib.training.recipe import ByTokens, FineTune

Setting = Literal["scarce", "plenty"]  # short samples; GATEAU: limited, real-world
Budget = Literal["tokens", "epochs"]
Chosen = Mapping[int, Mapping[str, Sequence[str]]]  # number of a pool -> name of an arm -> ids
FOLDERS: dict[Setting, str] = {"scarce": "short", "plenty": "plenty"}  # of the corpus

# Selectors, in the order of tables. A compressor that costs nothing takes part once it is registered.
FREE = tuple(name for name in ("zlib_contrast",) if name in METHODS)
EVERY: tuple[str, ...] = (
    "short_only",
    "oracle",
    "near",
    "random",
    "length_matched",
    "longest",
    "full",
)
EVERY += ("gateau", "hmg", "cam", "perplexity", "ifd", "prolong", "contrast", *FREE)
AT_OTHER_SHARES = ("random", "gateau", "hmg", "cam", "perplexity", "ifd", "prolong")
WITH_PLENTY = ("short_only", "oracle", "random", "full", "gateau")
FOR_EPOCHS = ("random", "full", "gateau")  # for as many as GATEAU's run has with equal tokens

# A pool table's column of each selector that ranks; HMG is HMP as published.
COLUMNS = ranking.COLUMN_OF | {"hmg": "hmp"}
DRAWS = {"random": 1, "oracle": 3, "near": 4}  # selectors that draw, their streams


class Arm(NamedTuple):
    """One run of every pool."""

    selector: str
    setting: Setting
    share: float  # of the pool that the selector takes
    budget: Budget = "tokens"  # what its run has in common with the others of its condition

    @property
    def condition(self) -> str:
        """What its metrics rows call it, such as ``scarce_30`` or ``scarce_30_epochs``."""
        return f"{self.setting}_{round(100 * self.share)}" + "_epochs" * (self.budget == "epochs")

    @property
    def name(self) -> str:
        """Such as ``scarce_30-gateau``."""
        return f"{self.condition}-{self.selector}"


def arms(profile: Profile) -> list[Arm]:
    """All arms; first the main condition's: scarce short samples, the profile's share, equal tokens."""
    main = profile.fraction
    found = [Arm(selector, "scarce", main) for selector in EVERY]
    others = [share for share in ranking.FRACTIONS if share != main]
    found += [Arm(selector, "scarce", share) for share in others for selector in AT_OTHER_SHARES]
    found += [Arm(selector, "plenty", main) for selector in WITH_PLENTY]
    return found + [Arm(selector, "scarce", main, "epochs") for selector in FOR_EPOCHS]


def run_names(profile: Profile) -> list[str]:
    """Names of all runs, for example ``sft-scarce_30-gateau-0``."""
    return [f"sft-{arm.name}-{n}" for n in range(profile.pool_seeds) for arm in arms(profile)]


def choices(table: pd.DataFrame, profile: Profile, seed: int) -> dict[str, list[str]]:
    """What each arm takes of a pool: its name -> ids, best first, or none where short samples stand alone.

    ``table``: of `pool.scored`, one pool, all parts.
    ``seed``: of what is drawn; give each pool its own.
    """
    scores = ranking.guidance(table)
    alphas: dict[Setting, float] = {"scarce": profile.alpha_scarce, "plenty": profile.alpha}
    tables = {setting: ranking.combined(scores, alpha) for setting, alpha in alphas.items()}
    if FREE:
        tables = {setting: ranking.others(tables[setting], alphas[setting]) for setting in alphas}
    return {arm.name: _chosen(tables[arm.setting], arm.selector, arm.share, seed) for arm in arms(profile)}


def _chosen(table: pd.DataFrame, selector: str, share: float, seed: int) -> list[str]:
    ids = list(table["id"])
    if selector == "short_only":
        return []
    if selector == "full":
        return sorted(ids)
    if selector == "length_matched":
        like = _chosen(table, "gateau", share, seed)
        return baselines.length_matched_random(ids, table["n_tokens"], like, seed)
    if selector not in DRAWS:
        return selection.top_fraction(ids, table[COLUMNS.get(selector, selector)], share)
    # By the labels: what is wanted before what is honest and near, and that before noise. What is near is
    # never filled up from elsewhere, so where there is little of it, less is taken.
    noise = table["kind"].isin(NOISE)
    wanted, near = table["needs_far"], ~table["needs_far"] & ~noise
    groups = {"oracle": [wanted, near, ~wanted & noise], "near": [near]}.get(selector, [wanted | ~wanted])
    # One order for all shares, so that a larger draw holds the smaller one.
    draw = 10 * seed + DRAWS[selector]
    orders = [baselines.random_subset(list(table["id"][group]), int(group.sum()), draw) for group in groups]
    return [name for order in orders for name in order][: selection.size(len(ids), share)]


def selection_jobs(study: Study, data: Path, pair: Path, selections: Chosen) -> list[FineTune]:
    """The run of every arm on every pool, pool by pool in the order of `arms`; DataError: an arm without ids.

    ``selections``: of a notebook's study `selected`, of a pair in hand `choices` of each pool. Runs that are
    the same but for what they are called have one artefact.
    """
    pools = range(study.profile.pool_seeds)
    return [job for n in pools for job in _jobs(study, data, pair, n, selections.get(n, {}))]


def _jobs(
    study: Study, data: Path, pair: Path, n: int, chosen: Mapping[str, Sequence[str]]
) -> list[FineTune]:
    profile, pool = study.profile, data / "pools" / f"independent-{n}.jsonl"
    how: dict[str, Any] = {"experiment": "selection", "pool_seed": n, "seed": study.seed * 100 + n}
    how |= {"window": profile.long_window, "learning_rate": profile.sft_learning_rate} | scale(profile)
    length = ByTokens(profile.sft_tokens, profile.sft_batch_tokens)
    jobs: dict[Arm, FineTune] = {}
    for arm in arms(profile):
        ids = tuple(sorted(chosen.get(arm.name, ())))  # keys depend on no rank
        if not ids and arm.selector != "short_only":
            fix = "choose anew, see selection_runs.choices"
            raise DataError(f"pool {n}: nothing is chosen for {arm.name!r}; {fix}")
        how |= {"pool": pool if ids else None, "selected": ids, "method": arm.selector, "length": length}
        how |= {"condition": arm.condition, "samples": (data / FOLDERS[arm.setting] / f"{n}.jsonl",)}
        jobs[arm] = FineTune(f"sft-{arm.name}-{n}", pair / "long", **how)
    return [_as_often(job, jobs[_like(arm)]) if arm.budget == "epochs" else job for arm, job in jobs.items()]


def _like(arm: Arm) -> Arm:
    """GATEAU's arm with equal tokens, whose epochs are the measure of the others'."""
    return arm._replace(selector="gateau", budget="tokens")


def _as_often(job: FineTune, other: FineTune) -> FineTune:
    """A job with as many tokens as make as many epochs as another has."""
    length = cast(ByTokens, job.length)
    tokens = length.tokens * sum(sample_lengths(job)) / sum(sample_lengths(other))
    return replace(job, length=replace(length, tokens=round(tokens)))


def write_choices(study: Study, n: int, chosen: Mapping[str, Iterable[str]]) -> Path:
    """Keep what was chosen of pool ``n``, an arm a line, for `read_choices`."""
    lines = [f"{json.dumps(name)}: {json.dumps(list(ids))}" for name, ids in chosen.items()]
    return atomic_write(_kept(study, n), "{\n" + ",\n".join(lines) + "\n}\n")


def read_choices(study: Study, n: int) -> dict[str, list[str]]:
    """What notebook 06 chose of pool ``n``; DataError: it has not run."""
    path = _kept(study, n)
    if not path.is_file():
        first = f"run notebook 06 of profile {study.profile.name} first"
        raise DataError(f"{path}: nothing is chosen of pool {n}; {first}")
    return json.loads(path.read_text(encoding="utf-8"))


def _kept(study: Study, n: int) -> Path:
    return place(study, "selected", f"06_choices-{n}", "json")


def selected(study: Study) -> Chosen:
    """What notebook 06 chose of every pool, for `selection_jobs`."""
    return {n: read_choices(study, n) for n in range(study.profile.pool_seeds)}


def cost(profile: Profile) -> Work:
    """What the runs of `selection_jobs` cost."""
    samples = workload.planted(profile)
    mean = float(np.mean([sample.whole for sample in samples]))
    short = profile.short_pool * workload.short_tokens(profile)
    pool = sum(samples_of(profile, kind) for kind in KINDS) * mean

    def budget(arm: Arm) -> float:
        share = 1 if arm.selector == "full" else arm.share
        longer = (short + share * pool) / (short + arm.share * pool)  # for as many epochs
        return profile.sft_tokens * (longer if arm.budget == "epochs" else 1)

    # GATEAU's run with equal epochs is the one with equal tokens.
    runs = [arm for arm in arms(profile) if arm.budget == "tokens" or arm.selector != "gateau"]
    tokens = profile.pool_seeds * sum(map(budget, runs))
    steps = math.ceil(tokens / profile.sft_batch_tokens)
    model, passes = workload.pair(profile)[1], workload.passes_a_step(profile)
    rows = workload.rows(samples, tokens / mean)
    return work("07", "fine-tune on selections", model, rows, passes, steps=steps)
