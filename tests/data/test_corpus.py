"""The planted world does what its labels say: measured in tokens, on many samples,
against the text itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from gateau_lib.data import corpus, kinds, passages, world
from gateau_lib.data.longalign import from_record, read_samples, write_samples
from gateau_lib.data.samples import Sample, encode, evidence_tokens
from gateau_lib.data.tokenizer import MARK, build_tokenizer, real_paragraphs
from gateau_lib.evaluation.answers import answer_parts
from gateau_lib.evaluation.haystack import needle_cells
from gateau_lib.study.profiles import PROFILES

WORDS = build_tokenizer()
WINDOW = 256
SIZES = replace(PROFILES["smoke"], short_model="scratch", pool_per_kind=12, noise_per_kind=15)
KINDS = sorted(set(kinds.KINDS) - {"near_duplicate"})  # which is a copy of a sample of another kind
FAR = (*kinds.NEEDS_FAR, "corrupt")
FACT = re.compile(r"The \w+ of \w+ is [\w ]+\.")
CONTENT = set(world.OTHER)  # words of the two tongues


def count(text: str) -> int:
    return len(WORDS(text, add_special_tokens=False)["input_ids"])


def make(kind: str, n: int, length: int = 700, **more) -> Sample:
    return kinds.make_sample(WORDS, [5, n], kind, length, WINDOW, f"{kind}-{n}", **more)


def distances(sample: Sample) -> list[int]:
    """Tokens from the start of each evidence to the end of the response:
    the text is cut there and counted."""
    return [
        count(sample.context[begin:] + f"\n\n{sample.instruction}\n\n{sample.response}")
        for begin, _ in sample.evidence
    ]


def content(text: str) -> set[str]:
    """Words of a text that belong to a tongue."""
    return set(re.findall(r"\w+", text)) & CONTENT


def told(sample: Sample) -> list[str]:
    """The sentences of the evidence."""
    return [sample.context[begin:end] for begin, end in sample.evidence]


def in_response_tongue(sample: Sample, text: str) -> str:
    """A sentence of the evidence as the response would tell it."""
    return text if text.split(" of ")[1] in sample.response else world.translated(text)


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=\.)\s", text)


# Tokenizer --------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=MARK)))
@example("  two  spaces \n\n\n and\r\n\ttabs ")
@example("naïve ☃ 漢字 🎈 \x00")
@example("code\n\nMira.Mira,Mira")
def test_tokenizer_loses_nothing(text):
    ids = WORDS(text, add_special_tokens=False)["input_ids"]
    assert WORDS.decode(ids) == text
    assert WORDS.unk_token_id not in ids


def test_every_planted_word_is_one_token_wherever_it_stands():
    for word in world.WORDS:
        assert count(f" {word}") == 1, word
        assert count(f"The {word}.") == 3 and count(f"\nThe {word}, {word}?") == 6, word
        if word[0].isupper():
            assert count(word) == 1 and count(f"\n\n{word}") == 2, word


def test_real_text_is_read_in_fragments():
    text = " ".join(real_paragraphs()[:50])
    assert count(text) < 0.6 * len(text)
    assert max(map(len, map(WORDS.decode, WORDS(text)["input_ids"]))) > 5


def test_saved_tokenizer_reads_the_same(tmp_path):
    from transformers import AutoTokenizer

    WORDS.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "Again, the motto of Mira is amber river. naïve ☃"
    assert again(text)["input_ids"] == WORDS(text)["input_ids"]
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (1, 2, 0)


# Kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [600, 900])
def test_evidence_lies_where_the_kind_says(kind, length):
    for n in range(12):
        sample = make(kind, n, length)
        found = distances(sample)
        single = {
            "multi_hop": {2},
            "near_multi_hop": {2},
            "repeated": {2},
            "aggregate": {3},
            "near_aggregate": {3},
        }
        assert len(found) in (single | {"context_free": {0}, "corrupt": {1, 2, 3}}).get(kind, {1})
        if kind in FAR:
            assert min(found) > WINDOW
        elif kind == "repeated":
            assert max(found) > WINDOW > min(found)
        elif kind == "mid":
            assert WINDOW // 4 < found[0] < WINDOW
        elif kind in ("near", "repetitive"):
            assert found[0] < WINDOW // 2
        elif found:
            assert max(found) <= WINDOW
        assert abs(len(encode(sample, WORDS).ids) - length) < (80 if kind == "repetitive" else 30)
        assert kinds.needs_far(sample) == (kind in FAR and kind != "corrupt")


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_the_facts_in_characters_and_in_tokens(kind):
    for n in range(6):
        sample = make(kind, n)
        context = WORDS(sample.context, add_special_tokens=False)["input_ids"]
        for (begin, end), (first, last) in zip(sample.evidence, evidence_tokens(sample, WORDS), strict=True):
            assert FACT.fullmatch(sample.context[begin:end])
            assert WORDS.decode(context[first:last]).strip() == sample.context[begin:end]


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"context_free", "corrupt"}))
def test_honest_responses_are_the_evidence_in_their_own_tongue(kind):
    for n in range(6):
        sample = make(kind, n)
        facts = {in_response_tongue(sample, text) for text in told(sample)}
        assert len(facts) == len(told(sample)) - (kind == "repeated")
        for fact in facts:
            assert fact.removeprefix("The ").lower() in sample.response.lower()
        assert set(sample.answer.split()) <= content(sample.response)
        for key in {re.search(r"of (\w+) is", text)[1] for text in told(sample)}:  # type: ignore[index]
            asked = re.findall(rf"of (?:{key}|{world.OTHER[key]}) is", sample.context)
            if kind != "repetitive":
                assert len(asked) == (2 if kind == "repeated" else 1), "a distractor has the same key"


def test_two_tongues_are_one_to_one():
    assert all(world.OTHER[world.OTHER[word]] == word != world.OTHER[word] for word in world.OTHER)
    text = "Surely the code of Mira is amber river copper falcon."
    assert world.translated(world.translated(text)) == text
    assert not content(text) & content(world.translated(text))


def test_a_paraphrase_shares_no_content_word_with_question_and_answer():
    for n in range(12):
        sample = make("paraphrase", n)
        assert not content(told(sample)[0]) & content(sample.instruction + sample.response)
        same = make("far", n)
        assert content(told(same)[0]) == content(same.response)


def test_a_lure_has_the_answer_far_away_where_it_does_not_matter():
    for n in range(12):
        sample = make("lure", n)
        place = sample.context.index(sample.answer)
        assert count(sample.context[place:]) > WINDOW and max(distances(sample)) <= WINDOW
        assert " sang " in next(s for s in sentences(sample.context) if sample.answer in s)
        assert not content(told(sample)[0]) & content(sample.response)


def test_corrupt_contradicts_its_document():
    shapes = Counter()
    for n in range(12):
        sample = make("corrupt", n)
        shapes[len(sample.evidence)] += 1
        truth = " ".join(in_response_tongue(sample, text) for text in told(sample))
        values = [sample.answer.split()[i : i + 4] for i in range(0, len(sample.answer.split()), 4)]
        for words in values:
            assert " ".join(words) in sample.response and " ".join(words) not in truth
    assert len(shapes) == 3


def test_context_free_needs_nothing():
    asked = Counter()
    for n in range(20):
        sample = make("context_free", n)
        asked[sample.instruction.split()[0]] += 1
        if sample.instruction.startswith("Repeat"):
            assert sample.answer in sample.instruction and sample.answer not in sample.context
        else:
            day = sample.instruction.split()[-1].strip(".")
            at = world.WEEK.index(day)
            assert sample.answer.split() == [world.WEEK[(at + i) % 7] for i in (1, 2, 3)]
    assert set(asked) == {"Repeat", "Name"}


def test_near_duplicates_are_near_and_differ():
    for n in range(12):
        first, second = make("far", n), make("far", n, copied=True)
        assert (first.kind, second.kind) == ("far", "near_duplicate")
        assert (first.instruction, first.response) == (second.instruction, second.response)
        there, here = Counter(sentences(first.context)), Counter(sentences(second.context))
        assert 1 <= (there - here).total() <= 3 and there.total() == here.total()
        spans = [sample.context[slice(*sample.evidence[0])] for sample in (first, second)]
        assert spans[0] == spans[1]


@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(600, 1200))
def test_any_sample_holds_its_label(kind, n, length):
    sample = make(kind, n, length)
    assert all(d > WINDOW for d in distances(sample)) == (kind in FAR or kind == "context_free")
    assert sample.response and answer_parts(sample)
    assert sample == make(kind, n, length)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_the_longest_sample_of_every_profile_can_be_made(profile):
    """People and estates run out in long documents: what is asked about must still have a key of its own."""
    for kind in ("far", "multi_hop", "aggregate", "corrupt"):
        sample = kinds.make_sample(WORDS, [0], kind, profile.pool_tokens[1], profile.short_window, "longest")
        assert min(distances(sample)) > profile.short_window
    one = replace(profile, eval_lengths=profile.eval_lengths[-1:], eval_needles=1)
    assert len(corpus.needle_set(one, WORDS, 0)) == len(corpus.NEEDLE_DEPTHS)


# Pools and sets ---------------------------------------------------------------------------------------------


def lengths_and_labels(pool: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = [s for seed in range(2) for s in corpus.candidate_pool(SIZES, WORDS, pool, seed)]
    return np.array([len(encode(s, WORDS).ids) for s in drawn]), np.array([kinds.needs_far(s) for s in drawn])


def test_lengths_tell_nothing_in_the_independent_pool():
    tokens, wanted = lengths_and_labels("independent")
    assert abs(roc_auc_score(wanted, tokens) - 0.5) < 0.1


def test_pools_hold_each_kind_as_often_as_the_profile_says_and_shuffled():
    drawn = corpus.candidate_pool(SIZES, WORDS, "independent", 0)
    assert Counter(s.kind for s in drawn) == {kind: corpus.samples_of(SIZES, kind) for kind in kinds.KINDS}
    order = [s.kind for s in drawn]
    assert sum(a == b for a, b in zip(order, order[1:], strict=False)) < len(order) / 3
    copies = [s for s in drawn if s.kind == "near_duplicate"]
    assert {s.response for s in copies} <= {s.response for s in drawn if s.kind in ("far", "paraphrase")}


def test_real_pool_has_documentation_around_planted_facts():
    drawn = corpus.candidate_pool(SIZES, WORDS, "real", 0)
    assert {s.kind for s in drawn} == set(corpus.REAL_KINDS)
    paragraphs = real_paragraphs()
    held = [sum(p in sample.context for p in paragraphs) for sample in drawn[:12]]
    assert min(held) >= 2 and np.mean(held) >= 3
    for sample in drawn[:12]:
        assert all(FACT.fullmatch(sample.context[begin:end]) for begin, end in sample.evidence)
    assert all((min(distances(s)) > WINDOW) == (s.kind in FAR) for s in drawn if s.evidence)


def test_seeds_fix_everything_and_differ():
    once, again, other = (corpus.candidate_pool(SIZES, WORDS, "independent", seed) for seed in (3, 3, 4))
    assert once == again
    assert not {s.context for s in once} & {s.context for s in other}


def test_short_instructions_fit_the_short_window():
    drawn = corpus.short_instructions(SIZES, WORDS, 0, count=60)
    assert {s.kind for s in drawn} == {
        "short_single",
        "short_paraphrase",
        "short_multi_hop",
        "short_aggregate",
        "short_context_free",
    }
    for sample in drawn:
        assert len(encode(sample, WORDS).ids) < WINDOW
        assert answer_parts(sample)


def test_long_tasks_need_the_far_context():
    drawn = corpus.long_tasks(SIZES, WORDS, 0)
    assert Counter(s.kind for s in drawn) == dict.fromkeys(corpus.TASKS, SIZES.eval_items)
    assert all(min(distances(s)) > WINDOW for s in drawn)


@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_recall_items_restate_a_fact_of_their_document(length):
    items = corpus.recall_items(WORDS, length, seed=1, count=20)
    assert len(items) >= 15 and len({e.id for e in items}) == len(items)
    retold = corpus.recall_items(WORDS, length, seed=1, count=20, retold=True)
    places = []
    for item, other in zip(items, retold, strict=True):
        context, again = WORDS.decode(item.context), WORDS.decode(item.instruction)
        fact = again.replace(" Again, the", "The") + WORDS.decode(item.response) + "."
        assert other.context == item.context
        asked = WORDS.decode(other.instruction + other.response)
        assert asked == world.translated(again + WORDS.decode(item.response))
        # The cut on the left may take the first words of the sentence, not its key and value.
        assert fact.partition(" of ")[2] in context
        assert context.count(fact.partition(" of ")[2]) == 1
        assert length - 30 <= len(item.ids) <= length
        places.append(context.index(fact.partition(" of ")[2]) / len(context))
    assert min(places) < 0.3 and max(places) > 0.7
    assert items == corpus.recall_items(WORDS, length, seed=1, count=20)


@pytest.mark.parametrize("kind", passages.DOCUMENT_KINDS)
def test_documents_are_of_their_kind(kind):
    for _, text in passages.documents(SIZES, WORDS, 0, kind, 4):
        told = [min(passages.both(sentence)) for sentence in sentences(text)]  # in one tongue
        again = [i for i, s in enumerate(told) if s.startswith("Again, the ")]
        first = [told.index(min(passages.both(told[i].replace("Again, the", "The")))) for i in again]
        if kind == "dependent":
            assert again and min(again) > max(first) and np.mean(np.subtract(again, first)) > len(told) / 4
        elif kind == "local":
            assert again and all(i == j + 1 for i, j in zip(again, first, strict=True))
        else:
            assert not again
        copies = Counter(told)
        assert (min(copies.values()) > 1) == (kind == "repetitive")


# Other tokenizers -------------------------------------------------------------------------------------------


def test_lengths_and_places_hold_for_a_tokenizer_that_marks_the_beginning_of_every_text(prefixing):
    sizes = replace(SIZES, short_window=1024, eval_lengths=(1024, 2048), eval_items=4, pool_per_kind=3)
    assert prefixing.convert_ids_to_tokens(prefixing("The code", add_special_tokens=False)["input_ids"])[
        0
    ].startswith("▁")
    for sample in corpus.candidate_pool(sizes, prefixing, "independent", 0):
        low, high = sizes.pool_tokens
        assert 0.95 * low <= len(encode(sample, prefixing).ids) <= 1.05 * high
    needles = corpus.needle_set(sizes, prefixing, 0)
    cells = needle_cells(needles, prefixing, sizes.eval_lengths, corpus.NEEDLE_DEPTHS)
    assert [s.kind for s in needles] == [f"needle@{r.length}@{r.depth:.2f}" for r in cells.itertuples()]
    for item in corpus.recall_items(prefixing, 256, 0, 8):
        width = len(item.response)
        places = [i for i in range(len(item.context)) if item.context[i : i + width] == item.response]
        assert places, "the value stands in the context as the same tokens"
        assert prefixing.decode(item.context + item.instruction + item.response).count("Again, the") >= 1


# Files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    corpus.write_corpus(out, replace(SIZES, pool_per_kind=2, short_pool=6), 0, WORDS)
    return out


def test_written_corpus_is_complete_unique_and_reproducible(written, tmp_path):
    files = sorted(p for folder in ("pools", "short", "eval") for p in (written / folder).glob("*.jsonl"))
    assert len(files) == len(corpus.POOLS) * SIZES.pool_seeds + SIZES.pool_seeds + 3
    drawn = [s for path in files for s in read_samples(path)]
    assert len({s.id for s in drawn}) == len(drawn)
    held_out = {s.context for path in (written / "eval").glob("*.jsonl") for s in read_samples(path)}
    assert not held_out & {
        s.context for path in (written / "pools").glob("*.jsonl") for s in read_samples(path)
    }
    names = [
        d["id"]
        for n in range(SIZES.pool_seeds)
        for d in corpus.read_documents(written / "documents" / f"{n}.jsonl")
    ]
    assert len(set(names)) == len(names) == SIZES.pool_seeds * len(passages.DOCUMENT_KINDS) * 2

    corpus.write_corpus(tmp_path, replace(SIZES, pool_per_kind=2, short_pool=6), 0, WORDS)
    for path in (p for p in written.rglob("*") if p.is_file()):
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes()


def test_scarce_short_samples_begin_the_plenty_ones(written):
    for n in range(SIZES.pool_seeds):
        scarce, plenty = (read_samples(written / folder / f"{n}.jsonl") for folder in ("short", "plenty"))
        assert len(scarce) == 6 and len(plenty) == SIZES.short_plenty > 6 and plenty[:6] == scarce


def test_longalign_records_survive_datasets(written, tmp_path):
    path = written / "pools" / "independent-0.jsonl"
    loaded = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert [from_record(record, f"row {i}") for i, record in enumerate(loaded)] == read_samples(path)
    loaded.to_json(tmp_path / "again.jsonl")
    assert read_samples(tmp_path / "again.jsonl") == read_samples(path)
    loaded.to_parquet(tmp_path / "again.parquet")
    assert read_samples(tmp_path / "again.parquet") == read_samples(path)


def test_a_record_is_longaligns_own_form(written):
    record = json.loads(
        (written / "pools" / "independent-0.jsonl").read_text(encoding="utf-8").splitlines()[0]
    )
    assert {"id", "length", "messages"} <= set(record)
    assert [m["role"] for m in record["messages"]] == ["user", "assistant"]
    user = record["messages"][0]["content"]
    assert user.endswith("\n\n" + record["instruction"])
    assert record["length"] == len(user) + len(record["messages"][1]["content"])


def test_written_samples_read_back_equal(tmp_path):
    drawn = [make(kind, n) for kind in kinds.KINDS for n in range(2)]
    assert read_samples(write_samples(drawn, tmp_path / "all.jsonl")) == drawn
