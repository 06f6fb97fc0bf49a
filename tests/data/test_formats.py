"""Records of every form as samples, by hand; what cannot be read says why; the page's examples are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.data import formats
from gateau_lib.data.conversation import RecordError, exchange, turns_of
from gateau_lib.data.formats import ReadAs, form_of, sample_of
from gateau_lib.data.samples import encode
from gateau_lib.study.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
ROW = re.compile(r"^\| `(\w+)` \| .+? \| `(\{.+?\})` \| *(.*?) *\| *(.*?) *\| *(.*?) *\|$", re.MULTILINE)
EXAMPLES = ROW.findall(PAGE.read_text(encoding="utf-8"))


def chat(*turns, **more):
    """A record of messages: texts of user and assistant in turn, or pairs of role and content."""
    roles = ["user", "assistant"] * len(turns)
    said = [
        each if isinstance(each, tuple) else (role, each) for role, each in zip(roles, turns, strict=False)
    ]
    return {"messages": [{"role": role, "content": text} for role, text in said]} | more


def parts(record, read_as=formats.AUTO):
    sample = sample_of(record, "line 1", "a", read_as)
    return sample.context, sample.instruction, sample.response


def refused(record, read_as=formats.AUTO):
    with pytest.raises(RecordError) as error:
        sample_of(record, "line 1", "a", read_as)
    said = str(error.value)
    assert said.startswith(f"line 1: {error.value.fault}") and "\n" not in said
    return said


def test_the_page_shows_every_form():
    assert [name for name, *_ in EXAMPLES] == list(formats.FORMS)


@pytest.mark.parametrize(("form", "text", "context", "instruction", "response"), EXAMPLES)
def test_examples_of_the_page_are_read_as_it_says(form, text, context, instruction, response):
    record = json.loads(text)
    assert form_of(record) == form
    for asked in ("auto", form):
        assert parts(record, ReadAs(asked)) == (context, instruction, response)


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"conversations": [{"from": "human", "value": "D\n\nQ"}, {"from": "gpt", "value": "A"}]},
         ("D", "Q", "A")),
        ({"conversations": [{"role": "User", "content": "Q"}, {"role": "ASSISTANT", "content": "A"}]},
         ("", "Q", "A")),
        ({"instruction": "Q", "input": "", "output": "A"}, ("", "Q", "A")),
        ({"instruction": "D\n\nQ", "output": "A"}, ("D", "Q", "A")),
        ({"instruction": "Q", "context": "D", "response": "A", "category": "qa"}, ("D", "Q", "A")),
        ({"input": "Q", "output": "A"}, ("", "Q", "A")),
        ({"question": "Q", "answer": "A", "context": "D"}, ("D", "Q", "A")),
        ({"query": "Q", "response": "A"}, ("", "Q", "A")),
        ({"context": "D", "input": "", "answers": ["A"]}, ("D", "", "A")),
        ({"context": "D", "question": "Q", "answers": {"text": ["A"], "answer_start": [0]}}, ("D", "Q", "A")),
        ({"prompt": [{"role": "user", "content": "Q"}],
          "completion": [{"role": "assistant", "content": "A"}]}, ("", "Q", "A")),
        ({"prompt": [{"role": "user", "content": "D\n\nQ"}], "completion": "A"}, ("D", "Q", "A")),
        ({"content": "D"}, ("D", "", "")),
        # One file of several forms: a table fills what a record lacks.
        (chat("D\n\nQ", "A", context="", instruction=""), ("D", "Q", "A")),
        (chat("Q", "A", text="T", prompt=None), ("", "Q", "A")),
        ({"messages": None, "conversations": [], "text": "D"}, ("D", "", "")),
        # As tables hold turns: an object of lists, or JSON as text.
        ({"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}}, ("", "Q", "A")),
        ({"messages": json.dumps(chat("D\n\nQ", "A")["messages"])}, ("D", "Q", "A")),
        (chat([{"type": "text", "text": "D"}, {"type": "text", "text": "Q"}], "A"), ("D", "Q", "A")),
        # Blank lines.
        (chat("D\r\n\r\nQ", "A"), ("D", "Q", "A")),
        (chat("D\n \t\nQ\n\n", "A"), ("D", "Q", "A")),
        (chat("D\n\n\nQ", "A"), ("D\n", "Q", "A")),
        (chat("D\r\n\r\nQ", "A", instruction="Q"), ("D", "Q", "A")),
    ],
)  # fmt: skip
def test_forms_by_hand(record, wanted):
    assert parts(record) == wanted


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            {"id": 1, "body": "x"},
            "none of the known fields; it has 'id', 'body'; name its fields with --rename",
        ),
        ({"dialog": [{"role": "user"}]}, "--rename dialog=messages reads its turns"),
        ({"my talk": [{"from": "gpt"}]}, "--rename 'my talk'=messages reads its turns"),
        ({"\n": [{"role": "user"}]}, "name its fields with --rename"),
        ([1], "expected a JSON object, got list"),
        ({"messages": "Hello"}, "no usable 'messages'; it is text, and not JSON"),
        ({"messages": 3}, "no usable 'messages'; a list of turns is read"),
        ({"messages": ["Hi"]}, "turn 1 is str, not an object"),
        (chat("Q", None), "turn 2 has nothing for content"),
        (chat("Q", 3), "turn 2 has int for content"),
        (chat("Q", ("bing", "A")), "a turn of unknown role; turn 2 has 'bing'; known are user, human"),
        (
            chat([{"type": "image_url", "image_url": "x"}], "A"),
            "parts that are no text; turn 1 has 'image_url'",
        ),
        (chat("Q", " \n"), "empty response; drop the record"),
        (chat(" \n", "A"), "empty prompt; drop the record"),
        (
            chat("Q", "A", "And?"),
            "the last turn is no answer, but of user; --turn N takes the N-th of 1 answers",
        ),
        (
            chat("Q", ("user", "Q"), ("assistant", "A")),
            "turns that do not alternate, got roles ['user', 'user'",
        ),
        (
            chat(("assistant", "A"), ("user", "Q")),
            "messages must begin with a user turn and an assistant turn",
        ),
        (
            chat("Q", "A", "Q", "A", context="D", instruction="Q"),
            "'context' and 'instruction' beside several",
        ),
        ({"instruction": "Q", "output": ["A"]}, "'output' is no text, but list"),
        ({"instruction": "Q", "output": ""}, "empty response"),
        ({"instruction": "Q", "output": "A", "history": [["Q"]]}, "no usable 'history'"),
        ({"prompt": "Q", "completion": "A", "history": 3}, "no usable 'history'"),
        ({"text": " \n"}, "empty text"),
        ({"text": 4}, "'text' is no text, but int"),
    ],
)
def test_what_cannot_be_read_says_why(record, says):
    assert says in refused(record)


@given(st.text("ab.\n", max_size=12), st.sampled_from([None, "", "b", "a\n\nb"]))
def test_one_exchange_is_parted_as_ever(user, ending):
    """As LongAlign's records always were: the study's samples must not move by a byte."""
    more = {} if ending is None else {"instruction": ending}
    if ending and user.endswith(ending):
        context, question = user[: -len(ending)], ending
    else:
        context, _, question = user.rstrip().rpartition("\n\n")
    wanted = context.removesuffix("\n\n"), question, "A"
    if "".join(wanted[:2]).strip():
        assert parts(chat(user, "A", **more)) == wanted


def test_a_form_that_is_asked_for_is_the_only_one():
    record = chat("Q", "A", text="D")
    assert parts(record, ReadAs("text")) == ("D", "", "")
    said = refused({"conversations": []}, ReadAs("messages"))
    assert "no usable 'messages'; it has 'conversations'; --format sharegpt reads it" in said


def test_the_last_answer_is_scored_with_all_that_was_said_before():
    """A greeting before the document is never the sample."""
    greeting = sample_of(chat("Hi", "Hello!", "D1\n\nD2\n\nQ", "A"), "line 1", "a")
    assert greeting.context == "User:\n\nHi\n\nAssistant:\n\nHello!\n\nUser:\n\nD1\n\nD2"
    assert (greeting.instruction, greeting.response, greeting.earlier) == ("Q", "A", 2)
    followed = sample_of(chat("D\n\nQ", "A", "And who?", "B"), "line 1", "a")
    assert (
        followed.context == "User:\n\nD\n\nQ\n\nAssistant:\n\nA\n\nUser:"
        and followed.instruction == "And who?"
    )
    assert parts(chat("D\n\nQ", "A", "And who?", "B"), ReadAs(turn=1)) == ("D", "Q", "A")
    assert parts(chat("D\n\nQ", "A", "And who?"), ReadAs(turn=1)) == ("D", "Q", "A")
    assert "no answer 3; it has 2" in refused(chat("D", "A", "And who?", "B"), ReadAs(turn=3))
    alpaca = {
        "instruction": "And?",
        "input": "D",
        "output": "B",
        "history": [["Q", "A"]],
        "system": "Be brief.",
    }
    sample = sample_of(alpaca, "line 1", "a")
    assert sample.context == "User:\n\nQ\n\nAssistant:\n\nA\n\nUser:\n\nD" and sample.instruction == "And?"
    assert sample.system == "Be brief."


def test_tools_are_turns_of_the_context_and_their_calls_no_answers():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    tool = {"role": "tool", "content": "D"}
    turns = [{"role": "user", "content": "Q"}, call, tool, {"role": "assistant", "content": "A"}]
    sample = sample_of({"messages": turns}, "line 1", "a")
    assert sample.context == ('User:\n\nQ\n\nAssistant:\n\n[{"function": {"name": "f"}}]\n\nTool:\n\nD')
    assert (sample.instruction, sample.response, sample.earlier) == ("", "A", 3)
    assert "the last turn is no answer" in refused(
        {"messages": [*turns, {"role": "user", "content": "?"}, call]}
    )
    assert "no answer but calls of tools" in refused({"messages": turns[:3]})
    shared = [("human", "Q"), ("function_call", "f()"), ("observation", "D"), ("gpt", "A")]
    record = {"conversations": [{"from": role, "value": text} for role, text in shared]}
    assert sample_of(record, "line 1", "a").context == "User:\n\nQ\n\nAssistant:\n\nf()\n\nTool:\n\nD"


def test_the_system_stands_before_everything_and_counts(tokenizer):
    bare, record = chat("D\n\nQ", "A"), chat(("system", "Be brief."), ("user", "D\n\nQ"), ("assistant", "A"))
    sample, plain = sample_of(record, "line 1", "a"), sample_of(bare, "line 1", "a")
    assert (sample.system, sample.context, sample.earlier) == ("Be brief.", "D", 0)
    assert tokenizer.decode(encode(sample, tokenizer).prompt) == "<s>Be brief.\n\nD\n\nQ\n\n"
    assert encode(sample, tokenizer, 20).start == encode(sample, tokenizer).start  # never cut
    late = chat(("user", "D\n\nQ"), ("assistant", "A"), ("system", "Well done."))
    assert sample_of(late, "line 1", "a") == plain
    between = chat(
        ("user", "Hi"), ("assistant", "Yes?"), ("system", "Be brief."), ("user", "Q"), ("assistant", "A")
    )
    assert "Yes?\n\nSystem:\n\nBe brief.\n\nUser:" in sample_of(between, "line 1", "a").context


def test_several_exchanges_and_documents_as_tokens(tokenizer):
    talk = encode(sample_of(chat("Hi", "Hello!", "Q", "A"), "line 1", "a"), tokenizer)
    assert tokenizer.decode(talk.ids) == (
        "<s>User:\n\nHi\n\nAssistant:\n\nHello!\n\nUser:\n\nQ\n\nAssistant:\n\nA"
    )
    document = encode(sample_of({"text": "The mill."}, "line 1", "a"), tokenizer)
    assert (
        tokenizer.decode(document.ids) == "<s>The mill." and document.instruction == document.response == []
    )
    assert encode(sample_of({"text": "The mill."}, "line 1", "a"), tokenizer, 4).dropped == 6


def test_a_template_gets_the_systems_turn(tokenizer):
    import copy

    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"
    record = chat(("system", "Be brief."), ("user", "D\n\nQ"), ("assistant", "A"))
    encoded = encode(sample_of(record, "line 1", "a"), chatty, chat=True)
    assert chatty.decode(encoded.ids) == "<system>Be brief.<user>D\n\nQ<assistant>A"
    assert chatty.decode(encoded.context) == "D"


def test_names_of_fields_are_given():
    read_as = ReadAs.asked(
        {"format": None, "turn": None, "ids": None, "rename": ["dialog=messages", "uid=id"]}
    )
    record = {"uid": 7, "dialog": chat("Q", "A")["messages"], "id": "old"}
    assert read_as and formats.renamed(record, read_as) == {"id": 7, "messages": record["dialog"]}
    assert ReadAs.of({"read_as": {"rename": [["dialog", "messages"], ["uid", "id"]]}}) == read_as
    assert (
        ReadAs.asked(dict.fromkeys(("format", "turn", "ids", "rename"))) is None
        and ReadAs.of({}) == formats.AUTO
    )
    for words, says in (
        ({"rename": ["dialog"]}, "write THEIRS=OURS"),
        ({"turn": 0}, "--turn must be at least 1"),
    ):
        with pytest.raises(DataError, match=says):
            ReadAs.asked(dict.fromkeys(("format", "turn", "ids", "rename")) | words)


def test_turns_and_exchange_alone():
    turns = turns_of(chat("Q", "A")["messages"], "messages", "line 1")
    assert [turn.role for turn in turns] == ["user", "assistant"]
    assert exchange(turns, "line 1") == ("", "", "Q", "A", 0)
