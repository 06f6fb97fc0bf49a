"""LongBench-Chat and MT-Bench: answers rated by a judge, by the official prompts (``judging.yml``).

The judge is any model of `gateau_lib.sources.chat`. It rates from 1 to 10; scores are ratings times 10, as in
GATEAU's tables. Nothing here gives an answer the score 0. All that is asked and said stays in a transcript.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gateau_lib.evaluation.benchmark_item import Benchmark, Item, answers_of, first_of_each_task, fixed_size
from gateau_lib.sources import conversion, published
from gateau_lib.sources.chat import Reply, Request, open_model, said
from gateau_lib.sources.transcript import TRANSCRIPT, ask
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study, artefact

log = logging.getLogger(__name__)

NEW_TOKENS = 1024  # of an answer: LongBench-Chat's eval.py; FastChat's usual --max-new-token
JUDGE_TOKENS = 2048  # FastChat's common.py, run_judge_single
WITH_REFERENCE = ("math", "reasoning", "coding")  # FastChat's common.py, NEED_REF_CATS
EXAMPLES = 3  # rated answers that LongBench-Chat's prompt shows before the one in question
# Files that lie beside the questions'.
BESIDE = {"longbench-chat": "few_shots.json", "mt-bench": "reference_answer/gpt-4.jsonl"}
COLUMNS = ["id", "task", "score", "ratings", "raw", "why"]

# The judges' prompts, with repository, commit and licence.
PROMPTS = yaml.safe_load(Path(__file__).with_name("judging.yml").read_text(encoding="utf-8"))


def items(path: Path, benchmark: str) -> list[Item]:
    """The questions of a benchmark, from its published file: JSONL, or a JSON list.

    LongBench-Chat: ``test_cases.json`` of THUDM/LongAlign (``idx, prompt, query, answer``), with
    ``few_shots.json`` beside it, or each question's three rated answers in its own field ``few_shots``.
    MT-Bench: ``question.jsonl`` of lm-sys/FastChat (``question_id, category, turns, reference``), with
    ``reference_answer/gpt-4.jsonl`` beside it if there is one: its answers stand before the questions' own.
    The task is ``longbench-chat``, or MT-Bench's category.
    Raises DataError: a file or field that is missing, or an id twice.
    """
    beside = path.parent / BESIDE[benchmark]
    more = [record for _, record in conversion.rows(beside)] if beside.is_file() else []
    make = {"longbench-chat": _longbench_chat, "mt-bench": _mt_bench}[benchmark]
    found: dict[str, Item] = {}
    for where, record in conversion.rows(path):
        try:
            item = make(record, more)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            lacks = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{where}: not a question of {benchmark} as published ({lacks})") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        if item.id in found:
            raise DataError(f"{where}: question {item.id} is there twice")
        found[item.id] = item
    return list(found.values())


def _longbench_chat(record: dict[str, Any], more: Sequence[Any]) -> Item:
    place = record["idx"]
    beside = more[place - 1] if 0 < place <= len(more) else []
    shots = [{"answer": shot["answer"], "score": shot["score"]} for shot in record.get("few_shots") or beside]
    if len(shots) != EXAMPLES:
        takes = f"the judge's prompt takes {EXAMPLES}"
        raise ValueError(f"{len(shots)} rated answers, {takes}; put few_shots.json beside this file")
    turns, references = (str(record["prompt"]),), (str(record["answer"]),)
    extra = {"query": str(record["query"]), "few_shots": shots}
    return Item(str(place), "longbench-chat", turns, references, NEW_TOKENS, extra)


def _mt_bench(record: dict[str, Any], more: Sequence[Any]) -> Item:
    number, category = record["question_id"], record["category"]
    turns = tuple(str(turn) for turn in record["turns"])
    answered = {each["question_id"]: each["choices"][0]["turns"] for each in more}
    references = tuple(str(text) for text in answered.get(number) or record.get("reference") or ())
    if not turns or (references and len(references) != len(turns)):
        raise ValueError(f"{len(turns)} turns and {len(references)} reference answers")
    return Item(str(number), str(category), turns, references, NEW_TOKENS)


def judge_requests(item: Item, answers: Sequence[str]) -> list[Request]:
    """What the judge is asked about an item's answers: one request a turn (at most two, as MT-Bench has).

    LongBench-Chat's judge sees question, reference and three rated answers, never the document; the answer
    without its line breaks, as eval.py stores it. MT-Bench's second request shows both turns. References are
    shown in math, reasoning and coding. Raises DataError: not as many answers as turns.
    """
    if len(answers) != len(item.turns):
        counts = f"{len(answers)} answers to {len(item.turns)} turns"
        raise DataError(f"item {item.id!r}: {counts}; answer all items first")
    if item.task == "longbench-chat":
        kit = PROMPTS["longbench-chat"]
        shots = [value for shot in item.extra["few_shots"] for value in (shot["answer"], shot["score"])]
        answer = answers[0].strip().replace("\n", " ")
        asked = [(kit, kit["prompt"].format(item.extra["query"], item.references[0], *shots, answer))]
    else:
        base = "single-math-v1" if item.task in WITH_REFERENCE and item.references else "single-v1"
        fields = {f"question_{i}": turn for i, turn in enumerate(item.turns, 1)}
        fields |= {f"answer_{i}": answer.strip() for i, answer in enumerate(answers, 1)}
        fields |= {f"ref_answer_{i}": reference for i, reference in enumerate(item.references, 1)}
        fields |= {"question": fields["question_1"], "answer": fields["answer_1"]}
        kits = [PROMPTS["mt-bench"][name] for name in (base, f"{base}-multi-turn")]
        asked = [(kit, kit["prompt"].format(**fields)) for kit in kits[: len(item.turns)]]
    turns = [[("system", kit["system"]), ("user", text)] for kit, text in asked]
    return [Request(tuple({"role": a, "content": b} for a, b in turn), JUDGE_TOKENS) for turn in turns]


def rating(task: str, text: str) -> float | None:
    """The rating in a judge's answer, 1 to 10, or None."""
    if task == "longbench-chat":  # the first number of the last ``[[...]]`` (eval.py)
        marked = re.findall(r"\[\[([^\]]+)\]\]", text)
        found = re.search(r"(\d+\.\d+|\d+)", marked[-1], re.ASCII) if marked else None
    else:  # MT-Bench's tasks: the first ``[[number]]``, else the first ``[number]`` (common.py)
        one, two = r"\[(\d+\.?\d*)\]", r"\[\[(\d+\.?\d*)\]\]"
        found = re.search(two, text, re.ASCII) or re.search(one, text, re.ASCII)
    value = float(found.group(1)) if found else math.nan
    return value if 1 <= value <= 10 else None


def score(items: Sequence[Item], answers: pd.DataFrame, judge: str, out: Path) -> pd.DataFrame:
    """Ratings of one benchmark's answers (of `answering.answer`) by ``judge`` (see `chat.open_model`).

    A judge whose rating cannot be read is asked once more, with another seed and at temperature 1 (at 0 it
    would repeat itself). ``out``: folder of the transcript; what it holds is not asked again.
    Returns a row an item, in order: ``id``; ``task``; ``score``, the mean rating of its turns times 10, NaN
        if one is missing; ``ratings`` and ``raw``, the judge's last words, one a turn; ``why``, None or why
        there is no score.
    Raises DataError: an item without a row in ``answers``; ChatError: no judge, or it can be asked no more.
    """
    model, given = open_model(judge), answers_of(items, answers)
    answered = [item for item in items if len(given[item.id])]
    asked = [(item, request) for item in answered for request in judge_requests(item, given[item.id])]
    replies = ask(model, [request for _, request in asked], out, "judge", len(asked))
    unread = [n for n, (item, _) in enumerate(asked) if rating(item.task, said(replies[n])) is None]
    again = [n for n in unread if replies[n].finish != "refused"]
    second = [replace(asked[n][1], seed=1, temperature=1.0) for n in again]
    for n, reply in zip(again, ask(model, second, out, "judge, once more", len(second)), strict=True):
        replies[n] = reply
    of_item: dict[str, list[Reply]] = {item.id: [] for item in items}
    for (item, _), reply in zip(asked, replies, strict=True):
        of_item[item.id].append(reply)
    frame = pd.DataFrame([_row(item, of_item[item.id]) for item in items], columns=COLUMNS)
    if whys := Counter(frame["why"].dropna()):
        counts = ", ".join(f"{why}: {n}" for why, n in whys.most_common())
        lost = f"{whys.total()} of {len(frame)} items have no score ({counts})"
        log.warning("%s; see %s", lost, out / TRANSCRIPT)
    if bare := [item.id for item in items if item.task in WITH_REFERENCE and not item.references]:
        which = f"{len(bare)} questions without reference answers (the first: {bare[0]})"
        fix = "put FastChat's reference_answer/gpt-4.jsonl beside question.jsonl"
        log.warning("%s were judged with the general prompt; %s", which, fix)
    return frame


def _row(item: Item, replies: Sequence[Reply]) -> tuple[Any, ...]:  # of `COLUMNS`
    read = [rating(item.task, said(reply)) for reply in replies]
    whys = [r.error or "rating not read" for r, value in zip(replies, read, strict=True) if value is None]
    whys += [] if replies else ["no answer"]
    values = [math.nan if value is None else value for value in read]
    mean = math.nan if whys else 10 * sum(values) / len(values)
    return item.id, item.task, mean, values, [reply.text for reply in replies], whys[0] if whys else None


def questions(study: Study, benchmark: str) -> Path:
    """The file of a benchmark's questions, as `items` reads it; MT-Bench's table is made JSONL first."""
    files, about = published.files_of(study, benchmark)
    if own := [path for path in files if path.name in ("test_cases.json", "question.jsonl")]:
        return own[0]

    def build(out: Path) -> None:
        count = conversion.questions(files[0], out / "question.jsonl")
        published.write_card(out, about | {"kept": count})

    return artefact(study, benchmark, build, code=[conversion.questions], about=about) / "question.jsonl"


def _of_study(study: Study, tokenizer: Any, benchmark: str) -> list[Item]:
    return first_of_each_task(items(questions(study, benchmark), benchmark), study.profile.benchmark_items)


LONGBENCH_CHAT = Benchmark(
    name="longbench-chat",
    title="LongBench-Chat",
    source="Bai et al. 2024 (LongAlign), github.com/THUDM/LongAlign LongBench_Chat",
    items=partial(_of_study, benchmark="longbench-chat"),
    score=score,
    cost=fixed_size(items=50, prompt=40_000, answer=512),
    data="longbench-chat",
    judged=True,
)
MT_BENCH = Benchmark(
    name="mt-bench",
    title="MT-Bench",
    source="Zheng et al. 2023, github.com/lm-sys/FastChat fastchat/llm_judge",
    items=partial(_of_study, benchmark="mt-bench"),
    score=score,
    cost=fixed_size(items=80, prompt=800, answer=1_000),
    data="mt-bench",
    judged=True,
)
