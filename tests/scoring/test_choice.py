"""Selections against rankings made by hand, the join, and the report."""

import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from score_rows import N, make_rows, messages, write

from gateau_lib import select
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import choice, score_table
from gateau_lib.scoring.score_table import LENGTHS, Table, usable


def run(scores, data, *more):
    out = data.parent / "out" / "selected.jsonl"
    assert select.main([str(scores), "--data", str(data), "--out", str(out), *more]) == 0
    return [json.loads(line) for line in out.read_bytes().splitlines()]


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
    simple = {
        "hmg": gap,
        "perplexity": [row["nll_long"] for row in rows],
        "longest": [row["n_context"] for row in rows],
    }
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
    rows[0] |= dict.fromkeys((*score_table.LENGTHS, *score_table.SCORES)) | {
        "error": "line 1: the response is empty"
    }
    rows[1] |= {"cam": None}
    rows.append(dict.fromkeys(score_table.COLUMNS) | {"error": "line 21: no 'id'"})
    scores, data = write(tmp_path, rows)
    chosen = run(scores, data, "--fraction", "1")
    said = capsys.readouterr().out
    assert (
        "records: 21" in said
        and "left out: 2 with an error in scoring; 1 with no cam" in said
        and "usable: 18" in said
    )
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
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page) and page.count("<script") == 2
    assert page.count("data:image/svg+xml;base64,") == 4 and page.count("Because é.</td>") == 20
    assert f'<td class="id">{chosen[0]["id"]}</td>' in page and "<b>r" not in page.replace("&lt;b&gt;r", "")
    assert (
        page
        == (
            run(scores, data, "--top", "4"),
            (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8"),
        )[1]
    )


def test_report_names_scores_as_the_study_does_and_cuts_between_words(tmp_path):
    rows = make_rows()
    scores, data = write(tmp_path, rows)
    text = data.read_text(encoding="utf-8").replace("Because ", "Because " + "consequently " * 40)
    data.write_text(text, encoding="utf-8")
    run(scores, data, "--top", "4")
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    assert (
        "<h1>Selection by GATEAU</h1>" in page
        and 'alt="CAM against HMG"' in page
        and 'alt="GATEAU against tokens"' in page
    )
    assert "consequently …" in page and not re.search(r"cons[a-z]*(?<!consequently) …", page)


def test_small_pool_shows_every_sample_once(tmp_path):
    run(*write(tmp_path, make_rows(3)), "--top", "1")
    assert (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8").count(
        "Because é.</td>"
    ) == 3


@given(st.permutations(range(N)), st.sampled_from(["gateau", "hmg", "longest", "random"]))
def test_ranking_does_not_depend_on_row_order(order, score):
    def ranking(rows):
        pool, _ = usable(Table(None, pa.Table.from_pylist(rows), {}), score)
        pool = pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns"))
        return choice.rank(pool, score, RankOptions())["id"].tolist()

    rows = make_rows()
    assert ranking([rows[i] for i in order]) == ranking(rows)


def with_contexts(names, contexts, sources=None):
    """Records of given contexts, and of sources if there are any."""
    records = []
    for name, context in zip(names, contexts, strict=True):
        content = [
            {"role": "user", "content": f"{context}\n\nWhy?"},
            {"role": "assistant", "content": "Because é."},
        ]
        records.append({"id": name, "messages": content} | ({"source": sources[name]} if sources else {}))
    return records


def words(seed, n=200):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(n))


def test_near_identical_contexts_leave_the_best_and_are_accounted_for(tmp_path, capsys):
    rows = make_rows()
    names = [row["id"] for row in rows]
    contexts = [words(i // 4) + f" {i}" for i in range(N)]  # five texts, four times each
    scores, data = write(tmp_path, rows, with_contexts(names, contexts))
    ranked = ids(run(scores, data, "--score", "prolong", "--fraction", "1"))
    chosen = ids(run(scores, data, "--score", "prolong", "--fraction", "1", "--dedup", "0.8"))
    best = [next(i for i in ranked if int(i[1:]) // 4 == group) for group in range(5)]
    assert chosen == [i for i in ranked if i in best]
    gone = [
        json.loads(line) for line in (tmp_path / "out" / "selected.dropped.jsonl").read_text().splitlines()
    ]
    assert [each["id"] for each in gone] == [i for i in ranked if i not in best]
    assert all(
        each["twin"] == best[int(each["id"][1:]) // 4] and 0.8 <= each["similarity"] < 1 for each in gone
    )
    assert "near-identical: 15 dropped" in capsys.readouterr().out
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    assert "Dropped as near-identical" in page and all(f"<td>{each['id']}</td>" in page for each in gone)
    distinct = run(scores, data, "--score", "prolong", "--fraction", "0.4", "--dedup", "0.8")
    assert ids(distinct) == chosen[:2]  # the fraction is one of what is distinct


SOURCES = {f"r{i:02d}": "web" if i < 14 else "books" if i < 18 else "" for i in range(N)}


@pytest.mark.parametrize(
    ("more", "limits", "k"),
    [
        (["--top", "8", "--quota", "web=2"], {"web": 2}, 8),
        (["--top", "10", "--quota", "web=0", "--quota", "books=3"], {"web": 0, "books": 3}, 10),
        (["--fraction", "0.5", "--per-source"], {"web": 7, "books": 2, "": 1}, N),
        (["--top", "3", "--per-source"], {"web": 3, "books": 3, "": 3}, N),
        (["--top", "3", "--per-source", "--quota", "web=1"], {"web": 1, "books": 3, "": 3}, N),
    ],
)
def test_quotas_limit_sources(tmp_path, more, limits, k):
    rows = make_rows()
    names = [row["id"] for row in rows]
    scores, data = write(tmp_path, rows, with_contexts(names, [words(i) for i in range(N)], SOURCES))
    wanted, taken = [], dict.fromkeys(limits, 0)
    for row in sorted(rows, key=lambda row: -row["prolong"]):
        source = SOURCES[row["id"]]
        if len(wanted) < k and taken.get(source, 0) < limits.get(source, N):
            taken[source] = taken.get(source, 0) + 1
            wanted.append(row["id"])
    assert ids(run(scores, data, "--score", "prolong", *more)) == wanted
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    row = re.search(r"<tr><td>web</td>(.*?)</tr>", page)[1]
    assert re.findall(r">(\d+)<", row) == [
        "14",
        "0",
        str(limits["web"]),
        str(sum(SOURCES[i] == "web" for i in wanted)),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--quota", "web"], "--quota web: write SOURCE=N"),
        (["--quota", "web=-1"], "write SOURCE=N"),
        (["--quota", "wob=1"], "no usable sample has this source; there are '', 'books', 'web'"),
        (["--fraction", "1.5"], "--fraction 1.5: must lie in (0, 1]"),
        (["--fraction", "nan"], "--fraction nan: must lie in (0, 1]"),
        (["--top", "0"], "--top 0: must be at least 1"),
        (["--alpha", "-0.1"], "--alpha -0.1: must lie in [0, 1]"),
        (["--dedup", "0"], "--dedup 0: must lie in (0, 1]"),
        (["--dedup", "nan"], "--dedup nan: must lie in (0, 1]"),
        (
            ["--dedup", "0.8", "--top", "20"],
            "only 10 samples are usable after near-identical ones were dropped",
        ),
        (["--out", "data.jsonl"], "this is an input; give another name"),
    ],
)
def test_bad_options_are_one_line(tmp_path, capsys, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    rows = make_rows()
    names = [row["id"] for row in rows]
    inputs = write(tmp_path, rows, with_contexts(names, [words(i // 2) for i in range(N)], SOURCES))
    before = [path.read_bytes() for path in inputs]
    assert select.main(["scores.parquet", "--data", "data.jsonl", "--out", "o.jsonl", *more]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and message in said.err
    assert [path.read_bytes() for path in inputs] == before and not (tmp_path / "o.jsonl").exists()


def test_quotas_need_sources(tmp_path, capsys):
    scores, data = write(tmp_path, make_rows())
    for more in (["--per-source"], ["--quota", "web=1"]):
        assert select.main([str(scores), "--data", str(data), "--out", str(tmp_path / "o.jsonl"), *more]) == 2
        assert "no usable record has a 'source'" in capsys.readouterr().err


def test_exact_and_adaptive_rows_never_mix(tmp_path, capsys):
    rows = [row | {"cam_mode": "exact"} for row in make_rows()]
    rows[3]["cam_mode"] = "adaptive"
    scores, data = write(tmp_path, rows)
    command = [str(scores), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]
    assert (
        select.main(command) == 2
        and "CAM is adaptive in some rows and exact in others" in capsys.readouterr().err
    )
    assert select.main([*command, "--score", "prolong"]) == 0
    assert "CAM" not in capsys.readouterr().out
    for row in rows:
        row["cam_mode"] = "adaptive"
    assert select.main([str(write(tmp_path, rows)[0]), *command[1:]]) == 0
    assert "CAM: adaptive, segment importance estimated" in capsys.readouterr().out


def test_models_are_named_and_the_shipped_pair_is_warned_of(tmp_path, capsys):
    about = {"dtype": "float32", "max_length": 4096, "segment_length": 32, "reading": "ntk", "chat": False}
    about["models"] = {
        "long": {"name": "a/long<7b>", "sha256": "1"},
        "short": {"name": "a/short", "sha256": "2"},
    }
    for shipped in (False, True):
        run(*write(tmp_path, make_rows(), about=about | {"shipped_pair": shipped}))
        said, page = (
            capsys.readouterr().out,
            (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8"),
        )
        named = "the shipped tiny pair" if shipped else "short: a/short, long: a/long<7b>"
        assert f"models: {named}, float32" in said and named.replace("<", "&lt;").replace(">", "&gt;") in page
        assert (
            "scored: at most 4,096 tokens a sample, segments of 32, short model reads by ntk, plain prompt\n"
            in said
        )
        assert (
            ("warning: the shipped tiny pair scored" in said)
            == ("<b>Warning:</b> the shipped" in page)
            == shipped
        )


def segmented(rows, contexts):
    """Rows with segments of 50 characters: the first is the most important, the last the most attended."""
    for row, context in zip(rows, contexts, strict=True):
        chars = [*range(0, len(context), 50), len(context)]
        n = len(chars) - 1
        row |= {"segment_nll": [1.0 + i / n for i in range(n)], "segment_chars": chars}
        row |= {"segment_attention": [(i + 1) / (n * (n + 1) / 2) for i in range(n)]}
    return rows


def test_important_and_attended_segments_stand_side_by_side(tmp_path):
    contexts = [words(i, 60) + " <i>end</i>" for i in range(N)]
    rows = segmented(make_rows(), contexts)
    rows[4] |= dict.fromkeys(("segment_nll", "segment_attention", "segment_chars"))
    scores, data = write(tmp_path, rows, with_contexts([row["id"] for row in rows], contexts))
    run(scores, data, "--top", "2")
    page = (tmp_path / "out" / "selected.report.html").read_text(encoding="utf-8")
    assert page.count('<div class="sides">') == page.count('<svg class="strip"') == N - 1
    assert page.count("loss 1.000, at 0% of the context") == N - 1 and "<i>end" not in page
    n = len(rows[0]["segment_nll"])
    assert f"{n:,} segments, losses from 1.000 to {2 - 1 / n:.3f}" in page
    for row, context in zip(rows, contexts, strict=True):
        if row["segment_nll"]:
            important, attended = (
                " ".join(part.split()) for part in (context[:50], context[row["segment_chars"][-2] :])
            )
            assert (
                f"<br>{important}</p>" in page and attended.replace("<", "&lt;").replace(">", "&gt;") in page
            )


def test_segments_of_other_data_are_refused(tmp_path, capsys):
    contexts = [words(i, 60) for i in range(N)]
    rows = segmented(make_rows(), contexts)
    scores, data = write(
        tmp_path, rows, with_contexts([row["id"] for row in rows], [c[:100] for c in contexts])
    )
    assert select.main([str(scores), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]) == 2
    assert (
        "the score table's segments are not those of its context; score this data again"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "o.jsonl").exists()


def test_surrogates_in_ids_and_segments_of_unknown_rows(tmp_path):
    """An id that no table can hold is an error row in scoring, and no obstacle here."""
    rows = make_rows(3)
    rows[2] |= dict.fromkeys((*score_table.LENGTHS, *score_table.SCORES)) | {
        "id": "a?",
        "error": "line 3: half of a surrogate pair",
    }
    scores, data = write(tmp_path, rows, [{"id": row["id"], "messages": messages(row["id"])} for row in rows])
    data.write_text(data.read_text().replace('"a?"', '"a\\ud800"'))
    assert len(run(scores, data, "--fraction", "1")) == 2


# What is said, and what is refused --------------------------------------------------------------------------


def test_a_tie_over_the_whole_pool_and_one_model_twice_are_said(tmp_path, capsys):
    rows = [row | {"nll_short": row["nll_long"], "hmg": 0.0} for row in make_rows()]
    scores, data = write(tmp_path, rows)
    same, tied = "both models give every response the same loss", "all 20 usable samples have the same score"
    for name, said in (("gateau", [same]), ("hmg", [same, tied]), ("cam", []), ("random", [])):
        run(scores, data, "--score", name)
        out, page = capsys.readouterr().out, (tmp_path / "out" / "selected.report.html").read_text()
        for each in (same, tied):
            assert (f"warning: {each}" in out) == (each in page) == (each in said), (name, each)


def test_samples_without_context_are_left_out_where_context_is_what_counts(tmp_path, capsys):
    rows = make_rows()
    rows[4]["n_context"] = rows[9]["n_context"] = 0
    scores, data = write(tmp_path, rows)
    for name in ("gateau", "hmg", "contrast"):
        assert not {"r04", "r09"} & set(ids(run(scores, data, "--score", name, "--fraction", "1")))
        assert "left out: 2 with no context" in capsys.readouterr().out
    for name in ("prolong", "random", "longest"):
        assert {"r04", "r09"} < set(ids(run(scores, data, "--score", name, "--fraction", "1")))
        assert "without context: 2 usable samples" in capsys.readouterr().out


def test_a_table_without_hashes_says_that_nothing_was_compared(tmp_path, capsys):
    run(*write(tmp_path, make_rows()))
    assert "whether the data changed since is not known" in capsys.readouterr().out


@pytest.mark.filterwarnings("error")
def test_quotas_that_leave_nothing_are_refused(tmp_path, capsys):
    rows = make_rows()
    names = [row["id"] for row in rows]
    scores, data = write(tmp_path, rows, with_contexts(names, [words(i) for i in range(N)], SOURCES))
    none = ["--quota", "web=0", "--quota", "books=0", "--quota", "=0"]
    line = [str(scores), "--data", str(data), "--out", str(tmp_path / "o.jsonl"), *none]
    assert select.main(line) == 2
    said = capsys.readouterr().err
    assert "--quota web=0 --quota books=0 --quota =0: nothing is left to select" in said
    assert not list(tmp_path.glob("o.*"))


def test_what_failed_in_scoring_is_told_in_summary_and_report(tmp_path, capsys):
    rows = make_rows()
    empty = dict.fromkeys((*score_table.LENGTHS, *score_table.SCORES))
    for n in (3, 5):
        rows[n] |= empty | {"error": f"line {n}: empty <response>; drop the record"}
    scores, data = write(tmp_path, rows)
    run(scores, data)
    told = "2 × empty <response>; drop the record (first: line 3, id 'r03')"
    assert f"not scored: {told}" in capsys.readouterr().out
    page = (tmp_path / "out" / "selected.report.html").read_text()
    assert told not in page and told.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#39;") in page


def test_reasons_are_counted_whatever_they_name():
    rows = [
        ("a", "sample 'a': 12 tokens, more than 9"),
        ("b", "sample 'b', segment 3: 7 tokens, more than 9"),
    ]
    rows += [("c", None), ("it's", 'sample "it\'s": the loss is NaN'), (None, "row 5: no 'id'")]
    rows += [("d", "data/x.jsonl, line 8: id 'd' was already used at line 2"), ("e", "e" * 9999)]
    assert score_table.reasons(rows, most=9) == [
        "2 × 12 tokens, more than 9 (first: id 'a')",
        '1 × the loss is NaN (first: id "it\'s")',
        "1 × no 'id' (first: row 5)",
        "1 × id 'd' was already used at line 2 (first: data/x.jsonl, line 8, id 'd')",
        f"1 × {'e' * score_table.LONGEST_REASON} … (first: id 'e')",
    ]
    assert score_table.reasons(rows, most=1)[1:] == ["4 for 4 other reasons"]
    assert score_table.reasons([("a", None)]) == []


CANARY = "<script>alert(1)</script></script><!--\u2028\"'><img src=x onerror=alert(1)>{{7*7}}<![CDATA["


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_comment(self, data):
        self.found.append(("comment", {}))


def test_nothing_of_the_data_becomes_markup(tmp_path):
    plain, evil = tmp_path / "plain", tmp_path / "evil"
    pages = []
    for folder, text in ((plain, "word"), (evil, CANARY)):
        folder.mkdir()
        rows = make_rows()
        names = [f"{row['id']}{text}" for row in rows]
        rows = [row | {"id": name} for row, name in zip(rows, names, strict=True)]
        rows[3] |= dict.fromkeys((*score_table.LENGTHS, *score_table.SCORES)) | {"error": f"line 3: {text}"}
        records = with_contexts(
            names, [f"{text} {words(i // 2, 60)}" for i in range(N)], dict.fromkeys(names, text)
        )
        for record in records:
            record["messages"][1]["content"] = text
        about = {"dtype": text, "max_length": 4, "segment_length": 3, "reading": text, "chat": False}
        about["models"] = {"long": {"name": text}, "short": {"name": text}}
        scores, data = write(folder, rows, records, about)
        run(scores, data, "--fraction", "0.5", "--quota", f"{text}=4", "--dedup", "0.5")
        pages.append(Tags((folder / "out" / "selected.report.html").read_text(encoding="utf-8")).found)
    assert pages[0] and sum(tag == "script" for tag, _ in pages[1]) == 2
    assert [tag for tag, _ in pages[1]] == [tag for tag, _ in pages[0]]
    assert not any(name.startswith("on") for _, attributes in pages[1] for name in attributes)


# Whole or not at all ----------------------------------------------------------------------------------------


def beside(out):
    return {path.name: path.read_bytes() for path in out.parent.glob(f"*{out.stem}*") if path.is_file()}


@pytest.mark.parametrize("fails", ["report", "records", "disk"])
def test_a_failed_selection_leaves_the_old_one_with_its_report(tmp_path, monkeypatch, fails):
    scores, data = write(tmp_path, make_rows())
    out = tmp_path / "out" / "selected.jsonl"
    run(scores, data, "--top", "1", "--dedup", "1")
    before = beside(out)

    def broken(*_, **__):
        raise OSError(28, "No space left on device", "x")

    where = {
        "report": (choice.report, "page"),
        "records": (choice.sharded, "originals"),
        "disk": (choice.Path, "replace"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*where[fails], broken)
        line = [str(scores), "--data", str(data), "--out", str(out), "--top", "2"]
        assert select.main(line) == 2
    if fails == "disk":  # written, and not yet in place: none rather than an old one that a new one is beside
        assert not out.exists()
    else:
        assert beside(out) == before
    assert not list(out.parent.glob(".*"))


def test_what_an_older_selection_dropped_does_not_stay(tmp_path):
    scores, data = write(tmp_path, make_rows())
    run(scores, data, "--dedup", "0.9")
    assert (tmp_path / "out" / "selected.dropped.jsonl").exists()
    left = tmp_path / "out" / f".selected.jsonl.{10**30}.part"
    left.write_text("half")
    run(scores, data)
    assert not (tmp_path / "out" / "selected.dropped.jsonl").exists() and not left.exists()


def test_half_a_surrogate_outside_the_text_stops_nothing(tmp_path):
    rows = make_rows(3)
    records = [
        {"id": row["id"], "messages": messages(row["id"]), "source": "\ud83d", "meta": "\udc00"}
        for row in rows
    ]
    scores, data = write(tmp_path, rows, records)
    assert [record["meta"] for record in run(scores, data, "--fraction", "1")] == ["\udc00"] * 3
