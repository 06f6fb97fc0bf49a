"""What a selection's page is given: shares as CAM takes them, places as methods give them, not too much."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from score_rows import make_rows

from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, cam
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring import explorer_data
from gateau_lib.scoring.choice import rank
from gateau_lib.scoring.score_table import LENGTHS, Segments

LENGTH = 8
ROW = {"id": "a", "chosen": True, "cam": 0.1, "nll_long": 1.0, "nll_short": 2.0, "source": ""}


def ranking(n: int, score: str = "gateau", **columns) -> pd.DataFrame:
    """A ranking as `choice` makes it, its first fifth chosen."""
    pool = pd.DataFrame(make_rows(n)).assign(**columns)
    ranked = rank(pool.assign(tokens=pool[list(LENGTHS)].sum(axis="columns")), score, RankOptions())
    more = {"source": "web", "twin": None, "similarity": np.nan}
    return ranked.assign(chosen=[i < n // 5 for i in range(n)], **more)


def collected(ranked: pd.DataFrame, segments=None, quotas=None, name="gateau", length: int | None = LENGTH):
    texts = {each: Sample(each, "context " * 500, "Why?", "So.") for each in ranked["id"]}
    ends = list(ranked["id"][:2])
    about = {} if length is None else {"segment_length": length}
    return explorer_data.collect(
        ranked, ends, texts, segments or {}, quotas or {}, name, RankOptions(), about
    )


def segments(ranked: pd.DataFrame) -> dict[str, Segments]:
    """Segments of every sample whose contexts' tokens they fit."""
    found = {}
    for row in ranked.itertuples():
        n = -(-row.n_context // LENGTH)
        rng = np.random.default_rng(n)
        found[row.id] = Segments(list(rng.uniform(1, 3, n)), list(rng.dirichlet(np.ones(n))), [*range(n + 1)])
    return found


def test_shares_give_the_tables_cam():
    """The table keeps attention summed over a segment's keys; CAM averages over them."""
    rng = np.random.default_rng(0)
    layers, nll, keys = rng.dirichlet(np.ones(5), 3), rng.uniform(1, 4, 5), np.array([8, 8, 8, 8, 3])
    kept = Segments(list(nll), list((layers * keys).mean(0)), [*range(6)])
    (found,) = explorer_data.pool(pd.DataFrame([ROW | {"twin": None, "n_context": 35}]), {"a": kept}, LENGTH)
    again = cam.contextual_awareness(np.array(found["nll"]), np.array([found["attention"]]))
    assert again == pytest.approx(cam.contextual_awareness(nll, layers), abs=1e-3)
    assert "source" not in found and "twin" not in found


@pytest.mark.parametrize(("tokens", "length"), [(35, None), (41, 8), (32, 8)])
def test_segments_that_do_not_fit_the_tokens_give_no_control(tokens, length):
    kept = Segments([1.0] * 5, [0.1] * 5, [*range(6)])
    (found,) = explorer_data.pool(
        pd.DataFrame([ROW | {"twin": "b", "n_context": tokens}]), {"a": kept}, length
    )
    assert "nll" not in found and "attention" not in found and found["twin"] is True


def test_one_sample_without_segments_and_the_pool_has_none():
    ranked = ranking(20)
    known = segments(ranked)
    assert all("nll" in row for row in collected(ranked, known)["pool"])
    del known["r07"]
    found = collected(ranked, known)
    assert not any("nll" in row for row in found["pool"]) and "nll" in found["shown"][ranked["id"][0]]


def test_places_are_the_methods_own():
    ranked = ranking(20, ifd=[0.5] * 19 + [1.5])
    everybody = ranked["id"].tolist()
    found = explorer_data.places(ranked, everybody, "gateau", RankOptions())
    some = explorer_data.places(ranked, everybody[3:5], "gateau", RankOptions())
    assert some["gateau"] == {each: found["gateau"][each] for each in everybody[3:5]}
    assert list(found)[0] == "gateau" and "random" not in found and "r19" not in found["ifd"]
    assert [found["gateau"][each][1] for each in ranked["id"]] == [*range(1, 21)]
    for name in ("hmg", "cam", "prolong", "longest"):
        alone = rank(ranked.drop(columns="score"), name, RankOptions())["id"]
        assert [found[name][each][1] for each in alone] == [*range(1, 21)]
    gap = ranked.set_index("id")["hmg"]
    assert all(found["hmg"][each][0] == pytest.approx(gap[each], rel=1e-3) for each in gap.index)
    assert list(explorer_data.places(ranked, everybody, "random", RankOptions()))[0] == "random"
    assert set(found) <= set(METHODS)


def test_ties_take_places_by_id():
    ranked = ranking(9, "prolong", prolong=[1.0, 2.0, 1.0] * 3)
    found = explorer_data.places(ranked, ranked["id"].tolist(), "prolong", RankOptions())["prolong"]
    assert list(found.items()) == [
        ("r01", [2, 1]), ("r04", [2, 2]), ("r07", [2, 3]),
        *((name, [1, place]) for place, name in enumerate(("r00", "r02", "r03", "r05", "r06", "r08"), 4)),
    ]  # fmt: skip


def test_a_large_pool_is_thinned_evenly():
    ranked = ranking(3 * explorer_data.POOL, source=None)
    ranked["source"] = ["web", "books"] * (len(ranked) // 2)
    found = collected(
        ranked, quotas={"web": int(ranked.loc[ranked["chosen"], "source"].eq("web").sum()), "books": 4000}
    )
    assert len(found["pool"]) == explorer_data.POOL and found["among"] == len(ranked)
    ids = [row["id"] for row in found["pool"]]
    assert ids == sorted(ids) and {ranked["id"].iloc[0], ranked["id"].iloc[-1]} <= set(ids)
    assert found["count"] == sum(row["chosen"] for row in found["pool"]) == explorer_data.POOL // 5
    limits = dict(found["quotas"])
    assert limits["web"] == sum(row["chosen"] and row["source"] == "web" for row in found["pool"])
    assert limits["books"] == -(-4000 // 3)
    small = ranked.head(10)
    assert explorer_data.thinned(small, 10) is small and len(explorer_data.thinned(small, 3)) == 3


def test_long_contexts_thin_the_pool_and_long_texts_are_cut(monkeypatch):
    ranked = ranking(20)
    known = segments(ranked)
    monkeypatch.setattr(explorer_data, "NUMBERS", sum(2 * len(each.nll) for each in known.values()) // 2)
    assert len(collected(ranked, known)["pool"]) == 10
    monkeypatch.setattr(explorer_data, "TEXT", 0)
    first = ranked["id"][0]
    known[first].chars[-1] = 3000
    texts = collected(ranked, known)["shown"][first]["segments"]
    assert len(texts[-1]) == 82 and texts[-1].endswith(" …") and texts[0] == "c"
    assert len(collected(ranked)["shown"][first]["context"]) == explorer_data.BEGINNING + 2


def test_no_pool_where_a_part_is_missing():
    ranked = ranking(20, "prolong", nll_short=[None, *np.ones(19)])
    found = collected(ranked, name="prolong")
    assert "pool" not in found and found["listed"] == list(ranked["id"][:2])
    assert "alpha" in collected(ranking(20, "prolong"), name="prolong")
    assert collected(ranking(20, "cam"), name="cam")["alpha"] == 0.0
