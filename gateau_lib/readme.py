"""Write the generated parts of README.md from the results of the cpu profile: ``python -m gateau_lib.readme``.

Each part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; everything else is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.claims import LedgerError, verdicts
from gateau_lib.figures import verdict_table
from gateau_lib.findings import summary
from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.evidence import read_metrics
from gateau_lib.study.profiles import PROFILES, resolve
from gateau_lib.study.store import Study, results_root
from gateau_lib.study.whole_files import atomic_write

README = PACKAGE.parent / "README.md"
PROFILE = "cpu"  # the published evidence
PURPOSE = {
    "smoke": "tests",
    "cpu": "a laptop; the published evidence",
    "gpu": "one GPU; pair from scratch, or `PAIR=` one of the hub",
    "paper": "the published models; 8 × 80 GB",
}


class ReadmeError(ValueError):
    """Parts that cannot be written; the message says what is missing and the fix."""


def parts(results: Path, sources: Path) -> dict[str, str]:
    """The generated parts by name, Markdown.

    Args:
        results: ``results/cpu``: the manifest and the metrics. sources: the folder of the source notebooks.

    Raises:
        ReadmeError: no results, or results that lack the metrics.
    """
    study = Study(resolve(PROFILE), 0, results)
    made, metrics = manifest.read(study), read_metrics(study)
    if not made["notebooks"] or metrics.empty:
        raise ReadmeError(f"results/{PROFILE}: no manifest or no metrics; run make {PROFILE} first")
    found = verdicts(metrics, PROFILE)
    return {
        "headline": headline(found),
        "cost": cost(made),
        "reading": reading(made, sources),
        "verdicts": verdict_table(found).strip(),
        "profiles": profiles(),
    }


def headline(found: pd.DataFrame) -> str:
    """The headline figure and the number of claims that hold, fail and stay open."""
    picture = f"results/{PROFILE}/figures/08_headline.svg"
    text = "Left: how well each score finds samples with far evidence. Right: recall by length after training on short samples."
    return f"![{text}]({picture})\n\n{text} Bars: 95 % intervals over seeds.\n**{summary(found)}** [All of them.](#verdicts)"


def cost(made: dict[str, Any]) -> str:
    """Minutes and GB of a whole run, with the machine they were measured on."""
    machine = made["machine"]
    device = machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    return (
        f"Measured for `make reproduce`, environment installed: **{made['seconds'] / 60:.0f} minutes, "
        f"{made['peak_memory_mb'] / 1024:.1f} GB** of memory at most, on {machine['cores']} cores ({device})."
    )


def reading(made: dict[str, Any], sources: Path) -> str:
    """One line a notebook: source, question, executed copy and its cost."""
    lines = ["| notebook | question | executed | minutes | GB |", "|---|---|---|---|---|"]
    for path in sorted(sources.glob("[0-9][0-9]_*.ipynb")):
        text = notebooks.source(notebooks.read(path)["cells"][0])
        title = text.splitlines()[0].removeprefix("# ").split(":")[0]
        asked = re.search(r"^\*\*Questions?\.\*\* (.+)$", text, flags=re.M)
        entry = made["notebooks"].get(path.stem)
        spent = f"{entry['seconds'] / 60:.1f} | {entry['peak_memory_mb'] / 1024:.1f}" if entry else "– | –"
        copy = f"[with outputs](results/{PROFILE}/notebooks/{path.name})" if entry else "–"
        lines.append(f"| [{title}](notebooks/{path.name}) | {asked[1] if asked else ''} | {copy} | {spent} |")
    return "\n".join(lines)


def profiles() -> str:
    """One line a profile: what it is for and its main sizes."""
    lines = ["| profile | for | models | windows, tokens | pools × samples of each kind | `make` |", "|---|---|---|---|---|---|"]
    models = {"scratch": "trained from scratch", "shipped": "the shipped tiny pair"}
    for name, p in PROFILES.items():
        pair = models.get(p.short_model, f"{p.short_model}, {p.long_model}")
        lines.append(
            f"| {name} | {PURPOSE[name]} | {pair} | {p.short_window:,} and {p.long_window:,} "
            f"| {p.pool_seeds} × {p.pool_per_kind:,} | `make {name}` |"
        )
    return "\n".join(lines)


def fill(text: str, made: dict[str, str]) -> str:
    """``text`` with every part between its markers.

    Raises:
        ReadmeError: a part's markers are missing, or stand there for a part that is not known.
    """
    marked = re.findall(r"^<!-- begin (\w+) -->$", text, flags=re.M)
    if sorted(marked) != sorted(made):
        raise ReadmeError(f"README.md: has the markers {', '.join(marked)}; each of {', '.join(made)} must stand there once")
    for name, part in made.items():
        between = rf"(<!-- begin {name} -->\n).*?(\n?<!-- end {name} -->)"
        text, count = re.subn(between, lambda m, part=part: f"{m[1]}{part}\n{m[2].strip()}", text, flags=re.S)
        if not count:
            raise ReadmeError(f"README.md: <!-- begin {name} --> has no <!-- end {name} -->")
    return text


def main() -> int:
    """Exit status: 0 done, 1 nothing to write from."""
    try:
        old = README.read_text(encoding="utf-8")
        new = fill(old, parts(results_root() / PROFILE, PACKAGE.parent / "notebooks"))
    except (ReadmeError, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if new != old:
        atomic_write(README, new)
    print(f"README.md: {'as it was' if new == old else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
