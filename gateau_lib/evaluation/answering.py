"""Models' answers to benchmark items: greedy, batched by length, each kept on disk as soon as it is written.

Finished answers lie in part files that are only ever added to. A record is known by the content that decides
it (model, prompt, lengths, code), so a killed run goes on where it stopped and ends with the same table, and
another model never meets old answers.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel

from gateau_lib.evaluation.benchmark_item import Answers, Item, middle
from gateau_lib.models import loading
from gateau_lib.models.generate import continue_greedily, end_tokens
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.nll import BATCH_TOKENS, run_batches
from gateau_lib.models.pair import fingerprint
from gateau_lib.models.prompts import prompt_ids, text_ids
from gateau_lib.models.rope import rope_edge
from gateau_lib.study.code_hash import digest, source_hash
from gateau_lib.study.errors import DataError
from gateau_lib.study.progress import track
from gateau_lib.study.store import UNKEYED, Study, versions
from gateau_lib.study.whole_files import atomic_write
from gateau_lib.study.workers import Build, at_once, build_all

log = logging.getLogger(__name__)

TABLE = "answers.parquet"
COLUMNS = ["id", "task", "answers", "prompt_tokens", "cut_tokens", "error"]


@dataclass(frozen=True)
class Questions:
    """Items to answer; in a key their digest stands for them, for they can be hundreds of megabytes."""

    items: Sequence[Item] = field(metadata=UNKEYED)
    digest: str


def answers_of_runs(
    study: Study, benchmark: str, items: Sequence[Item], folders: Mapping[str, Path]
) -> dict[str, Answers]:
    """Every run's (run name -> folder of its model) answers to the items, generated once.

    Raises:
        JobError: a run whose model cannot be loaded or asked, by name.
    """
    profile = study.profile
    how = {"questions": Questions(items, digest(repr(items))), "room": profile.benchmark_window}
    how |= {"chat": profile.template != "plain", "dtype": profile.dtype}
    builds = {}
    for run, folder in folders.items():
        inputs = {"model_dir": folder, "work": study.cache / "answers" / f"{benchmark}-{folder.name}", **how}
        builds[f"{benchmark} of {run}"] = Build(f"answers-{benchmark}", write_answers, inputs)
    made = build_all(study, builds, at_once(profile), benchmark)
    return {run: Answers(pd.read_parquet(at / TABLE), at) for run, at in zip(folders, made, strict=True)}


def write_answers(
    model_dir: Path, questions: Questions, work: Path, room: int, chat: bool, dtype: str, out: Path
) -> None:
    """Generate a model's answers in ``work``, where they survive a kill, and leave the table in ``out``."""
    table = answer(*loading.load(model_dir, dtype), questions.items, work, room=room, chat=chat)
    table.to_parquet(out / TABLE)


def answer(
    model: PreTrainedModel,
    tokenizer: Any,
    items: Sequence[Item],
    out: Path,
    *,
    room: int,
    chat: bool,
    batch_tokens: int = BATCH_TOKENS,
) -> pd.DataFrame:
    """A model's greedy answers; what ``out`` already holds is not generated again.

    Args:
        out: folder of the part files.
        room: tokens of a prompt, whatever its answer takes; a longer one loses its middle (see `middle`).
        chat: prompts as in a conversation (see `prompt_ids`).
        batch_tokens: padded tokens of a batch, answers included; what does not fit into memory is halved.

    Returns:
        One row an item, in order: ``id``; ``task``; ``answers``, one raw text a turn; ``prompt_tokens`` and
        ``cut_tokens``, read and cut, of the last turn (which holds the turns before it); ``error``, None or
        why there is no answer: the item does not fit into memory alone. The next call tries it again.

    Raises:
        DataError: an id twice, or no room for a prompt.
    """
    for name, count in Counter(item.id for item in items).items():
        if count > 1:
            raise DataError(f"item {name!r} is given twice; ids must be unique")
    if room < 2:
        raise DataError(f"a prompt of {room} tokens says nothing; raise the profile's benchmark_window")
    done, keys = _read(out), _keys(model, tokenizer, items, room, chat)
    ticks = iter(track(items, f"answers, {out.name}"))
    # Apart by how much is written, so that nobody waits for the longest answer of another task.
    for kind in sorted({(item.max_new_tokens, len(item.turns)) for item in items}):
        chosen = [item for item in items if (item.max_new_tokens, len(item.turns)) == kind]

        def run(group: list[int], chosen: Sequence[Item] = chosen) -> list[None]:
            missing = [chosen[i] for i in group if keys[chosen[i].id] not in done]
            if missing:
                records = _records(model, tokenizer, missing, room, chat)
                fresh = {keys[item.id]: record for item, record in zip(missing, records, strict=True)}
                done.update(fresh)
                _write(out, {key: record for key, record in fresh.items() if not record["error"]})
            for _ in group:
                next(ticks, None)
            return [None] * len(group)

        lengths = [_length(item, tokenizer, room, chat) for item in chosen]
        run_batches(lengths, batch_tokens, run, rope_edge(model))
    next(ticks, None)
    rows = [{"id": item.id, "task": item.task} | done[keys[item.id]] for item in items]
    return pd.DataFrame(rows, columns=COLUMNS)


def _records(
    model: PreTrainedModel, tokenizer: Any, items: Sequence[Item], room: int, chat: bool
) -> list[dict[str, Any]]:
    """`_converse`, but a single item that does not fit into memory becomes a record that says so."""
    try:
        return _converse(model, tokenizer, items, room, chat)
    except (MemoryError, RuntimeError) as error:
        if len(items) > 1 or not is_out_of_memory(error):
            raise
    (item,) = items
    length = _length(item, tokenizer, room, chat)
    fix = "lower benchmark_window, or take bfloat16 or a larger device"
    why = f"{length} tokens do not fit into memory even alone; {fix}"
    log.warning("item %r: %s", item.id, why)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [{"answers": [], "prompt_tokens": length - item.max_new_tokens, "cut_tokens": 0, "error": why}]


def _converse(
    model: PreTrainedModel, tokenizer: Any, items: Sequence[Item], room: int, chat: bool
) -> list[dict[str, Any]]:
    """All turns of items that are asked together, each turn a batch."""
    most, ends = items[0].max_new_tokens, end_tokens(model, tokenizer)
    records: list[dict[str, Any]] = [{"answers": []} for _ in items]
    for _ in items[0].turns:
        asked = zip(items, records, strict=True)
        prompts = [prompt_ids(tokenizer, item.turns, record["answers"], chat) for item, record in asked]
        read = [middle(prompt, room) for prompt in prompts]
        written = continue_greedily(model, read, most, ends, tokenizer.pad_token_id)
        for record, prompt, kept, new in zip(records, prompts, read, written, strict=True):
            record["answers"].append(tokenizer.decode(new, skip_special_tokens=True))
            record |= {"prompt_tokens": len(kept), "cut_tokens": len(prompt) - len(kept), "error": None}
    return records


def _length(item: Item, tokenizer: Any, room: int, chat: bool) -> int:
    """Tokens of an item when its last answer is written, at most: what batches are planned with."""
    first = len(prompt_ids(tokenizer, item.turns, [], chat))
    later = sum(len(text_ids(tokenizer, turn)) for turn in item.turns[1:])
    return min(room + item.max_new_tokens, first + later + item.max_new_tokens * len(item.turns))


def _keys(
    model: PreTrainedModel, tokenizer: Any, items: Sequence[Item], room: int, chat: bool
) -> dict[str, str]:
    """For each item's id the name of its record: a hash of all that decides the answer."""
    made_by = [fingerprint(model, tokenizer), source_hash([answer]), versions(), room, chat]
    common = digest(json.dumps(made_by, sort_keys=True))
    asked = {item.id: [common, item.id, item.task, item.turns, item.max_new_tokens] for item in items}
    return {name: digest(json.dumps(each))[:20] for name, each in asked.items()}


def _read(out: Path) -> dict[str, dict[str, Any]]:
    """All records of the part files in a folder; a damaged file is said and left out."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(out.glob("*.jsonl")):
        try:
            records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            found |= {record.pop("key"): record for record in records}
        except (ValueError, KeyError, AttributeError) as error:
            log.warning("%s: damaged (%s); its items are answered again", path, error)
    return found


def _write(out: Path, records: dict[str, dict[str, Any]]) -> None:
    """A part file with these records, named by what they are."""
    if records:
        lines = [json.dumps({"key": key} | each, ensure_ascii=False) + "\n" for key, each in records.items()]
        atomic_write(out / f"{digest(''.join(records))[:20]}.jsonl", "".join(lines))
