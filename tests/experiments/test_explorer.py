"""The explorer: it is given what the library has, and its formulas are the library's, in a browser."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import needs_browser, rendered, told

from gateau_lib.experiments import explorer
from gateau_lib.experiments.ranking import auc
from gateau_lib.methods import cam, gateau, hmg

KINDS = ("far", "near", "corrupt")


def collected(evil: str = "plain") -> explorer.Data:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(12):
        shares, kind = rng.dirichlet(np.ones(4)), KINDS[n % 3]
        readers = {"stretched": rng.random() + 0.5, "window": rng.random() + 0.5}
        rows.append(
            {
                "id": f"{kind}-{n}", "kind": kind, "far": kind == "far", "noise": kind == "corrupt",
                "long": rng.random(), "readers": readers, "nll": list(3 * rng.random(4)),
                "attention": list(shares),
            }
        )  # fmt: skip
    sample = {
        "question": evil, "segments": [evil] * 4, "evidence": [1], "tokens": ["a", "b"],
        "losses": {"long model": [0.1, 2.0]}, "scores": {"HMG as published": [0.5, 1]},
    }  # fmt: skip
    pairs = {"id": "d", "threshold": 0.1, "segments": ["one", "two", evil], "planted": [[2, 0]]}
    pairs["rows"] = [[1, 0, 0.2, 0.5, 0.1], [2, 0, 0.7, 1.0, 0.2], [2, 1, -0.3, 0.5, 0.3]]
    sizes = {"window": 64, "length": 32, "target": 512, "alpha": 0.8, "share": 0.3, "turns": [40, 10, 6]}
    return sizes | {"pool": rows, "shown": {rows[0]["id"]: sample}, "pairs": pairs}


@pytest.fixture
def page(tmp_path) -> Path:
    path = tmp_path / "explorer.html"
    path.write_text(explorer.page(explorer.text(collected()), "index.html"), encoding="utf-8")
    return path


def test_the_data_come_back_as_they_were():
    data = collected()
    assert json.loads(explorer.text(data)) == json.loads(json.dumps(data))
    assert explorer.text(data).count("\n") > len(data["pool"])  # a sample a line


def test_the_page_needs_nothing_else():
    text = explorer.page(explorer.text(collected()), "index.html")
    assert "@DATA@" not in text and "@SCRIPT@" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "") and " src=" not in text


@needs_browser
def test_texts_of_the_data_are_never_markup(tmp_path):
    evil = "</script><script>window.saw.push('ran')</script><img src=x onerror=alert(1)>"
    path = tmp_path / "evil.html"
    path.write_text(explorer.page(explorer.text(collected(evil))), encoding="utf-8")
    script = "return [document.querySelectorAll('img').length, byId('about').textContent]"
    errors, (images, about) = json.loads(told(rendered(path, script)))
    assert errors == [] and images == 0 and about.endswith(evil)


@needs_browser
def test_the_ranking_is_the_librarys_under_every_setting(page):
    settings = list(
        itertools.product(gateau.VARIANTS, ("stretched", "window"), cam.ATTENTIONS, (0.0, 0.4, 0.8))
    )
    script = f"""return {json.dumps(settings)}.map(([variant, reader, form, alpha]) => {{
        Object.entries({{ variant, reader, form, alpha }}).forEach(([id, value]) => (byId(id).value = value));
        byId("alpha").dispatchEvent(new Event("input"));
        return byId("found").textContent;
    }})"""
    errors, found = json.loads(told(rendered(page, script)))
    assert errors == [] and len(set(found)) > 5
    rows = collected()["pool"]
    needed = [row["far"] for row in rows]
    for (variant, reader, form, alpha), text in zip(settings, found, strict=True):
        hmp = hmg.homologous_models_perplexity(
            [row["readers"][reader] for row in rows], [row["long"] for row in rows]
        )
        mismatch = [
            cam.contextual_awareness(np.array(row["nll"]), np.array([row["attention"]]), attention=form)
            for row in rows
        ]
        scores = gateau.combine(hmp, mismatch, variant, alpha)
        best = np.argsort(-scores, kind="stable")[: round(0.3 * len(rows))]
        share = round(100 * np.mean([needed[i] for i in best]))
        shown = float(re.search(r"AUC (\d\.\d+)\.", text)[1])  # type: ignore[index]
        assert shown == pytest.approx(auc(needed, scores), abs=0.0051)
        assert f"{share} % need far evidence" in text


@needs_browser
def test_controls_change_what_is_shown(page):
    script = """
    const before = byId("chosen").textContent + byId("ranking").innerHTML;
    byId("form").value = "softmax";
    byId("temperature").value = "-2";
    byId("temperature").dispatchEvent(new Event("input"));
    const after = byId("chosen").textContent + byId("ranking").innerHTML;
    const squares = [...document.querySelectorAll("#matrix rect")];
    const first = byId("picked").textContent;
    squares[0].dispatchEvent(new Event("click"));
    const drawn = ["normal", "pose", "skip_outer", "skip_inner", "skip_all", "randpos"].map((strategy) => {
        const ids = skipPositions(data.turns, 512, strategy);
        const rises = ids.every((id, k) => !k || id > ids[k - 1]);
        return [strategy, ids.length, ids[0] >= 0, ids.at(-1) < 512, rises,
            ids.filter((id, k) => k && id !== ids[k - 1] + 1).length];
    });
    return [before !== after, first, byId("picked").textContent, drawn];
    """
    errors, (moved, linked, other, drawn) = json.loads(told(rendered(page, script)))
    assert errors == [] and moved
    assert "A planted link." in linked and "No planted link." in other and "Segment 0: one" in other
    assert all(length == 56 and all(valid) for _, length, *valid, _ in drawn)
    jumps = {name: jump for name, *_, jump in drawn}
    assert jumps["normal"] == 0 and jumps["pose"] <= 1 and jumps["skip_outer"] <= 2 and jumps["skip_all"] <= 4


@needs_browser
def test_on_a_phone_nothing_is_wider_than_the_screen(page):
    script = "return [document.documentElement.scrollWidth, innerWidth]"
    _, (wide, screen) = json.loads(told(rendered(page, script, width=390)))
    assert wide <= max(screen, 500)  # a browser without a window is never narrower than that
