"""A conversation read: who said what, which answer is scored, and what its prompt is."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from gateau_lib.data.samples import NAMES
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.errors import DataError

SPEAKERS = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "chatgpt", "bot", "function_call"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "ipython"),
}
SPEAKER = {name: speaker for speaker, names in SPEAKERS.items() for name in names}


class RecordError(DataError):
    """A record that is no sample. ``fault`` says why in words that hold nothing of the record."""

    def __init__(self, where: str, fault: str, more: str) -> None:
        super().__init__(f"{where}: {fault}{more}")
        self.fault = fault


class Turn(NamedTuple):
    """What one side said."""

    role: str  # a key of `SPEAKERS`
    text: str
    calls: bool = False  # an assistant that calls a tool: no answer


class Exchange(NamedTuple):
    """The answer that is scored, and its prompt."""

    system: str  # turns of the system before all others
    before: str  # earlier turns by their names; "" before the first exchange
    last: str | None  # what the user asked; None where a tool or the system spoke last
    response: str
    earlier: int  # number of turns in ``before``


def turns_of(said: Any, field: str, where: str) -> list[Turn]:
    """The turns of a conversation: objects with role and content, or from and value; also as JSON text.

    Tables may hold them as one object of lists. Raises RecordError: anything else, an unknown role, content
    that is no text.
    """
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError):
            raise RecordError(where, f"no usable '{field}'", "; it is text, and not JSON") from None
    if isinstance(said, Mapping) and all(isinstance(each, list) for each in said.values()):
        said = [dict(zip(said, each, strict=False)) for each in zip(*said.values(), strict=False)]
    if not isinstance(said, list):
        form = f"; a list of turns is read, such as [{{'role': 'user', 'content': ...}}], not {_kind(said)}"
        raise RecordError(where, f"no usable '{field}'", form)
    return [_turn(each, field, f"turn {number}", where) for number, each in enumerate(said, 1)]


def _turn(said: Any, field: str, place: str, where: str) -> Turn:
    fault = f"no usable '{field}'"
    if not isinstance(said, Mapping):
        raise RecordError(where, fault, f"; {place} is {_kind(said)}, not an object with role and content")
    given = str(said.get("role") or said.get("from") or "none").lower()
    if (role := SPEAKER.get(given)) is None:
        fix = f"; {place} has {given[:20]!r}; known are {', '.join(SPEAKER)}"
        raise RecordError(where, "a turn of unknown role", fix)
    calls = said.get("tool_calls") or said.get("function_call")
    content = said.get("content") if said.get("content") is not None else said.get("value")
    if isinstance(content, list):
        content = SEPARATOR.join(_part(each, place, where) for each in content)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise RecordError(where, fault, f"; {place} has {_kind(content)} for content, not text")
    if calls:
        content = SEPARATOR.join(filter(None, (content, json.dumps(calls, ensure_ascii=False))))
    return Turn(role, content, bool(calls) or given == "function_call")


def _part(part: Any, place: str, where: str) -> str:
    """The text of one part of a turn's content."""
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        kind = str(part.get("type"))[:20] if isinstance(part, Mapping) else _kind(part)
        raise RecordError(where, "a turn with parts that are no text", f"; {place} has {kind!r}")
    return text


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def exchange(turns: Sequence[Turn], where: str, number: int | None = None) -> Exchange:
    """The ``number``-th answer, counted from 1, else the last turn, with all that was said before it.

    Raises RecordError: turns that do not alternate, no such answer, an empty one, a last turn that is none.
    """
    talk = list(turns)
    while talk and talk[-1].role == "system":
        talk.pop()
    system = []
    while talk and talk[0].role == "system":
        system.append(talk.pop(0).text)
    answers = [place for place, turn in enumerate(talk) if turn.role == "assistant" and not turn.calls]
    _check_order(talk, answers, where)
    if number is None and answers[-1] != len(talk) - 1:
        fix = f", but of {talk[-1].role}; --turn N takes the N-th of {len(answers)} answers"
        raise RecordError(where, "the last turn is no answer", fix)
    if number is not None and number > len(answers):
        raise RecordError(where, f"no answer {number}", f"; it has {len(answers)}")
    place = answers[-1 if number is None else number - 1]
    if not talk[place].text.strip():
        fix = "; drop the record or give the assistant turn its text"
        raise RecordError(where, "empty response", fix)
    *earlier, last = talk[:place]
    if last.role != "user":
        return Exchange(SEPARATOR.join(system), _joined(talk[:place]), None, talk[place].text, place)
    before = _joined(earlier) + SEPARATOR + NAMES["user"] if earlier else ""
    return Exchange(SEPARATOR.join(system), before, last.text, talk[place].text, len(earlier))


def _check_order(talk: Sequence[Turn], answers: Sequence[int], where: str) -> None:
    spoken = [turn.role for turn in talk if turn.role != "system"]
    got = f", got roles {spoken[:6]}"
    if not answers and any(turn.calls for turn in talk):
        raise RecordError(where, "no answer but calls of tools", "; an answer with text is needed")
    if spoken[:1] != ["user"] or not answers:
        raise RecordError(where, "messages must begin with a user turn and an assistant turn", got)
    if any(one == other != "tool" for one, other in pairwise(spoken)):
        raise RecordError(where, "turns that do not alternate", got)


def _joined(turns: Sequence[Turn]) -> str:
    return SEPARATOR.join(NAMES[turn.role] + SEPARATOR + turn.text for turn in turns)
