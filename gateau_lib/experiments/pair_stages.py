"""What is measured of one pair of models, stage by stage; each stage gives metrics rows.

A stage is a function ``(study, data, pair) -> rows``: the study, its corpus (`study_corpus.prepared`), its
pair (`pretrain.pair`). Rows are those of `evidence.write_metrics`. What is slow in a stage is an artefact, so
it is made once, whoever asks. The notebooks call the same functions for their one pair.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from gateau_lib.data.corpus import NEEDLE_DEPTHS
from gateau_lib.data.longalign import read_samples
from gateau_lib.evaluation.haystack import needle_cells
from gateau_lib.experiments import (
    cam_settings,
    outcomes,
    phase,
    recall,
    score_rows,
    selection_runs,
    skip_outcomes,
    skip_runs,
)
from gateau_lib.experiments.ranking import Rows
from gateau_lib.models import loading
from gateau_lib.study.store import Study
from gateau_lib.training import fine_tuning

Stage = Callable[[Study, Path, Path], Rows]


def cam_rows(study: Study, data: Path, pair: Path) -> Rows:
    """CAM of honest samples by the length of its segments, and by the layer that it reads."""
    scores = score_rows.mixtures(study, data, pair, ["homologous", "awareness"])
    by_layer = cam_settings.layer_rows(score_rows.composition(scores, "clean"))
    return by_layer + cam_settings.length_rows(cam_settings.lengths(study, data, pair))


def selection_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of the long model on what each arm takes, and what it came to."""
    jobs = selection_runs.selection_jobs(study, data, pair, score_rows.chosen(study, data, pair))
    models = [outcomes.untrained("base", pair / "long")]
    models += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    read = outcomes.evaluated(study, data, models, ("long", "short"), generated=False)
    return outcomes.selection_metrics(read)


def skip_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of both short models under each position strategy, and what it came to."""
    tokenizer, sizes = loading.load_tokenizer(pair / "long"), study.profile
    needles = read_samples(data / "eval" / "needle.jsonl")
    cells = needle_cells(needles, tokenizer, sizes.eval_lengths, NEEDLE_DEPTHS)
    rows: Rows = []
    for window, models in skip_starts(study, data, pair).items():
        read = outcomes.evaluated(study, data, models, ("needle", "short"), generated=False)
        plain = skip_outcomes.plain_losses(study, models, tokenizer)
        rows += skip_outcomes.skip_metrics(read, cells, window)
        rows += skip_outcomes.plain_metrics(plain, sizes.short_window, window)
    return rows


def skip_starts(study: Study, data: Path, pair: Path) -> dict[int | None, list[outcomes.Model]]:
    """All models of the SkipAlign experiment by the wider start's window; None: the pair's short model."""
    starts: dict[int | None, Path | None] = {None: None}
    if study.profile.skip_wider_stages:
        starts[skip_outcomes.wider_window(study.profile)] = skip_runs.wider(study, pair)
    found: dict[int | None, list[outcomes.Model]] = {}
    for window, second in starts.items():
        jobs = skip_runs.skip_jobs(study, data, pair, second)
        raised = skip_runs.stretched(study, pair, second)
        folders = dict(zip(skip_outcomes.UNTRAINED, (second or pair / "short", raised), strict=True))
        found[window] = [outcomes.untrained(name, folder) for name, folder in folders.items()]
        found[window] += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    return found


STAGES: dict[str, Stage] = {
    "recall by length": recall.rows,
    "scores of the pools": score_rows.rows,
    "settings of CAM": cam_rows,
    "scores by share of noise": phase.rows,
    "fine-tuning on selections": selection_rows,
    "SkipAlign and its rivals": skip_rows,
}


def samples_table(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """Every method's score of each sample of the independent pool, with what is known of the sample."""
    scores = score_rows.composition(score_rows.whole(study, data, pair), "independent")
    return scores[["id", "kind", "needs_far", "n_tokens", *score_rows.METHODS]]
