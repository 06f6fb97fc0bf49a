"""A hub's cache that is made here: tiny models and small data, in the places and forms of the published ones.

The shipped pair stands for most pairs. Llama-2's has random weights and a tokenizer of Llama-2's form, which differs from ours
in what breaks things: every text begins with a mark, there is no padding token, and the long model has more rows than tokens.

With it every stage of the large profiles runs for real, offline and in minutes: the same loading, the same files, the same
conversions. Texts come from the planted world; the numbers that come out mean nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from gateau_lib.data import corpus, world
from gateau_lib.data.longalign import to_record
from gateau_lib.data.passages import Writer, join
from gateau_lib.models import loading, rope, tiny
from gateau_lib.study import registry
from gateau_lib.study.code_hash import digest, path_hash, source_hash
from gateau_lib.study.whole_files import atomic_write

WINDOW = 256  # tokens of the short model; the long one reads 2,048
LONG, SHORT, PER_TASK, QUESTIONS = 48, 64, 3, 4  # records of each set
STAMP = "rehearsal.json"  # in the cache's folder: what it was made by

_FAMILY = "李 王 张 刘 陈 杨 赵 黄 周 吴".split()
_THINGS = "密码 歌曲 徽章 路线 口号 信号".split()
_VALUES = "红色河流 银色灯笼 古老城堡 蓝色山谷 金色麦田 安静港湾 雪白羽毛 清晨雾气 秋天落叶 遥远星辰".split()
_PLACES = "市场 桥边 图书馆 车站 花园 港口 山谷 学校".split()
_DEEDS = "散步 唱歌 休息 等待朋友 整理书籍 修理马车 绘画 聆听雨声".split()
_TIMES = "清晨 傍晚 冬天 春天 夏夜 秋日".split()


def enter(cache: Path) -> None:
    """Let this process and those that it starts read models and data from a fabricated cache, and from nowhere else."""
    entries = [*registry.models().values(), *registry.data_sets().values()]
    made_by = digest(f"{source_hash([fabricate])} {path_hash(loading.SHIPPED)} {entries}")
    stamp = cache / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()) != made_by:
        fabricate(cache)
        atomic_write(stamp, json.dumps(made_by))
    os.environ |= {"HF_HUB_CACHE": str(cache.absolute()), "HF_HUB_OFFLINE": "1"}
    os.environ.pop("GATEAU_DATA", None)  # real data would take hours
    from huggingface_hub import constants

    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(cache.absolute()), True  # read when the package was imported


def fabricate(hub: Path) -> None:
    """Fill a folder with a hub's cache: each model of the registry's pairs, and each data set.

    The same code gives the same bytes. A revision that the registry requires names its snapshot; another's name is a hash of its
    files.
    """
    for pair in registry.pairs().values():
        for name, entry in (("short", pair.short), ("long", pair.long)):
            files = _llama_2(name) if pair.name == "llama-2-7b" else _files(loading.SHIPPED / name)
            _snapshot(hub, "models", entry.repo, entry.revision, files)
    tokenizer = loading.load_tokenizer(loading.SHIPPED / "short")
    for entry in registry.data_sets().values():
        _snapshot(hub, "datasets", entry.repo, entry.revision, _MADE[entry.name](tokenizer))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _llama_2(name: str) -> dict[str, bytes]:
    """Files of the short or long model of the pair that stands for Llama-2's."""
    tokenizer, long = llama_tokenizer(), name == "long"
    sizes = {"hidden_size": 64, "layers": 2, "heads": 4, "window": WINDOW, "rope_theta": 10_000.0}
    model = tiny.build_llama(len(tokenizer) + (32 if long else 0), **sizes, seed=1)
    if long:
        model = rope.with_rope_theta(model, 2_000_000.0, 8 * WINDOW)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _files(Path(folder))


def llama_tokenizer() -> Any:
    """A tokenizer of Llama-2's form for the planted text: every text begins with a mark, bytes are a last resort, no padding."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    texts = [" ".join(part) for part in (world.NAMES, world.VALUES, world.ATTRIBUTES)] * 50
    texts += [world.filler(rng) for _ in range(4000)]
    words.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, special_tokens=marks, show_progress=False))
    words.pre_tokenizer = None
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    words.decoder = decoders.Sequence(parts)
    words.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _snapshot(hub: Path, kind: str, repo: str, revision: str | None, files: Mapping[str, bytes]) -> None:
    """One repository as the hub's client keeps it: blobs by hash, a snapshot of links, the branch that names it."""
    folder = hub / f"{kind}--{repo.replace('/', '--')}"
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    revision = revision or digest(json.dumps(sorted(hashes.items())))[:40]
    for name, content in files.items():
        atomic_write(folder / "blobs" / hashes[name], content)
        link = folder / "snapshots" / revision / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(folder / "blobs" / hashes[name], link.parent))
    atomic_write(folder / "refs" / "main", revision)


# Training data -----------------------------------------------------------------------------------------------------------


def _longalign(tokenizer: Any) -> dict[str, bytes]:
    """LongAlign-10k: documents of 400 to 900 tokens, and three records that must be dropped."""
    kinds, records = list(corpus.KINDS), []
    for n in range(LONG):
        length = 400 + 500 * n // LONG
        sample = corpus.make_sample(tokenizer, [90, n], kinds[n % len(kinds)], length, WINDOW, digest(f"long {n}")[:24])
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
    records.append({"id": "by-system", "conversations": [{"from": "system", "value": "You answer briefly."}, *first]})
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


# Benchmarks --------------------------------------------------------------------------------------------------------------


def _longbench(tokenizer: Any) -> dict[str, bytes]:
    """LongBench's archive with the twelve tasks of GATEAU's tables; some contexts are longer than the rehearsed window."""
    from gateau_lib.evaluation.longbench import TASKS

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for t, (name, task) in enumerate(TASKS.items()):
            make = _chinese if task.language == "zh" else _english
            records = []
            for n in range(PER_TASK):
                context, asked, answer = make(tokenizer, [92, t, n], 300 + 500 * n)
                asks = task.group != "summarisation" or name == "qmsum"
                record = {"input": asked if asks else "", "context": context, "answers": [answer], "length": len(context.split())}
                record |= {"length": len(context)} if task.language == "zh" else {}
                about = {"dataset": name, "language": task.language, "all_classes": None, "_id": digest(f"{name} {n}")[:48]}
                records.append(record | about)
            # A fixed time, or the archive's bytes would change from run to run.
            archive.writestr(zipfile.ZipInfo(f"data/{name}.jsonl", (2023, 8, 29, 0, 0, 0)), _lines(records))
    return {"data.zip": packed.getvalue()}


def _english(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    sample = corpus.make_sample(tokenizer, seed, "far", tokens, WINDOW if tokens > 2 * WINDOW else 0, "longbench")
    return sample.context, sample.instruction, sample.answer


def _chinese(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    """Sentences of a small Chinese world with one fact among them; a character is about three tokens of the shipped tokenizer."""
    rng = np.random.default_rng(seed)

    def pick(words: Sequence[str]) -> str:
        return words[int(rng.integers(len(words)))]

    sentences = []
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
        shots.append([{"answer": text, "score": rated} for text, rated in ((answer, 10), (f"{answer}?", 7), (other, 1))])
    return {"LongBench_Chat/test_cases.json": _json(cases), "LongBench_Chat/few_shots.json": _json(shots)}


def _mt_bench(tokenizer: Any) -> dict[str, bytes]:
    """MT-Bench's questions of two turns as a table; a reasoning question has references."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for n, category in zip(range(QUESTIONS), ("writing", "reasoning", "extraction", "math"), strict=True):
        pairs = [_short_exchange(tokenizer, [95, n, turn]) for turn in range(2)]
        references = [answer for _, answer in pairs] if category in ("reasoning", "math") else []
        rows.append({"question_id": 81 + n, "category": category, "turns": [q for q, _ in pairs], "reference": references})
    texts = pa.list_(pa.string())
    schema = pa.schema([("question_id", pa.int64()), ("category", pa.string()), ("turns", texts), ("reference", texts)])
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


_MADE: dict[str, Callable[[Any], dict[str, bytes]]] = {
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
