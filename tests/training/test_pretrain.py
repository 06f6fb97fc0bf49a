"""Rows weigh what the text determines; a few steps of training run, repeat and leave the pair."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import eager
from transformers import LlamaForCausalLM

from gateau_lib.data import world
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import study_corpus
from gateau_lib.models.loading import load
from gateau_lib.models.rope import rope_theta
from gateau_lib.models.tiny import build_llama
from gateau_lib.study import store
from gateau_lib.study.profiles import resolve
from gateau_lib.training import pretrain
from gateau_lib.training.pretrain import recall_accuracy, train, weighted_loss
from gateau_lib.training.pretrain_rows import BACKGROUND_SAMPLE, BACKGROUND_WEIGHT, FAR_COPY_WEIGHT, RowMaker

WORDS = build_tokenizer()
SHAPE = {"hidden_size": 32, "layers": 2, "heads": 4, "rope_theta": 1000.0}
STAGES = {"short_stages": ((64, 2, 256), (128, 2, 256)), "long_stages": ((256, 2, 512), (512, 1, 512))}
PAIR = {
    "short_window": 128,
    "long_window": 512,
    "long_rope_factor": 20.0,
    "question_share": 0.3,
    **SHAPE,
    **STAGES,
}
CPU = torch.device("cpu")


def rows(maker: RowMaker, window: int = 256, count: int = 20) -> Iterator[tuple[str, list[int], list[float]]]:
    for _ in range(count):
        ids, weights = maker.document(window)
        yield WORDS.decode(ids[1:]), ids, weights


def parameters(model: LlamaForCausalLM) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def small(seed: int = 0) -> LlamaForCausalLM:
    return build_llama(len(WORDS), **SHAPE, window=128, seed=seed).eval()


# Rows and their weights -------------------------------------------------------------------------------------


def test_rows_have_the_asked_length_and_known_weights():
    maker = RowMaker(WORDS, 0, 0.3)
    for window in (64, 257):
        for ids, weights in (maker.document(window), maker.copying(window)):
            assert len(ids) == len(weights) == window + 1
            assert ids[0] == WORDS.bos_token_id and weights[0] == 0.0
            assert set(weights[1:]) <= {1.0, BACKGROUND_WEIGHT}


def test_word_by_word_is_how_the_tokenizer_reads_the_text():
    same = 0
    for text, ids, _ in rows(RowMaker(WORDS, 1, 0.3)):
        whole = WORDS(text, add_special_tokens=False)["input_ids"]
        if "\n\n\n" not in text:  # of three line ends either two may be taken for one token
            assert whole[:-1] == ids[1 : len(whole)], "the last word may be cut"
            same += 1
    assert same > 10


def test_a_restated_value_counts_and_was_told_before():
    found, kinds = 0, {True: 0, False: 0}
    for text, ids, weights in rows(RowMaker(WORDS, 2, 0.0)):
        assert "?" not in text
        for match in re.finditer(r"Again, the (\w+ of \w+) is ((?:\w+ )*\w+)\.", text):
            before = WORDS(text[: match.start(2) - 1], add_special_tokens=False)["input_ids"]
            place, width = 1 + len(before), len(match[2].split())
            assert weights[place : place + width] == [1.0] * width
            assert set(weights[place - 8 : place]) == {BACKGROUND_WEIGHT}, "what asks for it is news"
            fact = f"The {match[1]} is {match[2]}."
            assert any(told in text[: match.start()] for told in (fact, world.translated(fact)))
            kinds[fact in text[: match.start()]] += 1
            found += 1
        assert sum(w == 1.0 for w in weights) < len(ids) / 2
    assert found > 20 and min(kinds.values()) > found / 4, "in the tongue it was told in, and in the other"


def one_tongue(ids: list[int]) -> list[int]:
    """Ids of words with those of the second tongue in the first."""
    words = [WORDS.decode(i).strip() for i in ids]
    return [
        WORDS(f" {min(w, world.OTHER.get(w, w))}", add_special_tokens=False)["input_ids"][0] for w in words
    ]


def test_before_the_second_tongue_all_is_in_the_first():
    maker = RowMaker(WORDS, 2, 0.3)
    maker.mixed = False
    second = set(world.OTHER) - {*world.NAMES, *world.ESTATES, *world.ATTRIBUTES, *world.VALUES, "keeper"}
    texts = [text for text, _, _ in rows(maker)] + [WORDS.decode(maker.copying(64)[0])]
    assert not any(set(re.findall(r"\w+", text)) & second for text in texts)
    maker.mixed = True
    assert all(set(re.findall(r"\w+", text)) & second for text, _, _ in rows(maker))


def test_question_share_is_what_it_says():
    texts = [text for text, _, _ in rows(RowMaker(WORDS, 3, 1.0))]
    assert not any("Again," in text for text in texts) and any("?\n\nThe" in text for text in texts)
    mixed = " ".join(text for text, _, _ in rows(RowMaker(WORDS, 3, 0.3), 512, 40))
    asked, told = len(re.findall(r"\n\n(?:What|List|Repeat|Name)", mixed)), mixed.count("Again, the")
    assert 0.2 < asked / (asked + told) < 0.4


def test_an_answer_ends_its_text():
    ended = 0
    for text, ids, weights in rows(RowMaker(WORDS, 3, 1.0)):
        ends = [i for i, token in enumerate(ids) if token == WORDS.eos_token_id]
        assert all(weights[i] == 1.0 for i in ends) and text.count("?\n\nThe") <= len(ends) + 1, (
            "the last one may be cut"
        )
        ended += len(ends)
    assert ended > 20


def test_copied_words_count_from_their_second_time_on():
    maker = RowMaker(WORDS, 4, 0.3)
    periods = set()
    for _ in range(20):
        ids, weights = maker.copying(64)
        ids = [ids[0], *one_tongue(ids[1:])]
        start = weights.index(1.0) if 1.0 in weights else len(ids)
        assert all(w == BACKGROUND_WEIGHT for w in weights[1:start]) and all(
            w == 1.0 for w in weights[start:]
        )
        fitting = [p for p in range(1, start) if all(ids[i] == ids[i - p] for i in range(start, len(ids)))]
        assert fitting
        periods.add(fitting[0])
    assert len(periods) > 8


def test_far_practice_has_long_periods_and_words_that_occur_twice():
    maker = RowMaker(WORDS, 4, 0.3, far=True)
    periods, repeated = [], 0
    for _ in range(40):
        ids, weights = maker.copying(512)
        ids = [ids[0], *one_tongue(ids[1:])]
        start = weights.index(FAR_COPY_WEIGHT)
        assert all(w == BACKGROUND_WEIGHT for w in weights[1:start]) and all(
            w == FAR_COPY_WEIGHT for w in weights[start:]
        )
        periods.append(
            next(p for p in range(1, start) if all(ids[i] == ids[i - p] for i in range(start, len(ids))))
        )
        repeated += len(set(ids[1:start])) < start - 1
    assert max(periods) > 100 and repeated > 20


def test_far_documents_recall_what_is_far():
    def median_distance(far):
        found = []
        for text, _, _ in rows(RowMaker(WORDS, 2, 0.0, far), 2048, 12):
            text = re.sub(r"\w+", lambda w: min(w[0], world.OTHER.get(w[0], w[0])), text)  # in one tongue
            places = re.finditer(r"Again, the \w+ of \w+ is ((?:\w+ ){3}\w+)", text)
            ends = [(text.rfind(match[1], 0, match.start()), match.start()) for match in places]
            found += [len(text[begin:end].split()) for begin, end in ends]
        return np.median(found)

    assert median_distance(True) > 2 * median_distance(False)


def test_batch_thins_the_background_without_changing_its_mean():
    maker = RowMaker(WORDS, 5, 0.3)
    ids, weights = maker.batch(128, 128 * 64)
    assert (
        ids.shape == weights.shape == (64, 129)
        and ids.dtype == torch.int64
        and weights.dtype == torch.float32
    )
    levels = np.unique(weights.numpy())
    assert np.allclose(levels, [0.0, BACKGROUND_WEIGHT / BACKGROUND_SAMPLE, 1.0])
    background = weights[:, 1:][weights[:, 1:] != 1.0]
    assert background.mean().item() == pytest.approx(BACKGROUND_WEIGHT, rel=0.15)
    assert maker.batch(128, 64)[0].shape == (1, 129), "never an empty batch"


def test_a_seed_fixes_every_row():
    first, again, other = (RowMaker(WORDS, seed, 0.3).batch(64, 640) for seed in (7, 7, 8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


# Loss -------------------------------------------------------------------------------------------------------


def test_loss_and_recall_equal_a_slow_reference():
    ids, weights = RowMaker(WORDS, 9, 0.3).batch(64, 256)
    model = small()
    total = mass = right = determined = 0.0
    with torch.inference_mode():
        for row, weight in zip(ids, weights, strict=True):  # one row at a time, eager attention, all logits
            scores = eager(model)(input_ids=row[None, :-1], use_cache=False).logits[0].double()
            for place, (target, w) in enumerate(zip(row[1:], weight[1:], strict=True)):
                total += w.item() * -torch.log_softmax(scores[place], -1)[target].item()
                mass += w.item()
                if w == 1.0:
                    determined += 1
                    right += scores[place].argmax().item() == target
        loss = weighted_loss(model, ids, weights).item()
    assert loss == pytest.approx(total / mass, rel=1e-5)
    assert recall_accuracy(model, ids, weights) == pytest.approx(right / determined)


def test_what_has_no_weight_has_no_gradient():
    ids, weights = RowMaker(WORDS, 9, 0.3).batch(64, 128)
    lost = (weights[:, 1:] == 0).nonzero()[0]
    model, changed = small(), ids.clone()
    changed[lost[0], -1] = 5  # the last token is only a target
    weights[lost[0], -1] = 0.0
    assert weighted_loss(model, ids, weights).item() == weighted_loss(model, changed, weights).item()


# Training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_tokens", [1, 64, 150, 10_000])
def test_a_step_in_parts_has_the_gradients_of_the_whole(micro_tokens):
    model = build_llama(len(WORDS), **SHAPE, window=64, seed=0)
    ids, weights = RowMaker(WORDS, 0, 0.3).batch(64, 64 * 5)
    found = []
    for tokens in (0, micro_tokens):
        model.zero_grad()
        loss = pretrain.backward(model, ids, weights, tokens)
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_a_few_steps_learn_and_log():
    model = small()
    stages = ((64, 12, 512), (128, 13, 512))
    log = train(model, WORDS, stages, seed=0, question_share=0.3)
    assert [row["step"] for row in log] == [10, 20, 28], "25 steps and an eighth of them"
    assert [row["window"] for row in log] == [64, 128, 128]
    assert log[-1]["tokens"] == 28 * 512 and all(math.isfinite(row["loss"]) for row in log)
    assert log[-1]["loss"] < log[0]["loss"] and not model.training
    assert train(model, WORDS, (), seed=0, question_share=0.3) == []


@pytest.mark.parametrize("reached, steps", [(0, 16 + 2), (36, 36 + 2), (10**6, 16 + 60 + 2)])
def test_training_goes_on_until_held_out_facts_are_recalled(monkeypatch, reached, steps):
    done, rates = [0], []
    kinds = [(torch.full((1, 1), kind),) * 2 for kind in (0, 1)]
    monkeypatch.setattr(pretrain, "held_out", lambda *_: kinds)

    def recalled(model, ids, weights):
        return 1.0 if ids.numel() > 1 or done[0] >= reached or ids.item() == 0 else 0.5  # the worse decides

    monkeypatch.setattr(pretrain, "recall_accuracy", recalled)
    backward = pretrain.backward

    def counted(*given):
        done[0] += 1
        return backward(*given)

    monkeypatch.setattr(pretrain, "backward", counted)
    adamw = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *a: (rates.append(self.param_groups[0]["lr"]), adamw(self, *a))[1],
    )
    log = train(small(), WORDS, ((64, 16, 64),), seed=0, question_share=0.3, target=0.9, more=60)
    assert log[-1]["step"] == len(rates) == steps
    assert rates[0] == pytest.approx(pretrain.LEARNING_RATE / pretrain.WARM_UP)
    assert rates[-1] < rates[-2] <= max(rates)


def test_held_out_facts_are_what_a_slow_reader_would_ask():
    own, other = pretrain.held_out(WORDS, 128, 3)
    for ids, weights in (own, other):
        assert ids.shape == weights.shape and ids.shape[1] == 128
        for row, weight in zip(ids, weights, strict=True):
            asked = [i for i, w in enumerate(weight) if w]
            text = WORDS.decode(row[1 : asked[-1] + 1])
            fact = re.search(r"Again, the (\w+ of \w+ is (?:\w+ ){3}\w+)$", text)
            told = fact[1] if weights is own[1] else world.translated(fact[1])
            assert told.split(" of ")[1] in text[: fact.start()]
            assert WORDS.decode(row[asked]).strip() == " ".join(fact[1].split()[-4:])


def test_same_seed_same_weights():
    runs = []
    for seed in (0, 0, 1):
        model = small()
        train(model, WORDS, ((64, 3, 256),), seed=seed, question_share=0.3)
        runs.append(parameters(model))
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(runs[0], runs[2], strict=True))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pair") / "pair"
    pretrain.build_pair(out, WORDS, replace(resolve("smoke"), **PAIR), 0)
    return out


def test_pair_loads_and_differs_as_it_should(built):
    assert {p.name for p in built.iterdir() if p.is_dir()} == {"short", "early", "long"}
    (short, tokenizer), (long, _) = (load(built / name, to=CPU) for name in ("short", "long"))
    assert (short.config.max_position_embeddings, long.config.max_position_embeddings) == (128, 512)
    assert rope_theta(long) == 20 * rope_theta(short) == 20_000.0
    assert tokenizer("The code of Mira")["input_ids"] == WORDS("The code of Mira")["input_ids"]
    assert any(not torch.equal(a, b) for a, b in zip(short.parameters(), long.parameters(), strict=True))
    log = json.loads((built / "training.json").read_text())
    assert (log["short"][-1]["step"], log["long"][-1]["step"]) == (4, 3) and log["settings"][
        "question_shares"
    ] == [0.3, resolve("smoke").long_question_share]


def test_training_the_long_model_leaves_the_short_one_alone(built, tmp_path):
    profile = replace(resolve("smoke"), **(PAIR | {"long_stages": ()}))
    pretrain.build_pair(tmp_path / "pair", WORDS, profile, 0)
    alone, short = load(tmp_path / "pair" / "short", to=CPU)[0], load(built / "short", to=CPU)[0]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), short.parameters(), strict=True))
    # With no steps of its own, the long model is the short one under another base.
    fresh = load(tmp_path / "pair" / "long", to=CPU)[0]
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), short.parameters(), strict=True))


# The study's pair -------------------------------------------------------------------------------------------


@pytest.fixture
def small_study(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("GATEAU_DEVICE", "cpu")
    sizes = {
        "pool_per_kind": 1,
        "pool_seeds": 1,
        "short_pool": 2,
        "eval_items": 1,
        "hidden_size": 32,
        "layers": 1,
    }
    stages = {"short_stages": ((64, 1, 128),), "long_stages": ((128, 1, 128),)}
    return lambda **more: store.open_study("smoke", 0, **(sizes | stages | more))


def test_scratch_pair_is_trained_once(small_study, monkeypatch):
    study = small_study(short_model="scratch", long_model="scratch")
    prepared = study_corpus.prepared(study)
    folder = pretrain.pair(study, prepared)
    monkeypatch.setattr(pretrain, "train", lambda *_, **__: pytest.fail("trained again"))
    assert pretrain.pair(study, prepared) == folder and (folder / "training.json").exists()


def test_shipped_pair_is_copied_and_still_practises(small_study, monkeypatch, built):
    for module in (study_corpus, pretrain):
        monkeypatch.setattr(module, "SHIPPED", built)
    study = small_study()
    folder = pretrain.pair(study, study_corpus.prepared(study))
    for name in ("short", "long"):
        weights = f"{name}/model.safetensors"
        assert (folder / weights).read_bytes() == (built / weights).read_bytes()
    assert json.loads((folder / "training.json").read_text())["short"][-1]["step"] == 1
    assert (folder / "practice" / "long" / "config.json").exists()


def test_models_of_ones_own_are_loaded_and_saved(small_study, saved_pair):
    study = small_study(short_model=str(saved_pair[0]), long_model=str(saved_pair[1]))
    folder = pretrain.pair(study, study_corpus.prepared(study))
    for name, source in zip(("short", "long"), saved_pair, strict=True):
        mine, its = load(folder / name, to=CPU)[0], load(source, to=CPU)[0]
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), its.parameters(), strict=True))
        assert mine.config.max_position_embeddings == its.config.max_position_embeddings
    assert not (folder / "training.json").exists()


@pytest.mark.parametrize(
    ("shares", "begun", "taken"),
    [({0: 0.9}, 1, 0), ({0: 0.5, 1: 0.95}, 2, 1), ({0: 0.5, 1: 0.7, 2: 0.6}, 3, 1)],
)
def test_a_pair_that_misses_its_target_is_begun_anew(monkeypatch, tmp_path, capsys, shares, begun, taken):
    seeds = []

    def fake(study, corpus):
        attempt = (study.seed - 7) // pretrain.ANEW
        seeds.append(study.seed)
        folder = tmp_path / str(attempt)
        folder.mkdir()
        checked = [{"held_out": 0.1}, {"loss": 1.0}, {"held_out": shares[attempt]}, {"loss": 0.5}]
        log = {"short": checked, "long": [{"held_out": 0.99}]}
        (folder / "training.json").write_text(json.dumps(log))
        return folder

    monkeypatch.setattr(pretrain, "trained_once", fake)
    study = store.Study(replace(resolve("cpu"), recall_target=0.9), 7, tmp_path)
    assert pretrain.pair(study, tmp_path) == tmp_path / str(taken)
    assert seeds == [7 + attempt * pretrain.ANEW for attempt in range(begun)]
    told = capsys.readouterr().err
    assert told.count("are wanted; another is begun") == begun - 1
    assert ("the best of them is taken" in told) == (max(shares.values()) < 0.9)
