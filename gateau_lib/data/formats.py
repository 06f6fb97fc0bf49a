"""Records in the forms that people have, read as samples: conversations, questions with answers, documents.

A form is met by its fields (`FORMS`). What a record says and cannot be read is a `RecordError` that names it;
nothing is guessed, nothing left out in silence. docs/formats.md shows an example of each form.
"""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateau_lib.data.conversation import Exchange, RecordError, Turn, exchange, turns_of
from gateau_lib.data.samples import Sample
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.study.errors import DataError

# Form -> groups of fields; a record has the form if it has one field of every group. The first form counts.
FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages", "conversation"),),
    "sharegpt": (("conversations",),),
    "alpaca": (("instruction",), ("output", "response")),
    "longbench": (("context",), ("input", "question"), ("answers", "answer")),
    "prompt": (("prompt", "question", "query", "input"), ("completion", "response", "answer", "output")),
    "text": (("text", "content"),),
}
# Where the document stands, if not in the question.
DOCUMENTS = {"alpaca": ("input", "context"), "longbench": ("context",), "prompt": ("context", "document")}
EMPTY: tuple[Any, ...] = (None, "", [], {})  # a table of records of several forms fills what one lacks
BLANK_LINE = re.compile(r"(.*)\n[^\S\n]*\n(.*)", re.DOTALL)  # the last one of a text


@dataclass(frozen=True)
class ReadAs:
    """How records are read, the same by every command."""

    format: str = "auto"  # or a form
    turn: int | None = None  # which answer of a conversation is scored, counted from 1; None: the last
    ids: str = "field"  # or "line": the record's number
    rename: tuple[tuple[str, str], ...] = ()  # (their name of a field, ours)

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "ReadAs":
        """As a score table says that its data were read; tables of older libraries do not."""
        said = about.get("read_as", {})
        return cls(**said | {"rename": tuple((a, b) for a, b in said.get("rename", ()))})

    @classmethod
    def asked(cls, given: dict[str, Any]) -> "ReadAs | None":
        """Taken out of the words of a command line (see `add_options`); None if none of them was given."""
        words = {name: given.pop(name) for name in ("format", "turn", "ids", "rename")}
        if all(value is None for value in words.values()):
            return None
        if words["turn"] is not None and words["turn"] < 1:
            raise DataError(f"--turn must be at least 1, the first answer; got {words['turn']}")
        pairs = []
        for word in words["rename"] or ():
            theirs, _, ours = word.partition("=")
            if not theirs or not ours:
                raise DataError(f"--rename {word}: write THEIRS=OURS, such as --rename dialog=messages")
            pairs.append((theirs, ours))
        return cls(words["format"] or "auto", words["turn"], words["ids"] or "field", tuple(pairs))


AUTO = ReadAs()


def add_options(parse: ArgumentParser, default: str) -> None:
    """Add what says how records are read; ``default``: what holds where nothing is given, in words."""
    add = parse.add_argument
    add("--format", choices=("auto", *FORMS), help=f"what the records are (default: {default})")
    add("--turn", type=int, metavar="N", help="the N-th answer of a conversation (default: the last)")
    add("--ids", choices=("field", "line"), help="'line' takes line numbers as ids (default: the field id)")
    rename = "read their field as ours, such as dialog=messages; repeatable"
    add("--rename", action="append", metavar="THEIRS=OURS", help=rename)


def renamed(record: Any, read_as: ReadAs) -> Any:
    """The record with its fields under the names that are known here."""
    names = dict(read_as.rename)
    if not names or not isinstance(record, dict):
        return record
    kept = {name: value for name, value in record.items() if name not in names}
    return kept | {ours: record[theirs] for theirs, ours in names.items() if theirs in record}


def given_id(record: Any) -> Any:
    """What a record gives as its id (LongBench and MongoDB call it ``_id``), or None."""
    names = ("id", "_id") if isinstance(record, dict) else ()
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def form_of(record: Any, asked: str = "auto") -> str | None:
    """The form of a record: of those asked for the first whose fields it fills, else has; None of none."""
    if not isinstance(record, dict):
        return None
    forms = {form: groups for form, groups in FORMS.items() if asked in ("auto", form)}
    for absent in (EMPTY, (None,)):
        for form, groups in forms.items():
            if all(any(record.get(name) not in absent for name in group) for group in groups):
                return form
    return None


def unknown(record: Any, asked: str = "auto") -> tuple[str, str]:
    """What is wrong with a record of no form: in words that hold nothing of it, and in more that do."""
    if not isinstance(record, dict):
        return "expected a JSON object", f", got {type(record).__name__}"
    fix = "name its fields with --rename THEIRS=OURS"
    for name, value in record.items():
        turns = isinstance(value, list) and value and isinstance(value[0], dict)
        if turns and {"role", "from"} & value[0].keys() and name.isprintable():
            fix = f"--rename {shlex.quote(name[:40])}=messages reads its turns"
    if other := form_of(record):
        fix = f"--format {other} reads it"
    fault = "none of the known fields"
    if asked != "auto":
        fault = f"no usable {' and '.join(repr(group[0]) for group in FORMS[asked])}"
    known = "; ".join(f"{form}: {_fields(form)}" for form in FORMS if asked in ("auto", form))
    has = ", ".join(repr(name[:20]) for name in list(record)[:8]) or "no field"
    return fault, f"; it has {has}; {fix}; known are {known}"


def _fields(form: str) -> str:
    return " and ".join("|".join(group) for group in FORMS[form])


def sample_of(record: Any, where: str, name: str, read_as: ReadAs = AUTO) -> Sample:
    """The sample of a record that stands at ``where``, file and line; ``name``: its id.

    Of a conversation the last answer is the response (``read_as`` may name another), and all that was said
    before it is the prompt. Where a record does not keep document and question apart, the question is the
    last paragraph of what the user said last. A document has neither instruction nor response.
    Raises RecordError: a record of no form, without prompt, response or text, or one that nothing here reads,
    such as turns out of turn, pictures, unknown roles.
    """
    form = form_of(record, read_as.format)
    if form is None:
        raise RecordError(where, *unknown(record, read_as.format))
    labels: dict[str, Any] = {label: _whole(record.get(label)) for label in ("kind", "answer", "source")}
    if form == "text":
        if not (text := _text(record, FORMS["text"][0], where)).strip():
            raise RecordError(where, "empty text", "; drop the record")
        return Sample(name, text, "", "", **labels)
    said = exchange(all_turns(record, where, form), where, read_as.turn)
    context, instruction = _parts(record, form, said, where)
    if not (context + instruction).strip():
        raise RecordError(where, "empty prompt", "; drop the record or give the user turn its text")
    labels |= {"evidence": _spans(record.get("evidence")), "system": said.system, "earlier": said.earlier}
    return Sample(name, context, instruction, said.response, **labels)


def all_turns(record: Mapping[str, Any], where: str, form: str) -> list[Turn]:
    """Everything that is said in a record of a form other than ``text``; RecordError: what nothing reads."""
    if form in ("messages", "sharegpt"):
        field = _field(record, FORMS[form][0])
        turns = turns_of(record[field], field, where)
    else:
        turns = _flat_turns(record, form, where)
    system = record.get("system")
    return [Turn("system", str(system)), *turns] if system else turns


def _parts(record: Mapping[str, Any], form: str, said: Exchange, where: str) -> tuple[str, str]:
    """Context and instruction: as fields of the record part them, else the last paragraph is the latter."""
    document, question = None, record.get("instruction")
    if form in DOCUMENTS:
        document = _document(record, form)
        question = _text(record, FORMS[form][0 if form != "longbench" else 1], where) if document else None
    elif isinstance(question, str) and question and isinstance(record.get("context"), str):
        document = record["context"] or None
    if said.last is None:
        return said.before, ""
    if document is not None and isinstance(question, str):
        if said.earlier and form not in DOCUMENTS:
            fix = "; name one exchange with --turn 1, or drop these fields"
            raise RecordError(where, "'context' and 'instruction' beside several exchanges", fix)
        context, instruction = document, question
    else:
        context, instruction = split(said.last, question if isinstance(question, str) else "")
    return SEPARATOR.join(filter(None, (said.before, context))), instruction


def split(user: str, instruction: str = "") -> tuple[str, str]:
    """Context and instruction of a user turn: what it ends with if that is named, else its last paragraph.

    Paragraphs are parted by a blank line: of nothing or white space, ended by LF or CRLF.
    """
    if instruction and user.endswith(instruction):
        context = user[: -len(instruction)]
    elif parts := BLANK_LINE.fullmatch(user.rstrip()):
        context, instruction = parts[1].removesuffix("\r"), parts[2]
    else:
        context, instruction = "", user.rstrip()
    return context.removesuffix("\r\n\r\n").removesuffix(SEPARATOR), instruction


def _flat_turns(record: Mapping[str, Any], form: str, where: str) -> list[Turn]:
    """The turns of a record that has a field for the question and one for the answer, and maybe a history."""
    asks, answers = FORMS[form][-2:]
    ask, answer = _field(record, asks), _field(record, answers)
    if isinstance(record[ask], list) or isinstance(record[answer], list) and form == "prompt":
        both = [record[each] for each in (ask, answer)]
        roles = ("user", "assistant")
        both = [
            [{"role": r, "content": b}] if isinstance(b, str) else b for r, b in zip(roles, both, strict=True)
        ]
        return [*turns_of(both[0], ask, where), *turns_of(both[1], answer, where)]
    user = SEPARATOR.join(filter(None, (_document(record, form), _text(record, asks, where))))
    turns = [Turn("user", user), Turn("assistant", _text(record, answers, where))]
    pairs = record.get("history") or []
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise RecordError(where, "no usable 'history'", "; a list of [question, answer] is read")
    earlier = [
        Turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return [*earlier, *turns]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _document(record: Mapping[str, Any], form: str) -> str:
    """The document of a record that has a field for it, or ""."""
    taken = _field(record, FORMS[form][-2])
    found = (record.get(name) for name in DOCUMENTS[form] if name != taken)
    return next((text for text in found if isinstance(text, str) and text), "")


def _field(record: Mapping[str, Any], group: tuple[str, ...]) -> str:
    """The first field of a group that the record fills, else the first that it has, else the first."""
    for absent in (EMPTY, (None,)):
        for name in group:
            if record.get(name) not in absent:
                return name
    return group[0]


def _text(record: Mapping[str, Any], group: tuple[str, ...], where: str) -> str:
    """The text of the record's field of a group; of several answers the first."""
    field = _field(record, group)
    value = record.get(field)
    if isinstance(value, Mapping) and "text" in value:  # SQuAD's answers
        value = value["text"]
    if isinstance(value, list) and field == "answers":
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise RecordError(where, f"'{field}' is no text", f", but {type(value).__name__}")
    return value


def _whole(label: Any) -> str:
    """A label as text, without half surrogate pairs, which no table can hold."""
    return str(label or "").encode("utf-8", "replace").decode()


def _spans(value: Any) -> tuple[tuple[int, int], ...]:
    """Evidence spans of a planted record; a user's own field of that name, of another form, is not read."""
    pairs = value if isinstance(value, list) else []
    if all(isinstance(p, list) and len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
        return tuple((a, b) for a, b in pairs)
    return ()
