"""What a record says in fields that nothing reads is refused, with what reads it or leaves it out."""

from __future__ import annotations

import json
import re

import pytest

from gateau_lib.data import sharded
from gateau_lib.data.formats import AUTO, ReadAs

DOC, ASK, SAY = "The mill is blue.", "Which colour?", "Blue."
CHAT = [{"role": "user", "content": f"{DOC}\n\n{ASK}"}, {"role": "assistant", "content": SAY}]
TALK = [{"from": "human", "value": f"{DOC}\n\n{ASK}"}, {"from": "gpt", "value": SAY}]
SHAREGPT, MESSAGES = {"id": 1, "conversations": TALK}, {"id": 1, "messages": CHAT}
LONGBENCH = {"id": 1, "context": DOC, "input": ASK, "answers": [SAY]}
ALPACA = {"id": 1, "instruction": ASK, "input": DOC, "output": SAY}
PROMPT = {"id": 1, "prompt": ASK, "context": DOC, "completion": SAY}
OUT = ", or leave it out by --rename"


def turn(**more):
    """A conversation whose answer has more than a content."""
    return {"id": 1, "messages": [CHAT[0], CHAT[1] | more]}


REFUSED = [
    (SHAREGPT | {"tools": '[{"name": "f"}]'}, f"'tools' is not read; write .*{OUT} tools=unread"),
    (MESSAGES | {"tools": [{"type": "function"}]}, "'tools' is not read"),
    (MESSAGES | {"functions": [{"name": "f"}]}, "'functions' is not read"),
    (SHAREGPT | {"images": ["a.png"]}, f"'images' is not read; only text is scored{OUT} images=unread"),
    (ALPACA | {"video": "a.mp4"}, "'video' is not read"),
    (PROMPT | {"system_prompt": "Be brief."}, "'system_prompt' is not read; --rename system_prompt=system"),
    (PROMPT | {"system_prompt": "A", "system": "B"}, "'system_prompt' is not read; 'system' stands"),
    (MESSAGES | {"history": [["a", "b"]]}, "'history' is not read; write it as turns of 'messages'"),
    (LONGBENCH | {"context": [DOC, DOC]}, "'context' is no text, but list; join its parts to one text"),
    (LONGBENCH | {"context": {"title": ["x"]}}, "'context' is no text, but dict"),
    (ALPACA | {"input": 5}, "'input' is no text, but int"),
    (PROMPT | {"context": [DOC]}, "'context' is no text, but list"),
    (ALPACA | {"context": "Another."}, f"'context' is not read; 'input' is taken{OUT} context=unread"),
    (PROMPT | {"input": "Another."}, "'input' is not read; 'prompt' is taken"),
    (MESSAGES | {"context": "Another."}, "'context' is not read; it is in no turn of 'messages'"),
    (turn(reasoning_content="Hm."), "'reasoning_content' of a turn is not read; turn 2 has it"),
    (turn(images=["a.png"]), "'images' of a turn is not read"),
    (turn(value="Red."), "'content' and 'value' in a turn; turn 2 has both, and they differ"),
    (turn(**{"from": "human"}), "'role' and 'from' in a turn"),
    ({"id": 1, "messages": json.dumps(turn(thinking="Hm.")["messages"])}, "'thinking' of a turn is not read"),
    ({"id": 1, "messages": None}, "no usable 'messages'; it is empty or null"),
]  # fmt: skip
READ = [
    SHAREGPT | {"tools": "[]", "images": [], "functions": None},
    MESSAGES | {"context": DOC, "prompt": ASK, "history": []},
    MESSAGES | {"context": "Another.", "instruction": ASK},
    turn(value=SAY, reasoning_content="", **{"from": "gpt"}),
    turn(name="bot", weight=1),
    PROMPT | {"question": ASK, "system_prompt": ""},
    ALPACA | {"context": DOC},
    {"id": 1, "text": DOC, "images": ["a.png"], "tools": "hammer"},
]


def error_of(record, read_as=AUTO):
    return sharded.item_of(record, "1", "line 1", read_as=read_as).error


@pytest.mark.parametrize(("record", "says"), REFUSED)
def test_what_nothing_reads_is_refused(record, says):
    error = error_of(record)
    assert error is not None and "\n" not in error
    assert re.match(f"line 1: {says}", error)


@pytest.mark.parametrize("record", READ)
def test_fields_that_say_nothing_more_are_no_obstacle(record):
    assert error_of(record) is None


def test_the_named_option_reads_the_record_or_leaves_the_field_out():
    tools = SHAREGPT | {"tools": '[{"name": "f"}]'}
    assert error_of(*renamed(tools, "tools", "unread")) is None
    record, read_as = renamed(PROMPT | {"system_prompt": "Be brief."}, "system_prompt", "system")
    assert sharded.item_of(record, "1", "line 1", read_as=read_as).sample.system == "Be brief."


def renamed(record, theirs, ours):
    read_as = ReadAs(rename=((theirs, ours),))
    return sharded.renamed(record, read_as), read_as


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (json.dumps(MESSAGES)[:-1] + ', "messages": []}', "messages"),
        ('{"id": "p", ' + json.dumps(MESSAGES)[1:], "id"),
        (json.dumps(MESSAGES).replace('"role": "user"', '"role": "user", "content": "x"'), "content"),
        (json.dumps(MESSAGES)[:-1] + ', "meta": 1, "meta": 2}', None),
    ],
)
def test_a_field_that_is_read_stands_once(tmp_path, line, name):
    path = tmp_path / "d.jsonl"
    path.write_text(line + "\n")
    (shard,) = sharded.index(path, 2)
    (item,) = sharded.read(path, shard)
    wanted = f"line 1: '{name}' stands twice in one object, and the last would count; leave one out"
    assert item.error == (wanted if name else None) and (item.sample is None) == bool(name)
