"""The small files that git keeps as evidence: metrics, tables, selected ids, figures."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write

ROW = ("metric", "method", "condition", "seed", "value", "n")


def write_metrics(study: Study, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one notebook's metrics to ``metrics/<name>.json``, sorted, one row a line.

    ``rows``: ``metric, method, condition`` (text), ``seed`` (int), ``value`` (finite), ``n`` (over what).
    Raises ValueError: missing or unknown key, value not finite, or the same place of a value twice.
    """
    done: dict[tuple[str, str, str, int], str] = {}
    for row in rows:
        if set(row) != set(ROW):
            got = ", ".join(map(str, row))
            raise ValueError(f"metrics {name}: a row needs exactly the keys {', '.join(ROW)}, got {got}")
        value = float(row["value"])
        key = (str(row["metric"]), str(row["method"]), str(row["condition"]), int(row["seed"]))
        if not math.isfinite(value):
            raise ValueError(f"metrics {name}: {key} is {value}; leave the row out or find out why")
        if key in done:
            raise ValueError(f"metrics {name}: {key} is given twice; a condition must tell the rows apart")
        whole = dict(zip(ROW, (*key, value, int(row["n"])), strict=True))
        done[key] = json.dumps(whole, ensure_ascii=False)
    text = "[\n" + ",\n".join(done[key] for key in sorted(done)) + "\n]\n"
    return atomic_write(place(study, "metrics", name, "json"), text)


def read_metrics(study: Study) -> pd.DataFrame:
    """All metrics of a study, one row each, with the column ``notebook`` naming the file they come from."""
    rows = []
    for path in sorted((study.root / "metrics").glob("*.json")):
        rows += [row | {"notebook": path.stem} for row in json.loads(path.read_text(encoding="utf-8"))]
    return pd.DataFrame(rows, columns=[*ROW, "notebook"])


def write_table(study: Study, name: str, table: pd.DataFrame) -> Path:
    """Write ``tables/<name>.csv``; an index that carries names is kept as columns."""
    named = any(level is not None for level in table.index.names)
    text = table.to_csv(index=named, lineterminator="\n")
    return atomic_write(place(study, "tables", name, "csv"), text)


def write_ids(study: Study, name: str, ids: Iterable[str]) -> Path:
    """Write selected sample ids, in their order, to ``selected/<name>.json``."""
    return atomic_write(place(study, "selected", name, "json"), json.dumps(list(ids), indent=0) + "\n")


def place(study: Study, folder: str, name: str, suffix: str) -> Path:
    """Where evidence belongs: ``<folder>/<name>.<suffix>``."""
    if not re.fullmatch(r"\d\d_[\w.-]+", name):
        raise ValueError(f"{folder}: name {name!r} must begin with its notebook's number, as '03_auc' does")
    return study.root / folder / f"{name}.{suffix}"
