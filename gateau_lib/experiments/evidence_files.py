"""The folder that `make evidence` leaves, read only as far as its manifest vouches for it.

``metrics.csv`` (one value a pair), ``verdicts.csv`` (made from it), ``scores/`` (per-sample scores and chosen
ids of each pair), ``manifest.json`` (from what, on which machine, each file's sha256), and ``agreement.csv``
with another folder. What is missing or was changed is left out, so it can make no claim hold.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from gateau_lib.experiments.claims import Agreement, agreement, verdicts
from gateau_lib.experiments.ranking import overlap
from gateau_lib.study import manifest
from gateau_lib.study.code_hash import path_hash
from gateau_lib.study.errors import UserError
from gateau_lib.study.profiles import Profile
from gateau_lib.study.staleness import computing
from gateau_lib.study.store import EVIDENCE, results_root
from gateau_lib.study.whole_files import atomic_write

COLUMNS = ("metric", "method", "condition", "pair", "value", "n")
METRICS, VERDICTS, MANIFEST, AGREEMENT = "metrics.csv", "verdicts.csv", "manifest.json", "agreement.csv"
TOGETHER = "together"  # a column of the agreement
COMMON = "common-"  # begins the names of what was chosen from the pool that all pairs have
PUBLISHED = "cpu"  # the profile whose folder is called `EVIDENCE` alone


class EvidenceError(UserError):
    """A folder of evidence that cannot be used; the message names it and the command that makes it."""


class Evidence(NamedTuple):
    """What a folder vouches for."""

    metrics: pd.DataFrame  # columns `COLUMNS`
    profile: str
    left_out: tuple[str, ...]  # what is missing or was changed, each in words

    def verdicts(self, evidence: str | None = None) -> pd.DataFrame:
        """`claims.verdicts`; what was left out stands in each reason."""
        note = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return verdicts(self.metrics, self.profile, evidence, note)


def place(profile: str = PUBLISHED, seed: int = 0) -> Path:
    """Folder of the evidence whose pairs begin with number ``seed``."""
    parts = [EVIDENCE, *([profile] if profile != PUBLISHED else []), *([f"seed{seed}"] if seed else [])]
    return results_root() / "-".join(parts)


def folders() -> list[Path]:
    """All folders of evidence that hold something, sorted."""
    found = (path for path in results_root().glob(f"{EVIDENCE}*/") if _files(path))
    return sorted(path for path in found if re.fullmatch(rf"{EVIDENCE}(-.+)?", path.name))


def scores_name(pair: int) -> str:
    """File of a pair's per-sample scores, below the folder."""
    return f"scores/pair-{pair:02d}.csv"


def chosen_name(pair: int) -> str:
    """File of the ids that each selector chose for a pair, below the folder."""
    return f"scores/pair-{pair:02d}-chosen.json"


def write(
    folder: Path,
    made: Mapping[int, Path],
    profile: Profile,
    seconds: Mapping[int, float],
    began: dict[str, Any],
) -> pd.DataFrame:
    """Collect the folders that `evidence_run.pair_evidence` filled, by pair; returns the verdicts.

    ``seconds``: cost of each pair; ``began``: commit and date of the run's begin.
    """
    rows, chosen = [], {}
    for pair, source in made.items():
        chosen[pair] = json.loads((source / "chosen.json").read_text(encoding="utf-8"))
        for name, to in (("scores.csv", scores_name(pair)), ("chosen.json", chosen_name(pair))):
            atomic_write(folder / to, (source / name).read_bytes())
        rows.append(read_csv(source / METRICS).assign(pair=pair))
    metrics = pd.concat([*rows, between_pairs(chosen)])[list(COLUMNS)].sort_values(
        list(COLUMNS[:4]), kind="stable"
    )
    atomic_write(folder / METRICS, text(metrics))
    whole = asdict(profile) | {"name": profile.name}
    about = {**began, "seed": min(made), "pairs": list(made), "machine": manifest.machine(), "profile": whole}
    about |= {"versions": computing(), "seconds": {str(pair): round(s, 1) for pair, s in seconds.items()}}
    return _finish(folder, about)


def between_pairs(chosen: Mapping[int, Mapping[str, Sequence[str]]]) -> pd.DataFrame:
    """Rows ``jaccard``: how alike a pair's choice from the common pool is to that of each other pair, mean.

    ``chosen``: pair -> name of a choice -> ids; those named ``common-<selector>`` are compared. Of one pair
        there is nothing to compare: no rows.
    """
    names = {name for ids in chosen.values() for name in ids if name.startswith(COMMON)}
    rows = []
    for name, (pair, ids) in product(sorted(names), chosen.items()):
        alike = [overlap(ids[name], other[name]) for number, other in chosen.items() if number != pair]
        row = ("jaccard", name.removeprefix(COMMON), "common", pair)
        rows += [(*row, sum(alike) / len(alike), len(alike))] if alike else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def judge(folder: Path) -> pd.DataFrame:
    """Verdicts again from the metrics that are there, after the ledger's words or claims changed.

    Raises EvidenceError: files are missing or not those of the manifest.
    """
    if wrong := [line for line in _compared(folder) if VERDICTS not in line]:
        raise EvidenceError(f"{wrong[0]}; run make evidence")
    return _finish(folder, _manifest(folder) | {"judged": now()})


def _finish(folder: Path, about: dict[str, Any]) -> pd.DataFrame:
    """Write the verdicts, from what a manifest vouches for, and the manifest that lists them too."""
    _list(folder, about)
    found = read_evidence(folder).verdicts()
    atomic_write(folder / VERDICTS, text(found))
    _list(folder, about)
    return found


def _list(folder: Path, about: dict[str, Any]) -> None:
    listed = {name: path_hash(folder / name) for name in _files(folder)}
    content = json.dumps(about | {"files": listed}, indent=1, ensure_ascii=False)
    atomic_write(folder / MANIFEST, content + "\n")


def now() -> dict[str, Any]:
    """The code's commit, whether files differ from it, and the time."""
    return manifest.commit() | {"date": datetime.now(UTC).isoformat(timespec="seconds")}


def text(table: pd.DataFrame) -> str:
    """CSV in which every number is written so that it is read back exactly."""
    return table.to_csv(index=False, lineterminator="\n")


def read_csv(path: Path) -> pd.DataFrame:
    """A table that `text` wrote; pandas reads numbers exactly."""
    return pd.read_csv(path, dtype={"condition": str}, keep_default_na=False)


def read_evidence(folder: Path) -> Evidence:
    """Metrics of the pairs of which every file is the one that the manifest lists."""
    about, nothing = _manifest(folder), pd.DataFrame(columns=list(COLUMNS))
    if not about:
        return Evidence(nothing, PUBLISHED, (f"all pairs ({MANIFEST} is missing)",))
    listed, profile = about["files"], about["profile"]["name"]
    if why := _wrong(folder, METRICS, listed):
        return Evidence(nothing, profile, (f"all pairs ({why})",))
    wrong: dict[int, str] = {}
    for pair in about["pairs"]:
        reasons = (_wrong(folder, name, listed) for name in (scores_name(pair), chosen_name(pair)))
        if why := next(filter(None, reasons), ""):
            wrong[pair] = f"pair {pair} ({why})"
    metrics = read_csv(folder / METRICS)
    return Evidence(metrics[~metrics["pair"].isin(list(wrong))], profile, tuple(wrong.values()))


def verify(folder: Path) -> list[str]:
    """What does not agree between files, manifest, metrics and verdicts, a line each; empty if all does."""
    if not _manifest(folder):
        return [f"{folder.name}: no {MANIFEST}; run make evidence"]
    wrong = _compared(folder)
    if (folder / VERDICTS).exists() and not wrong:
        again = text(read_evidence(folder).verdicts())
        if (folder / VERDICTS).read_text(encoding="utf-8") != again:
            follow = f"not what {METRICS} and the ledger give; python -m gateau_lib.evidence --judge"
            wrong.append(f"{folder.name}/{VERDICTS}: {follow}")
    if (path := folder / AGREEMENT).exists():
        other = folder.with_name(read_csv(path).columns[2])
        if not (other / VERDICTS).exists():
            wrong.append(f"{folder.name}/{AGREEMENT}: {other.name}/{VERDICTS}, which it is about, is missing")
        elif text(_named(folder, other, compared(folder, other))) != path.read_text(encoding="utf-8"):
            wrong.append(f"{folder.name}/{AGREEMENT}: not what the two tables of verdicts give")
    return wrong


def compared(folder: Path, other: Path) -> Agreement:
    """How the verdicts of two folders agree. Raises EvidenceError: one has none."""
    for each in (folder, other):
        if not (each / VERDICTS).exists():
            raise EvidenceError(f"{each / VERDICTS}: no such file; run make evidence with its SEED first")
    first, second = (read_csv(each / VERDICTS) for each in (folder, other))
    return agreement(first, second)


def compare(folder: Path, other: Path) -> Agreement:
    """`compared`, and written to the first folder; `verify` makes it again."""
    found = compared(folder, other)
    atomic_write(folder / AGREEMENT, text(_named(folder, other, found)))
    return found


def _named(folder: Path, other: Path, found: Agreement) -> pd.DataFrame:
    """The table with the folders' names, and `TOGETHER`: the verdict over the pairs of both."""
    read = [read_evidence(each) for each in (folder, other)]
    pooled = pd.concat([each.metrics for each in read]).drop_duplicates(list(COLUMNS[:4]))
    judged = verdicts(pooled, read[0].profile).set_index("id")["verdict"]
    table = found.table.rename(columns={"first": folder.name, "second": other.name})
    return table.assign(**{TOGETHER: table["id"].map(judged).fillna("")})


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _files(folder: Path) -> list[str]:
    """Names below the folder of what the manifest lists, sorted."""
    found: Iterable[Path] = (*folder.glob("*.csv"), *folder.glob("scores/*"))
    names = (path.relative_to(folder).as_posix() for path in found if not path.name.startswith("."))
    return sorted(name for name in names if name != AGREEMENT)


def _wrong(folder: Path, name: str, listed: Mapping[str, str]) -> str:
    if not (folder / name).exists():
        return f"{name} is missing"
    return "" if path_hash(folder / name) == listed.get(name) else f"{name} is not the manifest's"


def _compared(folder: Path) -> list[str]:
    """Files that are not those of the manifest, a line each."""
    listed = _manifest(folder).get("files", {})
    wrong = (_wrong(folder, name, listed) for name in sorted({*listed, *_files(folder)}))
    return [f"{folder.name}/{line}" for line in wrong if line]
