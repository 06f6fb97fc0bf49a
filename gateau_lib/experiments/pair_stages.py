"""What is measured of one pair of models, stage by stage; each stage gives metrics rows.

A stage is a function ``(study, data, pair) -> rows``: the study, its corpus (`study_corpus.prepared`), its
pair (`pretrain.pair`). Rows are those of `evidence.write_metrics`. What is slow in a stage is an artefact, so
it is made once, whoever asks. The notebooks call the same functions for their one pair.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.data.corpus import NEEDLE_DEPTHS
from gateau_lib.data.longalign import read_samples
from gateau_lib.evaluation.haystack import needle_cells
from gateau_lib.experiments import outcomes, recall, score_rows, selection_runs, skip_outcomes, skip_runs
from gateau_lib.models import loading
from gateau_lib.study.store import Study
from gateau_lib.training import fine_tuning

Rows = list[dict[str, Any]]
Stage = Callable[[Study, Path, Path], Rows]


def selection_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of the long model on what each arm chose, and what it came to."""
    chosen = score_rows.chosen(study, score_rows.whole(study, data, pair))
    jobs = selection_runs.selection_jobs(study, data, pair, chosen)
    models = [outcomes.untrained("base", pair / "long")]
    models += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    rows = outcomes.evaluated(study, data, models, ("long", "short"), generated=False)
    return outcomes.selection_metrics(rows)


def skip_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of short models under each position strategy, and what it came to; of both starts."""
    rows = _skipped(study, data, pair)
    if study.profile.skip_wider_stages:
        rows += _skipped(study, data, pair, skip_runs.wider(study, pair))
    return rows


def _skipped(study: Study, data: Path, pair: Path, second: Path | None = None) -> Rows:
    """Rows of the runs from the pair's short model, or from ``second``, the folder of `skip_runs.wider`."""
    profile, jobs = study.profile, skip_runs.skip_jobs(study, data, pair, second)
    window = skip_outcomes.wider_window(profile) if second else None
    starts = (second or pair / "short", skip_runs.stretched(study, pair, second))
    models = list(map(outcomes.untrained, skip_outcomes.UNTRAINED, starts))
    models += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    tokenizer = loading.load_tokenizer(pair / "long")
    needles = read_samples(data / "eval" / "needle.jsonl")
    cells = needle_cells(needles, tokenizer, profile.eval_lengths, NEEDLE_DEPTHS)
    rows = outcomes.evaluated(study, data, models, ("needle", "short"), generated=False)
    plain = skip_outcomes.plain_losses(study, models, tokenizer)
    found = skip_outcomes.plain_metrics(plain, profile.short_window, window)
    return skip_outcomes.skip_metrics(rows, cells, window) + found


STAGES: dict[str, Stage] = {
    "recall by length": recall.rows,
    "scores of the pools": score_rows.rows,
    "fine-tuning on selections": selection_rows,
    "SkipAlign and its rivals": skip_rows,
}


def samples_table(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """Every method's score of each sample of the independent pool, with what is known of the sample."""
    scores = score_rows.independent(score_rows.whole(study, data, pair))
    return scores[["id", "kind", "needs_far", "n_tokens", *score_rows.METHODS]]
