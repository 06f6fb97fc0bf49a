"""Samples in and out of LongAlign records, and as token ids; every kind of bad record names its place."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.data.longalign import from_record, read_records, read_samples, to_record, write_samples
from gateau_lib.data.samples import Sample, context_offsets, encode, encode_asked, evidence_tokens, segments
from gateau_lib.study.errors import DataError

SAMPLE = Sample(
    "a",
    "One fact. The code is amber.\nMore.",
    "What is the code?",
    "It is amber.",
    "far",
    ((10, 28),),
    "amber",
    "t",
)
MESSAGES = [{"role": "user", "content": "document\n\nquestion"}, {"role": "assistant", "content": "answer"}]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
WORDS = TEXT.filter(lambda t: "\n\n" not in t and t.strip() == t)


@given(
    TEXT.filter(lambda t: t.strip()), st.one_of(st.just(""), WORDS), WORDS, TEXT.filter(lambda t: t.strip())
)
def test_record_and_back(name, context, instruction, response):
    sample = Sample(name, context, instruction, response)
    assert from_record(json.loads(json.dumps(to_record(sample))), "here") == sample


def test_labels_ride_along(tmp_path):
    assert read_samples(write_samples([SAMPLE], tmp_path / "one.jsonl")) == [SAMPLE]
    assert [p.name for p in tmp_path.iterdir()] == ["one.jsonl"]


@pytest.mark.parametrize(
    ("more", "context", "instruction"),
    [
        ({}, "document", "question"),
        ({"instruction": "question"}, "document", "question"),
        (
            {"instruction": "another"},
            "document",
            "question",
        ),  # not what the user turn ends with: it is not trusted
        ({"context": "the text", "instruction": "the task"}, "the text", "the task"),
        ({"messages": [{"role": "system", "content": "be good"}, *MESSAGES]}, "document", "question"),
        ({"messages": [{"role": "user", "content": "only a question"}, MESSAGES[1]]}, "", "only a question"),
        ({"messages": [{"role": "user", "content": "a\n\nb\n\nc\n"}, MESSAGES[1]]}, "a\n\nb", "c"),
        ({"messages": [*MESSAGES, {"role": "system", "content": "be good"}]}, "document", "question"),
    ],
)
def test_where_context_and_instruction_come_from(more, context, instruction):
    sample = from_record({"id": 7, "messages": MESSAGES} | more, "here")
    assert (sample.id, sample.context, sample.instruction, sample.response) == (
        "7",
        context,
        instruction,
        "answer",
    )


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([1], "expected a JSON object, got list"),
        ({"messages": MESSAGES}, "no 'id'"),
        ({"id": ""}, "no 'id'"),
        ({"id": "a"}, "no usable 'messages'"),
        ({"id": "a", "messages": [{"role": "user"}]}, "no usable 'messages'"),
        ({"id": "a", "messages": MESSAGES[1:]}, "must begin with a user turn"),
        ({"id": "a", "messages": []}, "must begin with a user turn"),
        ({"id": "a", "messages": [MESSAGES[0], {"role": "assistant", "content": " \n"}]}, "empty response"),
        ({"id": "a", "messages": [*MESSAGES, MESSAGES[0]]}, "the last turn is no answer, but of user;"),
        (
            {
                "id": "a",
                "messages": [{"role": "system", "content": "s"}, *MESSAGES, {"role": "tool", "content": "t"}],
            },
            "the last turn is no answer, but of tool;",
        ),
        (
            {"id": "a", "context": "c", "instruction": "x", "messages": MESSAGES * 3},
            "beside several exchanges",
        ),
    ],
)
def test_bad_records_name_place_and_fix(record, message):
    with pytest.raises(DataError, match=message) as error:
        from_record(record, "data.jsonl, line 3")
    assert str(error.value).startswith("data.jsonl, line 3: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone.jsonl", None, "no such file"),
        ("data.txt", "x", "unknown suffix '.txt'"),
        ("data.jsonl", "\n\n", "holds no records"),
        ("data.jsonl", '{"id": 1}\n{"id": \n', "line 2: not valid JSON"),
    ],
)
def test_bad_files_name_place_and_fix(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_records(path)


def test_duplicate_ids_name_both_lines(tmp_path):
    line = json.dumps({"id": "a", "messages": MESSAGES})
    (tmp_path / "data.jsonl").write_text(f"{line}\n\n{line}\n")  # blank lines count
    with pytest.raises(DataError, match=r"line 3: id 'a' was already used at .*line 1"):
        read_samples(tmp_path / "data.jsonl")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write_samples([SAMPLE], tmp_path / "one.jsonl")
    with pytest.raises(AttributeError):
        write_samples([SAMPLE, None], path)  # type: ignore[list-item]
    assert read_samples(path) == [SAMPLE]


# Token ids --------------------------------------------------------------------------------------------------


def test_parts_are_tokenized_one_by_one(tokenizer):
    encoded = encode(SAMPLE, tokenizer)
    assert encoded.ids == encoded.start + encoded.context + encoded.instruction + encoded.response
    assert encoded.ids == encoded.prompt + encoded.response and encoded.start == [tokenizer.bos_token_id]
    assert (
        tokenizer.decode(encoded.ids[1:]) == f"{SAMPLE.context}\n\n{SAMPLE.instruction}\n\n{SAMPLE.response}"
    )
    assert tokenizer.decode(encoded.instruction) == f"\n\n{SAMPLE.instruction}\n\n"
    assert tokenizer.eos_token_id not in encoded.ids


def test_no_context_no_separator_before_the_instruction(tokenizer):
    encoded = encode(Sample("a", "", "Do it.", "Done."), tokenizer)
    assert encoded.context == [] and tokenizer.decode(encoded.instruction) == "Do it.\n\n"


@given(limit=st.integers(30, 90))
def test_cut_on_the_left_of_the_context_only(tokenizer, limit):
    whole = encode(SAMPLE, tokenizer)
    rest = len(whole.ids) - len(whole.context)
    if limit < rest:
        with pytest.raises(DataError, match=f"alone take {rest} tokens, more than max_length {limit}"):
            encode(SAMPLE, tokenizer, limit)
        return
    cut = encode(SAMPLE, tokenizer, limit)
    assert len(cut.ids) == min(limit, len(whole.ids)) and cut.dropped == len(whole.ids) - len(cut.ids)
    assert cut.context == whole.context[cut.dropped :]
    assert (cut.start, cut.instruction, cut.response) == (whole.start, whole.instruction, whole.response)


def test_empty_response_is_refused(tokenizer):
    with pytest.raises(DataError, match="sample 'a': the response is empty"):
        encode(Sample("a", "text", "ask", ""), tokenizer)


# Chat templates ---------------------------------------------------------------------------------------------

CHATML = (
    "{{ bos_token }}{% for m in messages %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token }}[INST] {{ m['content'] | trim }} [/INST]{% endif %}{% endfor %}"
)


def with_template(tokenizer, template):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = template
    return chatty


@pytest.mark.parametrize("template", [CHATML, INST])
@pytest.mark.parametrize("context", ["", SAMPLE.context])
def test_chat_template_stands_around_context_and_instruction(tokenizer, template, context):
    chatty = with_template(tokenizer, template)
    sample = Sample("a", context, SAMPLE.instruction, SAMPLE.response)
    encoded = encode(sample, chatty, chat=True)
    user = f"{context}\n\n{sample.instruction}" if context else sample.instruction
    turns = [{"role": "user", "content": user}]
    # The test's tokenizer has one token a byte, so here the parts are also the tokens of the whole text.
    assert encoded.prompt == chatty.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert (
        tokenizer.decode(encoded.context) == context and tokenizer.decode(encoded.response) == sample.response
    )
    assert encoded.start[0] == tokenizer.bos_token_id and encoded.start.count(tokenizer.bos_token_id) == 1


def test_chat_template_cuts_the_context_only(tokenizer):
    chatty = with_template(tokenizer, CHATML)
    whole = encode(SAMPLE, chatty, chat=True)
    cut = encode(SAMPLE, chatty, len(whole.ids) - 5, chat=True)
    assert (cut.start, cut.instruction, cut.response, cut.dropped) == (
        whole.start,
        whole.instruction,
        whole.response,
        5,
    )
    assert cut.context == whole.context[5:]


def test_white_space_that_a_template_strips_stays_in_its_place(tokenizer):
    sample = Sample("a", "  text", "ask ", "answer")
    encoded = encode(sample, with_template(tokenizer, INST), chat=True)
    assert tokenizer.decode(encoded.prompt) == "<s>[INST]   text\n\nask  [/INST]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ messages[0]['content'] | upper }}", "rewrites the user's text"),
        ("{{ messages[0]['content'] }} again: {{ messages[0]['content'] }}", "rewrites the user's text"),
        ("no text at all", "rewrites the user's text"),
        (
            "{{ raise_exception('only with a system turn') }}",
            r"the chat template fails \(only with a system turn\)",
        ),
        ("{% for m in messages %}", "the chat template fails"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(tokenizer, template, message):
    with pytest.raises(DataError, match=f"sample 'a': .*{message}.*leave out --chat-template") as error:
        encode(SAMPLE, with_template(tokenizer, template), chat=True)
    assert "\n" not in str(error.value)


# Places -----------------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="ascii"), max_size=60), st.integers(1, 12), st.integers(0, 20))
def test_offsets_are_the_segments_text(tokenizer, context, length, cut):
    sample = Sample("a", context, "ask", "answer")
    whole = encode(sample, tokenizer)
    encoded = encode(sample, tokenizer, max(len(whole.ids) - cut, len(whole.ids) - len(whole.context)))
    offsets = context_offsets(sample, tokenizer, encoded, length)
    parts = segments(encoded.context, length)
    assert len(offsets) == len(parts) + 1 and offsets[-1] == len(context)
    for part, begin, end in zip(parts, offsets, offsets[1:], strict=False):
        assert tokenizer.decode(part) == context[begin:end]


def test_offsets_of_characters_of_several_tokens(tokenizer):
    sample = Sample("a", "naïve 山 café", "ask", "answer")
    offsets = context_offsets(sample, tokenizer, encode(sample, tokenizer), 3)
    assert offsets[0] == 0 and offsets[-1] == len(sample.context) and offsets == sorted(offsets)


def test_evidence_in_tokens(tokenizer):
    ((begin, end),) = evidence_tokens(SAMPLE, tokenizer)
    ids = encode(SAMPLE, tokenizer).context
    assert tokenizer.decode(ids[begin:end]) == SAMPLE.context[10:28] == "The code is amber."
    with pytest.raises(DataError, match="evidence 500-510 covers no token"):
        evidence_tokens(Sample("a", "short", "x", "y", evidence=((500, 510),)), tokenizer)


@given(st.lists(st.integers()), st.integers(1, 20))
def test_segments_are_the_tokens_in_order(tokens, length):
    parts = segments(tokens, length)
    assert [t for part in parts for t in part] == tokens
    assert all(len(part) == length for part in parts[:-1]) and all(parts)
    assert len(parts) == -(-len(tokens) // length)


@pytest.mark.parametrize("evidence", ["page 3", ["a", "b"], [3], [[1]], {"at": 3}, None])
def test_a_users_own_evidence_field_is_left_alone(evidence):
    turns = [{"role": "user", "content": "text\n\nWhy?"}, {"role": "assistant", "content": "Because."}]
    assert from_record({"id": "a", "messages": turns, "evidence": evidence}, "here").evidence == ()


def test_bytes_that_are_not_utf8_are_named_and_a_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "a"}\n{"id": "caf\xe9"}\n')
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_records(tmp_path / "latin.jsonl")
    (tmp_path / "marked.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "a"}\n')
    assert read_records(tmp_path / "marked.jsonl")[0][1] == {"id": "a"}


@pytest.mark.parametrize("context", ["Mira went home. Her code is amber.", ""])
def test_a_sample_is_trained_on_as_a_model_is_asked(prefixing, tokenizer, context):
    """Also with a tokenizer that puts a mark before every text it is given,
    which parts of a prompt must not get."""
    from gateau_lib.models.prompts import INST, prompt_ids

    for each in (prefixing, tokenizer):
        asking = copy.deepcopy(each)
        asking.chat_template = INST
        sample = Sample("s", context, "What is the code?", "Amber.")
        user = f"{context}\n\nWhat is the code?" if context else "What is the code?"
        encoded = encode_asked(sample, asking)
        assert encoded.prompt == prompt_ids(asking, [user], [], chat=True)
        assert asking.decode(encoded.response).strip() == "Amber."
        if context:
            cut = encode_asked(sample, asking, len(encoded.ids) - 3)
            assert (
                cut.context == encoded.context[3:]
                and cut.dropped == 3
                and cut.instruction == encoded.instruction
            )
