"""The site: executed notebooks as pages, built offline; nothing is executed and nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import chapters  # noqa: E402
import claim_links  # noqa: E402
import claim_pages  # noqa: E402
import made_pages  # noqa: E402
import reference  # noqa: E402
import theory_figures  # noqa: E402

from gateau_lib.experiments import explorer  # noqa: E402
from gateau_lib.study.store import results_root  # noqa: E402

RESULTS = results_root() / "cpu"
MADE = ("notebooks", "_static/figures", "claims", "_extra", "_static/theory", "library", "project")
PAGES, FIGURES, CLAIMS, EXTRA, THEORY, LIBRARY, PROJECT = (HERE / name for name in MADE)
for made in map(HERE.joinpath, MADE):
    shutil.rmtree(made, ignore_errors=True)
(PAGES / "as-run").mkdir(parents=True)
recorded = json.loads((RESULTS / "manifest.json").read_text()) if (RESULTS / "manifest.json").exists() else {}
titles = chapters.titles(RESULTS / "notebooks")
for executed in sorted((RESULTS / "notebooks").glob("[0-9][0-9]_*.ipynb")):
    if not executed.name.endswith(".failed.ipynb"):
        shutil.copy(executed, PAGES / "as-run")
        ran = nbformat.read(executed, as_version=4)
        page = chapters.chapter(ran, FIGURES, "../_static/figures", titles)
        if executed.stem in recorded.get("notebooks", {}):
            page.cells.append(chapters.colophon(executed.stem, recorded))
        nbformat.write(page, PAGES / executed.name)
claim_pages.write(CLAIMS)
theory_figures.write(THEORY)
reference.write(LIBRARY)
made_pages.write(PROJECT, RESULTS, recorded)
explored = RESULTS / "tables" / f"{explorer.FILE}.json"
EXTRA.mkdir(parents=True)
if explored.exists():
    made_page = explorer.page(explored.read_text(encoding="utf-8"), "index.html")
    (EXTRA / "explorer.html").write_text(made_page, encoding="utf-8")

project = "GATEAU, ProLong and SkipAlign, studied end to end"
author = "The maintainers"
html_title = "Long-context data selection"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["_build", "notebooks/as-run"]
templates_path = ["_templates"]
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]  # links to files that are not pages

nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_render_markdown_format = "myst"  # what a cell writes as Markdown; the default, CommonMark, has no tables
nb_ipywidgets_js = {}  # these come from another host
myst_enable_extensions = ["deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_center": [],  # the chapters stand on the left
    "footer_start": [],
    "footer_end": [],
}
html_sidebars = {"**": ["chapters.html"]}
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_context = {"default_mode": "auto", "explorer": explored.exists()}
html_css_files = ["site.css"]
html_show_sourcelink = False
html_use_index = False  # it would be empty: the reference has pages of its own
html_favicon = "_static/favicon.svg"


def _lead(app: Sphinx, name: str, source: list[str]) -> None:
    """Links of a hand-written page to code lead to the library's reference; to other files, nowhere."""
    text = re.sub(r"\]\(\.\./gateau_lib/(\w+)/\w+\.py\)", r"](library/\1.md)", source[0])
    text = re.sub(r"(?<!!)\[([^]]*)\]\(\.\./(?!results/)[^)]*\)", r"\1", text)
    if "/" not in name:
        source[0] = claim_links.linked(text, "claims")


def setup(app: Sphinx) -> None:
    app.connect("source-read", _lead)
