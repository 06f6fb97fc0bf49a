"""Measures of answers: against one sample at a time, one token at a time, and by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.generation import greedy_reference
from tiny import eager

from gateau_lib.data import world
from gateau_lib.data.longalign import write_samples
from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.data.world import Cast
from gateau_lib.evaluation import planted
from gateau_lib.evaluation.answers import (
    answer_parts,
    answer_tokens,
    exact_match,
    matches,
    normalize,
    token_f1,
)
from gateau_lib.evaluation.haystack import needle_cells, needle_map, realised_depth
from gateau_lib.evaluation.planted import (
    evaluate_all,
    evaluate_samples,
    generate,
    perplexity_by_length,
    summarise,
    teacher_forced,
)
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study
from gateau_lib.study.workers import JobError

TWO_HOPS = Sample(
    "hop", "", "Ask.", "The keeper of Ashby is Mira. The code of Mira is amber fox.", answer="amber fox"
)
LIST = Sample(
    "list",
    "",
    "Ask.",
    "The code of Mira is red fox. The code of Jonas is blue owl.",
    answer="red fox blue owl",
)


def test_teacher_forced_equals_a_loop(model, encoded, monkeypatch):
    monkeypatch.setattr(planted, "BATCH_TOKENS", 200)
    answers = [list(range(len(e.response)))[-2:] for e in encoded]
    found = teacher_forced(model, encoded, answers)
    for e, answer, row in zip(encoded, answers, found.itertuples(), strict=True):
        logits = eager(model)(input_ids=torch.tensor([e.ids])).logits[0].detach().log_softmax(-1)
        first = len(e.prompt)
        losses = [-float(logits[first + t - 1, token]) for t, token in enumerate(e.response)]
        hits = [int(logits[first + t - 1].argmax()) == token for t, token in enumerate(e.response)]
        assert row.id == e.id and row.response_nll == pytest.approx(np.mean(losses), abs=1e-5)
        assert row.nll == pytest.approx(np.mean([losses[t] for t in answer]), abs=1e-5)
        every = logits.exp()  # the probability of each token, one after the other
        assert row.probability == pytest.approx(
            math.prod(float(every[first + t - 1, e.response[t]]) for t in answer), rel=1e-4
        )
        assert row.token_accuracy == pytest.approx(np.mean([hits[t] for t in answer]))


@pytest.mark.parametrize("wrong", [None, 0, 3, 5])
def test_exact_is_what_greedy_generation_would_write(model, encoded, wrong):
    """Responses that are the model's own, or differ in one token: exact iff generation writes them."""
    own = []
    for i, e in enumerate(encoded):
        response = greedy_reference(model, e.prompt, 6, None)
        if wrong is not None and i % 2:
            response[wrong] = (response[wrong] + 1) % 259
        own.append(dataclasses.replace(e, response=response))
    answers = [range(2, 6)] * len(own)
    found = teacher_forced(model, own, answers)
    # The answer's part: generation that starts after the first two response tokens.
    starts = [greedy_reference(model, e.prompt + e.response[:2], 4, None) for e in own]
    assert found["exact"].tolist() == [start == e.response[2:] for start, e in zip(starts, own, strict=True)]
    whole = [greedy_reference(model, e.prompt, 6, None) == e.response for e in own]
    assert teacher_forced(model, own)["exact"].tolist() == whole == found["complete"].tolist()
    assert whole == [wrong is None or i % 2 == 0 for i in range(len(own))]


@pytest.mark.parametrize("batch_tokens", [1, 150, 10_000])
def test_generation_in_batches_equals_one_by_one(model, tokenizer, encoded, batch_tokens, monkeypatch):
    monkeypatch.setattr(planted, "BATCH_TOKENS", batch_tokens)
    found = generate(model, tokenizer, encoded, 8)
    expected = [greedy_reference(model, e.prompt, 8, tokenizer.eos_token_id) for e in encoded]
    assert found == [tokenizer.decode([t for t in ids if t != tokenizer.eos_token_id]) for ids in expected]


def test_generation_stops_at_the_end_token(llama, tokenizer, encoded):
    """With the token that one sample writes third as the end token, that sample stops after two."""
    ids = greedy_reference(llama, encoded[1].prompt, 8, None)
    end = next(token for token in ids[1:] if token != ids[0])
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    texts = generate(llama, tokenizer, encoded, 8)
    assert texts[1] == tokenizer.decode(ids[: ids.index(end)])
    expected = [greedy_reference(llama, e.prompt, 8, end) for e in encoded]
    assert texts == [tokenizer.decode([t for t in each if t != end]) for each in expected]


def test_normalised_as_in_squad():
    assert normalize("  The Code-word, of an ASHBY: a  fox. ") == ["codeword", "of", "ashby", "fox"]


def test_f1_by_hand():
    assert token_f1("amber fox", "amber fox") == 1
    assert token_f1("the amber owl", "amber fox") == pytest.approx(0.5)
    assert token_f1("amber amber fox", "amber fox") == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert token_f1("", "fox") == token_f1("owl", "fox") == 0 and token_f1("The.", "a") == 1


@given(
    st.lists(st.sampled_from("red blue fox owl".split())),
    st.lists(st.sampled_from("red blue fox owl".split())),
)
def test_f1_is_symmetric_and_one_only_for_equal_bags(a, b):
    f1 = token_f1(" ".join(a), " ".join(b))
    assert 0 <= f1 <= 1 and f1 == pytest.approx(token_f1(" ".join(b), " ".join(a)))
    assert (f1 == 1) == (sorted(a) == sorted(b))


def test_exact_match_wants_the_words_together_and_in_order():
    assert exact_match("It is the Amber fox!", ["amber fox"]) and not exact_match(
        "amber red fox", ["amber fox"]
    )
    assert not exact_match("amber foxes", ["amber fox"])  # words, not characters
    assert exact_match("red fox, then blue owl", ["red fox", "blue owl"])
    assert not exact_match("blue owl, red fox", ["red fox", "blue owl"])
    assert exact_match("is amber fox.What is", ["amber fox"]) and exact_match(
        "the U.S. code-word", ["U.S. code-word"]
    )


def test_frame_words_earn_nothing():
    assert matches(TWO_HOPS.response, TWO_HOPS) == (True, 1.0)
    assert matches("The keeper of Ashby is Mira. The code of Mira is red owl.", TWO_HOPS) == (False, 0.0)
    match, f1 = matches("The code of Mira is amber owl.", TWO_HOPS)
    assert not match and f1 == pytest.approx(0.5)


def test_answers_are_found_in_the_response(tokenizer):
    def texts(sample: Sample) -> list[str]:
        return [sample.response[a:b] for a, b in answer_parts(sample)]

    assert texts(TWO_HOPS) == ["amber fox"] and texts(LIST) == ["red fox", "blue owl"]
    assert texts(dataclasses.replace(LIST, answer="")) == [LIST.response]
    ids = tokenizer(LIST.response, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([ids[i] for i in answer_tokens(LIST, tokenizer)]) == "red foxblue owl"
    with pytest.raises(DataError, match="'list': the answer's 'green'"):
        answer_parts(dataclasses.replace(LIST, answer="red green"))


@pytest.mark.parametrize("seed", range(10))
def test_the_values_of_a_list_are_its_answer_and_their_frames_are_not(tokenizer, seed):
    """Lists as the planted world writes them; by hand: every value once, nothing of its sentence."""
    facts = Cast(np.random.default_rng(seed)).facts(3, "code")
    _, pieces = world.question(facts)
    response, values = "".join(text for text, _ in pieces), [fact.answer for fact in facts]
    sample = Sample("list", "", "Ask.", response, answer=" ".join(values))
    spans = answer_parts(sample)
    assert [response[a:b] for a, b in spans] == values
    assert set(answer_tokens(sample, tokenizer).tolist()) == {
        i for a, b in spans for i in range(a, b)
    }  # one token a byte
    assert matches(response, sample) == (True, 1.0)


def questions(count: int) -> list[Sample]:
    words = "amber river copper falcon cedar".split()
    return [
        Sample(
            f"q{i}", f"The code is {word}. " * (i + 1), "What is it?", f"It is {word}.", "single", (), word
        )
        for i, word in enumerate(words[:count])
    ]


def test_every_measure_of_a_sample(llama, tokenizer):
    samples = questions(5)
    found = evaluate_samples(llama, tokenizer, samples)
    encoded = [encode(s, tokenizer) for s in samples]
    assert found["id"].tolist() == [s.id for s in samples] and found["tokens"].tolist() == [
        len(e.ids) for e in encoded
    ]
    assert found["text"].tolist() == generate(
        llama, tokenizer, encoded, max(len(e.response) for e in encoded) + 1
    )
    assert found["f1"].between(0, 1).all() and not found["exact_match"].any()
    assert "text" not in evaluate_samples(llama, tokenizer, samples, generated=False)


def test_a_complete_response_is_not_generated_again(llama, tokenizer, monkeypatch):
    """What the shortcut writes is what generation writes: checked by turning the shortcut off."""
    trained = overfitted(llama, tokenizer)
    short = evaluate_samples(trained, tokenizer, questions(2))
    assert short["complete"].any() and short["exact_match"].any()
    encoded = [encode(s, tokenizer) for s in questions(2)]
    assert short["text"].tolist() == generate(
        trained, tokenizer, encoded, max(len(e.response) for e in encoded) + 1
    )


def overfitted(llama, tokenizer):
    """The tiny model after it has learned two samples by heart."""
    from gateau_lib.training.input_rows import collate, sample_row
    from gateau_lib.training.trainer import response_loss

    model, rows = copy.deepcopy(llama).train(), []
    for sample in questions(2):
        e = encode(sample, tokenizer)
        rows.append(sample_row(e, [tokenizer.eos_token_id], range(len(e.ids) + 1)))
    optimizer, batch = torch.optim.Adam(model.parameters(), lr=1e-2), collate(rows, 0)
    for _ in range(60):
        optimizer.zero_grad()
        response_loss(model, batch).backward()
        optimizer.step()
    return model.eval()


def test_all_pairs_are_evaluated_once_and_processes_change_nothing(saved_pair, tmp_path, monkeypatch):
    paths = {
        "a": write_samples(questions(3), tmp_path / "a.jsonl"),
        "b": write_samples(questions(2), tmp_path / "b.jsonl"),
    }
    folders = {"short": saved_pair[0], "long": saved_pair[1]}
    study = Study(resolve("smoke"), 0, tmp_path / "results")
    monkeypatch.setattr(planted, "at_once", lambda _: 0)
    here = evaluate_all(study, folders, paths)
    sizes = {("short", "a"): 3, ("short", "b"): 2, ("long", "a"): 3, ("long", "b"): 2}
    assert here.groupby(["model", "set"]).size().to_dict() == sizes
    alone = evaluate_samples(*planted.loading.load(saved_pair[1]), questions(3))
    pd.testing.assert_frame_equal(
        here.query("model == 'long' and set == 'a'")[alone.columns].reset_index(drop=True), alone
    )
    with monkeypatch.context() as patch:
        patch.setattr(planted, "at_once", lambda _: 2)
        patch.setattr(planted.loading, "load", None)  # all comes from the cache, and no process is started
        pd.testing.assert_frame_equal(evaluate_all(study, folders, paths), here)
    with monkeypatch.context() as patch:
        patch.setattr(planted, "at_once", lambda _: 1)
        other = Study(resolve("smoke"), 0, tmp_path / "other")
        elsewhere = evaluate_all(other, {"long": saved_pair[1]}, {"a": paths["a"]})
    pd.testing.assert_frame_equal(elsewhere[alone.columns], alone)
    with pytest.raises(JobError, match="gone on a: .*/nowhere/model"):
        evaluate_all(study, {"gone": Path("/nowhere/model")}, paths)


def test_summary_by_length():
    measures = {"nll": [1.0, 2, 3, 4], "exact": [True, False, True, True], "probability": [0.0, 1, 1, 1]}
    rows = pd.DataFrame({"kind": ["x", "x", "x", "y"], "tokens": [90, 100, 101, 200], **measures})
    found = summarise(rows, [100, 200])
    assert found["length"].tolist() == [100, 200, 200] and found["n"].tolist() == [2, 1, 1]
    assert (
        found["probability"].tolist() == [0.5, 1, 1]
        and found["nll"].tolist() == [1.5, 3, 4]
        and found["exact"].tolist() == [0.5, 1, 1]
    )
    with pytest.raises(ValueError, match="200 tokens is longer than every length"):
        summarise(rows, [100])


def needle(name: str, before: int, after: int) -> Sample:
    context = "x" * before + "needle" + "y" * after  # one token a byte
    return Sample(name, context, "Ask.", "It is.", evidence=((before, before + 6),))


def test_needle_cells_are_measured(tokenizer):
    assert (
        realised_depth(needle("a", 0, 50), tokenizer) == 0
        and realised_depth(needle("a", 50, 0), tokenizer) == 1
    )
    assert realised_depth(needle("a", 25, 75), tokenizer) == 0.25
    rest = {
        length: length - 1 - 6 - 2 - 4 - 2 - 6 for length in (100, 200)
    }  # start, needle, separators, instruction, response
    items = [needle(f"{length}-{d}", d * n, (1 - d) * n) for length, n in rest.items() for d in (0, 1)]
    cells = needle_cells(items, tokenizer, [100, 200], [0.0, 0.5, 1.0])
    assert cells["length"].tolist() == [100, 100, 200, 200] and cells["depth"].tolist() == [0, 1, 0, 1]
    rows = pd.DataFrame({"id": [item.id for item in items], "token_accuracy": [0.1, 0.2, 0.3, 0.4]})
    assert needle_map(rows, cells).to_numpy().tolist() == [[0.1, 0.3], [0.2, 0.4]]
    with pytest.raises(DataError, match="depth 0.250 lies in no cell"):
        needle_cells([needle("off", 20, 60)], tokenizer, [101], [0.0, 0.5])
    with pytest.raises(DataError, match="150 tokens"):
        needle_cells([needle("off", 0, 129)], tokenizer, [100, 200], [0.0])
    with pytest.raises(DataError, match="'200-1' of the needle map was not evaluated"):
        needle_map(rows[:3], cells)
    with pytest.raises(DataError, match="has 0"):
        realised_depth(dataclasses.replace(items[0], evidence=()), tokenizer)


def test_perplexity_by_length_scores_the_same_tail(model, encoded):
    documents = [e.ids for e in encoded if len(e.ids) > 60]
    found = perplexity_by_length(model, documents, [20, 60], tail=8)
    for row in found.itertuples():
        ids = documents[row.document][-row.length :]
        logits = eager(model)(input_ids=torch.tensor([ids])).logits[0].detach().log_softmax(-1)
        expected = -np.mean([float(logits[i - 1, ids[i]]) for i in range(row.length - 8, row.length)])
        assert math.isclose(row.nll, expected, abs_tol=1e-5)
    with pytest.raises(ValueError, match="must exceed the tail"):
        perplexity_by_length(model, documents, [8], tail=8)


def test_encoded_samples_without_context_are_read(llama):
    found = teacher_forced(llama, [Encoded("x", [1], [], [5, 6], [7, 8, 9])])
    assert len(found) == 1 and np.isfinite(found["nll"]).all()
