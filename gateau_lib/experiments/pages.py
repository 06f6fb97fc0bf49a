"""The generated parts of README.md (from the cpu profile's results and the evidence), docs/cluster.md,
docs/gpu.md and docs/scale.md.

Each part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``; the rest is written by hand.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import LlamaConfig

from gateau_lib.experiments import answers, gpu_page, gpu_record, machine_check, plan, setting_sources
from gateau_lib.experiments.beside_evidence import NOTHING_YET
from gateau_lib.experiments.evidence_files import read_evidence
from gateau_lib.experiments.findings import by_paper, summary
from gateau_lib.experiments.machine_check import GB
from gateau_lib.methods.base import Options
from gateau_lib.methods.reader import Lengths
from gateau_lib.models.sizes import of_config
from gateau_lib.scoring.pass_costs import CARD, gpu_hours, totals
from gateau_lib.study import manifest, notebooks, registry
from gateau_lib.study.errors import UserError
from gateau_lib.study.evidence import read_metrics
from gateau_lib.study.profiles import PROFILES, Profile, resolve
from gateau_lib.study.store import EVIDENCE, Study

PROFILE = "cpu"  # of the published results
TESTED = "tests.json"  # beside the profiles of results
SUREST = 8  # claims on the first screen of README.md
AUC = (
    "*AUC* is how often a sample whose answer rests on far evidence, beyond the short model's window, scores "
    "above one that needs nothing far: 1 is perfect, one half is chance. One model read whole and cut owes "
    "its near perfection to the labels, which follow the window at which it is cut; cut elsewhere it finds "
    "less (chapter 03)."
)
PURPOSE = {
    "smoke": "tests",
    "cpu": "a laptop; the size of the published pairs",
    "gpu": "one GPU; pair from scratch, or `PAIR=` one of the hub",
    "paper": "the published models; 8 × 80 GB",
}


class PageError(UserError):
    """Parts that cannot be written; the message says what is missing and the fix."""


def generated(results: Path, sources: Path) -> dict[str, dict[str, str]]:
    """The generated parts, Markdown: page -> name -> text, from ``results`` (cpu, evidence) and sources."""
    audit = table(("setting", "paper profile", "source, or what was assumed"), setting_sources.rows())
    found = {"README.md": readme(results, sources), "docs/cluster.md": {"plan": example()}}
    known = read_evidence(results.parent / EVIDENCE)
    pairs = known.metrics["pair"].nunique()
    found["docs/index.md"] = {"headline": home(known.verdicts() if pairs else None, pairs)}
    found["docs/gpu.md"] = {"gpu": gpu_page.page(gpu_record.newest(results.parent / "cards"))}
    return found | {"docs/scale.md": {"plans": plans(), "audit": audit}}


def fill(page: Path, made: Mapping[str, str]) -> str:
    """The text of a page, every part between its marks; PageError: a mark is missing or unknown."""
    text = page.read_text(encoding="utf-8")
    marked = re.findall(r"^<!-- begin (\w+) -->$", text, flags=re.M)
    if sorted(marked) != sorted(made):
        wanted = f"each of {', '.join(made)} must stand there once"
        raise PageError(f"{page.name}: has the marks {', '.join(marked) or 'of nothing'}; {wanted}")
    for name, part in made.items():
        head, begin, rest = text.partition(f"<!-- begin {name} -->\n")
        _, end, tail = rest.partition(f"<!-- end {name} -->")
        if not end:
            raise PageError(f"{page.name}: <!-- begin {name} --> has no <!-- end {name} -->")
        text = f"{head}{begin}{part}\n{end}{tail}"
    return text


def readme(results: Path, sources: Path) -> dict[str, str]:
    """The parts of README.md by name; without evidence beside the results no verdict is told.

    Raises PageError: no results, or results that lack the metrics.
    """
    study = Study(resolve(PROFILE), 0, results)
    made, metrics = manifest.read(study), read_metrics(study)
    if not made["notebooks"] or metrics.empty:
        raise PageError(f"results/{PROFILE}: no manifest or no metrics; run make {PROFILE} first")
    known = read_evidence(results.parent / EVIDENCE)
    found = known.verdicts() if len(known.metrics) else None
    parts = {"headline": headline(found, known.metrics["pair"].nunique())}
    parts |= {"cost": cost(made, results.parent / TESTED), "reading": reading(made, sources)}
    parts["gpu"] = f"- {gpu_page.headline(gpu_record.newest(results.parent / 'cards'))}"
    parts["verdicts"] = verdicts(found)
    return parts | {"profiles": profiles()}


def table(head: Sequence[str], rows: Iterable[Iterable[str]], align: str = "---") -> str:
    """Markdown; ``align`` is of all columns but the first."""
    text = [f"| {' | '.join(row).lstrip()} |" for row in (head, *rows)]  # a first cell may be empty
    return "\n".join([text[0], "|---|" + f"{align}|" * (len(head) - 1), *text[1:]])


def headline(
    found: pd.DataFrame | None, pairs: int, results: str = "results", every: str = "#verdicts"
) -> str:
    """The findings in words, the surest first, the headline figure, how many claims hold, fail and stay open.

    ``found``: verdicts over so many ``pairs`` of models; None: there is no evidence, so no picture either.
    ``results``, ``every``: where a page finds the figures and all claims.
    """
    if found is None:
        return NOTHING_YET
    text = "Above: how well each score finds samples with far evidence, without noise and with much of it. "
    text += "Below: probability of the answer by length after training on short samples, "
    text += "minus that after ordinary training."
    picture = f"![{text}]({results}/{PROFILE}/figures/09_headline.svg)"
    surest = f"**What was found**, over {pairs} pairs of models, the surest first:"
    surest += f"\n\n{answers.headline(found, SUREST)}"
    counts = f"{summary(found)} [All of them.]({every})\n{AUC}"
    return f"{surest}\n\n{counts}\n\n{picture}"


def verdicts(found: pd.DataFrame | None) -> str:
    """How many claims hold, fail and stay open, a line a paper; None: there is no evidence."""
    if found is None:
        return NOTHING_YET
    counts = by_paper(found)
    rows = ([str(paper), *map(str, row)] for paper, row in zip(counts.index, counts.to_numpy(), strict=True))
    return table(("of", *counts.columns), rows, "---:")


def home(found: pd.DataFrame | None, pairs: int) -> str:
    """The findings on the first page of the site, as in README.md."""
    return headline(found, pairs, "../results", "claims/index.md") if found is not None else NOTHING_YET


def cost(made: dict[str, Any], tested: Path) -> str:
    """Minutes and GB of a whole run, with the machine; ``tested``: what ``make test RECORD=1`` left."""
    machine = made["machine"]
    device = machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    taken = json.loads(tested.read_text(encoding="utf-8"))["seconds"] if tested.exists() else None
    tests = f" `make test` took {taken / 60:.0f} minutes after that." if taken else ""
    return (
        f"Measured for `make reproduce`, environment installed: **{made['seconds'] / 60:.0f} minutes, "
        f"{made['peak_memory_mb'] / 1024:.1f} GB** of memory at most, "
        f"on {machine['cores']} cores ({device}).{tests}"
    )


def reading(made: dict[str, Any], sources: Path) -> str:
    """One line a notebook: source, question, executed copy and its cost."""
    rows = []
    for path in sorted(sources.glob("[0-9][0-9]_*.ipynb")):
        text = notebooks.source(notebooks.read(path)["cells"][0])
        title = text.splitlines()[0].removeprefix("# ").split(":")[0]
        asked = re.search(r"^\*\*Questions?\.\*\* (.+)$", text, flags=re.M)
        row = [f"[{title}](notebooks/{path.name})", asked[1] if asked else "", "–", "–", "–"]
        if entry := made["notebooks"].get(path.stem):
            row[2] = f"[with outputs](results/{PROFILE}/notebooks/{path.name})"
            row[3:] = f"{entry['seconds'] / 60:.1f}", f"{entry['peak_memory_mb'] / 1024:.1f}"
        rows.append(row)
    return table(["notebook", "question", "executed", "minutes", "GB"], rows)


def profiles() -> str:
    """One line a profile: what it is for and its main sizes."""
    head = "profile", "for", "models", "windows, tokens", "pools × samples of each kind", "`make`"
    models = {"scratch": "trained from scratch", "shipped": "the shipped tiny pair"}
    rows = []
    for name, p in PROFILES.items():
        pair = models.get(p.short_model, f"{p.short_model}, {p.long_model}")
        windows, pools = f"{p.short_window:,} and {p.long_window:,}", f"{p.pool_seeds} × {p.pool_per_kind:,}"
        rows.append([name, PURPOSE[name], pair, windows, pools, f"`make {name}`"])
    return table(head, rows)


def plans() -> str:
    """What the large profiles take: one column each, on as many GPUs as they are made for."""
    columns = {"`make gpu`": _needs(resolve("gpu"))}
    columns |= {f"`make gpu PAIR={name}`": _needs(resolve(f"gpu+{name}")) for name in registry.pairs()}
    columns["`make paper`"] = _needs(resolve("paper"))
    return table(["", *columns], pd.DataFrame(columns).itertuples(), "---:")


def _needs(profile: Profile) -> dict[str, str]:
    """What one profile takes, as the rows of `plans`."""
    cards, long, parts = machine_check.processes(profile, 0), plan.size(profile), plan.work(profile)
    (results, hub), memory = machine_check.disk(profile), machine_check.memory(profile, cards)
    stages = ("pretraining", "scoring", "training", "evaluation")
    of_a_card = {stage: f"{memory[stage] / GB:.1f}" if stage in memory else "–" for stage in stages}
    return {
        "cards": f"{cards}",
        "parameters, billions": f"{long.parameters / 1e9:.2g}",
        "tokens, billions": f"{sum(part.tokens for part in parts) / 1e9:.1f}",
        "optimizer steps": f"{sum(part.steps for part in parts):,}",
        "GPU-hours": f"{sum(plan.hours(part, long) for part in parts):,.0f}",
        **{f"GB of a card, {stage}": need for stage, need in of_a_card.items()},
        "GB of the host, to load": f"{machine_check.host(profile, cards) / GB:.0f}",
        "GB of disk, results": f"{results / GB:,.0f}",
        "GB of disk, the hub's cache": f"{hub / GB:,.0f}",
    }


def example() -> str:
    """The table of docs/cluster.md: samples of 8k to 64k tokens, scored by models of Llama-2-7B's size."""
    size = of_config(LlamaConfig())
    wholes = np.exp(np.linspace(np.log(8192), np.log(65536), 256)).astype(int)
    samples = [Lengths(1, int(whole) - 1 - 64 - 256, 64, 256) for whole in wholes]
    usual = Options(("hmg", "cam"), "ntk", segment_length=128, max_length=65536, short_window=4096)
    asked = {
        "HMG and CAM": usual,
        "HMG and CAM, adaptive": replace(usual, adaptive=True),
        "ProLong, 500 pairs": replace(usual, methods=("prolong",)),
        "ProLong, 5,000 pairs": replace(usual, methods=("prolong",), prolong_pairs=5000),
        "Perplexity": replace(usual, methods=("perplexity",)),
    }
    rows, counts = [], (10_000, 10_000_000)
    for name, options in asked.items():
        tokens, flops = totals(samples, 1, size, size, options).sum()
        hours = [f"{n * gpu_hours(flops):,.0f}" for n in counts]
        rows.append([name, f"{tokens:,.0f}", f"{flops / 1e15:,.2f}", *hours])
    head = ["", "tokens a sample", "PFLOP a sample", *(f"GPU-hours, {n:,} samples" for n in counts)]
    return f"{table(head, rows, '---:')}\n\n{CARD}"
