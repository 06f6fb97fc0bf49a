"""The site: executed notebooks as pages, built offline; nothing is executed and nothing is loaded from elsewhere."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from gateau_lib.study.store import results_root  # noqa: E402

PAGES = HERE / "notebooks"
shutil.rmtree(PAGES, ignore_errors=True)
PAGES.mkdir()
for executed in sorted((results_root() / "cpu" / "notebooks").glob("*.ipynb")):
    if not executed.name.endswith(".failed.ipynb"):
        shutil.copy(executed, PAGES)

project = "GATEAU, ProLong and SkipAlign, studied end to end"
author = "The maintainers"
html_title = "Long-context data selection"
extensions = ["myst_nb", "sphinx-mathjax-offline"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
suppress_warnings = ["myst.xref_missing", "mystnb.unknown_mime_type"]  # links to files that are not pages

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # what a cell writes as Markdown; the default, CommonMark, has no tables
nb_ipywidgets_js = {}  # these come from another host
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_center": [],  # the chapters stand on the left
    "footer_start": [],
    "footer_end": [],
}
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["chapters.html"]}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
