"""The small files that git keeps as evidence: metrics, tables, selected ids, figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

ROW = ("metric", "method", "condition", "seed", "value", "n")


def write_metrics(study: Study, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one notebook's metrics to ``metrics/<name>.json``, sorted, one row a line.

    Args:
        rows: dicts with ``metric, method, condition`` (text), ``seed`` (int), ``value`` (finite number),
            ``n`` (what it is over).

    Raises:
        ValueError: missing or unknown key, value not finite, or the same place of a value twice.
    """
    done: dict[tuple[str, str, str, int], str] = {}
    for row in rows:
        if set(row) != set(ROW):
            got = ", ".join(map(str, row))
            raise ValueError(f"metrics {name}: a row needs exactly the keys {', '.join(ROW)}, got {got}")
        value = float(row["value"])
        place = (str(row["metric"]), str(row["method"]), str(row["condition"]), int(row["seed"]))
        if not math.isfinite(value):
            raise ValueError(f"metrics {name}: {place} is {value}; leave the row out or find out why")
        if place in done:
            raise ValueError(f"metrics {name}: {place} is given twice; a condition must tell the rows apart")
        whole = dict(zip(ROW, (*place, value, int(row["n"])), strict=True))
        done[place] = json.dumps(whole, ensure_ascii=False)
    text = "[\n" + ",\n".join(done[place] for place in sorted(done)) + "\n]\n"
    return atomic_write(_evidence(study, "metrics", name, "json"), text)


def read_metrics(study: Study) -> pd.DataFrame:
    """All metrics of a study, one row each, with the column ``notebook`` naming the file they come from."""
    import pandas as pd

    rows = []
    for path in sorted((study.root / "metrics").glob("*.json")):
        rows += [row | {"notebook": path.stem} for row in json.loads(path.read_text(encoding="utf-8"))]
    return pd.DataFrame(rows, columns=[*ROW, "notebook"])


def write_table(study: Study, name: str, table: pd.DataFrame) -> Path:
    """Write ``tables/<name>.csv``; an index that carries names is kept as columns."""
    named = any(level is not None for level in table.index.names)
    text = table.to_csv(index=named, lineterminator="\n")
    return atomic_write(_evidence(study, "tables", name, "csv"), text)


def write_ids(study: Study, name: str, ids: Iterable[str]) -> Path:
    """Write selected sample ids, in their order, to ``selected/<name>.json``."""
    return atomic_write(_evidence(study, "selected", name, "json"), json.dumps(list(ids), indent=0) + "\n")


def figure_path(study: Study, name: str) -> Path:
    """Where the figure ``name`` belongs: ``figures/<name>.svg``."""
    return _evidence(study, "figures", name, "svg")


def _evidence(study: Study, folder: str, name: str, suffix: str) -> Path:
    if not re.fullmatch(r"\d\d_[\w.-]+", name):
        raise ValueError(f"{folder}: name {name!r} must begin with its notebook's number, as '03_auc' does")
    return study.root / folder / f"{name}.{suffix}"
