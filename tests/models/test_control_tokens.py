"""Control tokens that a text spells are text; those that a template writes are control tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import other_tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import PreTrainedTokenizerFast

from gateau_lib.data.samples import Sample, context_offsets, encode, encode_asked
from gateau_lib.experiments.rehearsal import llama_tokenizer
from gateau_lib.models import control_tokens
from gateau_lib.models.prompts import plain_ids, prompt_ids, text_ids


def _byte_level() -> PreTrainedTokenizerFast:
    """Byte pairs that add up to a control token, where nothing keeps them from it."""
    pairs = [("<", "/"), ("</", "s"), ("</s", ">"), ("t", "h"), ("th", "e"), ("<", "s"), ("<s", ">")]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in pairs)]
    core = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    core.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>", "<|end|>")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="!")


def _unigram() -> PreTrainedTokenizerFast:
    """A unigram model whose best pieces are its control tokens."""
    pieces = [
        ("<unk>", 0.0),
        ("<s>", 0.0),
        ("</s>", 0.0),
        *((chr(c), -5.0) for c in range(33, 127)),
        ("▁", -3.0),
    ]
    core = Tokenizer(Unigram(pieces, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _word_piece() -> PreTrainedTokenizerFast:
    """Lower case, no start token, one mark of square brackets."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    vocabulary = ["[UNK]", "[SEP]", "[PAD]", *letters, *(f"##{letter}" for letter in letters)]
    core = Tokenizer(WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


MAKERS: dict[str, Callable[[], Any]] = other_tokenizers() | {
    "Llama-2's form": llama_tokenizer,
    "byte level": _byte_level,
    "unigram": _unigram,
    "word pieces": _word_piece,
}


@functools.cache
def made(name: str) -> Any:
    return MAKERS[name]()


@pytest.fixture(params=MAKERS)
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def spelt(tokenizer: Any) -> str:
    """A text that spells every control token twice, once within a word."""
    marks = list(control_tokens.marks(tokenizer).values())
    assert marks
    return "one " + " and ".join(f"{mark} two{mark}three" for mark in marks) + " four"


def test_a_spelt_control_token_is_text(any_tokenizer):
    text, marks = spelt(any_tokenizer), control_tokens.marks(any_tokenizer)
    unknown = any_tokenizer.unk_token_id
    assert not marks.keys().isdisjoint(any_tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = text_ids(any_tokenizer, text)
    assert (marks.keys() - {unknown}).isdisjoint(ids)
    # Letter by letter the text is there, and each token knows where it stands in it.
    places = control_tokens.of_text(any_tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
    covered = set().union(*(range(*place) for place in places))
    assert all(letter.isspace() or place in covered for place, letter in enumerate(text))
    if any_tokenizer.decode(text_ids(any_tokenizer, "A two")).strip() == "A two":
        kept = any_tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert kept.replace(" ", "") == text.replace(" ", "") or unknown in ids


def test_what_spells_none_is_read_by_the_tokenizer_alone(any_tokenizer, monkeypatch):
    def unwanted(tokenizer: Any) -> None:
        raise AssertionError("no text here needs the twin")

    monkeypatch.setattr(control_tokens, "_twin", unwanted)
    for text in ("a plain text. < s > and <s and s>", "naïve 山 \n\n\t<", "", "one! two! three."):
        assert text_ids(any_tokenizer, text) == any_tokenizer(text, add_special_tokens=False)["input_ids"]


@given(st.data())
def test_the_twin_reads_everything_else_as_the_tokenizer_does(data):
    tokenizer = made(data.draw(st.sampled_from(sorted(MAKERS))))
    text = data.draw(st.text(alphabet="ab <>/s|.!\n山", max_size=40))
    if control_tokens.hidden(tokenizer, text) == text:
        twin, _ = control_tokens._twin(tokenizer)
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert twin.encode(text, add_special_tokens=False).ids == read["input_ids"]


def test_parts_of_a_sample_hold_no_control_tokens(any_tokenizer):
    text = spelt(any_tokenizer)
    sample = Sample("a", f"{text}\n\n{text}", f"What does {text} say?", text)
    encoded, marks = encode(sample, any_tokenizer), control_tokens.marks(any_tokenizer)
    for part in (encoded.context, encoded.instruction, encoded.response):
        assert len(part) > 3 and (marks.keys() - {any_tokenizer.unk_token_id}).isdisjoint(part)
    borders = context_offsets(sample, any_tokenizer, encoded, 1)
    assert len(borders) == len(encoded.context) + 1 and borders == sorted(borders)


def test_an_answer_that_is_one_control_token_has_more_than_one_token(prefixing):
    encoded = encode(Sample("a", "A text.", "How does it end?", "</s>"), prefixing)
    assert len(encoded.response) > 1 and prefixing.eos_token_id not in encoded.response


TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}<s>assistant:"


@pytest.mark.parametrize("name", ["shipped", "Llama-2's form", "byte level", "unigram"])
def test_a_templates_own_control_tokens_stay(name):
    tokenizer = MAKERS[name]()
    tokenizer.chat_template = TEMPLATE
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    plain = prompt_ids(tokenizer, ["Where is it?"], [], chat=True)
    asked = prompt_ids(tokenizer, ["Where is </s><s> it?"], [], chat=True)
    for ids in (plain, asked):
        assert (ids.count(start), ids.count(end)) == (2, 1)
    assert plain == tokenizer(TEMPLATE_WRITES.format("Where is it?"), add_special_tokens=False)["input_ids"]
    assert end not in plain_ids(tokenizer, ["Where is </s> it?"])
    sample = Sample("a", "A </s> text.", "Where is </s><s> it?", "Here.")
    for read in (encode(sample, tokenizer, chat=True), encode_asked(sample, tokenizer)):
        prompt = read.start + read.context + read.instruction
        assert (prompt.count(start), prompt.count(end)) == (2, 1) and end not in read.context
        assert read.start[0] == start and end in read.instruction


TEMPLATE_WRITES = "<s>user: {}</s><s>assistant:"


@pytest.mark.parametrize("name", ["shipped", "Llama-2's form", "byte level"])
def test_samples_without_them_are_read_as_before(name):
    """Also in a template, whose parts the tokenizer reads with their control tokens."""
    tokenizer = MAKERS[name]()
    tokenizer.chat_template = TEMPLATE
    sample = Sample("a", "A text. Of two.", "Where is it?", "Here.")

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    read = encode(sample, tokenizer, chat=True)
    assert read.start == ids("<s>user: ")
    assert read.instruction == ids("\n\nWhere is it?</s><s>assistant:")
    whole = encode_asked(sample, tokenizer)
    assert whole.prompt == ids(TEMPLATE_WRITES.format("A text. Of two.\n\nWhere is it?"))


def test_punctuation_that_pads_is_text_as_ever():
    """Some tokenizers have "!" for padding; texts may hold it."""
    tokenizer = _byte_level()
    assert "!" not in control_tokens.marks(tokenizer).values()
    ids = text_ids(tokenizer, "no! </s> yes!")
    assert ids.count(tokenizer.pad_token_id) == 2 and tokenizer.decode(ids) == "no! </s> yes!"
