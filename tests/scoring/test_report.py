"""The report of a selection: what stands on the page, and that nothing on it is taken for markup."""

from __future__ import annotations

import re
from base64 import b64decode

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data.samples import Sample
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import report
from gateau_lib.scoring.score_table import Segments
from gateau_lib.study.errors import DataError

N = 25
NAMES = [f"<s{i:02d}>" for i in range(N)]


def page(twins=None, **more) -> str:
    """The report of samples whose every text would be markup if it were not escaped."""
    rng = np.random.default_rng(0)
    columns = {"tokens": rng.integers(100, 2000, N), "n_dropped": 0, "chosen": [i < 5 for i in range(N)]}
    columns |= {"source": more.pop("source", "<web>"), "twin": twins, "similarity": 0.9 if twins else np.nan}
    ranked = pd.DataFrame({"id": NAMES, "score": np.linspace(1, 0, N), **columns})
    samples = {name: Sample(name, "<i>context</i> " * 9, "<b>Why?</b>", "<u>So.</u>") for name in NAMES}
    rest = {"facts": [("a <fact>", "its & value")], "left_out": [], "warnings": []} | more
    segments = rest.pop("segments", {})
    return report.page(ranked, samples, segments, {}, "longest", RankOptions(), {}, **rest)


def test_every_text_is_escaped():
    text = page(left_out=[("<id>", "<reason>")], warnings=[report.WARNING, "two <are> wrong"])
    for written in ("<s00>", "<web>", "<i>context", "<b>Why", "<u>So", "<fact>", "<id>", "<reason>", "<are>"):
        assert written not in text
    assert "its &amp; value" in text and text.count("&lt;b&gt;Why?&lt;/b&gt;") == 2 * report.ENDS
    assert report.WARNING in text and report.WARNING not in page()


def test_both_ends_and_the_selected_ones_are_marked():
    text = page()
    assert "The first 10 of the ranking" in text and "The last 10 of the ranking" in text
    assert text.count('<tr class="sample chosen">') == 5 and text.count('<tr class="sample">') == 15
    places = [
        int(place) for place in re.findall(r'<tr class="sample[^>]*>\n<td class="n"[^>]*>(\d+)</td>', text)
    ]
    assert places == [*range(1, 11), *range(N - 9, N + 1)]


def test_a_long_list_is_cut_and_says_so():
    left_out = [(f"r{i}", "why & how") for i in range(report.LISTED + 1003)]
    text = page(left_out=left_out)
    assert text.count("why &amp; how") == report.LISTED and "and 1,003 more" in text
    whole = page(left_out=left_out[: report.LISTED])
    assert whole.count("why &amp; how") == report.LISTED and " more</p>" not in whole


def test_dots_are_thinned_and_the_page_says_so(monkeypatch):
    assert "The dots are" not in page()
    monkeypatch.setattr(report, "DOTS", 10)
    text = page()
    assert "The dots are 10 of the 25 usable samples, spread evenly over the ranking" in text
    images = [b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)]
    (dots,) = [image for image in images if "PathCollection" in image]
    parts = re.findall(r'<g id="PathCollection_\d+">(.*?)\n   </g>', dots, flags=re.S)
    assert sum(part.count("<use ") for part in parts) == 10 + 2  # one for each line of the legend


def test_long_ids_and_reasons_are_cut():
    text = page(left_out=[("i" * 10_000, "why " * 10_000)])
    assert "i" * 300 not in text and text.count("why ") <= report.SNIPPET and "…</td>" in text


def test_parts_without_rows_are_left_out():
    text = page()
    for head in ("Dropped as near-identical", "Left out", "How to read", "without near-identical", "Warning"):
        assert head not in text
    bare = page(source="")
    assert "<th>usable</th>" in text and "<th>usable</th>" not in bare


def test_near_identical_samples_are_listed_and_not_shown():
    text = page(twins=[None] * (N - 3) + ["<s00>"] * 3)
    assert text.count("<td>0.900</td>") == 3 and "<td>without near-identical</td>" in text
    assert text.count('<tr class="sample') == 2 * report.ENDS and '<td class="id">&lt;s24&gt;' not in text


def test_segments_in_both_lists_are_shaded():
    found = Segments([0.5, 2, 3, 4, 5], [0.5, 0.2, 0.1, 0.15, 0.05], [0, 10, 20, 30, 40, 50])
    text = page(segments={"<s00>": found})
    assert text.count("<p class=both>") == 4  # segments 0 and 1, each in two lists
    assert "loss 0.500, at 0% of the context" in text and "15.0% of the attention, at 22% of" in text
    assert "5 segments, losses from 0.500 to 5.000" in text and text.count('<svg class="strip"') == 1
    # The lowest loss reaches the top of the strip, the largest attention its bottom.
    assert 'd="M0 0L0 -20H1' in text and 'd="M0 0L0 20H1' in text


@pytest.mark.parametrize("chars", [[0, 10], [0, 10, 10_000]])
def test_segments_that_do_not_fit_are_refused(chars):
    with pytest.raises(DataError, match="'<s00>': the score table's segments are not those of its context"):
        page(segments={"<s00>": Segments([1.0, 2.0], [0.5, 0.5], chars)})


def test_snippets_end_between_words_if_there_are_any():
    assert report.snippet(" a\n b ") == "a b"
    assert report.snippet("word " * 100).endswith("word …")
    assert report.snippet("字" * 400) == "字" * report.SNIPPET + " …"
