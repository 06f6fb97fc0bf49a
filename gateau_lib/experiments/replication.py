"""GATEAU's own experiment (notebook 11): LongAlign-10k scored and selected from, models tuned with ShareGPT.

All runs of `replication_rows` start from the long model and share one scored pool; `evaluation.suite` judges.
"""

import json
import math
import re
import shutil
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.longalign import read_samples, write_samples
from gateau_lib.data.samples import Sample, encode
from gateau_lib.evaluation import suite
from gateau_lib.experiments import workload
from gateau_lib.experiments.replication_rows import FULL, UNTUNED, Run, runs
from gateau_lib.experiments.tuning_runs import scale
from gateau_lib.methods.base import Reading
from gateau_lib.models import loading
from gateau_lib.models.prompts import INST
from gateau_lib.models.sizes import Work, work
from gateau_lib.scoring import data_set
from gateau_lib.scoring.settings import Engine, resolve
from gateau_lib.sources import hub, published
from gateau_lib.study import devices
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, artefact
from gateau_lib.training.recipe import ByEpochs, FineTune

ROOM = 64  # tokens kept free for the template and the end-of-text token when samples are drawn


def long_file(study: Study) -> Path:
    """The long samples as LongAlign JSONL: the first ``long_samples`` of a seeded order."""
    return _drawn(study, published.long_samples(study), "long", study.profile.long_samples) / "samples.jsonl"


def _drawn(study: Study, folder: Path, name: str, count: int) -> Path:
    """Samples in a seeded order but those whose prompt and answer alone exceed the window; counts both."""
    profile, tokenizer = study.profile, loading.load_tokenizer(hub.model(study, study.profile.long_model))

    def build(out: Path) -> None:
        samples, left_out = read_samples(folder / "samples.jsonl"), 0
        kept: list[Sample] = []
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
    asked = [("long", published.long_samples(study), study.profile.long_samples)]
    asked += [("short", published.short_samples(study), count) for count in study.profile.short_samples]
    found = []
    for name, folder, count in asked:
        drawn = json.loads((_drawn(study, folder, name, count) / "drawn.json").read_text(encoding="utf-8"))
        lacking = count - drawn["drawn"]
        if lacking > 0:
            left = f"{drawn['longer than the window']:,} do not fit the window"
            found.append((f"{lacking:,} of {count:,} {name} samples", f"the data set has no more; {left}"))
    return found


def scored(study: Study, pair: Path) -> pd.DataFrame:
    """Scores of the long samples; those that cannot be scored keep a row, with the reason in ``error``.

    Columns of `gateau_lib.score`'s table for HMG (window extended), CAM, IFD and perplexity, and
    ``nll_short_raw``: the short model's loss when it reads beyond its window as it is.
    """
    profile, data = study.profile, long_file(study)
    used: dict[str, Any] = {"short": str(pair / "short"), "long": str(pair / "long"), "dtype": profile.dtype}
    used |= {"segment_length": profile.segment_length, "max_length": profile.max_length}
    methods: dict[Reading, list[str]] = {"ntk": ["hmg", "cam", "ifd"], "raw": ["hmg"]}
    # A worker on every GPU if there are several.
    engine: Engine = "ray" if devices.gpus() > 1 and find_spec("ray") else "local"

    def build(out: Path) -> None:
        for reading, asked in methods.items():
            work = study.cache / "scoring" / f"{reading}.parquet"  # beside its parts: a killed run goes on
            work.parent.mkdir(exist_ok=True)
            data_set.score(resolve(data, work, **used, methods=asked, reading=reading, engine=engine))
            shutil.copy(work, out)

    folder = artefact(study, "published-scores", build, code=[scored], data=data, methods=methods, **used)
    table, raw = (pd.read_parquet(folder / f"{reading}.parquet") for reading in methods)
    raw = raw.set_index("id")
    errors = table["error"].fillna(table["id"].map(raw["error"]))
    return table.assign(nll_short_raw=table["id"].map(raw["nll_short"]), error=errors)


def training_job(study: Study, pair: Path, run: Run, chosen: Sequence[str]) -> FineTune:
    """Fine-tuning of one run as published: whole epochs, sorted batching, `[INST]`, loss on responses."""
    profile = study.profile
    # One seeded order, so that the smaller set is part of the larger one.
    short = _drawn(study, published.short_samples(study), "short", run.short) / "samples.jsonl"
    how = scale(profile) | {"method": run.row, "seed": study.seed, "experiment": "replication"}
    how |= {"pool": long_file(study) if chosen else None, "selected": tuple(sorted(chosen))}
    how["length"] = ByEpochs(profile.epochs, profile.batch_samples)
    how["template"] = INST if profile.template == "inst" else None
    how["loss"] = "sample"  # GATEAU trains one sample a GPU at a time and averages their losses
    rate = profile.sft_learning_rate
    return FineTune(run.name, pair / "long", (short,), profile.long_window, rate, **how)


def cost(profile: Profile) -> list[Work]:
    """What the published part costs: samples scored once, runs tuned, every model on the benchmarks."""
    tuned = [run for run in runs(profile) if run.row != UNTUNED]
    if not tuned:
        return []
    costs = partial(workload.scoring, profile, workload.published(profile), profile.long_samples)
    both = costs("hmg cam ifd"), costs("hmg", "raw")
    shares = [float(run.row == FULL) if run.share is None else run.share for run in tuned]
    counts = [(run.short, n * profile.long_samples) for run, n in zip(tuned, shares, strict=True)]
    scoring = workload.reading("11", "score the long samples", *both, alone=not find_spec("ray"))
    found = [scoring, tuning_cost(profile, counts)]
    models = len(tuned) + 1  # and the one that is not tuned
    for benchmark in suite.chosen(profile):
        asked, long = benchmark.cost(profile), workload.pair(profile)[1]
        rows = [(models * count, prompt, 1) for count, prompt, _ in asked]
        written = models * sum(count * answer for count, _, answer in asked)
        alone = benchmark.answers is not None  # asked here, run by run
        found.append(work("11", benchmark.name, long, rows, written=written, alone=alone))
    return found


def tuning_cost(profile: Profile, counts: Sequence[tuple[float, float]]) -> Work:
    """What runs cost that train on so many short and long samples each."""
    short, long = (profile.epochs * sum(each) for each in zip(*counts, strict=True))
    near = min(workload.SHORT_TOKENS, profile.max_length)
    rows = workload.rows(workload.published(profile), long)
    rows.append((short, near, min(workload.SHORT_RESPONSE, near)))
    steps = sum(math.ceil(profile.epochs * sum(each) / profile.batch_samples) for each in counts)
    passes, model = workload.passes_a_step(profile), workload.pair(profile)[1]
    return work("11", f"fine-tune {len(counts)} models", model, rows, passes, steps=steps)


def card(study: Study) -> pd.DataFrame:
    """The data card, a column a data set: source, revision, licence, what became of every record."""
    folders = (published.long_samples(study), published.short_samples(study))
    cards = [json.loads((folder / "card.json").read_text(encoding="utf-8")) for folder in folders]
    facts = [name for name in dict.fromkeys([*cards[0], *cards[1]]) if name != "name"]
    return pd.DataFrame([{"fact": f} | {c["name"]: _in_words(c.get(f)) for c in cards} for f in facts])


def _in_words(value: Any) -> str:
    """A fact of a card in words: lists and dictionaries item by item, hashes short."""
    if isinstance(value, dict):
        return "; ".join(f"{_in_words(name)}: {_in_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_in_words, value)) or "none"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
