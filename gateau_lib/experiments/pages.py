"""The generated parts of README.md, from the results of the cpu profile, and of the pages on clusters and on scale.

Each part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; everything else is written by hand.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import LlamaConfig

from gateau_lib.experiments.claims import verdicts
from gateau_lib.experiments.figures import verdict_table
from gateau_lib.experiments.findings import summary
from gateau_lib.experiments.setting_sources import rows
from gateau_lib.models.sizes import shape_of
from gateau_lib.scoring import settings
from gateau_lib.scoring.pass_costs import CARD, Lengths, totals
from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.errors import UserError
from gateau_lib.study.evidence import read_metrics
from gateau_lib.study.profiles import PROFILES, resolve
from gateau_lib.study.store import Study

README = PACKAGE.parent / "README.md"
PROFILE = "cpu"  # the published evidence
PURPOSE = {
    "smoke": "tests",
    "cpu": "a laptop; the published evidence",
    "gpu": "one GPU; pair from scratch, or `PAIR=` one of the hub",
    "paper": "the published models; 8 × 80 GB",
}


class ReadmeError(UserError):
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


def table() -> str:
    """The rows as Markdown."""
    lines = ["| setting | paper profile | source, or what was assumed |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {value} | {source} |" for name, value, source in rows()])


def plans() -> str:
    """What the large profiles take, as Markdown: one column each, on as many GPUs as they are made for."""
    from gateau_lib.experiments import footprint, workload
    from gateau_lib.study import registry

    chosen = {"`make gpu`": resolve("gpu")}
    chosen |= {f"`make gpu PAIR={name}`": resolve(f"gpu+{name}") for name in registry.pairs()}
    chosen["`make paper`"] = resolve("paper")
    rows: dict[str, list[str]] = {}
    for profile in chosen.values():
        cards = footprint.processes(profile, 0)
        long, parts = workload.pair(profile)[1], workload.work(profile)
        room, memory = footprint.disk(profile, cards), footprint.memory(profile, cards)
        found = {
            "cards": f"{cards}",
            "parameters, billions": f"{long.parameters / 1e9:.2g}",
            "tokens, billions": f"{sum(part.tokens for part in parts) / 1e9:.1f}",
            "optimizer steps": f"{sum(part.steps for part in parts):,}",
            "GPU-hours": f"{sum(part.hours(long.parameters) for part in parts):,.0f}",
            **{f"GB of a card, {stage}": "–" for stage in ("pretraining", "scoring", "training", "evaluation")},
            **{f"GB of a card, {stage}": f"{need / 2**30:.1f}" for stage, need in memory.items()},
            "GB of the host, to load": f"{footprint.host(profile, cards) / 2**30:.0f}",
            "GB of disk, results": f"{room.results / 2**30:,.0f}",
            "GB of disk, the hub's cache": f"{room.hub / 2**30:,.0f}",
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    lines = [f"| | {' | '.join(chosen)} |", "|---|" + "---:|" * len(chosen)]
    return "\n".join(lines + [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()])


def filled(text: str) -> str:
    """The page with its tables written again between their marks."""
    for name, made in (("plans", plans()), ("audit", table())):
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{made}\n{end}{rest.partition(end)[2]}"
    return text
CLUSTER, MARKS = PACKAGE.parent / "docs" / "cluster.md", ("<!-- begin plan -->", "<!-- end plan -->")
SCALE = PACKAGE.parent / "docs" / "scale.md"


def example() -> str:
    """The table of `CLUSTER`: 10,000 and 10,000,000 samples of 8,192 to 65,536 tokens for a model of Llama-2-7B's shape."""
    shape, n = shape_of(LlamaConfig()), 256
    wholes = np.exp(np.linspace(np.log(8192), np.log(65536), n)).astype(int)
    samples = [Lengths(1, int(whole) - 1 - 64 - 256, 64, 256) for whole in wholes]
    usual = settings.Options(("hmg", "cam"), "ntk", 128, 65536, 4096)
    rows = {
        "HMG and CAM": usual,
        "HMG and CAM, adaptive": replace(usual, adaptive=True),
        "HMG and CAM as released": replace(usual, as_released=True),
        "ProLong, 500 pairs": replace(usual, methods=("prolong",)),
        "ProLong, 5,000 pairs": replace(usual, methods=("prolong",), prolong_pairs=5000),
        "Perplexity": replace(usual, methods=("perplexity",)),
    }
    lines = ["| | tokens a sample | PFLOP a sample | GPU-hours, 10,000 samples | GPU-hours, 10,000,000 samples |"]
    lines.append("|---|" + "---:|" * 4)
    for name, options in rows.items():
        cost = totals(samples, 1 / n, shape, shape, options)[-1]
        numbers = f"{cost['tokens']:,.0f} | {cost['flops'] / 1e15:,.2f}"
        lines.append(f"| {name} | {numbers} | {1e4 * cost['gpu_hours']:,.0f} | {1e7 * cost['gpu_hours']:,.0f} |")
    return "\n".join([*lines, "", CARD])
