"""The released procedures: without their defects they are the library,
and each defect changes what it says and no more."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from reference.prolong import SEGMENT as DOCUMENT_SEGMENT
from reference.prolong import document
from tiny import eager, random_encoded, random_llama
from transformers import PreTrainedTokenizerFast

from gateau_lib.methods import model_passes, pair_passes, released, released_prolong
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.methods.released import Defects
from gateau_lib.models.pair import Pair
from gateau_lib.models.rope import with_rope_theta

SEGMENT, WINDOW = 16, 128
NAMES = [field.name for field in fields(Defects)]


@pytest.fixture(scope="module")
def pair(tokenizer):
    short = random_llama(kv_heads=2)
    return Pair(short, with_rope_theta(short, 20_000.0, window=WINDOW), tokenizer)


@pytest.fixture(scope="module")
def samples():
    """Contexts of whole segments, so that padding on the left keeps their borders."""
    shapes = [(64, 5, 4), (48, 4, 2), (16, 3, 6), (96, 7, 5)]
    return [random_encoded(f"s{i}", *shape, seed=i) for i, shape in enumerate(shapes)]


def test_the_code_as_released_has_every_defect_and_none_has_none():
    assert all(getattr(Defects(), name) for name in NAMES) and not any(
        getattr(Defects.none(), name) for name in NAMES
    )
    assert Defects.only("see_padding").pad_context and not Defects.only("see_padding").all_tokens


def test_without_defects_the_gap_is_the_library_s(pair, encoded):
    short, long = released.released_hmg(pair, encoded, WINDOW, defects=Defects.none())
    np.testing.assert_allclose(long, response_nll(pair.long, encoded), rtol=1e-5)
    np.testing.assert_allclose(
        short, model_passes.short_reader_nll(pair.short, encoded, "ntk", target=WINDOW), rtol=1e-5
    )


def test_without_defects_the_vectors_are_the_library_s(pair, encoded):
    encoded = [sample for sample in encoded if sample.context]
    found = released.released_cam(pair, encoded, WINDOW, SEGMENT, defects=Defects.none())
    library = zip(
        model_passes.segment_importance(pair.long, encoded, SEGMENT),
        model_passes.long_pass(pair.long, encoded, SEGMENT),
        strict=True,
    )
    for (nll, attention), (same_nll, one) in zip(found, library, strict=True):
        np.testing.assert_allclose(nll, same_nll, rtol=1e-5)
        np.testing.assert_allclose(attention, one.attention, atol=1e-6)


# What only costs --------------------------------------------------------------------------------------------


def test_masked_padding_on_the_left_only_costs(pair, samples):
    count, padded = Counter(), Counter()
    plain = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.none(), count=count)
    found = released.released_cam(
        pair, samples, WINDOW, SEGMENT, defects=Defects.only("pad_context"), count=padded
    )
    for (nll, attention), (whole_nll, whole_attention) in zip(plain, found, strict=True):
        assert len(whole_nll) == whole_attention.shape[1] == WINDOW // SEGMENT
        np.testing.assert_allclose(whole_nll[-len(nll) :], nll, rtol=1e-5)
        np.testing.assert_allclose(whole_attention[:, -len(nll) :], attention, atol=1e-5)
        assert (whole_attention[:, : -len(nll)] == 0).all()
    assert padded["padded"] > 2 * count["padded"]


def test_empty_segments_all_say_what_the_instruction_alone_says(pair, samples):
    ((nll, _),) = released.released_cam(
        pair, samples[1:2], WINDOW, SEGMENT, defects=Defects.only("pad_context")
    )
    empty = response_nll(pair.long, [replace(samples[1], context=[])])
    np.testing.assert_allclose(nll[: (WINDOW - 48) // SEGMENT], empty[0], rtol=1e-5)


def test_late_labels_change_nothing_that_fits(pair, samples):
    np.testing.assert_allclose(
        released.released_hmg(pair, samples, WINDOW, defects=Defects.only("late_labels")),
        released.released_hmg(pair, samples, WINDOW, defects=Defects.none()),
        rtol=1e-7,
    )


# What moves numbers -----------------------------------------------------------------------------------------


def test_late_labels_lose_the_response_of_long_samples(pair):
    long = random_encoded("long", 90, 6, 8, seed=5)  # 105 tokens, 97 of them prompt
    for window, left in ((105, 8), (100, 3), (97, 0), (50, 0)):
        (_, nll) = released.released_hmg(pair, [long], window, defects=Defects.only("late_labels"))
        if left:
            kept = long.start + (long.context + long.instruction + long.response)[-(window - 1) :]
            with torch.no_grad():
                log_p = eager(pair.long)(torch.tensor([kept])).logits[0].log_softmax(-1)
            want = -np.mean([log_p[t - 1, kept[t]].item() for t in range(window - left, window)])
            assert nll[0] == pytest.approx(want, rel=1e-5)
        else:
            assert np.isnan(nll[0])
    cut = replace(long, context=long.context[40:], dropped=40)  # as `samples.encode` cuts it
    np.testing.assert_allclose(
        released.released_hmg(pair, [cut], 65, defects=Defects.only("late_labels")),
        released.released_hmg(pair, [long], 65, defects=Defects.only("late_labels")),
    )


def test_the_raw_short_reader_changes_the_short_model_only(pair, samples):
    stretched = Pair(with_rope_theta(pair.short, 1000.0, window=32), pair.long, None)
    raw = released.released_hmg(stretched, samples, WINDOW, defects=Defects.only("raw_short_reader"))
    fixed = released.released_hmg(stretched, samples, WINDOW, defects=Defects.none())
    assert np.abs(raw[0] - fixed[0]).min() > 1e-4
    np.testing.assert_allclose(raw[1], fixed[1])
    np.testing.assert_allclose(
        raw[0], model_passes.short_reader_nll(stretched.short, samples, "raw"), rtol=1e-5
    )


def test_dividing_by_all_tokens_shrinks_the_loss_by_a_known_factor(pair, samples):
    found = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.only("all_tokens"))
    exact = model_passes.segment_importance(pair.long, samples, SEGMENT)
    for sample, (nll, _), want in zip(samples, found, exact, strict=True):
        all_but_one = SEGMENT + len(sample.instruction) + len(sample.response)  # the start token is the one
        np.testing.assert_allclose(nll, want * len(sample.response) / all_but_one, rtol=1e-5)


@pytest.mark.parametrize("name", ["drop_first", "cut_parts"])
def test_lost_tokens_are_as_if_they_had_never_been_there(pair, samples, name, monkeypatch):
    monkeypatch.setattr(released, "CUT", 3)
    left = {
        "drop_first": lambda s: replace(s, start=[], instruction=s.instruction[1:], response=s.response[1:]),
        "cut_parts": lambda s: replace(s, instruction=s.instruction[:3], response=s.response[:3]),
    }
    found = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.only(name))
    changed = released.released_cam(
        pair, [left[name](s) for s in samples], WINDOW, SEGMENT, defects=Defects.none()
    )
    fixed = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.none())
    for one, other in zip(found, changed, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    assert any(np.abs(one[0] - exact[0]).max() > 1e-2 for one, exact in zip(found, fixed, strict=True))


def test_half_precision_is_a_rounding_of_the_attention(pair, samples):
    found = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.only("half_precision"))
    fixed = released.released_cam(pair, samples, WINDOW, SEGMENT, defects=Defects.none())
    for (nll, attention), (same, exact) in zip(found, fixed, strict=True):
        np.testing.assert_array_equal(nll, same)
        np.testing.assert_array_equal(attention, exact.astype(np.float16).astype(float))


def test_seen_padding_changes_the_attention_as_in_an_eager_pass(pair, samples):
    sample, seen = samples[0], Defects.only("see_padding")
    ((nll, attention),) = released.released_cam(pair, [sample], WINDOW, SEGMENT, defects=seen)
    pad = [pair.long.config.pad_token_id] * (WINDOW - len(sample.context))
    first = pad + sample.start + sample.context
    ids = torch.tensor([first + sample.instruction + sample.response])
    with torch.no_grad():
        weights = eager(pair.long)(
            ids, attention_mask=torch.ones_like(ids), output_attentions=True
        ).attentions
    real = torch.ones(ids.shape[1])
    real[: len(pad)] = 0
    masked = (
        torch.stack(weights)[:, 0] * real
    )  # softmax over the keys that are left: the same weights, scaled up again
    rows = (masked / masked.sum(-1, keepdim=True))[:, :, -len(sample.response) :].mean((1, 2))
    begin = len(pad)  # where the start token stands
    want = (
        torch.cat([rows[:, :begin], rows[:, begin + 1 : len(first)]], 1).unflatten(1, (-1, SEGMENT)).mean(-1)
    )
    np.testing.assert_allclose(attention, want, atol=1e-6)
    plain = released.released_cam(pair, [sample], WINDOW, SEGMENT, defects=Defects.only("pad_context"))
    np.testing.assert_array_equal(nll, plain[0][0])
    assert np.abs(attention - plain[0][1]).max() > 1e-4


def test_padding_is_the_tokenizer_s_padding_token_else_its_end_of_text(pair, samples):
    """Padding that the pass sees moves the numbers; the model's configuration has no say in it."""
    plain = released.released_cam(pair, samples[:1], WINDOW, SEGMENT)[0]

    def padded_with(**tokens):
        core = pair.tokenizer.backend_tokenizer
        other = replace(pair, tokenizer=PreTrainedTokenizerFast(tokenizer_object=core, **tokens))
        return released.released_cam(other, samples[:1], WINDOW, SEGMENT)[0]

    end = padded_with(pad_token="</s>")
    for found, want in zip(padded_with(eos_token="</s>"), end, strict=True):
        np.testing.assert_array_equal(found, want)
    assert np.abs(end[1] - plain[1]).max() > 1e-4
    np.testing.assert_array_equal(padded_with(pad_token="<pad>", eos_token="</s>")[1], plain[1])


def test_what_the_released_code_cannot_score_is_said(pair, samples):
    with pytest.raises(ValueError, match="there is no other"):
        released.released_cam(pair, [random_encoded("one", 16, 3, 1, seed=1)], WINDOW, SEGMENT)
    with pytest.raises(ValueError, match="multiple"):
        released.released_cam(pair, samples, WINDOW + 1, SEGMENT)


def test_the_model_is_left_as_it_was(pair, samples):
    before = pair.long.config._attn_implementation
    released.released_cam(pair, samples[:1], WINDOW, SEGMENT)
    assert pair.long.config._attn_implementation == before


# ProLong ----------------------------------------------------------------------------------------------------


def test_prolong_is_the_library_s_where_there_are_pairs_enough_and_zero_elsewhere(pair):
    docs = [document(n * DOCUMENT_SEGMENT, seed=n) for n in (6, 7, 3)]
    options = {"segment_length": DOCUMENT_SEGMENT, "pairs": 15, "window_segments": 8}
    found = released_prolong.released_prolong(pair.long, docs, **options)
    library = pair_passes.score_documents(pair.long, docs, **options)["lds"]
    np.testing.assert_allclose(found[:2], library[:2], rtol=1e-4)
    assert found[:2].min() > 0 and found[2] == 0 and library[2] != 0


def test_prolong_turns_any_error_into_zero(pair, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(released_prolong, "_losses", fails)
    assert released_prolong.released_prolong(
        pair.long, [document(96)], segment_length=16, pairs=3, window_segments=8
    ).tolist() == [0.0]
