"""Selections against rankings made by hand, the join, and the report."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from gateau_lib import engine, select

N = 20


def make_rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        row = dict.fromkeys(engine.COLUMNS) | {"id": f"r{i:02d}", "n_context": 100 + 7 * i, "n_instruction": 5, "n_response": 4}
        row |= {"n_dropped": 0, "nll_short": rng.uniform(1, 3), "nll_long": rng.uniform(0.5, 2), "cam": rng.uniform(0, 0.3)}
        row |= {"ifd": rng.uniform(0.5, 0.99), "contrast": rng.normal(), "prolong": rng.uniform(0, 9)}
        rows.append(row | {"hmg": row["nll_short"] - row["nll_long"]})
    return rows


def write(folder, rows, records=None):
    scores, data = folder / "scores.parquet", folder / "data.jsonl"
    pq.write_table(pa.Table.from_pylist(rows), scores)
    if records is None:
        records = [
            {"id": row["id"], "extra": {"b": [1, None]}, "messages": messages(row["id"])} for row in rows if row["id"] is not None
        ]
    data.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return scores, data


def messages(name):
    return [{"role": "user", "content": f"Text <b>{name}</b>.\n\nWhy?"}, {"role": "assistant", "content": "Because é."}]


def run(scores, data, *more):
    out = data.parent / "out" / "selected.jsonl"
    assert select.main([str(scores), "--data", str(data), "--out", str(out), *more]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def ids(records):
    return [r["id"] for r in records]


def minmax_ppl(rows, column):
    ppl = np.exp([row[column] for row in rows])
    return (ppl - ppl.min()) / (ppl.max() - ppl.min())


def reference(rows, score, combine="rank", alpha=0.8):
    """Scores by the formulas of the papers, written out."""
    gap = minmax_ppl(rows, "nll_short") - minmax_ppl(rows, "nll_long")
    hmp, cam = np.exp(gap) / np.exp(gap).sum(), np.array([row["cam"] for row in rows])
    if score == "gateau":
        if combine == "rank":
            hmp, cam = rankdata(hmp), rankdata(cam)
        elif combine == "softmax_both":
            cam = np.exp(cam) / np.exp(cam).sum()
        return alpha * hmp + (1 - alpha) * cam
    simple = {"hmg": gap, "perplexity": [row["nll_long"] for row in rows], "longest": [row["n_context"] for row in rows]}
    return np.asarray(simple[score] if score in simple else [row[score] for row in rows])


@pytest.mark.parametrize(
    ("score", "combine"),
    [("gateau", c) for c in ("rank", "softmax_both", "as_released")]
    + [(s, "rank") for s in ("hmg", "cam", "prolong", "perplexity", "ifd", "contrast", "longest")],
)
def test_selection_is_the_top_of_the_formula(tmp_path, score, combine):
    rows = make_rows()
    wanted = reference(rows, score, combine)
    best = sorted(range(N), key=lambda i: (-round(wanted[i], 12), rows[i]["id"]))[:6]
    chosen = run(*write(tmp_path, rows), "--score", score, "--combine", combine, "--fraction", "0.3")
    assert ids(chosen) == [rows[i]["id"] for i in best]


def test_selected_records_are_the_originals(tmp_path):
    scores, data = write(tmp_path, make_rows())
    originals = {r["id"]: r for r in map(json.loads, data.read_text().splitlines())}
    chosen = run(scores, data, "--top", "5")
    assert len(chosen) == 5 and all(originals[r["id"]] == r for r in chosen)


def test_random_depends_on_seed_and_not_on_order(tmp_path):
    rows = make_rows()
    first = run(*write(tmp_path, rows), "--score", "random", "--seed", "3")
    again = run(*write(tmp_path, rows[::-1]), "--score", "random", "--seed", "3")
    other = run(*write(tmp_path, rows), "--score", "random", "--seed", "4", "--fraction", "0.5")
    assert ids(first) == ids(again) and len(other) == 10 and ids(other)[:2] != ids(first)


def test_what_is_left_out_is_counted(tmp_path, capsys):
    rows = make_rows()
    rows[0] |= dict.fromkeys((*engine.COUNTS, *engine.SCORES)) | {"error": "line 1: the response is empty"}
    rows[1] |= {"cam": None}
    rows.append(dict.fromkeys(engine.COLUMNS) | {"error": "line 21: no 'id'"})
    scores, data = write(tmp_path, rows)
    chosen = run(scores, data, "--fraction", "1")
    said = capsys.readouterr().out
    assert "records: 21" in said and "left out: 2 with an error in scoring; 1 with no cam" in said and "usable: 18" in said
    assert {"r00", "r01"} & set(ids(chosen)) == set() and len(chosen) == 18


def test_ifd_above_one_is_left_out(tmp_path):
    rows = make_rows()
    rows[7]["ifd"] = 1.5
    assert "r07" not in ids(run(*write(tmp_path, rows), "--score", "ifd", "--fraction", "1"))


def test_report_is_self_contained_and_shows_both_ends(tmp_path):
    rows = make_rows(40)
    scores, data = write(tmp_path, rows)
    chosen = run(scores, data, "--top", "4")
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:src|href)=\"(?!data:)", page) and "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 4 and page.count("Because é.") == 20
    assert f'<td class="id">{chosen[0]["id"]}</td>' in page and "<b>r" not in page.replace("&lt;b&gt;r", "")
    assert page == (run(scores, data, "--top", "4"), (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8"))[1]


def test_report_names_scores_as_the_study_does_and_cuts_between_words(tmp_path):
    rows = make_rows()
    scores, data = write(tmp_path, rows)
    text = data.read_text(encoding="utf-8").replace("Because ", "Because " + "consequently " * 40)
    data.write_text(text, encoding="utf-8")
    run(scores, data, "--top", "4")
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    assert "<h1>Selection by GATEAU</h1>" in page and 'alt="CAM against HMG"' in page and 'alt="GATEAU against tokens"' in page
    assert "consequently …" in page and not re.search(r"cons[a-z]*(?<!consequently) …", page)


def test_small_pool_shows_every_sample_once(tmp_path):
    run(*write(tmp_path, make_rows(3)), "--top", "1")
    assert (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8").count("Because é.") == 3


@given(st.permutations(range(N)), st.sampled_from(["gateau", "hmg", "longest", "random"]))
def test_ranking_does_not_depend_on_row_order(order, score):
    def ranking(rows):
        pool, _ = select.usable(rows, score, None)
        pool = pool.assign(tokens=pool[list(select.LENGTHS)].sum(axis="columns"))
        given = select.parser().parse_args(["s", "--data", "d", "--out", "o", "--score", score])
        return select.choose(pool, given)["id"].tolist()

    rows = make_rows()
    assert ranking([rows[i] for i in order]) == ranking(rows)
