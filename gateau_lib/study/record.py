"""How a run of a notebook is recorded: taken back before it begins, written when every cell has run.

The stamp in the cache says what the run was made from and what it left, the manifest what it cost and
where. A run that fails leaves neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import combine
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import Step, computing, explains
from gateau_lib.study.store import built
from gateau_lib.study.whole_files import atomic_write


def begin(step: Step) -> dict[str, float]:
    """Take back what the run before left on record, and return what it cost."""
    last = manifest.last_cost(step.study, step.name, step.parameters)
    step.stamp.unlink(missing_ok=True)
    manifest.update(step.study, step.name, None, computing())
    return last


def finish(step: Step, parts: dict[str, str], artefacts: list[str], entry: dict[str, Any]) -> None:
    """Record a good run: manifest first, stamp last, so that a crash between them only means another run."""
    left = manifest.files(step.study, manifest.TRACKED, f"{step.number}_")
    manifest.update(step.study, step.name, entry | {"files": left}, computing())
    text = notebooks.text_hash(notebooks.read(step.path))
    key = combine({name: each for name, each in parts.items() if not explains(name)})
    stamp = {"key": key, "parts": parts, "text": text, "files": left, "artefacts": artefacts}
    atomic_write(step.stamp, json.dumps(stamp, indent=1) + "\n")


def refresh_prose(step: Step) -> None:
    """Bring the executed copy's text up to date when only prose or comments changed."""
    last, original = step.last(), notebooks.read(step.path)
    if last["text"] != notebooks.text_hash(original):
        copy = notebooks.with_outputs(original, notebooks.read(step.executed))
        atomic_write(step.executed, notebooks.write_text(copy))
        say(f"      {step.name}: text updated, nothing to compute")
        entry = manifest.read(step.study)["notebooks"].get(step.name, {})
        finish(step, last["parts"], last["artefacts"], entry)


def entry(
    step: Step, last: dict[str, float], artefacts: Iterable[str], began: float, seconds: float, peak: int
) -> dict[str, Any]:
    """The manifest's entry of a run, without its files.

    Args:
        last: what `begin` returned.
        artefacts: names of those that the run used.
        began: in seconds since the epoch.
        seconds: that the run took.
        peak: memory in bytes.
    """
    reused = reused_seconds(step, artefacts, began)
    cost = {"seconds": round(seconds + reused, 1), "peak_memory_mb": round(peak / 2**20)}
    if reused:
        cost = {name: max(value, last.get(name, 0)) for name, value in cost.items()}
    return {"parameters": step.parameters, "reused_seconds": round(reused, 1)} | cost


def reused_seconds(step: Step, artefacts: Iterable[str], began: float) -> float:
    """Wall-clock seconds of building what a run found ready and no notebook before it uses.

    Args:
        artefacts: names of those the run used. began: of the run, in seconds since the epoch.
    """
    earlier = {name for before in step.upstream for name in before.last().get("artefacts", ())}
    spans = [built(step.study.cache / name) for name in artefacts if name not in earlier]
    return covered(span for span in spans if span[0] < began)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Time inside at least one span: what was built side by side, or one inside the other, counts once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
