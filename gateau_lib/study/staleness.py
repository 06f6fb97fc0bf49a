"""What a notebook depends on, whether what it left is still good, and why not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gateau_lib.study import notebooks
from gateau_lib.study.code_hash import PACKAGE, digest, path_hash, text_parts
from gateau_lib.study.errors import UserError
from gateau_lib.study.store import EVIDENCE as PUBLISHED
from gateau_lib.study.store import OTHER, Study, versions

# Which notebooks' files and artefacts a notebook reads.
UPSTREAM: dict[str, tuple[str, ...]] = {
    "01": (), "02": ("01",), "03": ("01", "02"), "04": ("01", "02", "03"), "05": ("01", "02", "03", "04"),
    "06": ("01", "02", "03", "04", "05"), "07": ("01", "02", "06"), "08": ("01", "02", "07"),
    "09": ("01", "02", "03", "04", "05", "06", "07", "08"),
    "10": ("01", "02", "03", "04", "05", "06"), "11": ("02",),
}  # fmt: skip
# Files and folders of results, beside the profile's own, that a notebook reads. Most show the verdicts over
# many pairs of models.
PAIRS = [f"{PUBLISHED}/{name}" for name in ("manifest.json", "metrics.csv", "scores")]
READS = {number: PAIRS for number in UPSTREAM if number not in ("10", "11")} | {
    "10": ["bench"], "09": [*PAIRS, f"{PUBLISHED}/agreement.csv"],
    "11": ["gpu*/manifest.json", "paper/manifest.json", "[gp]*/tables/11_measured.csv"],
}  # fmt: skip
TYPES: dict[str, Callable[[str], Any]]  # of parameters that a command line sets
TYPES = {"int": int, "float": float, "str": str, "bool": lambda t: {"true": True, "false": False}[t.lower()]}
EVIDENCE = ("metrics", "tables", "selected", "figures")
CODE = "code"  # the part that stands for the notebook's code and all it uses of the library
OWN, LIBRARY = "the notebook's code", "gateau_lib "  # parts that only tell where a change of it comes from


class RunError(UserError):
    """A run that cannot go on; the exit status is 1 unless the command line or the machine is to blame."""

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

    def __post_init__(self) -> None:
        self.name, self.number = self.path.stem, self.path.stem[:2]  # 03_hmg_scoring, 03
        self.executed = self.study.root / "notebooks" / self.path.name
        self.failed = self.executed.with_suffix(".failed.ipynb")  # what a run that raised leaves
        # What the last good run was made from and left; not in git.
        self.stamp = self.study.cache / "stamps" / f"{self.name}.json"

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
            folders, last = EVIDENCE if self.number == "09" else EVIDENCE[:-1], step.last()
            kept = {k: v for k, v in last.get("files", {}).items() if k.split("/")[0] in folders}
            left = json.dumps([kept, last.get("artefacts")], sort_keys=True)
            found[f"what {step.name} left"] = digest(left)
        results = self.study.root.parent
        beside = (path for name in READS.get(self.number, ()) for path in results.glob(name))
        for path in sorted(path for path in beside if not path.is_relative_to(self.study.root)):
            if (first := path.relative_to(results).parts[0]) == PUBLISHED or not OTHER.search(first):
                found[f"results/{path.relative_to(results).as_posix()}"] = path_hash(path)
        return found | computing()

    def stale(self, parts: dict[str, str]) -> list[str]:
        """Why this notebook must run, one reason each; empty when what it left is still good for `parts`."""
        if not (last := self.last()):
            return ["failed last time" if self.failed.exists() else "has not run here"]
        missing = (name for name in last["artefacts"] if not (self.study.cache / name).exists())
        gone = [f"artefact {name} is gone" for name in missing]
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
            readable = max(len(old), len(new)) < 40
            reasons.append(f"{name} was {old}, is {new}" if readable else f"{name} changed")
    return reasons


def _where(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Which definitions a change of the code comes from; a moved one is known by its content or its name."""

    def only(parts: dict[str, str], others: dict[str, str]) -> dict[str, str]:
        said = {each for name, each in others.items() if name.startswith((OWN, LIBRARY))}
        ours = (name for name in parts if name.startswith((OWN, LIBRARY)) and parts[name] not in said)
        return {name: name.split(".")[-1] for name in ours}

    came, gone = only(now, before), only(before, now)
    found = [f"{name} {'changed' if short in gone.values() else 'is new'}" for name, short in came.items()]
    found += [f"{name} is no longer used" for name, short in gone.items() if short not in came.values()]
    return sorted(found) or ["names in the code stand for other definitions"]


def notebooks_folder() -> Path:
    """Source notebooks: ``$GATEAU_NOTEBOOKS``, or ``notebooks`` in the repository; RunError if not there."""
    folder = Path(os.environ.get("GATEAU_NOTEBOOKS") or PACKAGE.parent / "notebooks")
    if not folder.is_dir():
        fix = "clone the repository and run there, or set GATEAU_NOTEBOOKS"
        raise RunError(f"{folder}: no such folder; an installed library has no notebooks: {fix}", 2)
    return folder


def steps(study: Study, settings: Sequence[str] = (), only: str | None = None) -> list[Step]:
    """The notebooks in order, or one with all that it reads; RunError: no such notebook or setting."""
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
    found: dict[str, Step] = {}
    for number, path in paths.items():
        notebooks.code(notebooks.read(path), path.name)  # a typing error must not show after an hour
        before = [found[n] for n in UPSTREAM.get(number, ()) if n in found]
        found[number] = Step(study, path, {"profile": study.profile.name, "seed": study.seed}, before)
    if settings:
        _set(found.values(), settings)
    return list(found.values())


def _set(todo: Iterable[Step], settings: Sequence[str]) -> None:
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
            if name not in kinds:
                continue
            try:
                value = TYPES[kinds[name]](text)
            except (KeyError, ValueError):
                takes = f"of {step.path.name} takes {kinds[name]}"
                raise RunError(f"parameter {name!r} {takes}, got {text!r}", 2) from None
            step.parameters[name] = value


def inspect(path: Path) -> dict[str, str]:
    """Names and types of a notebook's parameters; RunError: no profile or no seed, or one without a type."""
    from papermill import inspect_notebook

    found = {k: str(v["inferred_type_name"]) for k, v in inspect_notebook(str(path)).items()}
    untyped = [k for k, v in found.items() if v == "None"]
    if untyped or not {"profile", "seed"} <= found.keys():
        fault = f"parameter {untyped[0]!r} has no type" if untyped else "its parameters lack profile or seed"
        fix = "the cell tagged 'parameters' needs `profile: str` and `seed: int`"
        raise RunError(f"{path.name}: {fault}; {fix}", 2)
    return found


def status(todo: Sequence[Step]) -> str:
    """A table: each notebook, whether it is fresh, and if not why."""
    states: dict[str, str] = {}
    for step in todo:
        before = [s.name for s in step.upstream if states.get(s.name, "fresh") != "fresh"]
        if reasons := step.stale(step.parts()):
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            states[step.name] = f"stale  {'; '.join(reasons[:3])}{more}"
        else:
            waits = f"waits  runs only if {', '.join(before)} leaves something else"
            states[step.name] = waits if before else "fresh"
    return "\n".join(f"{name:26} {state}" for name, state in states.items())
