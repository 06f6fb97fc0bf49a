"""Where a study keeps things: content-keyed artefacts in ``cache``, and the small files that git keeps as evidence.

An artefact's folder name holds a hash of everything it was made from, so it is never out of date and never overwritten: other
inputs make another folder. Every file appears whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gateau_lib.profiles import Profile, resolve
from gateau_lib.source import PACKAGE, digest, path_hash
from gateau_lib.source import source_hash as source_hash  # part of this module's interface

if TYPE_CHECKING:
    import pandas as pd


CHANGES_NO_RESULT = ("artefact", "artefact_folder")  # they say what a result is called and when it is made
FOLDERS = ("metrics", "tables", "figures", "selected", "notebooks", "cache")
BUILT = "built.json"  # in an artefact's folder: when it was built
ROW = ("metric", "method", "condition", "seed", "value", "n")


@dataclass(frozen=True)
class Study:
    """One scale of the study and the folder that holds its results."""

    profile: Profile
    seed: int
    root: Path  # results/<profile>

    @property
    def cache(self) -> Path:
        """Folder of artefacts; not in git, safe to delete."""
        return self.root / "cache"


def open_study(profile: str, seed: int = 0, **overrides: Any) -> Study:
    """The study of a profile, its folders made; results lie below ``$GATEAU_RESULTS`` (default: ``results`` in the repository).

    Raises:
        ValueError: unknown profile or field, or a value of the wrong type.
    """
    chosen = resolve(profile, **overrides)
    study = Study(chosen, seed, results_root() / chosen.name)
    for folder in FOLDERS:
        (study.root / folder).mkdir(parents=True, exist_ok=True)
    return study


def results_root() -> Path:
    """The folder that holds one folder a profile."""
    return Path(os.environ.get("GATEAU_RESULTS") or PACKAGE.parent / "results")


def artefact(study: Study, name: str, build: Callable[[Path], Any], *, code: Sequence[ModuleType | Any], **inputs: Any) -> Path:
    """The folder that ``build`` fills, built once for each content of its inputs.

    Args:
        name: what it is, for example ``"pool-0"``; the folder is ``cache/<name>-<12 hex digits>``.
        build: writes everything into the folder it is given; a crash leaves nothing that looks finished.
        code: modules or functions that ``build`` runs; they count with all of the library that they use.
        inputs: plain values, dataclasses, or paths (one inside the cache counts by its name, any other by its bytes).
    """
    folder = artefact_folder(study, name, code=code, **inputs)
    if not folder.exists():
        _build(folder, build)
    if log := os.environ.get("GATEAU_ARTEFACT_LOG"):  # the runner asks which artefacts a notebook used
        with open(log, "a", encoding="utf-8") as out:
            out.write(folder.name + "\n")
    return folder


def artefact_folder(study: Study, name: str, *, code: Sequence[ModuleType | Any], **inputs: Any) -> Path:
    """Where `artefact` puts what is made of these inputs, whether it is there or not."""
    key = digest(json.dumps([_plain(study, inputs), source_hash(code), versions()], sort_keys=True))[:12]
    return study.cache / f"{name}-{key}"


def built(folder: Path) -> tuple[float, float]:
    """When building an artefact began and ended, in seconds since the epoch."""
    begin, end = json.loads((folder / BUILT).read_text(encoding="utf-8"))
    return begin, end


def _build(folder: Path, build: Callable[[Path], Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        if not _alive(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    part = folder.parent / f".{folder.name}.{os.getpid()}.part"
    part.mkdir()
    begin = time.time()
    try:
        build(part)
        (part / BUILT).write_text(json.dumps([begin, time.time()]) + "\n", encoding="utf-8")
        try:
            part.rename(folder)
        except OSError:
            if not folder.exists():  # else another process finished the same content first
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _plain(study: Study, value: Any) -> Any:
    """A value as JSON that is equal exactly when the content is; refuses what has no stable text."""
    if isinstance(value, Path):
        inside = value.is_relative_to(study.cache)
        return {"cache": value.relative_to(study.cache).as_posix()} if inside else {"bytes": path_hash(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(study, asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(study, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(study, v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy number
        return value.item()
    raise TypeError(f"artefact input of type {type(value).__name__} has no stable content; pass numbers, text, lists or paths")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions that can change a number: Python (minor), torch, transformers, numpy."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    return found | {name: version(name) for name in ("torch", "transformers", "numpy")}


def atomic_write(path: Path | str, content: str | bytes) -> Path:
    """Write a file whole or not at all; its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def write_metrics(study: Study, name: str, rows: Sequence[dict[str, Any]]) -> Path:
    """Write one notebook's metrics to ``metrics/<name>.json``, sorted, one row a line.

    Args:
        rows: dicts with ``metric, method, condition`` (text), ``seed`` (int), ``value`` (finite number), ``n`` (what it is over).

    Raises:
        ValueError: missing or unknown key, value not finite, or the same metric, method, condition and seed twice.
    """
    done: dict[tuple[str, str, str, int], str] = {}
    for row in rows:
        if set(row) != set(ROW):
            raise ValueError(f"metrics {name}: a row needs exactly the keys {', '.join(ROW)}, got {', '.join(map(str, row))}")
        value = float(row["value"])
        place = (str(row["metric"]), str(row["method"]), str(row["condition"]), int(row["seed"]))
        if not math.isfinite(value):
            raise ValueError(f"metrics {name}: {place} is {value}; leave the row out or find out why")
        if place in done:
            raise ValueError(f"metrics {name}: {place} is given twice; a condition must tell the rows apart")
        done[place] = json.dumps(dict(zip(ROW, (*place, value, int(row["n"])), strict=True)), ensure_ascii=False)
    return atomic_write(_evidence(study, "metrics", name, "json"), "[\n" + ",\n".join(done[p] for p in sorted(done)) + "\n]\n")


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
    return atomic_write(_evidence(study, "tables", name, "csv"), table.to_csv(index=named, lineterminator="\n"))


def write_ids(study: Study, name: str, ids: Iterable[str]) -> Path:
    """Write selected sample ids, in their order, to ``selected/<name>.json``."""
    return atomic_write(_evidence(study, "selected", name, "json"), json.dumps(list(ids), indent=0) + "\n")


def figure_path(study: Study, name: str) -> Path:
    """Where the figure ``name`` belongs: ``figures/<name>.svg``."""
    return _evidence(study, "figures", name, "svg")


def _evidence(study: Study, folder: str, name: str, suffix: str) -> Path:
    if not re.fullmatch(r"\d\d_[\w.-]+", name):
        raise ValueError(f"{folder}: name {name!r} must begin with its notebook's number, for example '03_auc'")
    return study.root / folder / f"{name}.{suffix}"
