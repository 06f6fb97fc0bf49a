"""The site as a reader sees it: a page made here, built by sphinx; formulas of notebooks fit its column."""

from __future__ import annotations

import importlib
import re
import shutil
from html import unescape
from pathlib import Path

import nbformat
import pytest
from site_build import built

from gateau_lib.experiments import claims
from gateau_lib.study import notebooks

pytest.importorskip("myst_nb")
ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SAYS = 'AUC: from a <small> score (0.10) to "large" (0.90).'
TITLE, FORMULA = (
    "01 · Title of a chapter",
    "$$\n\\begin{aligned}\na_i &= b_i \\\\\nc &= \\sum_i a_i\n\\end{aligned}\n$$",
)


def page(text: str) -> nbformat.NotebookNode:
    """An executed notebook with a formula, and the text as the Markdown output of its one cell."""
    output = nbformat.v4.new_output(
        "display_data", {"text/markdown": text, "text/plain": "<Markdown object>"}
    )
    cell = nbformat.v4.new_code_cell("Markdown(table)", execution_count=1, outputs=[output])
    drawn = [
        nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": "<SVG object>"}),
        nbformat.v4.new_output("display_data", {"text/markdown": f"**Figure 1.1** {SAYS}", "text/plain": ""}),
    ]
    drawing = nbformat.v4.new_code_cell(
        "# NBVAL_CHECK_OUTPUT\nstyle.show(study, drawing)", execution_count=2, outputs=drawn
    )
    hidden = nbformat.v4.new_code_cell("profile: str = 'cpu'", metadata={"tags": ["parameters"]})
    prose = nbformat.v4.new_markdown_cell(f"# {TITLE}\n\n{FORMULA}")
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(metadata={"kernelspec": spec}, cells=[prose, hidden, cell, drawing])


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> str:
    """The page of a notebook whose output is a table of verdicts and a list."""
    place = tmp_path_factory.mktemp("site")
    executed = place / "results" / "cpu" / "notebooks"
    executed.mkdir(parents=True)
    table = "\n".join(
        ["| claim | verdict |", "|---|---|", *(f"| {c.statement} | holds |" for c in claims.load_claims())]
    )
    nbformat.write(page(f"{table}\n- **one** of a list\n- another\n"), executed / "01_title.ipynb")
    figures = ROOT / "results" / "cpu" / "figures"
    if figures.exists():  # README and the home page show one
        shutil.copytree(figures, place / "results" / "cpu" / "figures")
    html = built(place)
    assert (html / "_static" / "figures" / "figure-1-1.svg").read_text() == "<svg/>"
    assert len(list((html / "claims").glob("*.html"))) == len(claims.load_claims()) + 1
    return (html / "notebooks" / "01_title.html").read_text(encoding="utf-8")


def test_a_table_that_a_cell_writes_is_a_table(html):
    body = html[html.index("<article") :]
    assert body.count("<tr") == len(claims.load_claims()) + 1
    assert "<strong>one</strong> of a list</p></li>" in body
    for paragraph in re.findall(r"<p>(.*?)</p>", body, flags=re.S):
        assert paragraph.count("|") < 8, f"a table as text: {paragraph[:80]}"


def test_a_formula_keeps_its_lines_and_can_be_scrolled(html):
    (formula,) = re.findall(r'<div class="math[^>]*>(.*?)</div>', html, flags=re.S)
    assert r"\begin{aligned}" in formula and r"c &= \sum_i a_i" in unescape(formula)
    assert "_static/site.css" in html
    assert "overflow-x: auto" in (ROOT / "docs" / "_static" / "site.css").read_text(encoding="utf-8")


def test_chapters_stand_in_the_left_column_and_not_in_the_header(html):
    header = html[html.index("<header") : html.index("</header>")]
    left = html[html.index('id="pst-primary-sidebar"') : html.index("<main")]
    assert TITLE not in header and TITLE in left and "Scoring on a cluster" in left


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_a_line_of_a_formula_is_one_equation(path):
    """Two beside each other are wider than the column, and what sticks out is not shown."""
    for cell in notebooks.read(path)["cells"]:
        for formula in re.findall(r"\$\$(.*?)\$\$", notebooks.source(cell), flags=re.S):
            assert not re.search(r"\\q?quad", formula), f"write it as aligned lines: {formula[:60]}"


def test_a_figure_has_its_caption_and_says_it_to_who_cannot_see_it(html):
    body = html[html.index("<article") :]
    (shown,) = re.findall(r'<figure class="drawn" id="figure-1-1">(.*?)</figure>', body, flags=re.S)
    (alternative,) = re.findall(r'alt="(.*?)"', shown)
    assert unescape(alternative) == SAYS and unescape(shown).endswith(f"{SAYS}</figcaption>")
    assert '<a href="../_static/figures/figure-1-1.svg">' in shown


def test_machinery_is_out_of_sight(html):
    assert "NBVAL_CHECK_OUTPUT" not in html and "profile: str" not in unescape(html)
    assert html.count("<details") == 2  # both cells draw or write, so their code is folded


def test_what_a_page_shows_itself_it_does_not_look_for_elsewhere(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    chapters = importlib.import_module("chapters")
    text = (
        "You will see. With all outputs: `results/cpu/notebooks/01_data.ipynb`.\n\n"
        "[The course](course/01_data.ipynb) and [RoPE](../docs/theory.md). "
        "Wall time and peak memory, for each profile that ran, stand in "
        "`results/<profile>/manifest.json`, measured by the runner. More."
    )
    assert chapters.readable(text) == (
        "You will see.\n\n[The course](../project/course.md) and [RoPE](../theory.md). "
        "Wall time and peak memory stand at the end of this page. More."
    )
    told = chapters.titles(ROOT / "notebooks")
    assert told["05_prolong_comparison"] == "05 · ProLong" and len(told) == len(SOURCES)
    assert chapters.named("[01_a](01_a.ipynb) [b](01_a.ipynb)", {"01_a": "01 · A"}) == (
        "[01 · A](01_a.ipynb) [b](01_a.ipynb)"
    )
    for path in SOURCES:
        shown = "".join(chapters.readable(notebooks.source(cell)) for cell in notebooks.read(path)["cells"])
        assert "manifest.json`" not in shown and "With all outputs" not in shown, path.name


def test_every_claim_has_a_page(html):
    body = html[html.index('id="pst-primary-sidebar"') : html.index("<main")]
    assert 'href="../claims/index.html"' in body
