"""A selection in the forms that trainers read: LLaMA-Factory's sharegpt, TRL's conversations.

Sources: LLaMA-Factory, data/README.md, sharegpt format; TRL, dataset formats, conversational language
modelling. Both take whole conversations: system turns and earlier turns stay.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from gateau_lib.data.conversation import RecordError
from gateau_lib.data.formats import all_turns, form_of, unknown
from gateau_lib.data.longalign import read_records
from gateau_lib.study.errors import DataError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.whole_files import atomic_write, sweep

Form = Literal["llama-factory", "trl"]
FORMS: tuple[Form, ...] = get_args(Form)
SHAREGPT = {
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
}  # LLaMA-Factory's names unless it is told others


def turns_of(record: Any, where: str) -> list[dict[str, str]]:
    """All turns of a record as ``role, content``; DataError: a record of no form, or a plain document."""
    form = form_of(record)
    if form is None:
        raise RecordError(where, *unknown(record))
    if form == "text":
        raise RecordError(where, "a document without an answer", "; trainers read its text as it is")
    return [{"role": turn.role, "content": turn.text} for turn in all_turns(record, where, form)]


def export(selected: Path, form: Form, out: Path, name: str | None = None) -> list[Path]:
    """Write a selection for a trainer; the files that were written.

    ``out``: of ``trl`` a file .jsonl; of ``llama-factory`` the folder that it calls ``dataset_dir``: an entry
    ``name`` (the selection's file name) is added to its ``dataset_info.json``, others stay.
    Raises DataError: a record that is no sample, an output that cannot be written, a name that is in use.
    """
    name = name or selected.stem
    if form == "trl":
        if out.suffix != ".jsonl":
            raise DataError(f"--out {out}: TRL's file is JSONL; end the name in .jsonl")
        check_out(out, [selected], [])
        sweep(out)
        return [atomic_write(out, _lines(selected, lambda turns: {"messages": turns}))]
    data, index = out / f"{name}.json", out / "dataset_info.json"
    check_out(data, [selected], [index])
    entry = {"file_name": data.name, "formatting": "sharegpt", "columns": {"messages": "conversations"}}
    known = _index(index)
    if known.get(name, entry) != entry:
        raise DataError(f"{index}: holds another data set {name!r}; give another --name")
    sweep(data, index)
    written = atomic_write(data, _lines(selected, _sharegpt))
    listing = json.dumps(known | {name: entry}, ensure_ascii=False, indent=2) + "\n"
    return [written, atomic_write(index, listing)]


def _sharegpt(turns: list[dict[str, str]]) -> dict[str, Any]:
    named = [{"from": SHAREGPT.get(t["role"], t["role"]), "value": t["content"]} for t in turns]
    return {"conversations": named}


def _lines(selected: Path, form: Any) -> str:
    """A line a record."""
    records = ((where, form(turns_of(record, where))) for where, record in read_records(selected))
    return "".join(json.dumps(record) + "\n" for _, record in records)


def _index(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a JSON object; mend it, or give another folder as --out")
    return found
