"""The manifest of a results folder: what made each file, on what machine, at what cost, with its sha256.

A notebook's ``seconds`` are the wall-clock seconds that it costs when the notebooks before it have run and
nothing of its own is ready. ``reused_seconds`` is the part of them that the recorded run did not spend,
because it found artefacts ready: the time that building them took when they were built, counted once where
they were built side by side. A run that found artefacts ready does not know what building them needs, so
``seconds`` and ``peak_memory_mb`` are not less than this machine's record before it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateau_lib.study.code_hash import PACKAGE, path_hash
from gateau_lib.study.devices import gpu_name
from gateau_lib.study.store import Study
from gateau_lib.study.whole_files import atomic_write

TRACKED = ("metrics", "tables", "selected", "figures", "notebooks")


def path(study: Study) -> Path:
    """The manifest's file."""
    return study.root / "manifest.json"


def read(study: Study) -> dict[str, Any]:
    """The manifest, empty if there is none."""
    return json.loads(path(study).read_text(encoding="utf-8")) if path(study).exists() else {"notebooks": {}}


def last_cost(study: Study, notebook: str, parameters: dict[str, Any]) -> dict[str, float]:
    """``seconds`` and ``peak_memory_mb`` that this machine last recorded for the notebook
    with these parameters, or nothing."""
    about = read(study)
    entry = about["notebooks"].get(notebook, {})
    if about.get("machine") != machine() or entry.get("parameters") != parameters:
        return {}
    return {name: entry[name] for name in ("seconds", "peak_memory_mb")}


def update(study: Study, notebook: str, entry: dict[str, Any] | None, versions: dict[str, str]) -> None:
    """Put one notebook's entry into the manifest, or take it out
    (None: it failed, its files are not to be trusted)."""
    notebooks = {k: v for k, v in read(study)["notebooks"].items() if k[:2] != notebook[:2]}
    if entry is not None:
        notebooks[notebook] = entry | commit()
    content = {
        "profile": asdict(study.profile),
        "seeds": sorted({e["parameters"]["seed"] for e in notebooks.values()}),
        "seconds": round(sum(e["seconds"] for e in notebooks.values()), 1),
        "peak_memory_mb": max((e["peak_memory_mb"] for e in notebooks.values()), default=0),
        "machine": machine(),
        "versions": versions,
        "notebooks": {name: notebooks[name] for name in sorted(notebooks)},
    }
    atomic_write(path(study), json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def commit() -> dict[str, Any]:
    """The commit of the code, and whether files other than results differ from it; nulls outside git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", ".", ":(exclude)results")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def machine() -> dict[str, Any]:
    """Device, processor, cores, memory and system of this machine."""
    import psutil

    return {
        "device": os.environ.get("GATEAU_DEVICE") or (gpu_name() or "cpu"),
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def files(study: Study, folders: tuple[str, ...] = TRACKED, start: str = "") -> dict[str, str]:
    """sha256 of evidence files by path below the study's root; those whose name begins with ``start``."""
    found = (p for folder in folders for p in (study.root / folder).glob(f"{start}*") if p.is_file())
    return {p.relative_to(study.root).as_posix(): path_hash(p) for p in sorted(found) if _kept(p)}


def _kept(path: Path) -> bool:
    return not path.name.startswith(".") and not path.name.endswith(".failed.ipynb")


def verify(study: Study) -> list[str]:
    """What does not agree between the manifest and the files, one line each; empty when all is well."""
    if not path(study).exists():
        seed = f" SEED={study.seed}" if study.seed else ""
        return [f"{study.root.name}: no manifest.json; run make {study.profile.name}{seed} first"]
    listed = {
        name: sha for entry in read(study)["notebooks"].values() for name, sha in entry["files"].items()
    }
    found = files(study)
    wrong = [f"{name}: missing" for name in listed if name not in found]
    wrong += [
        f"{name}: not the file the manifest lists"
        for name in listed
        if found.get(name, listed[name]) != listed[name]
    ]
    return sorted(wrong + [f"{name}: not in the manifest" for name in found if name not in listed])
