"""How a run of a notebook is recorded: taken back before it begins, written when every cell has run.

The stamp in the cache says what the run was made from and left, the manifest of the results folder on what
machine and at what cost, with each file's sha256. A run that fails leaves neither.
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateau_lib.study import notebooks
from gateau_lib.study.code_hash import PACKAGE, path_hash
from gateau_lib.study.devices import gpu_name
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import Step, computing
from gateau_lib.study.store import TRACKED, Study, built
from gateau_lib.study.whole_files import atomic_write


def begin(step: Step) -> dict[str, float]:
    """Take back what the run before left on record; returns what it cost with these parameters, if here."""
    about = read(step.study)
    last = about["notebooks"].get(step.name, {})
    step.stamp.unlink(missing_ok=True)
    _update(step, None)
    same = about.get("machine") == machine() and last.get("parameters") == step.parameters
    return {name: last[name] for name in ("seconds", "peak_memory_mb")} if same else {}


def entry(
    step: Step, last: dict[str, float], artefacts: Iterable[str], began: float, seconds: float, peak: int
) -> dict[str, Any]:
    """The manifest's entry of a run, without its files.

    Its ``seconds`` are what the notebook costs when those before it have run and nothing of its own is ready;
    ``reused_seconds`` the part not spent, since artefacts were ready. A run that found some does not know
    what building them needs, so its cost is not less than ``last`` (see `begin`).
    ``began``: seconds since the epoch; ``peak``: bytes.
    """
    earlier = {name for before in step.upstream for name in before.last().get("artefacts", ())}
    spans = [built(step.study.cache / name) for name in artefacts if name not in earlier]
    reused = covered(span for span in spans if span[0] < began)
    cost = {"seconds": round(seconds + reused, 1), "peak_memory_mb": round(peak / 2**20)}
    if reused:
        cost = {name: max(value, last.get(name, 0)) for name, value in cost.items()}
    return {"parameters": step.parameters, "reused_seconds": round(reused, 1)} | cost


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Time inside at least one span: what was built side by side, or one inside the other, counts once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def finish(step: Step, parts: dict[str, str], artefacts: list[str], entry: dict[str, Any]) -> None:
    """Record a good run: manifest first, stamp last, so that a crash between them only means another run."""
    left = files(step.study, f"{step.number}_")
    _update(step, entry | {"files": left})
    text = notebooks.text_hash(notebooks.read(step.path))
    stamp = {"parts": parts, "text": text, "files": left, "artefacts": artefacts}
    atomic_write(step.stamp, json.dumps(stamp, indent=1) + "\n")


def refresh_prose(step: Step) -> None:
    """Bring the executed copy's text up to date when only prose or comments changed."""
    last, original = step.last(), notebooks.read(step.path)
    if last["text"] != notebooks.text_hash(original):
        copy = notebooks.with_outputs(original, notebooks.read(step.executed))
        atomic_write(step.executed, notebooks.write_text(copy))
        say(f"      {step.name}: text updated, nothing to compute")
        finish(step, last["parts"], last["artefacts"], read(step.study)["notebooks"].get(step.name, {}))


def read(study: Study) -> dict[str, Any]:
    """The manifest, empty if there is none."""
    path = study.root / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"notebooks": {}}


def _update(step: Step, entry: dict[str, Any] | None) -> None:
    """Put a notebook's entry into the manifest, or take it out, whatever the notebook was called."""
    done = {name: each for name, each in read(step.study)["notebooks"].items() if name[:2] != step.number}
    if entry is not None:
        done[step.name] = entry | commit()
    content = {
        "profile": asdict(step.study.profile),
        "seeds": sorted({each["parameters"]["seed"] for each in done.values()}),
        "seconds": round(sum(each["seconds"] for each in done.values()), 1),
        "peak_memory_mb": max((each["peak_memory_mb"] for each in done.values()), default=0),
        "machine": machine(),
        "versions": computing(),
        "kernels": kernels(step.study.profile.dtype),
        "notebooks": dict(sorted(done.items())),
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    atomic_write(step.study.root / "manifest.json", text)


def commit() -> dict[str, Any]:
    """The commit of the code, and whether files other than results differ from it; nulls outside git."""
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", ".", ":(exclude)results"])
        return {"commit": head.strip(), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def machine() -> dict[str, Any]:
    """Device, processor, cores, memory and system of this machine."""
    import psutil

    info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:(.*)", info.read_text() if info.exists() else "", re.M)
    return {
        "device": os.environ.get("GATEAU_DEVICE") or gpu_name() or "cpu",
        "cpu": model[1].strip() if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


@lru_cache
def kernels(dtype: str) -> dict[str, Any]:
    """`devices.kernels`, asked in a process of its own: the runner loads no torch and holds no GPU."""
    code = "import json, sys; from gateau_lib.study import devices; "
    code += "print(json.dumps(devices.kernels(sys.argv[1])))"
    done = [sys.executable, "-c", code, dtype]
    found: dict[str, Any] = json.loads(subprocess.check_output(done, cwd=PACKAGE.parent, text=True))
    return found


def files(study: Study, start: str = "") -> dict[str, str]:
    """sha256 of evidence files by path below the study's root; those whose name begins with ``start``."""
    found = sorted(path for folder in TRACKED for path in (study.root / folder).glob(f"{start}*"))
    kept = (p for p in found if p.is_file() and not p.name.startswith(".") and ".failed." not in p.name)
    return {path.relative_to(study.root).as_posix(): path_hash(path) for path in kept}


def verify(study: Study) -> list[str]:
    """What does not agree between the manifest and the files, one line each; empty when all is well."""
    if not (study.root / "manifest.json").exists():
        seed = f" SEED={study.seed}" if study.seed else ""
        return [f"{study.root.name}: no manifest.json; run make {study.profile.name}{seed} first"]
    done, found = read(study)["notebooks"].values(), files(study)
    listed = {name: sha for entry in done for name, sha in entry["files"].items()}
    wrong = [f"{name}: missing" for name in listed.keys() - found]
    wrong += [f"{name}: not in the manifest" for name in found.keys() - listed]
    changed = (name for name in found.keys() & listed if found[name] != listed[name])
    return sorted(wrong + [f"{name}: not the file the manifest lists" for name in changed])
