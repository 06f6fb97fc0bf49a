"""Evidence taken out of a sample: against a slow reading of the shortened text, and what it says of kinds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gateau_lib.data import kinds
from gateau_lib.data.samples import Sample, encode
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import interventions
from gateau_lib.models.tiny import build_llama

WORDS, WINDOW = build_tokenizer(), 128


@pytest.fixture(scope="module")
def model():
    shape = {"hidden_size": 32, "layers": 1, "heads": 2, "rope_theta": 1000.0, "window": 512}
    built = build_llama(len(WORDS), **shape, seed=0).eval()
    with torch.no_grad():  # fresh weights are so small that the context hardly counts
        for weight in built.parameters():
            weight *= 4
    return built


def drawn() -> list[Sample]:
    chosen = ("far", "repeated", "near", "aggregate", "context_free")
    return [
        kinds.make_sample(WORDS, [1, n], kind, 400, WINDOW, f"{kind}-{n}") for n, kind in enumerate(chosen)
    ]


@torch.inference_mode()
def loss(model, context: list[int], sample: Sample) -> float:
    """Mean NLL of the response after these context tokens, all logits of one plain forward pass."""
    whole = encode(sample, WORDS)
    ids = torch.tensor([whole.start + context + whole.instruction + whole.response])
    log_p = model(ids).logits[0].log_softmax(-1)
    places = range(ids.shape[1] - len(whole.response), ids.shape[1])
    return -float(np.mean([log_p[i - 1, ids[0, i]].item() for i in places]))


def test_effects_equal_a_slow_reading_without_the_evidence(model):
    samples = drawn()
    table = interventions.effects(model, WORDS, samples, WINDOW).set_index("id")
    for sample in samples:
        context = WORDS(sample.context, add_special_tokens=False)["input_ids"]
        end = len(encode(sample, WORDS).ids) - 1
        spans = interventions.evidence_spans(sample, encode(sample, WORDS), WORDS)
        for column, gone in (("effect", spans), ("effect_far", [s for s in spans if end - s[0] > WINDOW])):
            left = [t for i, t in enumerate(context) if not any(a <= i < b for a, b in gone)]
            by_hand = loss(model, left, sample) - loss(model, context, sample) if gone else 0.0
            assert table.loc[sample.id, column] == pytest.approx(by_hand, abs=1e-4)
        nearest = min((end - a for a, _ in spans), default=np.nan)
        assert table.loc[sample.id, "distance"] == pytest.approx(nearest, nan_ok=True)


def test_only_far_evidence_is_far(model):
    table = interventions.effects(model, WORDS, drawn(), WINDOW).set_index("id")
    assert table.loc["near-2", "effect_far"] == 0 != table.loc["near-2", "effect"]
    assert table.loc["far-0", "effect_far"] == pytest.approx(table.loc["far-0", "effect"], abs=1e-6)
    assert table.loc["repeated-1", "effect_far"] != table.loc["repeated-1", "effect"]
    assert table.loc["context_free-4", "effect"] == 0


def test_evidence_that_was_cut_off_is_none(model):
    sample = drawn()[0]
    short = encode(sample, WORDS, 150)
    assert short.dropped and interventions.evidence_spans(sample, short, WORDS) == []
    table = interventions.effects(model, WORDS, [sample], WINDOW, max_length=150)
    assert table.loc[0, "effect"] == 0 and np.isnan(table.loc[0, "distance"])
    assert interventions.without(short, [(0, 2)]).context == short.context[2:]
    assert interventions.without(replace(short, context=[7, 8, 9]), [(1, 2)]).context == [7, 9]
