"""The benchmarks of the published part (notebook 11): every run's answers and scores.

A benchmark that has no number (no judge, an extra that is not installed, data that is not there, an error) is
*not run*, with the reason. It never counts as 0.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from gateau_lib.evaluation import answering, haystack, judging, longbench, ruler, short_tasks
from gateau_lib.evaluation.benchmark_item import Answers, Benchmark, Item, NotInstalled
from gateau_lib.models import loading
from gateau_lib.sources.hub import HubError
from gateau_lib.study.errors import DataError, UserError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import JobError

log = logging.getLogger(__name__)

COLUMNS = ["run", "benchmark", "task", "id", "score"]
# A benchmark is one file with a `BENCHMARK`, and one line here.
_ALL = [longbench.BENCHMARK, judging.LONGBENCH_CHAT, judging.MT_BENCH]
_ALL += [haystack.BENCHMARK, ruler.BENCHMARK, short_tasks.BENCHMARK]
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}


class NotRun(NamedTuple):
    """A benchmark, and why there is no number."""

    benchmark: str
    why: str
    stopped: bool = False  # by an error: the rest is kept, and the same command goes on once it is mended


def scores(study: Study, folders: Mapping[str, Path], judge: str) -> tuple[pd.DataFrame, list[NotRun]]:
    """Every run (name -> folder of its model) on the profile's benchmarks; an error in one stops no other.

    ``judge``: of `chat`, an endpoint ``http://host/v1#model`` or a local model; "" if there is none.
    Returns rows ``run, benchmark, task, id, score`` (0 to 100; missing where there is no answer, or a judge's
        could not be read), and what was not run, every reason of it. See `check_finished`.
    """
    answered: list[tuple[Benchmark, list[Item], dict[str, Answers]]] = []
    frames: list[pd.DataFrame] = []
    lacking: list[NotRun] = []
    # All answers first, so that a judge on this machine has its memory to itself.
    for benchmark in chosen(study.profile):
        if benchmark.judged and not judge:
            why = "no judge was named (SET='judge=http://host:8000/v1#model')"
            lacking.append(NotRun(benchmark.name, why))
            continue
        with _noting(benchmark, lacking):
            items = benchmark.items(study, loading.load_tokenizer(next(iter(folders.values()))))
            runs = _answers(study, benchmark, items, folders)
            answered.append((benchmark, items, runs))
            for run, (table, folder) in runs.items():
                # Items without an answer: their scores are missing.
                if folder and len(failed := table[table["error"].notna()]):
                    what = f"{len(failed)} of {len(table)} items of {benchmark.name}, {run}"
                    again = f"delete {folder.name} in the cache to ask these again"
                    lacking.append(NotRun(what, f"{failed.iloc[0]['error']}; {again}"))
    for benchmark, items, runs in answered:
        with _noting(benchmark, lacking):
            scored = []  # of all runs or of none: a benchmark that an error stops has no number
            for run, each in track(runs.items(), f"scores of {benchmark.name}", total=len(runs)):
                place = study.cache / "judging" / f"{benchmark.name}-{run}"
                found = benchmark.score(items, each.table, *((judge, place) if benchmark.judged else ()))
                scored.append(found.assign(run=run, benchmark=benchmark.name))
            frames += scored
    return pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS), lacking


def chosen(profile: Profile) -> list[Benchmark]:
    """The profile's benchmarks; DataError for one that is not in `BENCHMARKS`."""
    if unknown := [name for name in profile.benchmarks if name not in BENCHMARKS]:
        raise DataError(f"no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name] for name in profile.benchmarks]


def check_finished(lacking: Sequence[NotRun]) -> None:
    """Raise DataError if an error stopped a benchmark, and say why; what is done is kept for the next run."""
    if stopped := [f"{each.benchmark}: {each.why}" for each in lacking if each.stopped]:
        told = f"{len(stopped)} benchmarks were stopped by an error, the others are done"
        raise DataError(f"{told}; {'; '.join(stopped)}")


@contextmanager
def _noting(benchmark: Benchmark, lacking: list[NotRun]) -> Iterator[None]:
    """Turn an error into a row of what was not run."""
    try:
        yield
    except (UserError, JobError) as error:
        if isinstance(error, JobError):  # it may be a fault of ours: keep the traceback
            log.exception("%s: a process failed", benchmark.name)
        lacking.append(NotRun(benchmark.name, str(error), not isinstance(error, HubError | NotInstalled)))


def _answers(
    study: Study, benchmark: Benchmark, items: list[Item], folders: Mapping[str, Path]
) -> dict[str, Answers]:
    """Each run's answers; DataError if a prompt that had to be read whole lost a part."""
    if benchmark.answers is not None:
        return benchmark.answers(study, items, folders)
    runs = answering.answers_of_runs(study, benchmark.name, items, folders)
    for each in runs.values() if benchmark.read_whole else ():
        cut = each.table[each.table["cut_tokens"] > 0]
        if len(cut):
            lost = f"item {cut.iloc[0]['id']!r} lost {cut.iloc[0]['cut_tokens']} tokens of its prompt"
            raise DataError(f"{benchmark.name}: {lost}; raise the profile's benchmark_window")
    return runs
