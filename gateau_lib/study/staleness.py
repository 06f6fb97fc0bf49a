"""What a notebook depends on, whether what it left is still good, and why not.

A notebook's key is made of its code, the library definitions it uses, the profile, the parameters, what the
notebooks before it left, and the versions of what computes. Its code and the library's have one hash, which
no move and no renaming changes; the names of definitions only tell where a change of it comes from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gateau_lib.study import notebooks
from gateau_lib.study.code_hash import PACKAGE, digest, path_hash, text_parts
from gateau_lib.study.errors import UserError
from gateau_lib.study.store import OTHER, Study, versions

# Which notebooks' files and artefacts a notebook reads.
UPSTREAM: dict[str, tuple[str, ...]] = {
    "01": (),
    "02": ("01",),
    "03": ("01", "02"),
    "04": ("01", "02", "03"),
    "05": ("01", "02", "03", "04"),
    "06": ("01", "02", "05"),
    "07": ("01", "02", "06"),
    "08": ("01", "02", "03", "04", "05", "06", "07"),
    "09": ("02",),
}
# Files and folders of results, beside the profile's own, that a notebook reads.
READS = {
    "05": ("bench",),
    "09": ("gpu*/manifest.json", "paper/manifest.json", "[gp]*/tables/09_measured.csv"),
}
EVIDENCE = ("metrics", "tables", "selected", "figures")
CODE = "code"  # the part that stands for the notebook's code and all it uses of the library
OWN, LIBRARY = "the notebook's code", "gateau_lib "  # parts that only tell where a change of it comes from


class RunError(UserError):
    """A run that cannot go on; the message is one line with the place and the fix.

    Args:
        status: exit status, 1 unless the command line or the machine is to blame.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Step:
    """One notebook of one study, what it depends on now, and what its last good run left."""

    study: Study
    path: Path
    parameters: dict[str, Any]
    upstream: list[Step] = field(default_factory=list)

    @property
    def name(self) -> str:
        """File name without suffix, for example ``03_hmg_scoring``."""
        return self.path.stem

    @property
    def number(self) -> str:
        """The two digits in front."""
        return self.name[:2]

    @property
    def executed(self) -> Path:
        """The executed copy."""
        return self.study.root / "notebooks" / self.path.name

    @property
    def failed(self) -> Path:
        """Where a run that raised is left for reading."""
        return self.executed.with_suffix(".failed.ipynb")

    @property
    def stamp(self) -> Path:
        """What the last good run was made from and left; not in git."""
        return self.study.cache / "stamps" / f"{self.name}.json"

    def last(self) -> dict[str, Any]:
        """The stamp's content; empty if there was no good run here."""
        return json.loads(self.stamp.read_text(encoding="utf-8")) if self.stamp.exists() else {}

    def parts(self) -> dict[str, str]:
        """Everything the key is made of, by a name that a reader understands."""
        code = text_parts(notebooks.code(notebooks.read(self.path), self.path.name))
        found = {CODE: code.pop("<key>"), OWN: code.pop("<code>")}
        found |= {f"{LIBRARY}{name}": each for name, each in code.items()}
        found |= {f"profile {k}": json.dumps(v) for k, v in asdict(self.study.profile).items()}
        found |= {f"parameter {k}": json.dumps(v) for k, v in self.parameters.items()}
        for step in self.upstream:
            # Later notebooks read numbers, not pictures; the last one shows the pictures too.
            folders, last = EVIDENCE if self.number == "08" else EVIDENCE[:-1], step.last()
            kept = {k: v for k, v in last.get("files", {}).items() if k.split("/")[0] in folders}
            left = json.dumps([kept, last.get("artefacts")], sort_keys=True)
            found[f"what {step.name} left"] = digest(left)
        results = self.study.root.parent
        beside = (path for name in READS.get(self.number, ()) for path in results.glob(name))
        for path in sorted(path for path in beside if not path.is_relative_to(self.study.root)):
            if not OTHER.search(path.relative_to(results).parts[0]):
                found[f"results/{path.relative_to(results).as_posix()}"] = path_hash(path)
        return found | computing()

    def stale(self, parts: dict[str, str]) -> list[str]:
        """Why this notebook must run, one reason each; empty when what it left is still good for `parts`."""
        last = self.last()
        if not last:
            return ["failed last time" if self.failed.exists() else "has not run here"]
        cache = self.study.cache
        gone = [f"artefact {name} is gone" for name in last["artefacts"] if not (cache / name).exists()]
        for name, sha in last["files"].items():
            file = self.study.root / name
            if not file.exists() or path_hash(file) != sha:
                gone.append(f"{name} {'was changed' if file.exists() else 'is missing'}")
        return differences(last["parts"], parts) + gone


def computing() -> dict[str, str]:
    """Versions of what computes and draws."""
    return versions() | {name: version(name) for name in ("pandas", "scipy", "scikit-learn", "matplotlib")}


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What changed between two sets of `Step.parts`, one reason each; a move or renaming of code is none."""
    reasons = [] if before.get(CODE) == now[CODE] else _where(before, now)
    for name in sorted(before | now):
        old, new = before.get(name), now.get(name)
        if old == new or name in (CODE, OWN) or name.startswith(LIBRARY):
            continue
        if old is None or new is None:
            reasons.append(f"{name} is {'new' if old is None else 'no longer used'}")
        else:
            readable = len(old) < 40 and len(new) < 40
            reasons.append(f"{name} was {old}, is {new}" if readable else f"{name} changed")
    return reasons


def _where(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Which definitions a change of the code comes from; a moved one is known by its content or its name."""
    old, new = (
        {name: each for name, each in parts.items() if name.startswith((OWN, LIBRARY))}
        for parts in (before, now)
    )
    said_before, said_now = set(old.values()), set(new.values())
    came = {name: name.split(".")[-1] for name in new if new[name] not in said_before}
    gone = {name: name.split(".")[-1] for name in old if old[name] not in said_now}
    found = [f"{name} {'changed' if short in gone.values() else 'is new'}" for name, short in came.items()]
    found += [f"{name} is no longer used" for name, short in gone.items() if short not in came.values()]
    return sorted(found) or ["names in the code stand for other definitions"]


def notebooks_folder() -> Path:
    """Source notebooks: ``$GATEAU_NOTEBOOKS``, or ``notebooks`` in the repository.

    Raises:
        RunError: there is no such folder.
    """
    folder = Path(os.environ.get("GATEAU_NOTEBOOKS") or PACKAGE.parent / "notebooks")
    if not folder.is_dir():
        fix = "clone the repository and run there, or set GATEAU_NOTEBOOKS"
        raise RunError(f"{folder}: no such folder; an installed library has no notebooks: {fix}", 2)
    return folder


def steps(study: Study, settings: Sequence[str] = (), only: str | None = None) -> list[Step]:
    """The study's notebooks in order, or one with all that it reads, with their parameters checked.

    Raises:
        RunError: no such notebook; a setting that no notebook takes, or of the wrong type.
    """
    paths = {p.name[:2]: p for p in sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))}
    if not paths:
        raise RunError(f"{notebooks_folder()}: holds no notebooks named NN_*.ipynb", 2)
    if only is not None:
        if only not in paths:
            raise RunError(f"no notebook {only!r}: choose one of {', '.join(paths)}", 2)
        needed = {only}
        for number in sorted(paths, reverse=True):
            needed |= set(UPSTREAM.get(number, ())) if number in needed else set()
        paths = {number: p for number, p in paths.items() if number in needed}
    for path in paths.values():
        notebooks.code(notebooks.read(path), path.name)  # a typing error must not show after an hour
    found: dict[str, Step] = {}
    for number, path in paths.items():
        before = [found[n] for n in UPSTREAM.get(number, ()) if n in found]
        found[number] = Step(study, path, {"profile": study.profile.name, "seed": study.seed}, before)
    if settings:
        _set(list(found.values()), settings)
    return list(found.values())


def _set(todo: Sequence[Step], settings: Sequence[str]) -> None:
    """Give the settings ``name=value`` to the notebooks that take them."""
    taken = [(step, inspect(step.path)) for step in todo]
    known = {name for _, kinds in taken for name in kinds} - {"profile", "seed"}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name in ("profile", "seed"):
            fix = "write name=value; the profile is the first argument, the seed is --seed"
            raise RunError(f"--set {setting}: {fix}", 2)
        if name not in known:
            choice = ", ".join(sorted(known)) or "only profile and seed"
            raise RunError(f"unknown parameter {name!r}: these notebooks take {choice}", 2)
        for step, kinds in taken:
            if name in kinds:
                step.parameters[name] = _value(step.path, name, kinds[name], text)


def inspect(path: Path) -> dict[str, str]:
    """Names and types of the parameters that a notebook declares.

    Raises:
        RunError: no profile or no seed among them, or one without a type.
    """
    from papermill import inspect_notebook

    found = {k: str(v["inferred_type_name"]) for k, v in inspect_notebook(str(path)).items()}
    untyped = [k for k, v in found.items() if v == "None"]
    if untyped or not {"profile", "seed"} <= set(found):
        fault = f"parameter {untyped[0]!r} has no type" if untyped else "its parameters lack profile or seed"
        fix = "the cell tagged 'parameters' needs `profile: str` and `seed: int`"
        raise RunError(f"{path.name}: {fault}; {fix}", 2)
    return found


def _value(path: Path, name: str, kind: str, text: str) -> Any:
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return {"int": int, "float": float, "str": str}[kind](text)
    except (KeyError, ValueError):
        raise RunError(f"parameter {name!r} of {path.name} takes {kind}, got {text!r}", 2) from None


def status(todo: Sequence[Step]) -> str:
    """A table: each notebook, whether it is fresh, and if not why."""
    lines, touched = [], set()
    for step in todo:
        reasons = step.stale(step.parts())
        before = [s.name for s in step.upstream if s.name in touched]
        if reasons:
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            state = f"stale  {'; '.join(reasons[:3])}{more}"
        else:
            state = f"waits  runs only if {', '.join(before)} leaves something else" if before else "fresh"
        if reasons or before:
            touched.add(step.name)
        lines.append(f"{step.name:26} {state}")
    return "\n".join(lines)
