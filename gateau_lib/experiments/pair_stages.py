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
from gateau_lib.experiments import outcomes, recall, score_rows, tuning_runs
from gateau_lib.models import loading
from gateau_lib.study.store import Study
from gateau_lib.training import fine_tuning

Rows = list[dict[str, Any]]
Stage = Callable[[Study, Path, Path], Rows]


def selection_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of the long model on what each selector chose, and what it came to."""
    chosen = score_rows.chosen(study, score_rows.whole(study, data, pair))
    jobs = tuning_runs.selection_jobs(study, data, pair, chosen)
    models = [outcomes.untrained("base", pair / "long")]
    models += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    rows = outcomes.evaluated(study, data, models, ("long", "short"), generated=True)
    return outcomes.selection_metrics(rows)


def skip_rows(study: Study, data: Path, pair: Path) -> Rows:
    """Fine-tuning of the short model under each position strategy, and what it came to."""
    jobs = tuning_runs.skip_jobs(study, data, pair)
    models = [outcomes.untrained("theta_a_stretched", tuning_runs.stretched(study, pair))]
    models += outcomes.tuned(jobs, fine_tuning.fine_tune_all(study, jobs))
    tokenizer, lengths = loading.load_tokenizer(pair / "long"), study.profile.eval_lengths
    needles = read_samples(data / "eval" / "needle.jsonl")
    cells = needle_cells(needles, tokenizer, lengths, NEEDLE_DEPTHS)
    rows = outcomes.evaluated(study, data, models, ("needle", "short"), generated=False)
    losses = outcomes.perplexities(study, models, tokenizer)
    losses = losses.assign(nll=losses["nll"].astype(float))
    document = outcomes.metrics_rows(losses, "document_nll", "nll", "length")
    return outcomes.skip_metrics(rows, cells) + document


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
