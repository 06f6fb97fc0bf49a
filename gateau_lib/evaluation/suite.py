"""The benchmarks of the published part (notebook 09): every run's answers and scores.

A benchmark that cannot be run (no judge, an extra that is not installed, data that is not there) is *not run*, with the reason.
It never counts as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch

from gateau_lib.evaluation import answering, benchmark_item, haystack, judging, longbench, ruler, short_tasks
from gateau_lib.evaluation.haystack import needle_map
from gateau_lib.models import loading
from gateau_lib.sources import hub
from gateau_lib.sources.chat import ChatError
from gateau_lib.study.code_hash import digest
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED = ("longbench-chat", "mt-bench")
# What a benchmark of fixed size asks: items, tokens of a prompt before it is cut, tokens of an answer with all its turns.
# Assumed means, as is what the harness reads for one model.
ASKED = {
    "longbench": (12 * 200, 12_000, 150),
    "longbench-chat": (50, 40_000, 512),
    "mt-bench": (80, 800, 1_000),
    "short-tasks": (60_000, 100, 0),
}
FOUND = 64  # tokens of an answer that names what was hidden


class NotRun(NamedTuple):
    """A benchmark, and why there is no number."""

    benchmark: str
    why: str


class Answered(NamedTuple):
    """A benchmark's items, and by run the table of answers and the artefact that holds it."""

    items: list[benchmark_item.Item]
    tables: dict[str, pd.DataFrame]
    folders: dict[str, Path]


def items(study: Study, benchmark: str, tokenizer: Any) -> list[benchmark_item.Item]:
    """The items of a benchmark at the profile's size; the same for every run."""
    profile, seed = study.profile, study.seed
    few = profile.benchmark_items or None
    if benchmark == "longbench":
        return _few(longbench.items(longbench.longbench(study)), few)
    if benchmark in JUDGED:
        return _few(judging.items(judging.questions(study, benchmark), benchmark), few)
    # What is hidden in a longer prompt would be cut out of its middle.
    lengths = sorted({min(length, profile.benchmark_window) for length in profile.eval_lengths})
    if benchmark == "needle":
        found = haystack.items(haystack.haystack(study), tokenizer, lengths, DEPTHS, seed)
    else:
        found = [item for n in lengths for item in ruler.items(tokenizer, n, seed, few or profile.eval_items)]
    return [replace(item, task=f"{item.task}, {item.extra['length']:,} tokens") for item in found]


def asked(profile: Profile, benchmark: str) -> list[tuple[int, int, int]]:
    """What one model is asked: items, tokens of a prompt, tokens of an answer; a row each length."""
    window, few = profile.benchmark_window, profile.benchmark_items
    if benchmark in ASKED:
        count, prompt, answer = ASKED[benchmark]
        tasks = len(longbench.TASKS) if benchmark == "longbench" else 1
        if few and benchmark != "short-tasks":
            count = min(count, few * tasks)
        return [(count, min(prompt, window), min(answer, window))]
    count = len(DEPTHS) * haystack.REPEATS if benchmark == "needle" else len(ruler.TASKS) * (few or profile.eval_items)
    return [(count, min(length, window), FOUND) for length in profile.eval_lengths]


def _few(found: Sequence[benchmark_item.Item], count: int | None) -> list[benchmark_item.Item]:
    """At most ``count`` items of each task, the first ones."""
    places: dict[str, int] = {}
    kept = []
    for item in found:
        places[item.task] = places.get(item.task, 0) + 1
        if count is None or places[item.task] <= count:
            kept.append(item)
    return kept


def judged(study: Study, folders: Mapping[str, Path], judge: str) -> tuple[pd.DataFrame, list[NotRun]]:
    """Every run on every benchmark of the profile.

    Args:
        folders: run name -> folder of its model.
        judge: of `chat`, an endpoint ``http://host/v1#model`` or a local model; "" if there is none.

    Returns:
        Rows ``run, benchmark, task, id, score`` (0 to 100; missing where there is no answer, or a judge's could not be read), and
        what was not run.

    Raises:
        ChatError: the judge stopped answering. DataError: a benchmark's file is broken. Everything else is done first, and the
            next run asks and generates nothing again.
    """
    answers: dict[str, Answered] = {}
    frames, lacking = [], []
    stopped: ChatError | DataError | None = None
    for benchmark in study.profile.benchmarks:  # all answers first, so that a judge on this machine has its memory to itself
        if benchmark in JUDGED and not judge:
            lacking.append(NotRun(benchmark, "no judge was named (SET='judge=http://host:8000/v1#model')"))
            continue
        try:
            if benchmark == "short-tasks":
                frames.append(_short_tasks(study, folders).assign(benchmark=benchmark))
            else:
                answers[benchmark] = _answered(study, benchmark, folders)
                lacking += _without_answer(benchmark, answers[benchmark])
        except (hub.HubError, short_tasks.NotInstalled) as error:
            lacking.append(NotRun(benchmark, str(error)))
        except DataError as error:  # a broken file; the other benchmarks go on, and are kept
            stopped = stopped or error
    for benchmark, answered in answers.items():
        try:
            frames.append(_scored(study, benchmark, answered, judge).assign(benchmark=benchmark))
        except ChatError as error:
            stopped = stopped or error
    if stopped is not None:
        raise stopped
    columns = ["run", "benchmark", "task", "id", "score"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns), lacking


def _answered(study: Study, benchmark: str, folders: Mapping[str, Path]) -> Answered:
    """A benchmark's items and each run's answers, generated once; a killed run goes on at the next item.

    Raises:
        DataError: a needle or RULER item lost a part of its prompt.
    """
    profile = study.profile
    asked = items(study, benchmark, loading.load_tokenizer(next(iter(folders.values()))))
    how = {"room": profile.benchmark_window, "chat": profile.template != "plain", "dtype": profile.dtype}
    content = digest(repr(asked))
    builds = {}
    for run, folder in folders.items():
        work = study.cache / "answers" / f"{benchmark}-{digest(repr((folder.name, content, how)))[:12]}"
        inputs = {"model": folder, "items": content, **how}
        builds[f"{benchmark} of {run}"] = Build(f"answers-{benchmark}", write_answers, (folder, asked, work, how), inputs)
    made = dict(zip(folders, build_all(study, builds, at_once(profile), benchmark), strict=True))
    tables = {run: pd.read_parquet(folder / "answers.parquet") for run, folder in made.items()}
    for table in tables.values() if benchmark in ("needle", "ruler") else ():
        if (cut := table[table["cut_tokens"] > 0]).size:
            first = cut.iloc[0]
            lost = f"{first['cut_tokens']} tokens of its prompt"
            raise DataError(f"{benchmark}: item {first['id']!r} lost {lost}; raise the profile's benchmark_window")
    return Answered(asked, tables, made)


def needle_maps(study: Study, scores: pd.DataFrame, folders: Mapping[str, Path], few: int = 3) -> dict[str, pd.DataFrame]:
    """Share of needles found by depth (rows) and length (columns), of the first ``few`` runs with all answers (`judged`)."""
    found = scores[scores["benchmark"] == "needle"]
    if found.empty:
        return {}
    cells = haystack.cells(items(study, "needle", loading.load_tokenizer(next(iter(folders.values())))))
    whole = [(run, rows) for run, rows in found.groupby("run", sort=False) if rows["score"].notna().all()]
    shares = {run: rows[["id"]].assign(score=rows["score"] / 100) for run, rows in whole[:few]}
    return {run: needle_map(rows, cells, "score") for run, rows in shares.items()}


def write_answers(model_dir: Path, asked: Sequence[benchmark_item.Item], work: Path, how: dict[str, Any], out: Path) -> None:
    """Generate a model's answers in ``work``, where they survive a kill, and leave the table in ``out``."""
    model, tokenizer = loading.load(model_dir, how["dtype"])
    tables = []
    for size in sorted({item.max_new_tokens for item in asked}):  # every prompt has the same room, whatever its answer takes
        some = [item for item in asked if item.max_new_tokens == size]
        tables.append(answering.answer(model, tokenizer, some, work, window=how["room"] + size, chat=how["chat"]))
    places = {item.id: place for place, item in enumerate(asked)}
    table = pd.concat(tables).sort_values("id", key=lambda ids: ids.map(places), ignore_index=True)
    table.to_parquet(out / "answers.parquet")


def _without_answer(benchmark: str, answered: Answered) -> list[NotRun]:
    """Items that have no answer, run by run, and how to ask them again; their scores are missing."""
    found = []
    for run, table in answered.tables.items():
        if (failed := table[table["error"].notna()]).size:
            first, again = failed.iloc[0], f"delete {answered.folders[run].name} in the cache to ask these again"
            found.append(NotRun(f"{len(failed)} of {len(table)} items of {benchmark}, {run}", f"{first['error']}; {again}"))
    return found


def _scored(study: Study, benchmark: str, answered: Answered, judge: str) -> pd.DataFrame:
    """Scores of every run's answers to one benchmark."""
    frames = []
    for run, given in track(answered.tables.items(), f"scores of {benchmark}", total=len(answered.tables)):
        if benchmark in JUDGED:
            found = judging.score(answered.items, given, judge, study.cache / "judging" / f"{benchmark}-{run}")
        else:
            found = {"longbench": longbench, "needle": haystack, "ruler": ruler}[benchmark].score(answered.items, given)
        frames.append(found.assign(run=run))
    return pd.concat(frames, ignore_index=True)


@contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A folder that others than this library can load: the model's own, or for adapters a copy with both put together."""
    if not (folder / "adapter_config.json").exists():
        yield folder
        return
    with TemporaryDirectory(prefix="gateau-merged-") as merged:
        model, tokenizer = loading.load(folder, "bfloat16", torch.device("cpu"))
        model.save_pretrained(merged)
        tokenizer.save_pretrained(merged)
        del model
        yield Path(merged)


def _short_tasks(study: Study, folders: Mapping[str, Path]) -> pd.DataFrame:
    frames = []
    for run, folder in track(folders.items(), "short tasks", total=len(folders)):
        few = study.profile.benchmark_items or None
        with whole(folder) as model_dir:
            found = short_tasks.run(model_dir, short_tasks.TASKS, study.cache / "short-tasks" / run, dtype=study.profile.dtype, limit=few)
        frames.append(found.assign(run=run))
    return pd.concat(frames, ignore_index=True)
