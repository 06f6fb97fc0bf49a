"""A selection's page in a real browser: its formulas are the library's, its controls work, no request."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import needs_browser, rendered, told
from score_rows import make_rows, write

from gateau_lib import select
from gateau_lib.methods import cam, gateau, hmg
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import choice, explorer_page
from gateau_lib.scoring.score_table import read_scores, usable

N, LENGTH, CHARS = 30, 16, 40
EVIL = "\"'</script><!--<script>saw.push('ran')</script><img src=x onerror=saw.push(1)>\u2028]]>{{ x }}"
MADE = [("rank", 0.8), ("rank", 0.3), ("softmax_both", 0.755), ("as_released", 0.8), ("as_released", 0.0)]
MOVES = [("rank", 0.5), ("rank", 0.0), ("softmax_both", 0.3), ("as_released", 0.9), ("rank", 1.0)]
# The page's own words after its controls were set: ids in the new order, those chosen, what is said.
MOVED = """return %s.map((setting) => {
    for (const [id, value] of Object.entries(setting)) byId(id).value = value;
    byId("alpha").dispatchEvent(new Event("input"));
    const { order, chosen } = rankAnew();
    const ids = (places) => places.map((i) => data.pool[i].id);
    const bars = [...document.querySelectorAll("#ranking rect title")].map((each) => each.textContent);
    return [ids(order), ids(chosen), byId("found").textContent + byId("chosen").textContent, bars];
})"""


def scored(n: int = N, ids: Any = None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a score table with segments, CAM made of them, and the records; sources in turn."""
    rng, rows, records = np.random.default_rng(1), make_rows(n), []
    for i, row in enumerate(rows):
        segments = 3 + i % 4
        keys = np.array([LENGTH] * (segments - 1) + [1 + i % LENGTH])
        nll, layers = rng.uniform(1, 4, segments), rng.dirichlet(np.ones(segments), 2) / 50
        text = " ".join(f"w{rng.integers(5000)}" for _ in range(2 * CHARS))[: CHARS * segments]
        row |= {"id": ids[i] if ids else row["id"], "n_context": int(keys.sum()), "cam_mode": "exact"}
        row |= {"cam": cam.contextual_awareness(nll, layers), "segment_nll": list(nll)}
        row |= {"segment_attention": list((layers * keys).mean(0))}
        row |= {"segment_chars": [CHARS * k for k in range(segments + 1)]}
        turns = [{"role": "user", "content": "none"}, {"role": "assistant", "content": "Because é."}]
        record = {"id": row["id"], "source": ["web", "books", ""][i % 3], "messages": turns}
        records.append(record | {"context": text, "instruction": f"Why {i}?"})
    return rows, records


def selected(folder: Path, rows: Any, records: Any, *more: str) -> tuple[Path, list[str]]:
    """The page of a selection, and the ids that it chose."""
    about = {
        "dtype": "float32",
        "max_length": 4096,
        "segment_length": LENGTH,
        "reading": "ntk",
        "chat": False,
    }
    inputs = write(folder, rows, records, about)
    out = folder / "selected.jsonl"
    assert select.main([str(inputs[0]), "--data", str(inputs[1]), "--out", str(out), *more]) == 0
    chosen = [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").split("\n") if line]
    return out.with_suffix(".report.html"), chosen


def ranking(folder: Path, combine: str, alpha: float) -> list[str]:
    """Ids as the library ranks them."""
    kept, _ = usable(read_scores(folder / "scores.parquet"), "gateau")
    return list(choice.rank(kept, "gateau", RankOptions(combine=combine, alpha=alpha))["id"])


@needs_browser
@pytest.mark.parametrize(("combine", "alpha"), MADE)
def test_the_page_begins_with_the_selection_and_every_setting_is_the_librarys(tmp_path, combine, alpha):
    page, chosen = selected(tmp_path, *scored(), "--combine", combine, "--alpha", str(alpha), "--top", "9")
    settings = [{}, *({"variant": variant, "alpha": weight} for variant, weight in MOVES)]
    errors, found = json.loads(told(rendered(page, MOVED % json.dumps(settings))))
    assert errors == []
    order, taken, said, bars = found[0]
    assert order == ranking(tmp_path, combine, alpha) and sorted(taken) == sorted(chosen) and len(taken) == 9
    assert "The 9 chosen now are those of the selection." in said and "Enter" not in said
    assert [bar.rpartition(": ")[0] for bar in bars] == order
    for setting, (order, taken, said, _) in zip(settings[1:], found[1:], strict=True):
        assert order == ranking(tmp_path, setting["variant"], setting["alpha"]) and taken == order[:9]
        enter, leave = [i for i in taken if i not in chosen], [i for i in order[9:] if i in chosen]
        assert (f"Enter {len(enter)}: {', '.join(enter)}" in said) == bool(enter)
        assert (f"Leave {len(leave)}: {', '.join(leave)}" in said) == bool(leave)
    assert len({tuple(taken) for _, taken, *_ in found}) > 2


@needs_browser
def test_attention_can_be_softmaxed_and_the_way_back_is_a_button(tmp_path):
    rows, records = scored()
    page, chosen = selected(tmp_path, rows, records, "--alpha", "0.2")
    script = MOVED % json.dumps([{"form": "softmax", "temperature": t} for t in (0, -1, -2)])
    script = (
        script.replace("return ", "const moved = ", 1) + "; byId('again').dispatchEvent(new Event('click'));"
    )
    script += "return [moved, byId('found').textContent, byId('temperature').disabled]"
    errors, (moved, back, disabled) = json.loads(told(rendered(page, script)))
    assert errors == [] and back == f"The {len(chosen)} chosen now are those of the selection." and disabled
    guidance = hmg.homologous_models_perplexity(
        *([row[c] for row in rows] for c in ("nll_short", "nll_long"))
    )
    for logarithm, (order, *_) in zip((0, -1, -2), moved, strict=True):
        mismatch = []
        for row in rows:
            n = len(row["segment_nll"])
            keys = np.array([LENGTH] * (n - 1) + [row["n_context"] - LENGTH * (n - 1)])
            shares = np.array(row["segment_attention"]) / keys
            powers = np.exp(shares / shares.sum() / 10**logarithm)
            layers = (powers / powers.sum())[None]
            mismatch.append(cam.contextual_awareness(np.array(row["segment_nll"]), layers))
        scores = gateau.combine(guidance, mismatch, "rank", 0.2)
        best = sorted(range(N), key=lambda i: (-scores[i], rows[i]["id"]))
        assert order == [rows[i]["id"] for i in best]


@needs_browser
@pytest.mark.parametrize(
    ("score", "more", "same"),
    [
        ("gateau", ["--quota", "web=2", "--top", "9"], True),
        ("gateau", ["--per-source", "--fraction", "0.4", "--dedup", "0.8"], True),
        ("hmg", ["--top", "7"], True),
        ("cam", ["--top", "7"], True),
        ("prolong", ["--top", "7"], False),
    ],
)
def test_limits_twins_and_other_scores(tmp_path, score, more, same):
    rows, records = scored()
    for twin in (4, 5):  # contexts of their neighbours, but not in length
        records[twin] |= {"context": records[twin + 4]["context"]}
        rows[twin] |= {
            key: rows[twin + 4][key] for key in ("segment_chars", "segment_nll", "segment_attention")
        }
        rows[twin] |= {"n_context": rows[twin + 4]["n_context"]}
    page, chosen = selected(tmp_path, rows, records, "--score", score, *more)
    errors, ((_, taken, said, _),) = json.loads(told(rendered(page, MOVED % "[{}]")))
    assert errors == [] and len(taken) == len(chosen)
    assert (sorted(taken) == sorted(chosen)) == same == ("are those of the selection" in said)
    text = page.read_text(encoding="utf-8")
    assert ("The controls stand where" in text) == same and ("limits for sources" in text) == (
        "web" in str(more) or "--per-source" in more
    )


@needs_browser
def test_a_sample_is_seen_with_its_segments_scores_and_places(tmp_path):
    rows, records = scored()
    page, chosen = selected(tmp_path, rows, records)
    script = """
    const ids = [...byId("sample").options].map((each) => each.value);
    return ids.map((id) => {
        byId("sample").value = id;
        byId("sample").dispatchEvent(new Event("input"));
        const parts = [...document.querySelectorAll("#segments p")].map((each) => each.textContent);
        byId("order").value = "attention";
        byId("order").dispatchEvent(new Event("input"));
        const first = document.querySelector("#segments .note").textContent;
        byId("order").value = "";
        const lines = [...byId("scores").rows].map((row) => [...row.cells].map((each) => each.textContent));
        return [id, byId("about").textContent, parts, Number(first), lines, byId("chosen").textContent];
    })"""
    errors, seen = json.loads(told(rendered(page, script)))
    order = ranking(tmp_path, "rank", 0.8)
    assert errors == [] and [id for id, *_ in seen] == order[:10] + order[-10:]
    at = {row["id"]: i for i, row in enumerate(rows)}
    for id, about, parts, first, lines, said in seen:
        row, context = rows[at[id]], records[at[id]]["context"]
        place = order.index(id) + 1
        assert f"Place {place} of {N} by GATEAU; {'' if id in chosen else 'not '}selected" in about
        assert f"short model {row['nll_short']:.3f}, long model {row['nll_long']:.3f}" in about
        assert f"Why {at[id]}?" in about and "Because é." in about
        assert parts == [
            context[a:b] for a, b in zip(row["segment_chars"], row["segment_chars"][1:], strict=False)
        ]
        keys = [LENGTH] * (len(parts) - 1) + [row["n_context"] - LENGTH * (len(parts) - 1)]
        assert first == int(np.argmax(np.array(row["segment_attention"]) / keys))
        assert lines[0] == ["score", "value", f"place among {N}"] and lines[1][0] == "GATEAU"
        assert lines[1][2] == str(place) and f"{id}, has place {place} of {N} now" in said
        by_loss = 1 + sum(other["prolong"] > row["prolong"] for other in rows)
        assert ["ProLong", f"{row['prolong']:.4g}", str(by_loss)] in lines
        assert {"HMG", "CAM", "IFD", "one-model contrast"} <= {line[0] for line in lines}


@needs_browser
def test_texts_of_the_user_are_never_markup(tmp_path):
    ids = ["__proto__", "12", "3", EVIL, *(f"r{i}" for i in range(4, N))]
    rows, records = scored(ids=ids)
    for row, record in zip(rows, records, strict=True):
        record |= {"instruction": EVIL, "source": EVIL, "context": EVIL * 20}
        record["messages"][1]["content"] = row["id"] + EVIL
        row |= {"segment_chars": [10 * k for k in range(len(row["segment_nll"]) + 1)]}
    page, _ = selected(tmp_path, rows, records, "--top", "20", "--quota", f"{EVIL}=11")
    script = """
    const seen = [...byId("sample").options].map((each) => {
        byId("sample").value = each.value;
        byId("sample").dispatchEvent(new Event("input"));
        const texts = [...document.querySelectorAll("#about .text")].map((each) => each.textContent);
        return [each.value, ...texts, document.querySelectorAll("#segments p").length];
    });
    return [seen, document.querySelectorAll("img:not([src^=data])").length]"""
    errors, (seen, images) = json.loads(told(rendered(page, script)))
    shown = [*ranking(tmp_path, "rank", 0.8)[:10], *ranking(tmp_path, "rank", 0.8)[-10:]]
    assert errors == [] and images == 0 and [id for id, *_ in seen] == shown
    count = {row["id"]: len(row["segment_nll"]) for row in rows}
    for id, instruction, response, segments in seen:
        assert (instruction, response, segments) == (EVIL, id + EVIL, count[id])


@needs_browser
def test_nothing_is_fetched_and_it_can_be_read_in_the_dark_and_on_a_phone(tmp_path):
    rows, records = scored()
    records[3]["source"] = records[3]["instruction"] = "unbroken" * 40
    page, _ = selected(tmp_path, rows, records, "--score", "gateau", "--top", "3")
    look = """
    const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0) / 765;
    const style = getComputedStyle(document.body);
    const asked = performance.getEntriesByType("resource").map((each) => each.name);
    const fetched = asked.filter((name) => !name.startsWith("data:"));
    return [fetched, light(style.color), light(style.backgroundColor),
        document.documentElement.scrollWidth, innerWidth];"""
    for dark in (False, True):
        errors, (fetched, ink, paper, wide, screen) = json.loads(told(rendered(page, look, dark=dark)))
        assert errors == fetched == [] and wide <= screen
        assert (ink > 0.8 and paper < 0.2) if dark else (ink < 0.2 and paper > 0.8)
    # A browser without a window is never narrower than 500 pixels, a frame in it can be.
    frame = tmp_path / "frame.html"
    inside = escape(page.read_text(encoding="utf-8"))
    frame.write_text(
        f'<html><head></head><body><iframe width="390" height="800" srcdoc="{inside}"></iframe></body>'
    )
    script = """const inner = document.querySelector("iframe").contentDocument;
    const found = inner.getElementById("found").textContent;
    return [inner.documentElement.scrollWidth, inner.defaultView.innerWidth, found]"""
    errors, (wide, screen, found) = json.loads(told(rendered(frame, script)))
    assert errors == [] and wide <= screen <= 390 and "are those of the selection" in found


@needs_browser
@pytest.mark.parametrize(
    ("lacks", "controls"),
    [
        (("segment_nll", "segment_attention", "segment_chars"), ["alpha", "variant", "again", "sample"]),
        (("cam", "cam_mode", "segment_nll", "segment_attention", "segment_chars"), ["sample"]),
        (("nll_short", "hmg"), ["order", "sample"]),
    ],
)
def test_what_the_table_lacks_is_not_on_the_page(tmp_path, lacks, controls):
    rows, records = scored()
    for row in rows:
        row |= dict.fromkeys(lacks)
    page, _ = selected(tmp_path, rows, records, "--score", "gateau" if "alpha" in controls else "prolong")
    script = "return [[...document.querySelectorAll('select, input, button')].map((each) => each.id),"
    script += "byId('about').textContent, document.querySelectorAll('#segments .segment').length]"
    errors, (there, about, segments) = json.loads(told(rendered(page, script)))
    assert errors == [] and sorted(there) == sorted(controls) and bool(segments) == ("order" in controls)
    assert ("Context, its beginning" in about) == (not segments) and ("short model" in about) == (
        "nll_short" not in lacks
    )
    assert ("--methods hmg,cam" in page.read_text(encoding="utf-8")) == ("alpha" not in controls)


def test_data_cannot_end_their_element(tmp_path):
    (tmp_path / "own.html").write_text(
        '{% import "explorer_page.html" as part with context %}{{ part.scripts() }}'
    )
    (tmp_path / "own.js").write_text("explore();")
    page = explorer_page.filled(tmp_path / "own.html", json.dumps({"a": EVIL, "b": "@DATA@"}))
    inside = re.search(r'id="data">(.*?)</script>', page)
    assert inside and json.loads(inside[1]) == {"a": EVIL, "b": "@DATA@"} and "<" not in inside[1]
    assert page.rstrip().endswith("explore();\n</script>")
