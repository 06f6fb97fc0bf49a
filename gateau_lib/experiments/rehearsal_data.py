"""Small data sets in the forms of the published ones, for a rehearsal: texts come from the planted world."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gateau_lib.data import corpus, world
from gateau_lib.data.longalign import to_record
from gateau_lib.data.passages import Writer, join
from gateau_lib.evaluation.longbench import TASKS
from gateau_lib.study.code_hash import digest

WINDOW = 256  # tokens of the short model; the long one reads 2,048
LONG, SHORT, PER_TASK, QUESTIONS = 48, 64, 3, 4  # records of each set

_FAMILY = "李 王 张 刘 陈 杨 赵 黄 周 吴".split()
_THINGS = "密码 歌曲 徽章 路线 口号 信号".split()
_VALUES = "红色河流 银色灯笼 古老城堡 蓝色山谷 金色麦田 安静港湾 雪白羽毛 清晨雾气 秋天落叶 遥远星辰".split()
_PLACES = "市场 桥边 图书馆 车站 花园 港口 山谷 学校".split()
_DEEDS = "散步 唱歌 休息 等待朋友 整理书籍 修理马车 绘画 聆听雨声".split()
_TIMES = "清晨 傍晚 冬天 春天 夏夜 秋日".split()


# Training data ------------------------------------------------------------------------------------------


def _longalign(tokenizer: Any) -> dict[str, bytes]:
    """LongAlign-10k: documents of 400 to 900 tokens, and three records that must be dropped."""
    kinds, records = list(corpus.KINDS), []
    for n in range(LONG):
        length = 400 + 500 * n // LONG
        sample = corpus.make_sample(
            tokenizer, [90, n], kinds[n % len(kinds)], length, WINDOW, digest(f"long {n}")[:24]
        )
        record = to_record(sample)
        records.append({"id": record["id"], "length": length, "messages": record["messages"]})
    user, assistant = records[0]["messages"]
    records.append({"id": "empty-response", "length": 9, "messages": [user, assistant | {"content": " "}]})
    records.append({"id": "assistant-first", "length": 9, "messages": [assistant, user]})
    records.append(records[1])
    return {"long.jsonl": _lines(records)}


def _sharegpt(tokenizer: Any) -> dict[str, bytes]:
    """ShareGPT: conversations of one to three pairs of turns in two files, and four that must be dropped."""
    records = []
    for n in range(SHORT):
        turns = []
        for pair in range(1 + n % 3):
            question, answer = _short_exchange(tokenizer, [91, n, pair])
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        records.append({"id": digest(f"short {n}")[:7], "conversations": turns})
    first = records[1]["conversations"]
    records.append({"id": "no-turns", "conversations": []})
    records.append(
        {"id": "by-system", "conversations": [{"from": "system", "value": "You answer briefly."}, *first]}
    )
    records.append({"id": "gpt-first", "conversations": first[1:]})
    records.append({"id": "no-answer", "conversations": first[:1]})
    half, folder = len(records) // 2, "HTML_cleaned_raw_dataset"
    parts = {"part1": records[:half], "part2": records[half:]}
    return {f"{folder}/sg_90k_{name}_html_cleaned.json": _json(part) for name, part in parts.items()}


def _short_exchange(tokenizer: Any, seed: Sequence[int]) -> tuple[str, str]:
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        question, answer, _ = world.chatter(rng)
        return question, answer
    sample = corpus.make_sample(tokenizer, [*seed, 1], "far", 90, 0, "short")
    return f"{sample.context}\n\n{sample.instruction}", sample.response


# Benchmarks ---------------------------------------------------------------------------------------------


def _longbench(tokenizer: Any) -> dict[str, bytes]:
    """LongBench's archive with the twelve tasks of GATEAU's tables; some contexts exceed the window."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for t, (name, task) in enumerate(TASKS.items()):
            make = _chinese if task.language == "zh" else _english
            records = []
            for n in range(PER_TASK):
                context, asked, answer = make(tokenizer, [92, t, n], 300 + 500 * n)
                asks = task.group != "summarisation" or name == "qmsum"
                record = {
                    "input": asked if asks else "",
                    "context": context,
                    "answers": [answer],
                    "length": len(context.split()),
                }
                record |= {"length": len(context)} if task.language == "zh" else {}
                about = {
                    "dataset": name,
                    "language": task.language,
                    "all_classes": None,
                    "_id": digest(f"{name} {n}")[:48],
                }
                records.append(record | about)
            # A fixed time, or the archive's bytes would change from run to run.
            archive.writestr(zipfile.ZipInfo(f"data/{name}.jsonl", (2023, 8, 29, 0, 0, 0)), _lines(records))
    return {"data.zip": packed.getvalue()}


def _english(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    sample = corpus.make_sample(
        tokenizer, seed, "far", tokens, WINDOW if tokens > 2 * WINDOW else 0, "longbench"
    )
    return sample.context, sample.instruction, sample.answer


def _chinese(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    """Sentences of a small Chinese world with one fact among them; a character is about three tokens."""
    rng = np.random.default_rng(seed)

    def pick(words: Sequence[str]) -> str:
        return words[int(rng.integers(len(words)))]

    sentences: list[str] = []
    while 3 * len("".join(sentences)) < tokens:
        sentences.append(f"{pick(_TIMES)}，{pick(_FAMILY)}先生在{pick(_PLACES)}{pick(_DEEDS)}。")
    who, thing, value = pick(_FAMILY), pick(_THINGS), pick(_VALUES)
    sentences.insert(int(rng.integers(len(sentences))), f"{who}女士的{thing}是{value}。")
    return "".join(sentences), f"{who}女士的{thing}是什么？", value


def _longbench_chat(tokenizer: Any) -> dict[str, bytes]:
    """LongBench-Chat's test cases with three rated answers each; one is Chinese."""
    cases, shots = [], []
    for n in range(1, QUESTIONS + 1):
        make = _chinese if n == QUESTIONS else _english
        context, asked, answer = make(tokenizer, [93, n], 700)
        cases.append({"idx": n, "prompt": f"{context}\n\n{asked}", "query": asked, "answer": answer})
        other = make(tokenizer, [94, n], 100)[2]
        shots.append(
            [
                {"answer": text, "score": rated}
                for text, rated in ((answer, 10), (f"{answer}?", 7), (other, 1))
            ]
        )
    return {"LongBench_Chat/test_cases.json": _json(cases), "LongBench_Chat/few_shots.json": _json(shots)}


def _mt_bench(tokenizer: Any) -> dict[str, bytes]:
    """MT-Bench's questions of two turns as a table; a reasoning question has references."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for n, category in zip(range(QUESTIONS), ("writing", "reasoning", "extraction", "math"), strict=True):
        pairs = [_short_exchange(tokenizer, [95, n, turn]) for turn in range(2)]
        references = [answer for _, answer in pairs] if category in ("reasoning", "math") else []
        rows.append(
            {
                "question_id": 81 + n,
                "category": category,
                "turns": [q for q, _ in pairs],
                "reference": references,
            }
        )
    texts = pa.list_(pa.string())
    schema = pa.schema(
        [("question_id", pa.int64()), ("category", pa.string()), ("turns", texts), ("reference", texts)]
    )
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), table)
    return {"data/train-00000-of-00001.parquet": table.getvalue()}


def _haystack(tokenizer: Any) -> dict[str, bytes]:
    """Essays: filler in paragraphs, as a table of title, date and text."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["title", "date", "text"])
    for n in range(4):
        writer = Writer(tokenizer, np.random.default_rng([96, n]), world.filler)
        text = "\n\n".join(join(writer.passage(150))[0] for _ in range(4))
        rows.writerow([f"Essay {n + 1}", "May 2024", text])
    return {"pual_graham_essays.csv": table.getvalue().encode()}


DATA_SETS: dict[str, Callable[[Any], dict[str, bytes]]] = {
    "longalign-10k": _longalign,
    "sharegpt": _sharegpt,
    "longbench": _longbench,
    "longbench-chat": _longbench_chat,
    "mt-bench": _mt_bench,
    "haystack": _haystack,
}


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _lines(records: Sequence[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
