"""Explanations against slow readings of tiny texts, and their rows against tables counted by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gateau_lib.data import kinds, passages, world
from gateau_lib.data.longalign import read_samples, write_samples
from gateau_lib.data.samples import Encoded, encode, segments
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments import explanations
from gateau_lib.experiments.pool import evidence_segments
from gateau_lib.methods import prolong
from gateau_lib.models import loading, rope
from gateau_lib.study.profiles import resolve

WORDS = build_tokenizer()
PAIR = loading.SHIPPED
KINDS = ("far", "near", "lure", "aggregate", "corrupt")
WINDOW, LONGEST, SIZE = 128, 400, 32


# Links ------------------------------------------------------------------------------------------------------


def slow_links(text: str, size: int) -> set[tuple[int, int]]:
    """Sentence by sentence, in segments that are read back as text."""
    ids = WORDS(text, add_special_tokens=False)["input_ids"]
    parts = prolong.document_segments(ids, size, len(ids))
    first = len(WORDS.decode(ids[: len(ids) % size]))
    ends = first + np.cumsum([len(WORDS.decode(part)) for part in parts])

    def segment(place: int) -> int:
        return -1 if place < first else int(np.argmax(ends > place))

    found, told, place = set(), {}, 0
    for sentence in text.replace("\n", " ").split(". "):
        sentence = sentence.rstrip(".")
        if sentence.startswith("Again, the "):
            fact = sentence.removeprefix("Again, ")
            begin = told[min(passages.both(fact))]
            pair = segment(place + len(sentence) - 1), segment(begin)
            if pair[1] >= 0 and pair[0] > pair[1]:
                found.add(pair)
        else:
            told[min(passages.both(sentence[:1].lower() + sentence[1:]))] = place
        place += len(sentence) + 2
    return found


@pytest.mark.parametrize("kind", ["dependent", "local", "independent"])
@pytest.mark.parametrize("size", [16, 32])
def test_links_are_those_of_a_slow_reader(kind, size):
    left: set[int] = set()
    apart: list[int] = []
    for _, text in passages.documents(resolve("smoke"), WORDS, 3, kind, 4):
        links = explanations.links(text, WORDS, size)
        assert links == slow_links(text, size)
        left.add(len(WORDS(text, add_special_tokens=False)["input_ids"]) % size)
        apart += [i - j for i, j in links]
    assert any(left), "a text that is not a multiple of the segment length"
    if kind == "dependent":
        assert len(apart) > 20 and np.mean(apart) > 3
    else:  # in the next sentence, or nowhere
        assert max(apart, default=0) <= (32 // size if kind == "local" else 0)


def test_a_link_by_hand():
    """Fact, filler, restatement in the other tongue; the text begins with the fact, or with filler."""
    fact = "The code of Mira is amber river copper falcon."
    again = f"Again, {world.translated(fact[0].lower() + fact[1:])}"
    text = f"{fact} A young baker sold the letter in the market. {again}"
    tokens = len(WORDS(text, add_special_tokens=False)["input_ids"])
    for size in range(2, tokens // 2):
        left = tokens % size
        value_ends = (tokens - 2 - left) // size  # the last token is the full stop
        expected = {(value_ends, 0)} if not left and value_ends > 0 else set()  # else the fact is cut off
        assert explanations.links(text, WORDS, size) == expected
    lead = "The proud farmer rested near the tower in the winter."
    before = len(WORDS(lead, add_special_tokens=False)["input_ids"])
    assert explanations.links(f"{lead} {text}", WORDS, 1) == {(before + tokens - 2, before)}
    assert explanations.links(text.replace("Again, ", ""), WORDS, 1) == set()
    # A restatement of what was never told links nothing.
    assert explanations.links(again, WORDS, 1) == set()


# Rows -------------------------------------------------------------------------------------------------------


def values(rows: list[dict]) -> dict[tuple[str, str, str], tuple[float, int]]:
    found = {(row["metric"], row["method"], row["condition"]): (row["value"], row["n"]) for row in rows}
    assert len(found) == len(rows) and all(row["seed"] == 0 for row in rows)
    return found


def test_link_rows_by_hand():
    table = pd.DataFrame(
        {
            "planted": [True, True, False, False, False],
            "strength": [0.5, 0.05, 0.2, 0.01, -0.3],
            "distance": [0.9, 0.1, 0.5, 0.5, 0.5],
            "specificity": [0.2, 0.2, 0.2, 0.2, 0.2],
        }
    )
    found = values(explanations.link_rows(table))
    assert found == {
        ("link_auc", "strength", "documents"): (pytest.approx(5 / 6), 5),
        ("link_auc", "distance", "documents"): (0.5, 5),
        ("link_auc", "specificity", "documents"): (0.5, 5),
        ("strong_pairs_planted", "strength", "documents"): (0.5, 2),
        ("planted_pairs_strong", "strength", "documents"): (0.5, 2),
    }
    weak = values(explanations.link_rows(table.assign(strength=0.01 * table["strength"])))
    assert ("strong_pairs_planted", "strength", "documents") not in weak
    assert weak["planted_pairs_strong", "strength", "documents"] == (0, 2)


def test_ablation_rows_by_hand():
    """Three samples, of which the first is not judged."""
    names = ("leave_one_out", "one_segment", "attention", "attention_top", "attention_heads")
    judged = [
        ([3, 2, 1], [3, 2, 1], [1, 2, 3], [3, 1, 2], [2, 3, 1]),
        ([0, 1, 5], [0, 1, 5], [5, 1, 0], [0, 5, 1], [1, 0, 5]),
    ]
    other = [[9.0, 8.0]] * len(names)
    columns = {name: [other[0], *(each[k] for each in judged)] for k, name in enumerate(names)}
    table = pd.DataFrame({"judged": [False, True, True], "evidence": [[0], [0], [1, 2]]} | columns)
    found = values(explanations.ablation_rows(table))
    agree = {name: found["importance_correlation", name, "clean"] for name in names[1:]}
    assert agree == {
        "one_segment": (pytest.approx(1), 2),
        "attention": (pytest.approx(-1), 2),
        "attention_top": (pytest.approx(0.5), 2),
        "attention_heads": (pytest.approx(0.5), 2),
    }
    first = {name: found["evidence_first", name, "clean"][0] for name in names}
    assert first == dict(zip(names, (1, 1, 0, 1, 0.5), strict=True))


def test_reading_rows_by_hand():
    kinds = ["far", "paraphrase", "near", "corrupt", "near"]
    scores = pd.DataFrame({"id": list("abcde"), "kind": kinds, "nll_long": [0.1, 0.2, 0.1, 2.0, 0.3]})
    scores = scores.assign(needs_far=[True, True, False, False, False], nll_short_ntk=1.0)
    table = pd.DataFrame({"id": list("edcba"), "cut_64": [0.3, 2.0, 0.6, 0.5, 1.1]})
    table = table.assign(stretch_2=[1.3, 9.0, 0.2, 0.1, 1.1], early=[1, 1, 0.5, 2, 3], early_cut=4.0)
    table = table.assign(effect=[0.9, 0.0, 0.8, 0.6, 0.7], effect_far=[0.0, 0.0, 0.1, 0.6, 0.7])
    found = values(explanations.reading_rows(table, scores))
    clean = {name: value for (metric, name, condition), value in found.items() if metric == "auc"}
    # Of a, b, c, e: needy ones against the others, by hand.
    assert clean == {
        "contrast_cut_64": (0.75, 4),  # 1.0, 0.3 against 0.5, 0.0
        "hmg_log_ntk_2x": (0.5, 4),  # 1.0, -0.1 against 0.1, 1.0: 0.5 + 0 + 1 + 0, and a tie
        "contrast_early": (0.0, 4),  # 1, 2 against 3.5, 3
        "hmg_log_ntk_early": (0.0, 4),
        "perplexity_early": (1.0, 4),
        "effect": (0.0, 4),
        "effect_far": (1.0, 4),
    } | {"hmg_log_ntk_2x": clean["hmg_log_ntk_2x"]}
    assert clean["hmg_log_ntk_2x"][0] == pytest.approx(np.mean([1, 0.5, 0, 0]), abs=0.13)
    assert found["effect_far", "near", "independent"] == (pytest.approx(0.05), 2)
    assert found["effect", "corrupt", "independent"] == (0, 1)
    without = explanations.reading_rows(table.drop(columns=["early", "early_cut"]), scores)
    assert not any(row["method"].endswith("_early") for row in without)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("contrast_cut_128", "contrast, cut to 128 tokens"),
        ("hmg_log_ntk_2x", "HMG, log gap, stretched 2 times"),
        ("effect_far", "loss when far evidence is taken out"),
        ("hmg_log_ntk", "HMG, log gap, extended reader"),
    ],
)
def test_readings_have_names(name, told):
    assert explanations.reading_label(name) == told


# Tables -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    drawn = [
        kinds.make_sample(WORDS, [9, n], kind, 330, WINDOW, f"{kind}-{n}") for kind in KINDS for n in range(3)
    ]
    return write_samples(drawn, tmp_path_factory.mktemp("texts") / "pool.jsonl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The shipped pair, and in the place of an earlier long model the short one."""
    root = tmp_path_factory.mktemp("pair")
    for name, source in {"short": "short", "long": "long", "early": "short"}.items():
        shutil.copytree(PAIR / source, root / name)
    return root


@torch.inference_mode()
def loss(model, prompt: list[int], response: list[int]) -> float:
    """Mean NLL, all logits of one plain pass."""
    log_p = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return float(np.mean([-log_p[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]))


def cut(each: Encoded, window: int) -> list[int]:
    """The prompt that a window holds, from its end."""
    room = window - len(each.start) - len(each.instruction) - len(each.response)
    return each.start + each.context[max(0, len(each.context) - room) :] + each.instruction


def test_readings_are_plain_passes_over_what_is_left(pair, texts, tmp_path):
    explanations.write_readings(pair, texts, WINDOW, LONGEST, "float32", tmp_path)
    table = pd.read_parquet(tmp_path / explanations.TABLE)
    changed = {"cut_64", "cut_256", "stretch_2", "early", "early_cut"}
    assert {*table} == {"id", "effect", "effect_far", "distance"} | changed
    (long, tokenizer), (short, _) = (loading.load(pair / name) for name in ("long", "short"))
    drawn = read_samples(texts)
    assert list(table["id"]) == [sample.id for sample in drawn]
    for row, sample in list(zip(table.to_dict("records"), drawn, strict=True))[::4]:
        each = encode(sample, tokenizer, LONGEST)
        assert row["cut_64"] == pytest.approx(loss(long, cut(each, 64), each.response), abs=2e-4)
        assert row["cut_256"] == pytest.approx(loss(long, cut(each, 256), each.response), abs=2e-4)
        assert row["early"] == pytest.approx(loss(short, each.prompt, each.response), abs=2e-4)
        assert row["early_cut"] == pytest.approx(loss(short, cut(each, WINDOW), each.response), abs=2e-4)
        theta = rope.stretched_theta(short.config, 2 * WINDOW)
        twice = rope.with_rope_theta(short, theta, 2 * WINDOW)
        assert row["stretch_2"] == pytest.approx(loss(twice, each.prompt, each.response), abs=2e-4)


def test_an_unfinished_model_is_read_where_there_is_one(texts, tmp_path):
    explanations.write_readings(PAIR, texts, WINDOW, LONGEST, "float32", tmp_path)
    assert not {"early", "early_cut"} & set(pd.read_parquet(tmp_path / explanations.TABLE))


def test_ablations_of_two_samples_of_each_kind(texts, tmp_path):
    explanations.write_ablations(PAIR, texts, SIZE, LONGEST, "float32", tmp_path)
    table = pd.read_parquet(tmp_path / explanations.TABLE)
    honest = [kind for kind in KINDS if kind in explanations.ABLATED_KINDS]
    assert len(honest) > 2 and not kinds.NOISE & set(honest)
    assert list(table["id"]) == [f"{kind}-{n}" for kind in sorted(honest) for n in range(2)]
    assert list(table["judged"]) == [False, True] * len(honest)  # heads are chosen on the others
    long, tokenizer = loading.load(PAIR / "long")
    drawn = {sample.id: sample for sample in read_samples(texts)}
    for row in table.to_dict("records")[1::4]:
        sample = drawn[row["id"]]
        each = encode(sample, tokenizer, LONGEST)
        parts = segments(each.context, SIZE)
        assert list(row["evidence"]) == evidence_segments(sample, each, tokenizer, SIZE)
        for name in ("leave_one_out", "one_segment", "attention", "attention_top", "attention_heads"):
            assert len(row[name]) == len(parts)
        whole = loss(long, each.prompt, each.response)
        for i in (0, len(parts) - 1):
            others = [token for j, part in enumerate(parts) if j != i for token in part]
            without = loss(long, each.start + others + each.instruction, each.response)
            assert row["leave_one_out"][i] == pytest.approx(without - whole, abs=3e-4)
            alone = loss(long, each.start + parts[i] + each.instruction, each.response)
            assert row["one_segment"][i] == pytest.approx(-alone, abs=3e-4)


def document_file(folder: Path, kinds: tuple[str, ...]) -> tuple[Path, list[str]]:
    sizes, path, texts = resolve("smoke", pool_tokens=(300, 310)), folder / "documents.jsonl", []
    with path.open("w", encoding="utf-8") as file:
        for kind in kinds:
            for name, text in passages.documents(sizes, WORDS, 5, kind, 2):
                file.write(json.dumps({"id": name, "kind": kind, "text": text}) + "\n")
                texts.append(text)
    return path, texts


def test_all_pairs_of_dependent_documents_are_read(tmp_path, monkeypatch):
    path, texts = document_file(tmp_path, ("local", "dependent"))
    monkeypatch.setattr(explanations, "LINKED", 1)
    explanations.write_links(PAIR, path, SIZE, 1024, "float32", tmp_path)
    table = pd.read_parquet(tmp_path / explanations.TABLE)
    text = texts[2]
    long, tokenizer = loading.load(PAIR / "long")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    n = len(ids) // SIZE
    assert set(table["id"]) == {"document-5-dependent-000"} and len(table) == n * (n - 1) // 2
    planted = {(row.i, row.j) for row in table[table["planted"]].itertuples()}
    assert planted == explanations.links(text, tokenizer, SIZE) and planted
    parts = prolong.document_segments(ids, SIZE, n)
    row = table[table["planted"]].iloc[0]
    i, j = parts[int(row["i"])], parts[int(row["j"])]
    given, alone = loss(long, [*j, i[0]], i[1:]), loss(long, i[:1], i[1:])
    assert row["strength"] == pytest.approx(1 - np.exp(given - alone), abs=1e-3)
    assert row["distance"] == pytest.approx((row["i"] - row["j"]) / (1024 // SIZE - 1))


def test_the_short_model_scores_every_document(tmp_path):
    path, texts = document_file(tmp_path, ("dependent", "repetitive"))
    explanations.write_short_scorer(PAIR, path, SIZE, 1024, 12, "float32", tmp_path)
    table = pd.read_parquet(tmp_path / explanations.TABLE)
    assert list(table) == ["id", "prolong_short_model"] and len(table) == len(texts) == 4
    assert np.isfinite(table["prolong_short_model"]).all() and table["prolong_short_model"].nunique() > 1
