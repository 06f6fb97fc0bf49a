"""The study for many pairs of models, each with its own data: ``make evidence``.

A pair is a `Study` whose seed is the pair's number; all share one cache. What is measured of it
(`pair_stages`) is one artefact made of artefacts, so a run that was killed goes on where it was.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from gateau_lib.experiments import evidence_files, pair_stages, score_rows, study_corpus
from gateau_lib.experiments.pair_stages import STAGES
from gateau_lib.experiments.ranking import Rows
from gateau_lib.study import manifest
from gateau_lib.study.profiles import Profile, named
from gateau_lib.study.progress import say
from gateau_lib.study.store import Study, artefact, built
from gateau_lib.study.whole_files import locked
from gateau_lib.study.workers import run_jobs
from gateau_lib.training import pretrain

PROCESSES = 2  # pairs side by side, one thread each
POOLS = 1  # of a pair: the pair is the unit, so more pools would only add to its one number
USED = "used.json"  # in a pair's folder: the artefacts it is made of
LOG = "GATEAU_ARTEFACT_LOG"
ROW = ("metric", "method", "condition", "value", "n")


def profile_of_pairs(name: str) -> Profile:
    """The named profile with the pools of a pair; what it trains, it trains in the process of the pair."""
    return replace(named(name), pool_seeds=POOLS, workers=0)


def study_of(name: str, first: int, number: int) -> Study:
    """The study of pair ``number`` in the evidence whose pairs begin with number ``first``."""
    return Study(profile_of_pairs(name), number, evidence_files.place(name, first))


def run(name: str, first: int, pairs: int, processes: int = PROCESSES) -> pd.DataFrame:
    """Measure the pairs ``first`` to ``first + pairs - 1`` and write their evidence; returns the verdicts.

    What the folder held is deleted first, but for the cache. ``processes``: pairs at once; 0: in this one.
    Raises JobError: the pair that failed, by its name; what is finished is kept.
    """
    studies = [study_of(name, first, first + n) for n in range(pairs)]
    folder, began = studies[0].root, evidence_files.now()
    with locked(studies[0].cache, machines=False):
        clear(folder)
        jobs = {f"pair {n} of {pairs}": (study, f"pair {n} of {pairs}") for n, study in enumerate(studies, 1)}
        done = dict(zip(studies, run_jobs(pair_folder, jobs, processes, "pairs"), strict=True))
        made = {study.seed: path for study, path in done.items()}
        seconds = {study.seed: cost(study, path) for study, path in done.items()}
        return evidence_files.write(folder, made, studies[0].profile, seconds, began)


def clear(folder: Path) -> None:
    """Delete what a folder of evidence holds, but for its cache: nothing may be left of an earlier run."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != "cache":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def pair_folder(study: Study, name: str) -> Path:
    """The artefact of a pair, see `pair_evidence`; ``name``: what messages call it."""
    torch.set_num_threads(1)  # so that a number depends on no machine's cores
    say(f"{name}: corpus and models")
    data = study_corpus.prepared(study)
    pair = pretrain.pair(study, data)

    def build(out: Path) -> None:
        pair_evidence(study, out, name)

    made_of = {"data": data, "pair": pair, "profile": study.profile, "seed": study.seed}
    return artefact(study, f"evidence-{study.seed:02d}", build, code=[pair_evidence], **made_of)


def pair_evidence(study: Study, out: Path, name: str = "pair") -> None:
    """Run all of `STAGES` for one pair.

    Leaves in ``out``: ``metrics.csv`` (`one_value`), ``scores.csv`` (`pair_stages.samples_table`),
    ``chosen.json`` (name of an arm -> ids of the first pool, best first) and `USED`.
    """
    rows: Rows = []
    with _noted(out / "used.txt") as used:
        data = study_corpus.prepared(study)
        pair = pretrain.pair(study, data)
        for place, (what, stage) in enumerate(STAGES.items(), 1):
            say(f"{name}: {what} (stage {place} of {len(STAGES)})")
            rows += stage(study, data, pair)
        chosen = score_rows.chosen(study, data, pair)[0]
        chosen |= {
            f"{evidence_files.COMMON}{name}": ids
            for name, ids in score_rows.common(study, data, pair).items()
        }
        samples = pair_stages.samples_table(study, data, pair)
    (out / evidence_files.METRICS).write_text(evidence_files.text(one_value(rows)), encoding="utf-8")
    (out / "scores.csv").write_text(evidence_files.text(samples), encoding="utf-8")
    (out / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
    (out / USED).write_text(json.dumps(sorted(set(used))) + "\n", encoding="utf-8")


def one_value(rows: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Metrics rows of a pair as one value each: the mean over seeds; ``n`` is over all of them.

    Raises ValueError: a value that is not finite, or two for one seed.
    """
    table = pd.DataFrame(list(rows))
    table["condition"] = table["condition"].astype(str)
    keys = ["metric", "method", "condition"]
    twice = table.duplicated([*keys, "seed"])
    wrong = table[twice | ~table["value"].map(math.isfinite)]
    if len(wrong):
        first = wrong.iloc[0]
        what = "stands twice" if twice[wrong.index[0]] else f"is {first['value']}"
        raise ValueError(f"{'/'.join(first[keys])}, seed {first['seed']}: {what}")
    found = table.groupby(keys, sort=True).agg(value=("value", "mean"), n=("n", "sum"))
    return found.reset_index()[list(ROW)]


def cost(study: Study, folder: Path) -> float:
    """Seconds that a pair takes when nothing of it is ready, also if a run was killed in between."""
    names = json.loads((folder / USED).read_text(encoding="utf-8"))
    return manifest.covered(map(built, (folder, *(study.cache / name for name in names))))


@contextmanager
def _noted(path: Path) -> Iterator[list[str]]:
    """Names of the artefacts that are used meanwhile."""
    used: list[str] = []
    before = os.environ.get(LOG)
    os.environ[LOG] = str(path)
    try:
        yield used
        used += path.read_text(encoding="utf-8").splitlines()
        path.unlink()
    finally:
        os.environ.pop(LOG)
        if before is not None:
            os.environ[LOG] = before
