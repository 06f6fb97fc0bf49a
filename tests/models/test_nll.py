"""Response NLL against full eager logits, one sample at a time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.nll import slow_nll
from tiny import random_llama
from transformers import LlamaConfig

from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models import nll
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.nll import (
    NonFiniteLoss,
    OutOfMemory,
    continuation_nll,
    plan_batches,
    planned_length,
    run_batches,
)


@pytest.mark.parametrize("batch_tokens", [1, 200, 16384])  # alone; a few together; everything padded together
def test_matches_slow_reference(model, encoded, batch_tokens):
    got = continuation_nll(
        model, [s.prompt for s in encoded], [s.response for s in encoded], batch_tokens=batch_tokens
    )
    for sample, losses in zip(encoded, got, strict=True):
        assert losses.dtype == np.float64 and losses.shape == (len(sample.response),)
        np.testing.assert_allclose(losses, slow_nll(model, sample.prompt, sample.response), rtol=1e-5)


def test_response_nll_is_the_mean(model, encoded):
    want = [slow_nll(model, s.prompt, s.response).mean() for s in encoded]
    np.testing.assert_allclose(response_nll(model, encoded), want, rtol=1e-5)


def test_start_token_alone_is_a_prefix(llama):
    (got,) = continuation_nll(llama, [[1]], [[5, 6, 7]])
    np.testing.assert_allclose(got, slow_nll(llama, [1], [5, 6, 7]), rtol=1e-5)


def test_counts_real_and_padded_tokens(llama):
    count = Counter()
    continuation_nll(llama, [[1] * 10, [1] * 8, [1] * 2], [[4, 5], [4, 5], [4]], count=count)
    assert count == {
        "tokens": 25,
        "padded": 27,
        "forwards": 2,
    }  # 12 and 10 together; 3 is too short to ride with them


def test_bfloat16_model_gets_an_fp32_softmax(encoded):
    model = random_llama().to(torch.bfloat16)
    sample = encoded[0]
    (got,) = continuation_nll(model, [sample.prompt], [sample.response])
    with torch.no_grad():
        logits = model(torch.tensor([sample.ids])).logits[0, len(sample.prompt) - 1 : -1]
    want = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(sample.response), reduction="none")
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-5)


def test_the_model_is_left_as_it_was(llama, encoded):
    ids = torch.tensor([encoded[0].ids])
    with torch.no_grad():
        before = llama(ids).logits
        response_nll(llama, encoded[:2])
        after = llama(ids).logits
    assert after.shape == before.shape and torch.equal(before, after)


def test_bad_input_is_named(llama, encoded):
    with pytest.raises(ValueError, match="sequence 1: prefix and target need at least one token"):
        continuation_nll(llama, [[1], []], [[2], [2]])
    with pytest.raises(ValueError, match="sequence 0"):
        continuation_nll(llama, [[1]], [[]])
    with pytest.raises(ValueError, match="batch_tokens"):
        continuation_nll(llama, [[1]], [[2]], batch_tokens=0)


def test_non_finite_loss_names_the_sample(encoded):
    broken = random_llama()
    broken.lm_head.weight = torch.nn.Parameter(
        broken.lm_head.weight.clone()
    )  # untied: only readers of the token break
    with torch.no_grad():
        broken.model.embed_tokens.weight[encoded[3].context[0]] = float("nan")
    clean = [s for s in encoded if encoded[3].context[0] not in s.ids]
    assert len(clean) >= 2
    with pytest.raises(NonFiniteLoss, match="'s3'") as caught:
        response_nll(broken, [clean[0], encoded[3], clean[1]])
    assert caught.value.index == 1
    assert np.isfinite(response_nll(broken, clean)).all()


def test_mask_and_positions_are_always_given(llama, encoded, monkeypatch):
    """Without a mask transformers reads any jump in the positions as the start of another document."""
    seen = []
    forward = llama.forward
    monkeypatch.setattr(llama, "forward", lambda **kwargs: seen.append(kwargs) or forward(**kwargs))
    response_nll(llama, encoded)
    assert seen and all(
        (k["attention_mask"] == 1).all() and k["attention_mask"].shape == k["input_ids"].shape for k in seen
    )
    assert all((k["position_ids"] == torch.arange(k["input_ids"].shape[1])).all() for k in seen)


def test_batches_that_do_not_fit_are_halved(llama, encoded, small_memory):
    want = response_nll(llama, encoded)
    count = Counter()
    with small_memory(llama, 150) as refused:
        np.testing.assert_allclose(response_nll(llama, encoded, count=count), want, rtol=1e-6)
    assert refused and count["tokens"] == sum(len(s.ids) for s in encoded)


def test_a_sequence_that_does_not_fit_alone_is_named(llama, encoded, small_memory):
    with (
        small_memory(llama, 85) as refused,
        pytest.raises(OutOfMemory, match="sample 's1': does not fit into memory") as caught,
    ):
        response_nll(llama, encoded[:3])
    assert caught.value.index == 1 and refused[-1] == 86 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), True),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            ),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("expected scalar type Float but found Half"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, memory):
    assert is_out_of_memory(error) == memory
    if not memory:

        def run(group):
            raise error

        with pytest.raises(type(error), match=str(error)):
            run_batches([3, 3], 100, run)


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 5000), st.integers(300, 2000))
def test_halving_ends_with_every_result_in_place(lengths, batch_tokens, memory):
    """Whatever fits is run once; a size that failed is not tried again."""
    failed, passed = [], []

    def run(group):
        padded = len(group) * max(lengths[i] for i in group)
        (failed if padded > memory else passed).append(padded)
        if padded > memory:
            raise MemoryError
        return [f"result {i}" for i in group]

    assert run_batches(lengths, batch_tokens, run) == [f"result {i}" for i in range(len(lengths))]
    assert all(later < earlier for earlier, later in zip(failed, failed[1:], strict=False))
    assert len(failed) <= 13  # halved each time


class OnACard:
    """What `planned_length` asks of a model that lies on a card."""

    device = torch.device("cuda")

    def __init__(self, window: int, **rope: object) -> None:
        self.config = LlamaConfig(max_position_embeddings=window, rope_parameters={"rope_theta": 1e4, **rope})


@given(length=st.integers(1, 70_000), window=st.integers(1, 70_000))
def test_lengths_are_rounded_up_a_little_and_never_past_the_window(length, window):
    planned = planned_length(OnACard(window), length)
    assert length <= planned < length + max(8, min(256, length / 32 + 8))
    assert planned <= window or planned == length or window < length


def test_there_are_few_lengths_to_plan_for_on_a_card_and_all_on_a_cpu(llama):
    card, long = OnACard(70_000), range(8192, 65_537)
    assert len({planned_length(card, n) for n in range(1, 8192, 7)}) < 230
    assert {planned_length(card, n) for n in long[::331]} <= set(long[::256])
    assert {planned_length(llama, n) for n in range(1, 300)} == set(range(1, 300))


def test_padding_does_not_cross_the_length_past_which_positions_change():
    more = {"short_factor": [1.0] * 64, "long_factor": [2.0] * 64, "factor": 8.0}
    card = OnACard(8192, rope_type="longrope", original_max_position_embeddings=1000, **more)
    assert [planned_length(card, n) for n in (900, 993, 1001)] == [912, 993, 1008]


def test_longer_padding_changes_no_loss(llama, encoded, monkeypatch):
    before = response_nll(llama, encoded)
    monkeypatch.setattr(nll, "planned_length", lambda model, length: length + 37)
    np.testing.assert_allclose(response_nll(llama, encoded), before, rtol=1e-6)


def test_edge_keeps_two_sides_apart():
    assert plan_batches([100, 99, 101, 102], 16384) == [[3, 2, 0, 1]]
    assert plan_batches([100, 99, 101, 102], 16384, edge=100) == [[3, 2], [0, 1]]


@given(st.lists(st.integers(2, 3000), max_size=60), st.integers(1, 5000))
def test_plan_batches_covers_every_index_once(lengths, batch_tokens):
    groups = plan_batches(lengths, batch_tokens)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[i] for i in group)
        assert len(group) == 1 or len(group) * longest <= batch_tokens
        assert all(lengths[i] >= 0.75 * longest for i in group)
