"""LongBench-Chat and MT-Bench: answers rated by a judge, with the official prompts (``judging.yml``) and the official reading.

The judge is any model of `gateau_lib.sources.chat`. It rates from 1 to 10; scores are ratings times 10, as in GATEAU's tables. Without a
judge the benchmark is not run: nothing here gives an answer the score 0. Prompts, parameters, seed and raw ratings stay in the
transcript of the folder ``out``.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gateau_lib.evaluation.benchmark_item import Item
from gateau_lib.sources import conversion
from gateau_lib.sources.chat import Reply, Request, open_model, said
from gateau_lib.sources.hub import _found, _write_card
from gateau_lib.sources.transcript import TRANSCRIPT, ask
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study, artefact

log = logging.getLogger(__name__)
BENCHMARKS = ("longbench-chat", "mt-bench")
NEW_TOKENS = 1024  # of an answer: LongBench-Chat's eval.py; FastChat's usual --max-new-token
JUDGE_TOKENS = 2048  # FastChat's common.py, run_judge_single
WITH_REFERENCE = ("math", "reasoning", "coding")  # FastChat's common.py, NEED_REF_CATS
EXAMPLES = 3  # rated answers that LongBench-Chat's prompt shows before the one in question
COLUMNS = ["id", "task", "score", "ratings", "raw", "why"]


@lru_cache
def prompts() -> dict[str, Any]:
    """The judges' prompts, with repository, commit and licence."""
    return yaml.safe_load(Path(__file__).with_name("judging.yml").read_text(encoding="utf-8"))


def items(path: Path, benchmark: str) -> list[Item]:
    """The questions of a benchmark, from its published file: JSONL, or a JSON list.

    LongBench-Chat: ``test_cases.json`` of THUDM/LongAlign (``idx, prompt, query, answer``), with ``few_shots.json`` beside it, or
    each question's three rated answers in its own field ``few_shots``. MT-Bench: ``question.jsonl`` of lm-sys/FastChat
    (``question_id, category, turns, reference``), with ``reference_answer/gpt-4.jsonl`` beside it if there is one: its answers
    stand before the questions' own.

    Returns:
        Items with the task ``longbench-chat``, or MT-Bench's category. ``extra`` is what the judge sees besides the answer.

    Raises:
        DataError: a file or field that is missing, or an id twice.
    """
    if benchmark not in BENCHMARKS:
        raise DataError(f"{benchmark}: no such benchmark; choose from {', '.join(BENCHMARKS)}")
    path = Path(path)
    beside = path.parent / ("few_shots.json" if benchmark == "longbench-chat" else "reference_answer/gpt-4.jsonl")
    more = [record for _, record in _records(beside)] if beside.is_file() else []
    make = _longbench_chat if benchmark == "longbench-chat" else _mt_bench
    found, seen = [], set()
    for where, record in _records(path):
        try:
            found.append(make(record, more))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            lacks = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{where}: not a question of {benchmark} as published ({lacks})") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if found[-1].id in seen:
            raise DataError(f"{where}: question {found[-1].id} is there twice")
        seen.add(found[-1].id)
    return found


def _records(path: Path) -> list[tuple[str, Any]]:
    """Records of a JSONL file or a JSON list, with their places."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    try:
        if text.lstrip().startswith("["):
            return [(f"{path}, record {i}", record) for i, record in enumerate(json.loads(text), 1)]
        lines = enumerate(text.split("\n"), 1)
        return [(f"{path}, line {i}", json.loads(line)) for i, line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None


def _longbench_chat(record: dict[str, Any], more: Sequence[Any]) -> Item:
    place = record["idx"]
    beside = more[place - 1] if 0 < place <= len(more) else []
    shots = [{"answer": shot["answer"], "score": shot["score"]} for shot in record.get("few_shots") or beside]
    if len(shots) != EXAMPLES:
        takes = f"the judge's prompt takes {EXAMPLES}"
        raise ValueError(f"{len(shots)} rated answers, {takes}; put few_shots.json beside this file")
    question = str(record["query"])
    return Item(
        id=str(place),
        task="longbench-chat",
        turns=(str(record["prompt"]),),
        references=(str(record["answer"]),),
        max_new_tokens=NEW_TOKENS,
        language="zh" if re.search("[\u4e00-\u9fff]", question) else "en",
        extra={"benchmark": "longbench-chat", "query": question, "few_shots": shots},
    )


def _mt_bench(record: dict[str, Any], more: Sequence[Any]) -> Item:
    number, category = record["question_id"], record["category"]
    turns = tuple(str(turn) for turn in record["turns"])
    answered = {each["question_id"]: each["choices"][0]["turns"] for each in more}
    references = tuple(str(text) for text in answered.get(number) or record.get("reference") or ())
    if not turns or (references and len(references) != len(turns)):
        raise ValueError(f"{len(turns)} turns and {len(references)} reference answers")
    extra = {"benchmark": "mt-bench"}
    return Item(str(number), str(category), turns, references, NEW_TOKENS, extra=extra)


def judge_requests(item: Item, answers: Sequence[str]) -> list[Request]:
    """What the judge is asked about an item's answers: one request a turn (at most two, as MT-Bench has).

    LongBench-Chat's judge sees question, reference and three rated answers, never the document; the answer without its line
    breaks, as eval.py stores it. MT-Bench's second request shows both turns. References are shown in math, reasoning and coding.

    Raises:
        DataError: not as many answers as turns.
    """
    if len(answers) != len(item.turns):
        raise DataError(f"item {item.id!r}: {len(answers)} answers to {len(item.turns)} turns; answer all items first")
    if item.extra["benchmark"] == "longbench-chat":
        kit = prompts()["longbench-chat"]
        shots = [value for shot in item.extra["few_shots"] for value in (shot["answer"], shot["score"])]
        text = kit["prompt"].format(item.extra["query"], item.references[0], *shots, answers[0].strip().replace("\n", " "))
        return [_request(kit, text)]
    base = "single-math-v1" if _wants_reference(item) and item.references else "single-v1"
    fields = {f"question_{i}": turn for i, turn in enumerate(item.turns, 1)}
    fields |= {f"answer_{i}": answer.strip() for i, answer in enumerate(answers, 1)}
    fields |= {f"ref_answer_{i}": reference for i, reference in enumerate(item.references, 1)}
    fields |= {"question": fields["question_1"], "answer": fields["answer_1"]}
    kits = [prompts()["mt-bench"][name] for name in (base, f"{base}-multi-turn")]
    return [_request(kit, kit["prompt"].format(**fields)) for kit in kits[: len(item.turns)]]


def _request(kit: dict[str, str], text: str) -> Request:
    return Request(({"role": "system", "content": kit["system"]}, {"role": "user", "content": text}), JUDGE_TOKENS)


def _wants_reference(item: Item) -> bool:
    return item.extra["benchmark"] == "mt-bench" and item.task in WITH_REFERENCE


def rating(benchmark: str, text: str) -> float | None:
    """The rating in a judge's answer, 1 to 10, or None.

    LongBench-Chat: the first number of the last ``[[...]]`` (eval.py). MT-Bench: the first ``[[number]]``, else the first
    ``[number]`` (common.py).
    """
    if benchmark == "longbench-chat":
        marked = re.findall(r"\[\[([^\]]+)\]\]", text)
        found = re.search(r"\d+\.\d+|\d+", marked[-1], re.ASCII) if marked else None
    else:
        found = re.search(r"\[\[(\d+\.?\d*)\]\]", text, re.ASCII) or re.search(r"\[(\d+\.?\d*)\]", text, re.ASCII)
    value = float(found.group(found.lastindex or 0)) if found else math.nan
    return value if 1 <= value <= 10 else None


def score(items: Sequence[Item], answers: pd.DataFrame, judge: str, out: Path) -> pd.DataFrame:
    """Ratings of the answers to one benchmark's items.

    A judge whose rating cannot be read is asked once more, with another seed and at temperature 1 (at 0 it would repeat itself).

    Args:
        answers: rows ``id, answers`` (one text a turn; none if the item was not answered), as `answering.answer` gives.
        judge: the model, in the spelling of `chat.open_model`.
        out: folder of the transcript; what it holds is not asked again.

    Returns:
        One row an item, in order: ``id``; ``task``; ``score``, the mean rating of its turns times 10, NaN if one is missing;
        ``ratings`` and ``raw``, the judge's last words, one a turn; ``why``, None or why there is no score.

    Raises:
        DataError: an item without a row in ``answers``. ChatError: no judge, or it cannot be asked any more.
    """
    model = open_model(judge)
    given = dict(zip(answers["id"].astype(str), answers["answers"], strict=True))
    if lacking := [item.id for item in items if item.id not in given]:
        raise DataError(f"item {lacking[0]!r} has no row in the answers; answer all items first")
    asked = [(item, request) for item in items if len(given[item.id]) for request in judge_requests(item, given[item.id])]
    replies = ask(model, [request for _, request in asked], out, "judge", len(asked))
    again = [n for n, reply in enumerate(replies) if reply.finish != "refused" and _read(asked[n][0], reply) is None]
    second = [replace(asked[n][1], seed=1, temperature=1.0) for n in again]
    for n, reply in zip(again, ask(model, second, out, "judge, once more", len(second)), strict=True):
        replies[n] = reply
    said_of: dict[str, list[Reply]] = {item.id: [] for item in items}
    for (item, _), reply in zip(asked, replies, strict=True):
        said_of[item.id].append(reply)
    frame = pd.DataFrame([_row(item, said_of[item.id]) for item in items], columns=COLUMNS)
    _tell(items, frame, out)
    return frame


def _read(item: Item, reply: Reply) -> float | None:
    return rating(item.extra["benchmark"], said(reply))


def _row(item: Item, replies: Sequence[Reply]) -> dict[str, Any]:
    ratings = [_read(item, reply) for reply in replies]
    whys = [reply.error or "rating not read" for reply, read in zip(replies, ratings, strict=True) if read is None]
    why = None if replies and not whys else whys[0] if whys else "no answer"
    values = [math.nan if read is None else read for read in ratings]
    mean = math.nan if why else 10 * sum(values) / len(values)
    raw = [reply.text for reply in replies]
    return {"id": item.id, "task": item.task, "score": mean, "ratings": values, "raw": raw, "why": why}


def _tell(items: Sequence[Item], frame: pd.DataFrame, out: Path) -> None:
    """Say what is missing: items without a score, and references that the official prompt would show."""
    if frame["why"].notna().any():
        counts = ", ".join(f"{why}: {n}" for why, n in Counter(frame["why"].dropna()).most_common())
        lost = f"{frame['why'].notna().sum()} of {len(frame)} items have no score"
        log.warning("%s (%s); see %s", lost, counts, out / TRANSCRIPT)
    if bare := [item.id for item in items if _wants_reference(item) and not item.references]:
        which = f"{len(bare)} questions without reference answers (the first: {bare[0]}) were judged with the general prompt"
        log.warning("%s; put FastChat's reference_answer/gpt-4.jsonl beside question.jsonl", which)


def questions(study: Study, benchmark: str) -> Path:
    """The file of a judged benchmark's questions, "longbench-chat" or "mt-bench", as `gateau_lib.evaluation.judging` reads it."""
    files, about = _found(study, benchmark)
    if benchmark == "longbench-chat":
        return next(path for path in files if path.name == "test_cases.json")
    if own := [path for path in files if path.name == "question.jsonl"]:
        return own[0]

    def build(out: Path) -> None:
        count = conversion.questions(files[0], out / "question.jsonl")
        _write_card(out, about | {"kept": count})

    return artefact(study, benchmark, build, code=[conversion.questions], about=about) / "question.jsonl"
