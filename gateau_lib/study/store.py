"""Where a study keeps things: content-keyed artefacts in ``cache``, beside them what git keeps as evidence.

An artefact's folder name holds a hash of everything it was made from, so it is never out of date and never
overwritten: other inputs make another folder. Every file appears whole or not at all.
"""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from gateau_lib.study.code_hash import PACKAGE, digest, path_hash, source_hash
from gateau_lib.study.profiles import REHEARSED, Profile, named, resolve
from gateau_lib.study.whole_files import atomic_write

# What a result is called and when it is made.
CHANGES_NO_RESULT = ("artefact", "artefact_folder", "used")
UNKEYED = {"keyed": False}  # metadata of a data class's field: how a result is computed, not what it is
TRACKED = ("metrics", "tables", "selected", "figures", "notebooks")  # folders of a study that git keeps
EVIDENCE = "evidence"  # begins the name of a folder of evidence from many pairs, which is no profile's
# In a folder's name: a rehearsal and evidence begin with the first, another seed and changed sizes end with
# the last.
OTHER = re.compile(rf"^{REHEARSED}|^{EVIDENCE}(-|$)|-(seed-?\d+|custom-[0-9a-f]{{6}})$")
PINS = "revisions.json"  # commits of models and data that a study has met
BUILT = "built.json"  # in an artefact's folder: when it was built


@dataclass(frozen=True)
class Study:
    """One scale of the study and the folder that holds its results."""

    profile: Profile
    seed: int
    root: Path  # results/<profile>; see `open_study`
    home: Path | None = None  # the folder of the study without overrides, whose cache it has

    @property
    def cache(self) -> Path:
        """Folder of artefacts; not in git, safe to delete."""
        return (self.home or self.root) / "cache"


def open_study(profile: str, seed: int = 0, **overrides: Any) -> Study:
    """The study of a profile, its folders made below `results_root`.

    Only seed 0 at the profile's own sizes has ``<profile>``, the folder of the evidence. Another seed has
    ``<profile>-seed<N>``. Overrides that change something have ``<profile>-custom-<6 hex digits>``, with the
    cache of the study without them: artefacts that do not depend on what was changed are found there.
    Raises ProfileError: unknown profile or field, or a value of the wrong type.
    """
    chosen, plain = resolve(profile, **overrides), asdict(named(profile))
    changed = {name: value for name, value in asdict(chosen).items() if value != plain[name]}
    first = results_root() / chosen.name
    home = first.with_name(f"{first.name}-seed{seed}") if seed else first
    custom = f"{home.name}-custom-{digest(json.dumps(changed, sort_keys=True))[:6]}"
    study = Study(chosen, seed, home.with_name(custom) if changed else home, home)
    for folder in (study.cache, *(study.root / name for name in TRACKED)):
        folder.mkdir(parents=True, exist_ok=True)
    # It reads the models and data of those it belongs to, as far as it has met no others itself; each time,
    # since the others may have met more.
    paths, own = [folder / PINS for folder in (first, home, study.root)], study.root / PINS
    met = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
    found = {name: commit for text in met for name, commit in json.loads(text).items()}
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    if study.root != first and found and not (own.exists() and text == met[-1]):
        atomic_write(own, text)
    return study


def profile_folders() -> list[Path]:
    """Folders below the results' root, sorted; none of rehearsals, of other seeds and of changed sizes."""
    return sorted(path for path in results_root().glob("*/") if not OTHER.search(path.name))


def results_root() -> Path:
    """One folder a profile: ``$GATEAU_RESULTS``, or ``results`` in the repository or, without it, here."""
    home = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get("GATEAU_RESULTS") or home / "results")


def artefact(
    study: Study, name: str, build: Callable[[Path], Any], *, code: Sequence[ModuleType | Any], **inputs: Any
) -> Path:
    """The folder ``cache/<name>-<12 hex digits>`` that ``build`` fills, once for each content of its inputs.

    ``build`` writes everything into the folder it is given; a crash leaves nothing that looks finished.
    ``code``: modules or functions that ``build`` runs; they count with all of the library that they use.
    ``inputs``: plain values, data classes (without their fields marked `UNKEYED`), or paths: one inside the
        cache counts by its name, any other by its bytes.
    """
    folder = artefact_folder(study, name, code=code, **inputs)
    if not folder.exists():
        _build(folder, build)
    return used(folder)


def artefact_folder(study: Study, name: str, *, code: Sequence[ModuleType | Any], **inputs: Any) -> Path:
    """Where `artefact` puts what is made of these inputs, whether it is there or not."""
    made_of = [inputs, source_hash(code), versions()]
    key = digest(json.dumps(made_of, sort_keys=True, default=partial(_plain, study)))[:12]
    return study.cache / f"{name}-{key}"


def used(folder: Path) -> Path:
    """Note the use for the runner, which asks what a notebook used."""
    if log := os.environ.get("GATEAU_ARTEFACT_LOG"):
        with Path(log).open("a", encoding="utf-8") as out:
            out.write(folder.name + "\n")
    return folder


def keyed_fields(value: Any) -> list[str]:
    """Names of a data class's fields that count in keys, those not marked `UNKEYED`."""
    return [each.name for each in fields(value) if each.metadata.get("keyed", True)]


def built(folder: Path) -> tuple[float, float]:
    """When building an artefact began and ended, in seconds since the epoch."""
    begin, end = json.loads((folder / BUILT).read_text(encoding="utf-8"))
    return begin, end


def _build(folder: Path, build: Callable[[Path], Any]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.part"):
        try:
            os.kill(int(left.name.split(".")[-2]), 0)
        except ProcessLookupError:  # a dead process left it
            shutil.rmtree(left, ignore_errors=True)
        except PermissionError:  # somebody else's, alive
            pass
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


def _plain(study: Study, value: Any) -> Any:
    """What JSON has no form for as what has one, equal exactly when the content is."""
    if isinstance(value, Path):
        inside = value.is_relative_to(study.cache)
        return {"cache": value.relative_to(study.cache).as_posix()} if inside else {"bytes": path_hash(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: getattr(value, name) for name in keyed_fields(value)}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy number
        return value.item()
    kind = type(value).__name__
    raise TypeError(f"artefact input of type {kind} has no stable content; give numbers, text, lists, paths")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions that can change a number: Python (minor), torch, transformers, numpy."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    return found | {name: version(name) for name in ("torch", "transformers", "numpy")}
