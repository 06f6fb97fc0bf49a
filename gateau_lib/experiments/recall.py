"""How well a pair recalls facts that are restated in prose, by length of the text (02)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.data.corpus import recall_items
from gateau_lib.data.samples import Encoded
from gateau_lib.evaluation.planted import teacher_forced
from gateau_lib.models import loading, rope
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build

FIRST_SEED = 80_000  # no other part of the study draws with these, 100 of them for each seed of a study
TELLINGS = {"answer_accuracy": False, "answer_accuracy_retold": True}  # metric: in the other tongue than told
DRAWS = 2  # items are so many times those of an evaluation set


def items(study: Study, pair: Path, retold: bool = False) -> dict[int, list[Encoded]]:
    """Items by length in tokens, the lengths of evaluation.

    ``retold``: asked for in the other tongue than they were told in.
    """
    tokenizer, count = loading.load_tokenizer(pair / "long"), DRAWS * study.profile.eval_items
    first = 100 * study.seed + FIRST_SEED
    return {n: recall_items(tokenizer, n, first, count, retold) for n in study.profile.eval_lengths}


def readers(pair: Path, max_length: int, dtype: str) -> dict[str, Any]:
    """The models that recall: both of the pair, and the short one extended to ``max_length``."""
    (short, _), (long, _) = (loading.load(pair / name, dtype) for name in ("short", "long"))
    return {"theta_a": short, "theta_a_ntk": rope.extend_window(short, max_length), "theta_b": long}


def _write(pair: Path, asked: Mapping[str, list[Encoded]], max_length: int, dtype: str, out: Path) -> None:
    tables = []
    models = readers(pair, max_length, dtype).items()
    jobs = [(*model, *items) for model in models for items in asked.items()]
    for method, model, name, encoded in track(jobs, "recall by length"):
        metric, length = name.rsplit("-", 1)
        labels = {"method": method, "metric": metric, "length": int(length)}
        tables.append(teacher_forced(model, encoded).assign(**labels))
    pd.concat(tables, ignore_index=True).to_parquet(out / "rows.parquet")


def by_length(study: Study, pair: Path) -> pd.DataFrame:
    """Rows of `teacher_forced` for every reader and item, with ``method``, ``metric``, ``length``."""
    asked = {
        f"{metric}-{n}": encoded
        for metric, retold in TELLINGS.items()
        for n, encoded in items(study, pair, retold).items()
    }
    how = {"max_length": study.profile.max_length, "dtype": study.profile.dtype}
    folder = Build("recall", _write, {"pair": pair, "asked": asked, **how}).folder(study)
    return pd.read_parquet(folder / "rows.parquet")


def rows(study: Study, data: Path, pair: Path) -> list[dict[str, Any]]:
    """Metrics rows of `TELLINGS`, by length."""
    del data  # as every stage of a pair is called
    groups = by_length(study, pair).groupby(["metric", "method", "length"])["token_accuracy"]
    table = groups.agg(value="mean", n="size").reset_index().rename(columns={"length": "condition"})
    return table.assign(seed=0, condition=table["condition"].astype(str)).to_dict("records")
