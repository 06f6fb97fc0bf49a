"""Scores of whole pools against one plain forward pass at a time, and what the ranking makes of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tiny import eager

from gateau_lib.data import corpus, kinds, longalign, passages, samples
from gateau_lib.data.samples import segments
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import pool, ranking, selection_runs, study_corpus
from gateau_lib.methods import METHODS, cam, longattn
from gateau_lib.models import loading, rope, tiny
from gateau_lib.study import evidence, store
from gateau_lib.study.profiles import resolve

SIZES = {
    "short_model": "scratch",
    "pool_per_kind": 1,
    "noise_per_kind": 1,
    "pool_tokens": (300, 340),
    "pool_seeds": 2,
    "eval_items": 1,
}
SIZES |= {"short_pool": 1, "eval_lengths": (256,), "max_length": 330, "prolong_pairs": 6, "workers": 0}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATEAU_RESULTS", str(tmp_path_factory.mktemp("results")))
        return store.open_study("smoke", 0, **SIZES)


@pytest.fixture(scope="module")
def data(study):
    return study_corpus.prepared(study)


@pytest.fixture(scope="module")
def pair(study, data):
    """Two untrained models with weights that make losses and attention differ from sample to sample."""
    tokenizer = study_corpus.load_tokenizer(study)

    def build(out):
        for seed, name in enumerate(("short", "long")):
            sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "window": 256, "rope_theta": 1000.0}
            model = tiny.build_llama(len(tokenizer), **sizes, seed=seed)
            with torch.no_grad():
                for weight in model.parameters():
                    if weight.ndim == 2:
                        weight.normal_(std=0.2)
            model.save_pretrained(out / name)
            tokenizer.save_pretrained(out / name)

    return store.artefact(study, "pair", build, code=[tiny.build_llama])


@pytest.fixture(scope="module")
def path(data):
    return data / "pools" / "independent-0.jsonl"


@pytest.fixture(scope="module")
def read(study, pair, path):
    """The pool's samples, encoded, and a function that loads a model for plain reading."""
    _, tokenizer = loading.load(pair / "short")
    drawn = longalign.read_samples(path)
    return drawn, [samples.encode(s, tokenizer, study.profile.max_length) for s in drawn], tokenizer


def computed(study, part, pair, texts):
    return pd.read_parquet(pool.build(study, part, pair, texts).folder(study) / "scores.parquet")


@torch.no_grad()
def plain_nll(model, prefix, targets):
    logits = model(torch.tensor([prefix + targets])).logits[0, len(prefix) - 1 : -1].double()
    return -logits.log_softmax(-1)[range(len(targets)), targets].mean().item()


def test_homologous_is_one_plain_pass_a_sample(study, pair, path, read):
    _, encoded, _ = read
    short, long = (loading.load(pair / name)[0] for name in ("short", "long"))
    stretched = rope.extend_window(short, study.profile.max_length)
    table = computed(study, "homologous", pair, path)
    assert list(table["id"]) == [e.id for e in encoded] and list(table["n_tokens"]) == [
        len(e.ids) for e in encoded
    ]
    assert max(table["n_tokens"]) <= study.profile.max_length and sum(e.dropped for e in encoded) > 0
    for row, e in zip(table.itertuples(), encoded, strict=True):
        room = study.profile.short_window - len(e.start) - len(e.instruction) - len(e.response)
        cut = e.start + e.context[-room:] + e.instruction
        expected = {
            "nll_long": plain_nll(long, e.prompt, e.response),
            "nll_long_truncate": plain_nll(long, cut, e.response),
            "nll_short_ntk": plain_nll(stretched, e.prompt, e.response),
            "nll_short_truncate": plain_nll(short, cut, e.response),
            "nll_short_raw": plain_nll(short, e.prompt, e.response),
            "nll_short_ntk_each": plain_nll(rope.extend_window(short, len(e.ids)), e.prompt, e.response),
            "nll_alone": plain_nll(long, e.start, e.response),
        }
        assert {name: getattr(row, name) for name in expected} == pytest.approx(expected, abs=2e-4), e.id


@torch.no_grad()
def test_awareness_is_eager_attention_and_one_pass_a_segment(study, pair, path, read):
    drawn, encoded, tokenizer = read
    long = loading.load(pair / "long")[0]
    plain, size = eager(long), study.profile.segment_length
    table = computed(study, "awareness", pair, path).set_index("id")
    for sample, e in list(zip(drawn, encoded, strict=True))[:4]:
        row = table.loc[e.id]
        nll = [
            plain_nll(long, e.start + part + e.instruction, e.response) for part in segments(e.context, size)
        ]
        np.testing.assert_allclose(row["segment_nll"], nll, atol=2e-4)
        whole = torch.stack(plain(torch.tensor([e.ids]), output_attentions=True).attentions)[
            :, 0, :, len(e.prompt) :, :
        ]
        keys = whole.mean((1, 2))[
            :, len(e.start) : len(e.start) + len(e.context)
        ]  # heads and response tokens
        layers = np.stack([part.mean(1).numpy() for part in keys.split(size, dim=1)], axis=1)
        np.testing.assert_allclose(pool.layered(row["attention"], row["segment_nll"]), layers, atol=1e-6)
        assert row["cam_softmax_attention"] == pytest.approx(
            cam.contextual_awareness(nll, layers, attention="softmax"), abs=1e-4
        )
        assert row["cam_aligned"] == pytest.approx(1 - row["cam_default"])
        assert row["importance_range"] == pytest.approx(max(nll) - min(nll), abs=1e-3)
        held = [tokenizer.decode(segments(e.context, size)[i]) for i in row["evidence"]]
        if sample.evidence and sample.kind == "near":
            assert sample.answer.split()[-1] in " ".join(held)


def test_evidence_that_was_cut_off_is_in_no_segment(read, study):
    drawn, _, tokenizer = read
    sample = next(s for s in drawn if s.kind == "far")
    full = samples.encode(sample, tokenizer)
    (first, last), *_ = samples.evidence_tokens(sample, tokenizer)
    assert pool.evidence_segments(sample, full, tokenizer, 32) == sorted(
        {t // 32 for t in range(first, last)}
    )
    cut = samples.encode(sample, tokenizer, len(full.ids) - last)
    assert cut.dropped == last and pool.evidence_segments(sample, cut, tokenizer, 32) == []
    part = samples.encode(sample, tokenizer, len(full.ids) - last + 1)
    assert pool.evidence_segments(sample, part, tokenizer, 32) == [0]


def test_scored_joins_labels_and_scores_by_id(study, pair, data, path):
    table = pool.scored(study, pair, data, ["independent", "real"], ["homologous", "dependencies"])
    assert table.groupby(["pool", "seed"], sort=False).size().to_dict() == {
        ("independent", 0): 15, ("independent", 1): 15, ("real", 0): 6, ("real", 1): 6,
    }  # fmt: skip
    first = table[(table["pool"] == "independent") & (table["seed"] == 0)]
    drawn = longalign.read_samples(path)
    assert list(first["id"]) == [s.id for s in drawn] and list(first["kind"]) == [s.kind for s in drawn]
    assert list(first["needs_far"]) == [s.kind in kinds.NEEDS_FAR for s in drawn]
    np.testing.assert_array_equal(first["nll_long"], computed(study, "homologous", pair, path)["nll_long"])
    np.testing.assert_array_equal(first["prolong"], computed(study, "dependencies", pair, path)["prolong"])
    assert table.attrs["count"]["homologous"]["tokens"] > table["n_tokens"].sum()


def test_the_other_methods_are_scored_as_a_score_table_is(study, pair, data, path, read):
    drawn, encoded, tokenizer = read
    table = computed(study, "others", pair, path)
    asked = set(ranking.OTHERS) - set(ranking.DERIVED)
    left = {column for name in asked for column in METHODS[name].columns} - {"nll_long"}
    assert list(table) == ["id", *sorted(left)] and list(table["id"]) == [sample.id for sample in drawn]
    long = loading.load(pair / "long", study.profile.dtype)[0]
    long = rope.extend_window(long, study.profile.max_length)
    np.testing.assert_array_equal(table["longattn"], longattn.long_attention_score(long, encoded))
    whole = [len(each.ids) for each in encoded]  # by LongAttn, and for the scores of token losses
    cut = [min(tokens, study.profile.short_window) for tokens in whole]
    assert table.attrs["count"]["tokens"] == 2 * sum(whole) + sum(cut)


def test_what_asks_no_model_is_the_same_without_one(study, pair, data, path, read):
    free = pool.model_free(study, data, read[2])
    assert sorted(set(free["seed"])) == [0, 1] and set(free["pool"]) == {"independent"}
    first, scored = free[free["seed"] == 0], computed(study, "others", pair, path)
    names = [name for name in ranking.OTHERS if not METHODS[name].passes]
    assert {"zlib_contrast", "gzip_band", "word_overlap"} <= set(names) <= set(free)
    for name in set(names) & set(scored):
        np.testing.assert_array_equal(first[name], scored[name])
    assert list(first["n_tokens"]) == [len(each.ids) for each in read[1]]


def test_a_table_is_computed_once(study, pair, path, monkeypatch):
    first = computed(study, "homologous", pair, path)
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("computed again"))
    pd.testing.assert_frame_equal(computed(study, "homologous", pair, path), first)


def test_documents_are_scored_by_kind(study, pair, data):
    table = pool.scored_documents(study, pair, data)
    assert set(table["kind"]) == set(passages.DOCUMENT_KINDS) and set(table["seed"]) == {0, 1}
    assert (table["pairs"] == study.profile.prolong_pairs).all()
    assert (table["prolong"] <= table["prolong_no_specificity"] + 1e-9).all()
    assert table.attrs["count"]["documents"]["tokens"] > 0


def test_a_sample_that_cannot_be_scored_is_named(study, pair, data, tmp_path):
    short = tmp_path / "pool"
    shutil.copytree(data / "documents", short)
    (short / "0.jsonl").write_text(json.dumps({"id": "tiny", "kind": "local", "text": "The end."}) + "\n")
    with pytest.raises(Exception, match="tiny: a score is missing"):
        computed(study, "documents", pair, short / "0.jsonl")


# Rankings ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(study, pair, data):
    scores = pool.scored(study, pair, data, ["independent"], list(pool.PARTS))
    return ranking.by_pool(ranking.by_pool(scores, ranking.guidance), ranking.combined, 0.8)


def test_guidance_and_combinations_are_each_pool_by_itself(table):
    one = table[table["seed"] == 1]
    ppl = {name: np.exp(one[f"nll_{name}"].to_numpy()) for name in ("short_ntk", "long")}
    scaled = {name: (p - p.min()) / (p.max() - p.min()) for name, p in ppl.items()}
    gap = scaled["short_ntk"] - scaled["long"]
    np.testing.assert_allclose(one["hmg_minmax_ntk"], gap, atol=1e-9)
    np.testing.assert_allclose(one["hmp"], np.exp(gap) / np.exp(gap).sum())
    np.testing.assert_allclose(one["hmg_log_raw"], one["nll_short_raw"] - one["nll_long"])
    ranks = 0.8 * one["hmp"].rank() / len(one) + 0.2 * one["cam_default"].rank() / len(one)
    np.testing.assert_allclose(one["gateau_rank"], ranks)
    np.testing.assert_allclose(one["gateau_as_released"], 0.8 * one["hmp"] + 0.2 * one["cam_default"])
    ratio = one["nll_long"] / one["nll_alone"]
    np.testing.assert_allclose(one["ifd"], ratio.where(ratio <= 1, 0.0))


def test_what_is_derived_is_not_read_again(table):
    assert ranking.DERIVED == ("segment_contrast",)
    found = ranking.by_pool(table, ranking.others, 0.8)
    want = [min(nll) - whole for nll, whole in zip(table["segment_nll"], table["nll_long"], strict=True)]
    np.testing.assert_allclose(found["segment_contrast"], want)
    assert set(ranking.OTHERS) <= set(found) and np.isfinite(found[list(ranking.OTHERS)]).all(axis=None)


def test_rows_can_be_written(study, table):
    rows = ranking.auc_rows(table, ["hmp", "longest"]) + ranking.precision_rows(table, ["longest"])
    rows += ranking.correlation_rows(table, ["gateau_rank"], "hmp", "hmp")
    evidence.write_metrics(study, "05_test", rows)
    assert len(rows) == 2 * (2 + 3 + 1)
    for row in rows[:2]:
        part = table[table["seed"] == row["seed"]]
        assert row["value"] == ranking.auc(part["needs_far"], part[row["method"]]) and row["n"] == 15
    assert rows[-2]["value"] == pytest.approx(spearmanr(part["gateau_rank"], part["hmp"]).statistic)
    assert ranking.mean_table(rows[:4]).loc["longest", "independent"] == np.mean(
        [r["value"] for r in rows[1:4:2]]
    )


def test_arms_choose_from_scores_of_a_pool_and_overlap(table):
    part, profile = table[table["seed"] == 0], resolve("cpu")
    chosen = selection_runs.choices(part.drop(columns=["gateau_rank", "hmp"]), profile, seed=0)
    assert chosen["scarce_30-perplexity"] == list(part.sort_values("nll_long", ascending=False)["id"][:5])
    assert {len(ids) for name, ids in chosen.items() if name.startswith("scarce_10")} == {2}
    overlap = ranking.overlaps({name: chosen[f"scarce_30-{name}"] for name in ("full", "hmg")})
    assert (np.diag(overlap) == 1).all() and overlap.loc["full", "hmg"] == pytest.approx(1 / 3)


def test_twins_are_counted_when_both_are_chosen(data):
    chosen = {"far-002", "near_duplicate-002", "paraphrase-001", "near_duplicate-001"}
    alone = {"far-003", "near_duplicate-003", "far-004", "paraphrase-006", "near_duplicate-006"}
    assert ranking.twins([f"independent-0-{name}" for name in chosen | alone]) == 2
    drawn = [
        sample for n in range(2) for sample in longalign.read_samples(data / "pools" / f"real-{n}.jsonl")
    ]
    assert ranking.twins([sample.id for sample in drawn]) == 0


def test_twins_are_the_samples_that_ask_the_same():
    """As a corpus makes them."""
    sizes = replace(resolve("smoke"), pool_per_kind=4, noise_per_kind=1)
    drawn = corpus.candidate_pool(sizes, build_tokenizer(), "independent", 5)
    copies = [sample for sample in drawn if sample.kind == "near_duplicate"]
    for copy in copies:
        (twin,) = [s for s in drawn if s.kind != copy.kind and s.instruction == copy.instruction]
        assert ranking.twins([copy.id, twin.id]) == 1
    assert ranking.twins([sample.id for sample in drawn]) == len(copies) == 4


@given(st.lists(st.integers(0, 30), min_size=12, max_size=40), st.integers(0, 99))
def test_a_score_that_is_length_tells_nothing_within_like_lengths(lengths, seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"n_tokens": lengths, "needs_far": rng.random(len(lengths)) < 0.5})
    third = pd.qcut(frame["n_tokens"].rank(method="first"), 3, labels=False)
    value = ranking.within_lengths(frame.assign(same=third), "same")
    assert np.isnan(value) or value == 0.5
    truth = ranking.within_lengths(frame.assign(truth=frame["needs_far"].astype(float)), "truth")
    assert np.isnan(truth) or truth == 1.0
