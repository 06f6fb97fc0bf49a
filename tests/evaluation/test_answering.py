"""A model's answers to benchmark items: against one item at a time, cut by hand, killed,
and short of memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.generation import greedy_reference
from tiny import random_llama
from transformers import GenerationConfig

from gateau_lib.data.samples import Sample, encode_asked
from gateau_lib.evaluation import answering
from gateau_lib.evaluation.answering import answer
from gateau_lib.evaluation.benchmark_item import Item, middle
from gateau_lib.models import generate
from gateau_lib.models.prompts import INST, prompt_ids
from gateau_lib.study.errors import DataError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def words(n: int, seed: int) -> str:
    return " ".join(f"w{(seed * 7 + i * i) % 97}" for i in range(n))


def many() -> list[Item]:
    """Items of several lengths, answer lengths, and numbers of turns, in no order."""
    sizes = [(12, 5), (3, 5), (11, 5), (2, 9), (12, 9), (4, 5), (10, 5), (3, 9)]
    single = [Item(f"q{i}", "one", (words(n, i),), max_new_tokens=new) for i, (n, new) in enumerate(sizes)]
    return single + [
        Item(f"t{i}", "two", (words(4 + i, i), words(3, i + 9)), max_new_tokens=4) for i in range(3)
    ]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_batches_equal_one_item_and_one_token_at_a_time(llama, tokenizer, tmp_path, batch_tokens, chat):
    items = many()
    found = answer(llama, tokenizer, items, tmp_path, room=128, chat=chat, batch_tokens=batch_tokens)
    assert found["id"].tolist() == [item.id for item in items] and found["error"].isna().all()
    for item, row in zip(items, found.itertuples(), strict=True):
        said: list[str] = []
        for _ in item.turns:
            prompt = prompt_ids(tokenizer, item.turns, said, chat)
            new = greedy_reference(llama, prompt, item.max_new_tokens, tokenizer.eos_token_id)
            said.append(tokenizer.decode(new, skip_special_tokens=True))
        assert row.answers == said and (row.prompt_tokens, row.cut_tokens) == (len(prompt), 0)


def test_prompts_by_hand(tokenizer):
    def text(*args, **kwargs) -> str:
        return tokenizer.decode(prompt_ids(*args, **kwargs))

    assert text(tokenizer, ("One?", "Two?"), [], chat=False) == "<s>One?\n\n"
    assert text(tokenizer, ("One?", "Two?"), ["1\n"], chat=False) == "<s>One?\n\n1\n\nTwo?\n\n"
    assert text(tokenizer, ("One?",), [], chat=True) == "<s>[INST]One?[/INST]"
    assert (
        text(tokenizer, ("One?", "Two?"), [" 1"], chat=True) == "<s>[INST]One?[/INST]1\n\n[INST]Two?[/INST]"
    )
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = TEMPLATE
    expected = "<s><user>One?</s><assistant>1</s><user>Two?</s><assistant>"
    assert text(templated, ("One?", "Two?"), ["1"], chat=True) == expected
    assert text(templated, ("One?",), [], chat=False) == "<s>One?\n\n"
    templated.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(DataError, match="chat template fails .no users here."):
        prompt_ids(templated, ("One?",), [], chat=True)


def test_a_model_is_asked_as_it_was_trained(tokenizer):
    """The format without a template, and the template that fine-tuning in that format leaves
    with a model, are one."""
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = INST
    for said in ([], ["1."], ["1.", "2 is it"]):
        arguments = (("One?", "Two?\nYes", "Three?"), said, True)
        assert prompt_ids(templated, *arguments) == prompt_ids(tokenizer, *arguments)


@pytest.mark.parametrize("name", ["tokenizer", "prefixing"])
def test_a_base_model_is_asked_as_its_tuned_ones_are_trained(name, request):
    """Training's rows and the prompt of a model without a template hold the same tokens,
    also where every text gets a mark."""
    base = request.getfixturevalue(name)
    trained = copy.deepcopy(base)
    trained.chat_template = INST
    sample = Sample("s", "Mira went home.", "Where is she?", "At home.")
    assert encode_asked(sample, trained).prompt == prompt_ids(
        base, ["Mira went home.\n\nWhere is she?"], [], chat=True
    )


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(2, 12))
def test_the_middle_is_cut_as_in_a_slow_reference(ids, room):
    kept = list(ids)
    if len(ids) > room:
        while len(kept) > room // 2 * 2:  # take out the token just right of the centre, again and again
            del kept[room // 2]
    assert middle(ids, room) == kept and len(middle(ids, room)) in (len(ids), room // 2 * 2)


def test_cut_prompts_keep_both_ends_and_are_counted(llama, tokenizer, tmp_path):
    item = Item("long", "one", ("Begin " + words(60, 1) + " end",), max_new_tokens=6)
    whole = prompt_ids(tokenizer, item.turns, [], True)
    row = answer(llama, tokenizer, [item], tmp_path, room=80, chat=True).iloc[0]
    assert (row.prompt_tokens, row.cut_tokens) == (80, len(whole) - 80)
    kept = whole[:40] + whole[-40:]
    text = tokenizer.decode(kept)
    assert text.startswith("<s>[INST]Begin w") and text.endswith(" end[/INST]")
    assert row.answers == [tokenizer.decode(greedy_reference(llama, kept, 6, 2), skip_special_tokens=True)]


def interrupted_after(calls: int, monkeypatch) -> list[int]:
    """Let generation work for a number of batches, then die as if the user had pressed Ctrl-C;
    returns the batches' sizes."""
    sizes: list[int] = []

    def dying(model, prompts, *args, **kwargs):
        if len(sizes) == calls:
            raise KeyboardInterrupt
        sizes.append(len(prompts))
        return original(model, prompts, *args, **kwargs)

    original = generate.continue_greedily
    monkeypatch.setattr(answering, "continue_greedily", dying)
    return sizes


def test_a_killed_run_goes_on_and_ends_with_the_same_table(llama, tokenizer, tmp_path):
    items, options = many(), {"room": 128, "chat": False, "batch_tokens": 150}
    whole = answer(llama, tokenizer, items, tmp_path / "whole", **options)
    for calls in (0, 1, 3, 4):
        out = tmp_path / str(calls)
        with pytest.MonkeyPatch.context() as patch:
            interrupted_after(calls, patch)
            with pytest.raises(KeyboardInterrupt):
                answer(llama, tokenizer, items, out, **options)
        left = {path: path.stat().st_mtime_ns for path in out.glob("*")}
        pd.testing.assert_frame_equal(answer(llama, tokenizer, items, out, **options), whole)
        assert all(path.stat().st_mtime_ns == time for path, time in left.items())  # only added to
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {
            p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()
        }


def test_what_is_answered_is_not_asked_again(llama, tokenizer, tmp_path, monkeypatch):
    items, options = many(), {"room": 128, "chat": False}
    for part in (items[::2], items[1::2]):  # as two processes would
        answer(llama, tokenizer, part, tmp_path, **options)
    with monkeypatch.context() as patch:
        interrupted_after(0, patch)
        together = answer(llama, tokenizer, items, tmp_path, batch_tokens=77, **options)
        for change in ({"room": 127}, {"chat": True}):  # another question: not to be had from the parts
            with pytest.raises(KeyboardInterrupt):
                answer(llama, tokenizer, items[:1], tmp_path, **(options | change))
        with pytest.raises(KeyboardInterrupt):
            answer(random_llama(seed=5), tokenizer, items[:1], tmp_path, **options)
    assert (
        together["answers"].tolist()
        == answer(llama, tokenizer, items, tmp_path / "new", **options)["answers"].tolist()
    )


def test_a_damaged_part_is_answered_again(llama, tokenizer, tmp_path, caplog):
    options = {"room": 128, "chat": False}
    whole = answer(llama, tokenizer, many(), tmp_path, **options)
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:-9])
    pd.testing.assert_frame_equal(answer(llama, tokenizer, many(), tmp_path, **options), whole)
    assert f"{path}: damaged" in caplog.text


def test_out_of_memory_halves_batches_and_loses_only_what_does_not_fit_alone(
    llama, tokenizer, tmp_path, small_memory, caplog
):
    items, options = many(), {"room": 128, "chat": False, "batch_tokens": 10_000}
    items.insert(2, Item("huge", "one", (words(30, 3),), max_new_tokens=5))
    whole = answer(llama, tokenizer, items, tmp_path / "whole", **options)
    with small_memory(llama, 60) as refused:
        found = answer(llama, tokenizer, items, tmp_path / "small", **options)
        assert refused
    failed = found["error"].notna()
    assert found.loc[failed, "id"].tolist() == ["huge"] and found.loc[failed, "answers"].tolist() == [[]]
    assert (
        "item 'huge'" in caplog.text
        and "do not fit into memory even alone" in found.loc[failed, "error"].item()
    )
    assert found.loc[~failed, "answers"].tolist() == whole.loc[~failed, "answers"].tolist()
    # With memory enough, the next call answers the one that is missing.
    pd.testing.assert_frame_equal(answer(llama, tokenizer, items, tmp_path / "small", **options), whole)


def test_a_hub_models_own_ways_of_generating_do_not_count_but_its_end_tokens_do(llama, tokenizer, tmp_path):
    items, options = many()[:4], {"room": 128, "chat": False}
    plain = answer(llama, tokenizer, items, tmp_path / "plain", **options)
    model = copy.deepcopy(llama)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=3.0,
        no_repeat_ngram_size=1,
        eos_token_id=[2],
    )
    torch.manual_seed(3)
    assert (
        answer(model, tokenizer, items, tmp_path / "own", **options)["answers"].tolist()
        == plain["answers"].tolist()
    )
    assert model.generation_config.repetition_penalty == 3.0  # given back
    ids = greedy_reference(llama, prompt_ids(tokenizer, items[0].turns, [], False), 5, 2)
    model.generation_config.eos_token_id = [2, ids[2]]
    stop = ids.index(ids[2])
    early = answer(model, tokenizer, items, tmp_path / "early", **options)["answers"].iloc[0]
    assert early == [tokenizer.decode(ids[:stop], skip_special_tokens=True)]


def test_bad_items_are_named(llama, tokenizer, tmp_path: Path):
    item = Item("a", "one", ("Ask.",), max_new_tokens=20)
    with pytest.raises(DataError, match="'a' is given twice"):
        answer(llama, tokenizer, [item, item], tmp_path, room=128, chat=False)
    with pytest.raises(DataError, match="a prompt of 1 tokens says nothing; raise"):
        answer(llama, tokenizer, [item], tmp_path, room=1, chat=False)
    assert list(answer(llama, tokenizer, [], tmp_path, room=128, chat=False).columns) == answering.COLUMNS
