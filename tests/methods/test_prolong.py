"""Long-dependency scores against loops that follow the definition word by word."""

from __future__ import annotations

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from reference.prolong import SEGMENT, document, slow_ppl, slow_score
from tiny import VOCABULARY

from gateau_lib.methods import pair_passes, prolong
from gateau_lib.models import prefixes
from gateau_lib.models.nll import NonFiniteLoss, OutOfMemory


@pytest.mark.parametrize("n_tokens", [6 * SEGMENT, 6 * SEGMENT + 5, 2 * SEGMENT])
@pytest.mark.parametrize("pairs", [6, 100])
def test_score_matches_slow_reference(model, n_tokens, pairs):
    ids = document(n_tokens, seed=n_tokens)
    chosen = [tuple(map(int, p)) for p in prolong.sample_pairs(n_tokens // SEGMENT, pairs, seed=3)]
    want = slow_score(model, ids, chosen, n_max=8)
    got = pair_passes.score_documents(
        model, [ids], segment_length=SEGMENT, pairs=pairs, window_segments=8, seed=3
    )
    assert got.loc[0, "lds"] == pytest.approx(want, rel=1e-4)
    assert got.loc[0, "pairs"] == len(chosen) and got.loc[0, "segments"] == n_tokens // SEGMENT


def test_some_score_is_above_zero(llama):
    """Otherwise the comparison with the reference would be of zeros."""
    ids = document(6 * SEGMENT, seed=6 * SEGMENT)
    assert (
        pair_passes.score_documents(llama, [ids], segment_length=SEGMENT, pairs=100, window_segments=8)[
            "lds"
        ][0]
        > 0.1
    )


def test_each_segment_is_encoded_once(llama):
    count = Counter()
    pairs = np.array([[1, 0], [2, 0], [2, 1]])
    alone, given_other = pair_passes.pair_nll(
        llama, document(3 * SEGMENT), SEGMENT, pairs, window_segments=8, count=count
    )
    assert set(alone) == {1, 2} and given_other.shape == (3,)
    assert count["tokens"] == (3 + 3) * SEGMENT


def test_pairs_outside_the_document_are_refused(llama):
    for bad in ([[3, 0]], [[1, 1]], [[0, 1]]):
        with pytest.raises(ValueError, match="i > j"):
            pair_passes.pair_nll(llama, document(3 * SEGMENT), SEGMENT, np.array(bad), window_segments=8)


def test_too_few_segments_is_no_silent_zero(llama):
    docs = [document(2 * SEGMENT - 1), [], document(4 * SEGMENT)]
    table = pair_passes.score_documents(llama, docs, segment_length=SEGMENT, pairs=10, window_segments=8)
    assert table["lds"].isna().tolist() == [True, True, False]
    assert table["pairs"].tolist() == [0, 0, 6] and table["segments"].tolist() == [1, 0, 4]


def test_segments_beyond_the_window_are_subsampled_in_order():
    ids = list(range(20 * SEGMENT + 3))
    kept = prolong.document_segments(ids, SEGMENT, 7, seed=1)
    starts = [s[0] for s in kept]
    assert (
        len(kept) == 7
        and starts == sorted(starts)
        and all(len(s) == SEGMENT and s[0] % SEGMENT == 3 for s in kept)
    )
    assert (
        kept
        == prolong.document_segments(ids, SEGMENT, 7, seed=1)
        != prolong.document_segments(ids, SEGMENT, 7, seed=2)
    )
    with pytest.raises(ValueError, match="at least 2"):
        prolong.document_segments(ids, 1, 7)


@given(st.integers(0, 70), st.integers(2, 20), st.integers(2, 9), st.booleans())
def test_segments_end_where_the_text_ends(n, length, window, from_end):
    """No token of the end is dropped, where a sample has its response; as released, none of the beginning."""
    parts = prolong.document_segments(list(range(n)), length, window, from_end=from_end)
    assert len(parts) == min(n // length, window) and all(len(part) == length for part in parts)
    if 0 < len(parts) < window:
        spare = n % length
        joined = [token for part in parts for token in part]
        assert joined == list(range(spare, n) if from_end else range(n - spare))


def test_the_response_of_a_sample_is_read(llama):
    """A document whose last tokens differ has another score, however short its last words are."""
    ids = document(5 * SEGMENT + 3, seed=2)
    options = {"segment_length": SEGMENT, "pairs": 99, "window_segments": 8}
    other = ids[:-3] + document(3, seed=77)
    a, b = (pair_passes.score_documents(llama, [text], **options).loc[0, "lds"] for text in (ids, other))
    assert a != b


def test_a_document_does_not_depend_on_its_company(llama):
    docs = [document(5 * SEGMENT, seed=s) for s in range(3)]
    options = {"segment_length": SEGMENT, "pairs": 4, "window_segments": 8}
    together = pair_passes.score_documents(llama, docs, **options)
    alone = pair_passes.score_documents(llama, docs[2:], **options)
    assert alone.loc[0, "lds"] == pytest.approx(together.loc[2, "lds"], rel=1e-9)


def test_terms_by_hand():
    alone = {2: math.log(4.0), 3: math.log(2.0)}
    pairs = np.array([[2, 0], [2, 1], [3, 0]])
    terms = prolong.dependency_terms(alone, np.log([2.0, 4.0, 3.0]), pairs, n_max=5)
    assert terms["strength"].tolist() == pytest.approx([0.5, 0.0, -0.5])
    assert terms["distance"].tolist() == pytest.approx([0.5, 0.25, 0.75])
    p = math.exp(2) / (math.exp(2) + 1)
    specificity = 1 + (p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert terms["specificity"].tolist() == pytest.approx([specificity, specificity, 1.0])
    assert prolong.long_dependency_score(terms) == pytest.approx(specificity)
    assert prolong.long_dependency_score(terms, threshold=0.5) == 0


def test_no_pairs_make_empty_terms():
    terms = prolong.dependency_terms({}, [], np.empty((0, 2)), n_max=4)
    assert list(terms) == ["i", "j", "strength", "distance", "specificity"] and len(terms) == 0
    assert prolong.long_dependency_score(terms) == 0
    with pytest.raises(ValueError, match="n_max"):
        prolong.dependency_terms({}, [], np.empty((0, 2)), n_max=1)


@given(st.integers(0, 40), st.integers(1, 900), st.integers(0, 2**32))
def test_pairs_are_ordered_and_without_replacement(n, pairs, seed):
    drawn = prolong.sample_pairs(n, pairs, seed)
    assert drawn.shape == (min(pairs, n * (n - 1) // 2), 2)
    assert len({tuple(p) for p in drawn.tolist()}) == len(drawn)
    assert all(0 <= j < i < n for i, j in drawn)
    np.testing.assert_array_equal(drawn, prolong.sample_pairs(n, pairs, seed))


@given(st.data())
def test_terms_stay_in_their_ranges(data):
    n = data.draw(st.integers(2, 12))
    pairs = prolong.sample_pairs(n, data.draw(st.integers(1, 80)), data.draw(st.integers(0, 99)))
    losses = st.floats(0, 12)
    alone = {int(i): data.draw(losses) for i in set(pairs[:, 0])}
    given_other = [data.draw(losses) for _ in pairs]
    terms = prolong.dependency_terms(alone, given_other, pairs, n_max=data.draw(st.integers(2, 12)))
    assert terms["distance"].between(0, 1).all() and terms["specificity"].between(0, 1).all()
    assert (terms["strength"] <= 1).all() and terms.notna().all(axis=None)
    assert prolong.long_dependency_score(terms) >= 0
    assert prolong.long_dependency_score(terms, 0.5) <= prolong.long_dependency_score(terms) + 1e-12


def test_equal_help_has_no_specificity():
    pairs = np.array([[3, 0], [3, 1], [3, 2]])
    terms = prolong.dependency_terms({3: 2.0}, [1.0, 1.0, 1.0], pairs, n_max=4)
    assert terms["specificity"].tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def family(kind):
    """A tiny model of a family whose cache or positions differ from Llama's."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    if kind == "opt":  # the published scorer's family: learned positions
        small = transformers.OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
            init_std=0.3, max_position_embeddings=128, word_embed_proj_dim=32,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        return transformers.OPTForCausalLM(small).eval()
    if kind == "mistral":
        return transformers.MistralForCausalLM(transformers.MistralConfig(**sizes, sliding_window=9)).eval()
    if kind == "gemma2":  # soft-capped scores, layers with and without a window
        return transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**sizes, head_dim=8, sliding_window=9)
        ).eval()
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes, head_dim=8)).eval()


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "qwen3", "opt"])
def test_shared_prefixes_in_other_families(kind, monkeypatch):
    model, ids = family(kind), document(7 * SEGMENT, seed=1)
    monkeypatch.setattr(pair_passes, "PREFIX_TOKENS", 3 * SEGMENT)  # prefixes come in groups
    pairs = prolong.sample_pairs(7, 12, seed=0)
    alone, given_other = pair_passes.pair_nll(model, ids, SEGMENT, pairs, window_segments=8)
    cut = [ids[k : k + SEGMENT] for k in range(0, len(ids), SEGMENT)]
    want = [math.log(slow_ppl(model, cut[j] + cut[i], SEGMENT - 1)) for i, j in pairs]
    np.testing.assert_allclose(given_other, want, rtol=1e-5)
    np.testing.assert_allclose(
        list(alone.values()), [math.log(slow_ppl(model, cut[i], SEGMENT - 1)) for i in alone], rtol=1e-5
    )


def test_prefixes_are_shared_where_the_cache_allows_it(llama):
    assert prefixes.reusable(llama, SEGMENT) and prefixes.reusable(family("mistral"), SEGMENT)
    assert not prefixes.reusable(family("gemma2"), SEGMENT)


class Cramped(torch.nn.Module):
    """A model that has no memory for more than ``most`` tokens a pass."""

    def __init__(self, model, most):
        super().__init__()
        self.inner, self.most, self.refused = model, most, 0

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, input_ids, **more):
        if input_ids.numel() > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError("out of memory")
        return self.inner(input_ids=input_ids, **more)


def test_batches_halve_when_memory_runs_out(llama):
    ids, pairs = document(6 * SEGMENT), prolong.sample_pairs(6, 15, seed=0)
    cramped = Cramped(llama, 2 * SEGMENT)
    alone, given_other = pair_passes.pair_nll(cramped, ids, SEGMENT, pairs, window_segments=8)
    want_alone, want = pair_passes.pair_nll(llama, ids, SEGMENT, pairs, window_segments=8)
    assert cramped.refused and alone.keys() == want_alone.keys()
    np.testing.assert_allclose(given_other, want, rtol=1e-6)
    with pytest.raises(OutOfMemory):
        pair_passes.pair_nll(Cramped(llama, SEGMENT - 1), ids, SEGMENT, pairs, window_segments=8)


def test_a_broken_loss_names_the_segment(llama):
    broken = copy.deepcopy(llama)
    broken.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="segment 1: the model's loss is NaN"):
        pair_passes.pair_nll(
            broken, document(3 * SEGMENT), SEGMENT, np.array([[1, 0], [2, 0]]), window_segments=8
        )


def test_a_model_that_keeps_no_cache_is_read_pair_by_pair():
    """The first GPT leaves nothing in its cache: a pair would have the loss of its segment alone."""
    sizes = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = transformers.OpenAIGPTConfig(vocab_size=VOCABULARY, **sizes)
    model, ids = transformers.OpenAIGPTLMHeadModel(config).eval(), document(4 * SEGMENT, seed=1)
    with pytest.raises(prefixes.NotKept):
        prefixes.read(model, [ids[:SEGMENT]])
    pairs = np.array([[1, 0], [3, 1]])
    alone, given_other = pair_passes.pair_nll(model, ids, SEGMENT, pairs, window_segments=8)
    cut = [ids[k : k + SEGMENT] for k in range(0, len(ids), SEGMENT)]
    want = [math.log(slow_ppl(model, cut[j] + cut[i], SEGMENT - 1)) for i, j in pairs]
    np.testing.assert_allclose(given_other, want, rtol=1e-5)
    assert all(abs(a - b) > 0.01 for a, b in zip(alone.values(), given_other, strict=True))
