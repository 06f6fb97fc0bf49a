"""Where the site names a claim, readers come to its page; reasons of verdicts are in sight and in words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gateau_lib.experiments.ledger import Selector, load_claims
from gateau_lib.study.notebooks import read, source

ROOT = Path(__file__).parents[2]
CLAIM = "hmg-ranks-far-clean"


@pytest.fixture(scope="module")
def links():
    sys.path.insert(0, str(ROOT / "docs"))
    return importlib.import_module("claim_links")


def test_an_id_in_brackets_as_code_and_bare(links):
    text = f"Said (`{CLAIM}`); `{CLAIM}`; {CLAIM}: fails; `{CLAIM}-x`; [x](../{CLAIM}.md)."
    said = links.STATEMENTS[CLAIM]
    assert links.with_claims(text, "../claims") == (
        f"Said ([claim](../claims/{CLAIM}.md)); [`{CLAIM}`](../claims/{CLAIM}.md); "
        f"[{said}](../claims/{CLAIM}.md): fails; `{CLAIM}-x`; [x](../{CLAIM}.md)."
    )


def test_an_id_that_fills_a_cell_becomes_one_word(links):
    """The other cells say what it compares."""
    row = f"| {CLAIM} | GATEAU | Full |"
    assert links.with_claims(row, "..") == f"| [claim](../{CLAIM}.md) | GATEAU | Full |"


def test_the_verdict_stands_beside_the_claim_and_the_reason_under_it(links):
    head = "Of 2.\n\n|claim|this pair|over pairs|difference|verdict|why|\n|---|---|---|---|---|---|"
    rows = [
        "|One. `a`|1|2|3|**holds**||",
        "|Two. `b`|4|5|6|**fails**|as one of 2 claims of family skip (Holm)|",
    ]
    assert links.with_claims("\n".join([head, *rows]), "").splitlines() == [
        "Of 2.",
        "",
        "|claim|verdict|over pairs|difference|this pair|",
        "|---|---|---|---|---|",
        "|One. `a`|**holds**|2|3|1|",
        "|Two. `b`<br>*as one of 2 claims about skipped positions: reach (Holm)*|**fails**|5|6|4|",
    ]
    assert (
        links.with_claims("|claim|this pair|\n|---|---|\n|a|1|", "") == "|claim|this pair|\n|---|---|\n|a|1|"
    )


def test_no_raw_name_stands_on_a_claims_page(links):
    pages = importlib.import_module("claim_pages")
    for claim in load_claims():
        for side in (claim.value, claim.against):
            if isinstance(side, Selector):
                assert "_" not in pages.side(side), claim.id


def test_numbers_of_chapters_lead_there(links):
    chapters = importlib.import_module("chapters")
    names = chapters.titles(ROOT / "notebooks")
    assert chapters.named("(notebook `03`); Notebook 10, `99`, `03_hmg_scoring`", names) == (
        "(notebook [03](03_hmg_scoring.ipynb)); [Notebook 10](10_scoring_cost.ipynb), `99`, "
        "[03 · HMG](03_hmg_scoring.ipynb)"
    )
    for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
        for cell in read(path)["cells"]:
            if cell["cell_type"] == "markdown":
                assert "[[" not in chapters.named(source(cell), names), path.name
