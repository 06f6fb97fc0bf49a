"""How well a pair recalls facts that are restated in prose, by length of the text (02)."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.data.corpus import recall_items
from gateau_lib.data.samples import Encoded
from gateau_lib.evaluation.planted import teacher_forced
from gateau_lib.models import loading, rope
from gateau_lib.study.intervals import SEEDS
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build

DRAWS = SEEDS  # independent draws of items
FIRST_SEED = 80_000  # no other part of the study draws with these, 100 of them for each seed of a study


def items(study: Study, pair: Path) -> dict[tuple[int, int], list[Encoded]]:
    """Items by length in tokens and draw: at the lengths of evaluation and at twice the long window."""
    tokenizer, count = loading.load_tokenizer(pair / "long"), study.profile.eval_items
    first = 100 * study.seed + FIRST_SEED
    places = product(lengths(study, pair), range(DRAWS))
    return {(n, draw): recall_items(tokenizer, n, first + draw, count) for n, draw in places}


def lengths(study: Study, pair: Path) -> list[int]:
    """Lengths of the items, tokens."""
    beyond = 2 * loading.load_config(pair / "long").max_position_embeddings
    return [*study.profile.eval_lengths, beyond]


def readers(pair: Path, max_length: int, dtype: str) -> dict[str, Any]:
    """The models that recall: both of the pair, and the short one extended to ``max_length``."""
    (short, _), (long, _) = (loading.load(pair / name, dtype) for name in ("short", "long"))
    return {"theta_a": short, "theta_a_ntk": rope.extend_window(short, max_length), "theta_b": long}


def _write(pair: Path, asked: Mapping[str, list[Encoded]], max_length: int, dtype: str, out: Path) -> None:
    tables = []
    jobs = [
        (*reader, *place) for reader in readers(pair, max_length, dtype).items() for place in asked.items()
    ]
    for method, model, place, encoded in track(jobs, "recall by length"):
        length, draw = map(int, place.split("-"))
        tables.append(teacher_forced(model, encoded).assign(method=method, length=length, seed=draw))
    pd.concat(tables, ignore_index=True).to_parquet(out / "rows.parquet")


def by_length(study: Study, pair: Path) -> pd.DataFrame:
    """Rows of `teacher_forced` for every reader and item, with ``method``, ``length``, ``seed`` (draw)."""
    asked = {f"{n}-{draw}": encoded for (n, draw), encoded in items(study, pair).items()}
    how = {"max_length": study.profile.max_length, "dtype": study.profile.dtype}
    folder = Build("recall", _write, {"pair": pair, "asked": asked, **how}).folder(study)
    return pd.read_parquet(folder / "rows.parquet")


def rows(study: Study, data: Path, pair: Path) -> list[dict[str, Any]]:
    """Metrics rows ``answer_accuracy``, by length; beyond those of evaluation ``answer_accuracy_beyond``."""
    del data  # as every stage of a pair is called
    groups = by_length(study, pair).groupby(["method", "length", "seed"])["token_accuracy"]
    table = groups.agg(value="mean", n="size").reset_index().rename(columns={"length": "condition"})
    beyond = table["condition"] > max(study.profile.eval_lengths)
    names = beyond.map({False: "answer_accuracy", True: "answer_accuracy_beyond"})
    return table.assign(metric=names, condition=table["condition"].astype(str)).to_dict("records")
