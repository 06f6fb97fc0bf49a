"""GATEAU's own experiment (notebook 09): LongAlign-10k scored and selected from, models tuned with ShareGPT beside it.

A *run* is one row of the paper's tables in one setting: which long samples are trained on, beside how many short ones. All runs
start from the long model and share one scored pool. `gateau_lib.evaluation.suite` judges the tuned models.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from gateau_lib.data.longalign import read_samples, write_samples
from gateau_lib.data.samples import encode
from gateau_lib.evaluation import suite
from gateau_lib.experiments import workload
from gateau_lib.experiments.findings import SETTINGS
from gateau_lib.experiments.tuning_runs import scale
from gateau_lib.methods import baselines, gateau, hmg, selection
from gateau_lib.methods.base import Reading
from gateau_lib.models import loading
from gateau_lib.models.prompts import INST
from gateau_lib.models.sizes import Work
from gateau_lib.scoring import data_set
from gateau_lib.scoring.settings import Engine, resolve
from gateau_lib.sources import hub, published
from gateau_lib.study import devices
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, artefact
from gateau_lib.training.recipe import ByEpochs, FineTune

UNTUNED = "without SFT"
CHOOSERS = ("Perplexity Guidance", "Cherry", "GATEAU", "Random")  # at every share; the papers have no random choice
ABLATIONS = ("HMG only", "CAM only", "without extended window", "without Norm", "GATEAU by ranks")  # at the largest share
ROOM = 64  # tokens kept free for the template and the end-of-text token when samples are drawn
NOT_REBUILT = {
    "CaR": "selects by a quality model of its authors, which this study does not rebuild",
    "non-homologous guide": "which second model guided is not in the text that we read",
}


@dataclass(frozen=True)
class Run:
    """One row of the tables in one setting; ``share`` of the long samples, None where the row has no choice."""

    setting: str  # one of findings.SETTINGS, or what else a profile takes
    row: str
    share: float | None
    short: int  # short samples
    alpha: float

    @property
    def name(self) -> str:
        """Name of its model and its selection, for example ``gateau-30-100000``."""
        what = re.sub(r"\W+", "_", self.row.lower())
        return f"{what}-{'' if self.share is None else round(100 * self.share)}-{self.short}"


def runs(profile: Profile) -> list[Run]:
    """Every run of a profile, setting by setting; none without published data."""
    found = []
    names = SETTINGS if profile.name == "paper" else [_own_setting(profile, short) for short in profile.short_samples]
    for setting, short, alpha in zip(names, profile.short_samples, profile.alphas, strict=True):
        rows = [(row, None) for row in (UNTUNED, "without long SFT", "Full")]
        rows += [(row, share) for share in profile.shares for row in CHOOSERS]
        rows += [(row, max(profile.shares)) for row in ABLATIONS]
        found += [Run(setting, row, share, short, alpha) for row, share in rows]
    return found


def _own_setting(profile: Profile, short: int) -> str:
    """A setting that is not the paper's must not stand under the paper's name."""
    return f"{short:,} short, {profile.long_samples:,} long"


def long_file(study: Study) -> Path:
    """The long samples of the published part, as LongAlign JSONL: the first ``long_samples`` of a seeded order."""
    return _drawn(study, published.long_samples(study), "long", study.profile.long_samples) / "samples.jsonl"


def short_file(study: Study, count: int) -> Path:
    """``count`` short samples, drawn in one seeded order, so that the smaller set is part of the larger one."""
    return _drawn(study, published.short_samples(study), "short", count) / "samples.jsonl"


def _drawn(study: Study, folder: Path, name: str, count: int) -> Path:
    """Samples in a seeded order, those left out whose question and answer alone exceed the window; ``drawn.json`` counts both."""
    profile, tokenizer = study.profile, loading.load_tokenizer(hub.model(study, study.profile.long_model))

    def build(out: Path) -> None:
        samples, kept, left_out = read_samples(folder / "samples.jsonl"), [], 0
        for i in np.random.default_rng(study.seed).permutation(len(samples)):
            if len(kept) == count:
                break
            try:
                encode(samples[i], tokenizer, profile.long_window - ROOM)
                kept.append(samples[i])
            except DataError:
                left_out += 1
        write_samples(kept, out / "samples.jsonl")
        counts = {"asked for": count, "drawn": len(kept), "longer than the window": left_out}
        (out / "drawn.json").write_text(json.dumps(counts) + "\n", encoding="utf-8")

    inputs = {"folder": folder, "count": count, "seed": study.seed, "window": profile.long_window}
    made_by = hub.identity(study, profile.long_model)
    return artefact(study, f"published-{name}", build, code=[_drawn], model=made_by, **inputs)


def shortfalls(study: Study) -> list[tuple[str, str]]:
    """Where the data sets hold fewer usable samples than the profile asks for: ``(what, why)``."""
    found = []
    asked = [("long", published.long_samples(study), study.profile.long_samples)]
    asked += [("short", published.short_samples(study), count) for count in study.profile.short_samples]
    for name, folder, count in asked:
        drawn = json.loads((_drawn(study, folder, name, count) / "drawn.json").read_text(encoding="utf-8"))
        if drawn["drawn"] < count:
            left = f"{drawn['longer than the window']:,} do not fit the window"
            found.append((f"{count - drawn['drawn']:,} of {count:,} {name} samples", f"the data set has no more; {left}"))
    return found


def scored(study: Study, pair: Path) -> pd.DataFrame:
    """Scores of the long samples; those that cannot be scored keep a row, with the reason in ``error``.

    Returns:
        Columns of `gateau_lib.score`'s table for HMG (window extended), CAM, IFD and perplexity, and ``nll_short_raw``: the short
        model's loss when it reads beyond its window as it is.
    """
    table = _score(study, pair, "hmg,cam,ifd", "ntk")
    raw = _score(study, pair, "hmg", "raw").set_index("id")
    return table.assign(
        nll_short_raw=table["id"].map(raw["nll_short"]), error=table["error"].fillna(table["id"].map(raw["error"]))
    )


def _score(study: Study, pair: Path, methods: str, reading: Reading) -> pd.DataFrame:
    """One table of the scoring engine. Its parts lie in the cache, so that a killed run goes on where it was."""
    profile, data = study.profile, long_file(study)
    used = {
        "short": str(pair / "short"),
        "long": str(pair / "long"),
        "methods": methods,
        "reading": reading,
        "dtype": profile.dtype,
        "segment_length": profile.segment_length,
        "max_length": profile.max_length,
    }

    def build(out: Path) -> None:
        work = study.cache / "scoring" / f"{reading}.parquet"
        work.parent.mkdir(exist_ok=True)
        data_set.score(resolve(data, work, **used | {"methods": methods.split(",")}, engine=_engine()))
        shutil.copy(work, out / "scores.parquet")

    folder = artefact(study, f"published-scores-{reading}", build, code=[_score], data=data, **used)
    return pd.read_parquet(folder / "scores.parquet")


def _engine() -> Engine:
    """A worker on every GPU if there are several and Ray is installed."""
    return "ray" if devices.gpus() > 1 and find_spec("ray") else "local"


def selected(run: Run, table: pd.DataFrame, seed: int) -> list[str]:
    """Ids of the long samples that a run trains on, best first.

    GATEAU's row takes the sum as released (alpha x HMP + (1 - alpha) x CAM, with our sign and normalisation of CAM); "by ranks"
    is ours. "without Norm" is read as the softmax of plain perplexity differences, without min-max over the pool (assumed).

    Args:
        table: of `scored`.

    Raises:
        DataError: no sample could be scored.
    """
    pool = table[table["error"].isna()]
    if pool.empty:
        raise DataError(f"none of the {len(table)} long samples could be scored; the first says: {table['error'].iloc[0]}")
    ids = pool["id"].tolist()
    if run.row in (UNTUNED, "without long SFT"):
        return []
    if run.row == "Full":
        return sorted(ids)
    assert run.share is not None  # every other row is a choice
    if run.row == "Random":
        return baselines.random_subset(ids, selection.size(len(ids), run.share), seed)
    chosen = selection.top_fraction(ids, _wanted(run, pool), run.share)
    if run.row == "Cherry":  # fewer than the share, where so many are
        never = set(pool["id"][baselines.mismatched(pool["ifd"])])
        chosen = [name for name in chosen if name not in never]
    return chosen


def _wanted(run: Run, pool: pd.DataFrame) -> np.ndarray:
    """One number a sample, high = select."""
    short, long, cam = (pool[name].to_numpy(dtype=float) for name in ("nll_short", "nll_long", "cam"))
    hmp = hmg.homologous_models_perplexity(short, long)
    if run.row == "without extended window":
        hmp = hmg.homologous_models_perplexity(pool["nll_short_raw"].to_numpy(dtype=float), long)
    if run.row == "without Norm":
        hmp = softmax(np.exp(short) - np.exp(long))
    if run.row == "Perplexity Guidance":
        return long
    if run.row == "Cherry":
        return baselines.difficulty_ranking(pool["ifd"])
    if run.row in ("HMG only", "CAM only"):
        return hmp if run.row == "HMG only" else cam
    return gateau.combine(hmp, cam, "rank" if run.row == "GATEAU by ranks" else "as_released", run.alpha)


def training_job(study: Study, pair: Path, run: Run, chosen: Sequence[str]) -> FineTune:
    """Fine-tuning of one run as published: whole epochs, sorted batching, `[INST]`, loss on responses."""
    profile = study.profile
    return FineTune(
        name=run.name,
        base=pair / "long",
        samples=(short_file(study, run.short),),
        pool=long_file(study) if chosen else None,
        selected=tuple(sorted(chosen)),
        length=ByEpochs(profile.epochs, profile.batch_samples),
        window=profile.long_window,
        learning_rate=profile.sft_learning_rate,
        seed=study.seed,
        experiment="replication",
        method=run.row,
        loss="sample",  # GATEAU trains one sample a GPU at a time and averages their losses
        template=INST if profile.template == "inst" else None,
        **scale(profile),
    )


def cost(profile: Profile) -> list[Work]:
    """What the published part costs: every sample scored once, every run tuned, every model on the benchmarks."""
    tuned = [run for run in runs(profile) if run.row != UNTUNED]
    if not tuned:
        return []
    samples, long = workload.published(profile), workload.pair(profile)[1]
    both = [
        *workload.scoring(profile, samples, profile.long_samples, "hmg cam ifd").values(),
        *workload.scoring(profile, samples, profile.long_samples, "hmg", "raw").values(),
    ]
    found = [workload.reading("09", "score the long samples", both, alone=not find_spec("ray"))]
    shares = [float(run.row == "Full") if run.share is None else run.share for run in tuned]
    each = [run_cost(profile, r.short, n * profile.long_samples) for r, n in zip(tuned, shares, strict=True)]
    tokens, operations, steps = (sum(getattr(one, name) for one in each) for name in ("tokens", "operations", "steps"))
    found.append(Work("09", f"fine-tune {len(tuned)} models", tokens, operations, steps))
    models = len(tuned) + 1  # and the one that is not tuned
    for benchmark in suite.chosen(profile):
        asked = benchmark.cost(profile)
        tokens = models * sum(count * prompt for count, prompt, _ in asked)
        operations = models * sum(count * long.flops(prompt, 1) for count, prompt, _ in asked)
        written = models * sum(count * answer for count, _, answer in asked)
        alone = benchmark.answers is not None  # asked here, run by run
        found.append(Work("09", benchmark.name, tokens, operations, written=written, alone=alone))
    return found


def run_cost(profile: Profile, short: float, long: float) -> Work:
    """What one run costs on that many short and long samples."""
    samples, model = workload.published(profile), workload.pair(profile)[1]
    near = min(workload.SHORT_TOKENS, profile.max_length)
    far_tokens = profile.epochs * long * workload.mean_tokens(samples)
    near_tokens = profile.epochs * short * near
    reads = workload.forward(model, samples, far_tokens)
    reads += near_tokens * model.flops(near, min(workload.SHORT_RESPONSE, near)) / near
    steps = math.ceil(profile.epochs * (short + long) / profile.batch_samples)
    return Work("09", "fine-tune", near_tokens + far_tokens, workload.passes_a_step(profile) * reads, steps)


def card(study: Study) -> pd.DataFrame:
    """The data card: source, revision, licence, what became of every record; a row a fact, a column a data set."""
    folders = (published.long_samples(study), published.short_samples(study))
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in folders]
    facts = [name for name in dict.fromkeys([*cards[0], *cards[1]]) if name != "name"]
    return pd.DataFrame([{"fact": f} | {c["name"]: _said(c.get(f)) for c in cards} for f in facts])


def _said(value: Any) -> str:
    """A fact of a card in words: lists and dictionaries item by item, hashes short."""
    if isinstance(value, dict):
        return "; ".join(f"{_said(name)}: {_said(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_said, value)) or "none"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
