"""What a record says in fields that `formats` passes over, though whoever trains on it may be told it.

Such a record is refused with the option that reads or leaves out the field; nothing is left out in silence.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from gateau_lib.data.conversation import SPEAKER, RecordError
from gateau_lib.data.formats import DOCUMENTS, EMPTY, FORMS, ReadAs, form_of

PICTURES = ("image", "images", "audio", "audios", "video", "videos")
UNREAD = {
    ("tools", "functions"): "write what it says into the system's turn",
    PICTURES: "only text is scored",
}
REASONING = ("reasoning", "reasoning_content", "thinking")
KNOWN = {name for groups in FORMS.values() for group in groups for name in group}
READ = {*KNOWN, "id", "_id", "system", "history", "context", "document", "role", "from", "value"}
NOTHING = ("", "[]", "{}", "null")  # as text


def check(record: Any, where: str, read_as: ReadAs) -> None:
    """Raise RecordError if a record at ``where`` says what nothing reads; one of no form passes."""
    if not isinstance(record, dict):
        return
    form = form_of(record, read_as.format)
    if form is None:
        if absent := [name for name in record if name in KNOWN and record[name] in EMPTY]:
            raise RecordError(where, f"no usable '{absent[0]}'", "; it is empty or null")
    elif form != "text":
        _check_fields(record, where)
        (_check_documents if form in DOCUMENTS else _check_beside_turns)(record, where, form)


def _check_fields(record: Mapping[str, Any], where: str) -> None:
    """Fields that no form has, by their names in data sets and trainers."""
    for names, advice in UNREAD.items():
        for name in names:
            if _says(record.get(name)):
                raise _unread(where, name, advice)
    if _says(record.get("system_prompt")):
        if _says(record.get("system")):
            raise _unread(where, "system_prompt", "'system' stands beside it")
        raise RecordError(where, "'system_prompt' is not read", "; --rename system_prompt=system reads it")


def _says(value: Any) -> bool:
    """Whether a field holds more than nothing, or nothing as text."""
    return value.strip() not in NOTHING if isinstance(value, str) else value not in (*EMPTY, False)


def _unread(where: str, name: str, advice: str) -> RecordError:
    more = f"; {advice}, or leave it out by --rename {name}=unread"
    return RecordError(where, f"'{name}' is not read", more)


def _check_documents(record: Mapping[str, Any], where: str, form: str) -> None:
    """A record that keeps document and question in fields has one of each, the document as text."""
    asks = [name for name in FORMS[form][-2] if _says(record.get(name))]
    documents = [name for name in DOCUMENTS[form] if _says(record.get(name)) and name not in asks[:1]]
    for name in documents:
        if not isinstance(record[name], str):
            more = f", but {type(record[name]).__name__}; join its parts to one text"
            raise RecordError(where, f"'{name}' is no text", more)
    for taken, *others in filter(None, (documents, asks)):
        for name in others:
            if name not in documents[:1] and str(record[name]).strip() not in str(record[taken]):
                raise _unread(where, name, f"'{taken}' is taken")


def _check_beside_turns(record: Mapping[str, Any], where: str, form: str) -> None:
    """The turns of a record, and what stands beside them."""
    field = next(name for name in FORMS[form][0] if record.get(name) is not None)
    said = list(_turns(record[field]))
    if _says(record.get("history")):
        raise _unread(where, "history", f"write it as turns of '{field}'")
    for number, turn in enumerate(said, 1):
        for name in (*PICTURES, *REASONING, "tools"):
            if _says(turn.get(name)):
                more = f"; turn {number} has it; write it into the content, or take it out"
                raise RecordError(where, f"'{name}' of a turn is not read", more)
        for one, other in (("role", "from"), ("content", "value")):
            both = [SPEAKER.get(str(turn.get(name)).lower(), turn.get(name)) for name in (one, other)]
            if all(map(_says, both)) and both[0] != both[1]:
                more = f"; turn {number} has both, and they differ; leave out one"
                raise RecordError(where, f"'{one}' and '{other}' in a turn", more)
    context, texts = record.get("context"), [_text(turn.get("content") or turn.get("value")) for turn in said]
    alone = isinstance(context, str) and _says(context) and not _says(record.get("instruction"))
    if alone and not any(str(context).strip() in text for text in texts):
        raise _unread(where, "context", f"it is in no turn of '{field}'; write it into the question")


def _turns(said: Any) -> Iterator[Mapping[str, Any]]:
    """The turns as objects, as far as they are: those of a list, of JSON text, of an object of lists."""
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError:
            return
    if isinstance(said, Mapping) and all(isinstance(each, list) for each in said.values()):
        said = [dict(zip(said, each, strict=False)) for each in zip(*said.values(), strict=False)]
    if isinstance(said, list):
        yield from (turn for turn in said if isinstance(turn, Mapping))


def _text(content: Any) -> str:
    """The text of a turn's content, parts put together."""
    if isinstance(content, list):
        return "\n\n".join(_text(part.get("text") if isinstance(part, Mapping) else part) for part in content)
    return content if isinstance(content, str) else ""


def doubled(text: bytes) -> str | None:
    """A field that is read and stands twice in an object of a record's JSON, where the last would count."""
    found: list[str] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            found.extend(name for name in made if name in READ and names.count(name) > 1)
        return made

    with suppress(RecursionError):  # as deep as can be read, but for `keep`
        json.loads(text.decode("utf-8"), object_pairs_hook=keep)
    return found[0] if found else None
