"""From an executed notebook to a chapter of the site: figures with captions, machinery folded, where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import yaml
from claim_links import with_claims
from nbformat import NotebookNode, v4

from gateau_lib.study.code_hash import PACKAGE

MARK = "# NBVAL_CHECK_OUTPUT\n"  # for the tests
OUT_OF_SIGHT = {"parameters", "injected-parameters"}
SVG, MARKDOWN = "image/svg+xml", "text/markdown"
# What is said to readers of the repository's file, and what this page shows itself.
ELSEWHERE = re.compile(r" With all outputs: `[^`]+`\.")
MEASURED = re.compile(r"(Wall time and peak memory)[^.;]*manifest\.json`(?:, measured by the runner)?")
COURSE = re.compile(r"\]\(course/[^)]*\)")
CAPTION = re.compile(r"\*\*(Figure (\d+)\.(\d+))\*\* (.*)", re.S)
REMADE = """---

Made by `{command}` from commit `{commit}`{dirty}, in {minutes:.1f} minutes with at most {memory:.1f} GB on {machine}.
{{download}}`This notebook as it ran <{name}>`.

To cite: *{title}*, chapter {number}, commit `{commit}`, with the papers it studies (`CITATION.cff`).
"""


def chapter(
    notebook: NotebookNode, figures: Path, place: str, names: Mapping[str, str] | None = None
) -> NotebookNode:
    """The notebook as readers see it; its drawings are written to ``figures``, whose address is ``place``.

    ``names``: of `titles`, by which it names others.
    """
    kept = []
    for cell in notebook.cells:
        if OUT_OF_SIGHT & set(cell.metadata.get("tags", ())):
            continue
        if cell.cell_type == "code":
            cell.source = cell.source.removeprefix(MARK)
            if any(output.output_type in ("display_data", "execute_result") for output in cell.outputs):
                cell.metadata["tags"] = [*cell.metadata.get("tags", ()), "hide-input"]
            cell.outputs = with_figures(with_links(cell.outputs, names or {}), figures, place)
        else:
            cell.source = named(readable(cell.source), names or {})
        kept.append(cell)
    notebook.cells = kept
    return notebook


def readable(text: str) -> str:
    """Prose of a notebook as it stands on the site."""
    text = MEASURED.sub(r"\1 stand at the end of this page", ELSEWHERE.sub("", text))
    return COURSE.sub("](../project/course.md)", text.replace("](../docs/", "](../"))


def named(text: str, titles: Mapping[str, str]) -> str:
    """Links that name a notebook by its file name it by the chapter's title; its number is a link, too."""
    numbers = {name[:2]: name for name in titles}

    def title(match: re.Match[str]) -> str:
        name = match[1]
        return f"[{titles.get(name, name)}]({name}.ipynb)"

    def number(match: re.Match[str]) -> str:
        shown = match[1] or match[2]
        name = numbers.get(shown[-2:])
        return f"[{shown}]({name}.ipynb)" if name else match[0]

    text = re.sub(r"`(\d\d)`|\b([Nn]otebook \d\d)\b", number, text)
    text = re.sub(r"`(\d\d_\w+)`", lambda m: f"[{m[1]}]({m[1]}.ipynb)" if m[1] in titles else m[0], text)
    return re.sub(r"\[(\d\d_\w+)\]\(\1\.ipynb\)", title, text)


def titles(folder: Path) -> dict[str, str]:
    """Names of a folder's notebooks -> their headings as far as the colon, "05 · ProLong"."""
    found = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        first = nbformat.read(path, as_version=4).cells[0].source
        found[path.stem] = first.partition("\n")[0].removeprefix("# ").partition(":")[0]
    return found


def with_links(outputs: list[NotebookNode], names: Mapping[str, str]) -> list[NotebookNode]:
    """Outputs that say something, with links to claims and chapters where they are named."""
    for output in outputs:
        text = output.get("data", {}).get(MARKDOWN)
        if text and not CAPTION.fullmatch(text):
            output.data[MARKDOWN] = named(with_claims(text, "../claims"), names)
    return [output for output in outputs if output.get("data", {}).get(MARKDOWN, "-").strip()]


def with_figures(outputs: list[NotebookNode], figures: Path, place: str) -> list[NotebookNode]:
    """Outputs with each drawing and the caption after it in one piece."""
    found: list[NotebookNode] = []
    for output in outputs:
        caption = CAPTION.fullmatch(output.get("data", {}).get(MARKDOWN, ""))
        if caption and found and SVG in found[-1].get("data", {}):
            drawing = found.pop()["data"][SVG]
            found.append(
                v4.new_output("display_data", {"text/html": figure(drawing, caption, figures, place)})
            )
        else:
            found.append(output)
    return found


def figure(drawing: str, caption: re.Match[str], figures: Path, place: str) -> str:
    """HTML of a drawing that is a file of its own, so that it can be opened at its full size."""
    number, chapter_number, part, says = caption.groups()
    name = f"figure-{chapter_number}-{part}"
    figures.mkdir(parents=True, exist_ok=True)
    (figures / f"{name}.svg").write_text(drawing, encoding="utf-8")
    address, said = f"{place}/{name}.svg", escape(says)
    return (
        f'<figure class="drawn" id="{name}"><a href="{address}"><img class="dark-light" src="{address}" alt="{said}"></a>'
        f"<figcaption><strong>{number}</strong> {said}</figcaption></figure>"
    )


def colophon(name: str, manifest: dict[str, Any]) -> NotebookNode:
    """What a chapter was made from, and what it cost; of the entry of a profile's manifest."""
    entry, machine = manifest["notebooks"][name], manifest["machine"]
    device = machine["cpu"] if machine["device"] == "cpu" else f"{machine['device']}, {machine['cpu']}"
    told = {
        "command": "make reproduce",
        "commit": entry["commit"][:12],
        "dirty": " (with changes)" if entry["dirty"] else "",
        "minutes": entry["seconds"] / 60,
        "memory": entry["peak_memory_mb"] / 1024,
        "machine": f"{machine['cores']} cores ({device})",
        "name": f"as-run/{name}.ipynb",
        "title": yaml.safe_load((PACKAGE.parent / "CITATION.cff").read_text(encoding="utf-8"))["title"],
        "number": name.partition("_")[0],
    }
    return v4.new_markdown_cell(REMADE.format(**told))
