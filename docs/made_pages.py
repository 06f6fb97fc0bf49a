"""Pages made of results and of the repository's own files: costs, errata, README and the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from claim_links import linked

from gateau_lib.experiments import answers, evidence_files
from gateau_lib.experiments.defects import RELEASED, WORDS
from gateau_lib.experiments.pages import table
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.style import label

ROOT = PACKAGE.parent
COPIED = {name: name.lower() for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
ADDRESS = "https://"


def write(folder: Path, results: Path, manifest: dict[str, Any]) -> None:
    """All of them; what has no results here says so."""
    folder.mkdir(parents=True)
    for source, name in COPIED.items():
        text = copied((ROOT / source).read_text(encoding="utf-8"))
        text = "# The repository\n" + text.partition("\n")[2] if source == "README.md" else text
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "course.md").write_text(course(ROOT / "notebooks" / "course" / "solutions"), encoding="utf-8")
    (folder / "cost.md").write_text(cost(manifest), encoding="utf-8")
    (folder / "errata.md").write_text(errata(results / "tables" / "10_fixes.csv"), encoding="utf-8")


def copied(text: str) -> str:
    """A file of the repository as a page: links lead to pages, and where there is none only the words stay."""
    text = re.sub(r"<!-- .*? -->\n", "", text)
    text = re.sub(r"!\[([^]]*)\]\((results/[^)]+)\)", r"![\1](../../\2)", text)

    def lead(match: re.Match[str]) -> str:
        said, target = match.groups()
        if target.startswith((ADDRESS, "#")):
            return match[0]
        notebook = re.fullmatch(r"(?:results/cpu/)?notebooks/(\d\d_\w+)\.ipynb", target)
        if notebook:
            return f"[{said}](../notebooks/{notebook[1]}.ipynb)"
        if target in COPIED:
            return f"[{said}]({COPIED[target]})"
        page = re.fullmatch(r"docs/(\w+\.md)", target)
        return f"[{said}](../{page[1]})" if page else said

    return linked(re.sub(r"(?<!!)\[([^]]*)\]\(([^)\s]+)\)", lead, text), "../claims")


def cost(manifest: dict[str, Any]) -> str:
    """What the chapters cost on the machine that made them, and what each selector reads."""
    parts = ["# What it costs"]
    if manifest.get("notebooks"):
        machine = manifest["machine"]
        parts.append(
            f"`make reproduce` on {machine['cores']} cores ({machine['cpu']}), nothing ready before:"
        )
        rows = [
            [
                f"[{name[:2]}](../notebooks/{name}.ipynb)",
                f"{entry['seconds'] / 60:.1f}",
                f"{entry['peak_memory_mb'] / 1024:.1f}",
            ]
            for name, entry in manifest["notebooks"].items()
        ]
        parts.append(table(["chapter", "minutes", "GB"], rows))
    found = evidence_files.read_evidence(evidence_files.place()).metrics
    priced = (
        found[found["metric"] == "forwarded"].groupby("method")["value"].mean() if len(found) else pd.Series()
    )
    if len(priced):
        parts.append(
            "Tokens that models read to score a pool, as a multiple of the pool's own tokens (none: no model is asked):"
        )
        rows = [
            [label(str(name)), f"{value:.1f}" if value else "none"]
            for name, value in priced.sort_values().items()
        ]
        parts.append(table(["score", "times the pool"], rows))
    parts.append(
        "Seconds a pass, against the plain forward pass and against the released procedures: `make bench`, shown in chapter 10."
    )
    return "\n\n".join(parts) + "\n"


def course(solutions: Path) -> str:
    """The exercises, from their headings."""
    parts = [
        "# Course",
        "Exercises with checks that say what is wrong, in `notebooks/course` (`make lab` opens there). Nothing trains a",
    ]
    parts[1] += " model: each cell takes seconds. Solutions stand in `notebooks/course/solutions`."
    rows = []
    for path in sorted(solutions.glob("*.ipynb")):
        texts = [
            cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"
        ]
        chapter = re.search(r"\((\.\./(\d\d_\w+\.ipynb))\)", texts[0])
        title = texts[0].partition("\n")[0].removeprefix("# ")
        if chapter:
            title = f"[{title}](../notebooks/{chapter[2]})"
        for text in texts:
            asked = re.match(r"## \d · (.+)\n\n\*(\w+), (\d+) minutes\.\*", text)
            if asked:
                rows.append([title, *asked.groups()])
                title = ""
    parts.append(table(["chapter", "exercise", "difficulty", "minutes"], rows))
    return "\n\n".join(parts) + "\n"


def errata(changes: Path) -> str:
    """Defects of released code with what each changes here, and claims of the papers that failed."""
    parts = ["# Errata and negative results", "## Claims of the papers that failed here"]
    verdicts = evidence_files.read_evidence(evidence_files.place()).verdicts()
    failed = verdicts[
        (verdicts["verdict"] == "fails") & verdicts["paper"].isin(["GATEAU", "ProLong", "SkipAlign"])
    ]
    told = answers.told()
    for paper, rows in failed.groupby("paper", sort=False):
        lines = []
        for row in rows.sort_values("p", kind="stable").itertuples():
            numbers = f"({row.value:.2f} against {row.against:.2f})"
            said = answers.sentence(row) if row.id in told else f"Not so: “{row.statement}” {numbers}"
            lines.append(f"- {said} ([claim](../claims/{row.id}.md))")
        parts += [f"### Of {paper}, the surest first", "\n".join(lines)]
    if failed.empty:
        parts.append("None has been judged here yet.")
    parts.append("## Defects of the released procedures")
    if changes.exists():
        changed = pd.read_csv(changes)
        rows = [
            [
                row.score,
                WORDS.get(row.defect, ("", row.defect if row.defect != RELEASED else RELEASED))[1],
                f"{row.rank_correlation:.2f}" if pd.notna(row.rank_correlation) else "–",
                str(row.lost),
                f"{row.cost:.1f}",
            ]
            for row in changed.itertuples()
        ]
        head = [
            "score",
            "what the released code does",
            "rank correlation with the mended score",
            "samples lost",
            "times the tokens",
        ]
        parts.append(table(head, rows))
    parts.append("What was tried for this study and did not work stands in [the log](../log.md).")
    return "\n\n".join(parts) + "\n"
