"""Positions, packing and masks: against their definitions, an explicit 4-D mask and one sample at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import eager, random_encoded
from transformers import LlamaForCausalLM

from gateau_lib.methods.skipalign import STRATEGIES, sample_turns, skip_positions
from gateau_lib.training.input_rows import IGNORED, Row, collate, pack_rows, sample_row

TARGET = 120
turns_lists = st.lists(st.integers(1, 30), min_size=1, max_size=4).filter(lambda t: sum(t) <= TARGET)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def reference_losses(model: LlamaForCausalLM, row: Row) -> torch.Tensor:
    """One row, unpadded, eager attention under an explicit causal mask, loss by loss."""
    n = len(row.input_ids)
    mask = torch.full((n, n), float("-inf")).triu(1)[None, None]
    ids, positions = torch.tensor([row.input_ids]), torch.tensor([row.position_ids])
    logits = eager(model)(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False).logits[
        0
    ]
    probabilities = torch.log_softmax(logits, -1)
    return torch.stack(
        [-probabilities[i - 1, label] for i, label in enumerate(row.labels) if label != IGNORED]
    )


def losses(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Losses of all labelled tokens of a batch, from full logits."""
    labels = batch["labels"]
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits
    wanted = labels[:, 1:] != IGNORED
    return torch.nn.functional.cross_entropy(logits[:, :-1][wanted], labels[:, 1:][wanted], reduction="none")


@given(
    turns_lists,
    st.sampled_from(STRATEGIES),
    st.integers(0, 5),
    st.integers(0, 10**6),
    st.sampled_from(["uniform", "full"]),
)
def test_positions_increase_and_stay_below_the_target(turns, strategy, jumps, seed, reach):
    positions = skip_positions(turns, TARGET, strategy, rng(seed), jumps, reach=reach)
    assert positions.shape == (sum(turns),) and positions[0] >= 0 and positions[-1] < TARGET
    assert (np.diff(positions) >= 1).all()
    if strategy != "randpos":
        assert positions[0] == 0


@given(turns_lists, st.integers(0, 5), st.integers(0, 10**6))
def test_jumps_lie_where_the_strategy_says(turns, jumps, seed):
    starts = set(np.cumsum(turns)[:-1].tolist())

    def places(strategy: str) -> set[int]:
        return set(
            (
                np.flatnonzero(np.diff(skip_positions(turns, TARGET, strategy, rng(seed), jumps)) > 1) + 1
            ).tolist()
        )

    assert places("normal") == places("packed") == set()
    assert places("skip_outer") <= starts
    assert not places("skip_inner") & starts and len(places("skip_inner")) <= jumps
    assert len(places("skip_all") - starts) <= jumps
    assert len(places("pose")) <= 1 and all(place <= (sum(turns) + 1) // 2 for place in places("pose"))


@pytest.mark.parametrize("strategy", ["pose", "skip_outer", "skip_inner", "skip_all"])
def test_total_skip_is_uniform_or_full(strategy):
    turns, slack = (10, 6), TARGET - 16
    last = np.array([skip_positions(turns, TARGET, strategy, rng(i))[-1] for i in range(2000)])
    assert last.max() - 15 > 0.98 * slack and last.min() - 15 < 0.02 * slack
    assert abs(last.mean() - 15 - slack / 2) < 4 * slack / np.sqrt(12 * 2000)
    assert skip_positions(turns, TARGET, strategy, rng(), reach="full")[-1] == TARGET - 1


def test_randpos_is_uniform_without_replacement():
    drawn = np.concatenate([skip_positions((4, 4), 16, "randpos", rng(i)) for i in range(2000)])
    assert np.allclose(np.bincount(drawn, minlength=16) / 2000, 0.5, atol=0.06)


def test_a_sample_that_does_not_fit_is_refused():
    assert (skip_positions((TARGET,), TARGET, "skip_all", rng()) == np.arange(TARGET)).all()
    with pytest.raises(ValueError, match="121 tokens does not fit a window of 120"):
        skip_positions((120, 1), TARGET, "normal", rng())
    with pytest.raises(ValueError, match="choose from normal, packed"):
        skip_positions((1,), TARGET, "outer", rng())


def test_turns_cover_the_sample():
    sample, chat = random_encoded("a", 20, 5, 4, 0), random_encoded("b", 0, 5, 4, 0)
    assert sample_turns(sample, [2]) == (26, 5) and sample_turns(chat) == (6, 4)
    assert sample_turns(sample, [2], document_turn=True) == (21, 5, 5)
    # What stands before the first text is no turn: without a document nothing is parted from the question.
    assert sample_turns(chat, document_turn=True) == (6, 4)


def skipped_rows() -> list[Row]:
    rows = []
    for i, strategy in enumerate(["skip_all", "skip_outer", "pose", "randpos"]):
        sample = random_encoded(strategy, 12 + 5 * i, 4, 3 + i, i)
        rows.append(
            sample_row(sample, [2], skip_positions(sample_turns(sample, [2]), TARGET, strategy, rng(i)))
        )
    return rows


def test_batch_of_skipped_rows_equals_one_by_one_with_an_explicit_mask(model):
    rows = skipped_rows()
    batch = collate(rows, 0)
    assert set(batch) == {"input_ids", "labels", "position_ids", "attention_mask"}
    expected = torch.cat([reference_losses(model, row) for row in rows])
    torch.testing.assert_close(losses(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_the_trap_is_still_there_without_a_mask(llama):
    """transformers reads position steps other than 1 as packing:
    if this fails, the library has changed and the text must too."""
    rows = skipped_rows()[:1]
    batch = collate(rows, 0) | {"attention_mask": None}
    assert (losses(llama, batch) - reference_losses(llama, rows[0])).abs().max() > 1e-2


def plain_rows() -> list[Row]:
    samples = [random_encoded(f"p{i}", 8 + 3 * i, 3, 2 + i, i) for i in range(4)]
    return [sample_row(s, [2], range(len(s.ids) + 1)) for s in samples]


@pytest.mark.parametrize("continuing", [False, True])
def test_packed_samples_do_not_see_each_other(model, continuing):
    rows = plain_rows()
    packed = [pack_rows(rows[:3]), pack_rows(rows[3:])]
    if continuing:  # RoPE is relative
        packed = [replace(row, position_ids=list(range(len(row.input_ids)))) for row in packed]
    assert (packed[0].position_ids[len(rows[0].input_ids)] == 0) != continuing
    batch = collate(packed, 0)
    expected = torch.cat([reference_losses(model, row) for row in rows])
    torch.testing.assert_close(losses(model, batch), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses(eager(model), batch), expected, atol=1e-5, rtol=1e-5)


def test_an_open_pack_does_see_what_stands_before(llama):
    rows = plain_rows()
    pack = pack_rows(rows, isolated=False)
    found, alone = (
        losses(llama, collate([pack], 0)),
        torch.cat([reference_losses(llama, row) for row in rows]),
    )
    torch.testing.assert_close(found, reference_losses(llama, pack), atol=1e-5, rtol=1e-5)
    first = sum(label != IGNORED for label in rows[0].labels)
    torch.testing.assert_close(found[:first], alone[:first], atol=1e-5, rtol=1e-5)
    assert (found[first:] - alone[first:]).abs().max() > 1e-2


def test_changing_one_packed_sample_changes_only_its_own_losses(llama):
    rows = plain_rows()[:3]
    other = Row([1, *reversed(rows[1].input_ids[1:])], rows[1].labels, rows[1].position_ids)
    kept = [losses(llama, collate([pack_rows([rows[0], middle, rows[2]])], 0)) for middle in (rows[1], other)]
    a, b = (sum(label != IGNORED for label in row.labels) for row in rows[:2])
    assert torch.equal(kept[0][:a], kept[1][:a]) and torch.equal(kept[0][a + b :], kept[1][a + b :])
    assert not torch.allclose(kept[0][a : a + b], kept[1][a : a + b])
