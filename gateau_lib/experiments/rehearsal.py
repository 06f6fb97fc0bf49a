"""A hub's cache made here: tiny models and small data in the published places and forms, for offline runs.

The shipped pair stands for most pairs. Llama-2's has random weights and a tokenizer of Llama-2's form, which
differs in what breaks things: every text begins with a mark, there is no padding token, and the long model
has more rows than tokens. Texts come from the planted world; the numbers that come out mean nothing.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from transformers import PreTrainedModel

from gateau_lib.data import kinds, world
from gateau_lib.data.longalign import to_record
from gateau_lib.data.passages import Writer, join
from gateau_lib.evaluation.longbench import TASKS
from gateau_lib.models import loading, rope, tiny
from gateau_lib.study import registry
from gateau_lib.study.code_hash import digest, path_hash, source_hash
from gateau_lib.study.whole_files import atomic_write

STAMP = "rehearsal.json"  # in the cache's folder: what it was made by
WINDOW = 256  # tokens of the short model; the long one reads 2,048
LONG, SHORT, PER_TASK, QUESTIONS = 48, 64, 3, 4  # records of each set
Files = dict[str, bytes]  # path in the repository -> content


def enter(cache: Path) -> None:
    """Let this process and those that it starts read models and data from a fabricated cache alone."""
    entries = [*registry.models().values(), *registry.data_sets().values()]
    made_by = digest(f"{source_hash([fabricate])} {path_hash(loading.SHIPPED)} {entries}")
    stamp = cache / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()) != made_by:
        fabricate(cache)
        atomic_write(stamp, json.dumps(made_by))
    os.environ |= {"HF_HUB_CACHE": str(cache.absolute()), "HF_HUB_OFFLINE": "1"}
    os.environ.pop("GATEAU_DATA", None)  # real data would take hours
    # These were read when the package was imported.
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(cache.absolute()), True


def fabricate(hub: Path) -> None:
    """Fill a folder with a hub's cache: each model and data set of the registry, always the same."""
    for pair in registry.pairs().values():
        for name, entry in (("short", pair.short), ("long", pair.long)):
            files = _llama_2(name) if pair.name == "llama-2-7b" else _files(loading.SHIPPED / name)
            _snapshot(hub, "model", entry.repo, entry.revision, files)
    tokenizer = loading.load_tokenizer(loading.SHIPPED / "short")
    for key, data in registry.data_sets().items():
        _snapshot(hub, "dataset", data.repo, data.revision, DATA_SETS[key](tokenizer))


def _snapshot(hub: Path, kind: str, repo: str, revision: str | None, files: Mapping[str, bytes]) -> None:
    """A repository as the hub's client keeps it: a folder named after the commit or a hash, and a branch."""
    folder = hub / repo_folder_name(repo_id=repo, repo_type=kind)
    revision = revision or digest(b"".join(files.values()))[:40]
    for name, content in files.items():
        atomic_write(folder / "snapshots" / revision / name, content)
    atomic_write(folder / "refs" / "main", revision)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _llama_2(name: str) -> dict[str, bytes]:
    """Files of the short or long model of the pair that stands for Llama-2's."""
    tokenizer, long = llama_tokenizer(), name == "long"
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "window": WINDOW, "seed": 1}
    rows = len(tokenizer) + (32 if long else 0)
    model: PreTrainedModel = tiny.build_llama(rows, **shape, rope_theta=10_000.0)
    if long:
        model = rope.with_rope_theta(model, 2_000_000.0, 8 * WINDOW)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _files(Path(folder))


def llama_tokenizer() -> Any:
    """A tokenizer of Llama-2's form for planted text: a mark first, bytes as a last resort, no padding."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    texts = [" ".join(part) for part in (world.NAMES, world.VALUES, world.ATTRIBUTES)] * 50
    texts += [world.filler(rng) for _ in range(4000)]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=marks, show_progress=False)
    words.train_from_iterator(texts, trainer)
    words.pre_tokenizer = None
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    words.decoder = decoders.Sequence(parts)
    begin = {"single": "<s> $A", "pair": "<s> $A <s> $B", "special_tokens": [("<s>", 1)]}
    words.post_processor = processors.TemplateProcessing(**begin)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


_NAMES = "李 王 张 刘 陈 杨 赵 黄 周 吴".split()
_VALUES = "红色河流 银色灯笼 古老城堡 蓝色山谷 金色麦田 安静港湾 雪白羽毛 清晨雾气 秋天落叶 遥远星辰".split()
_DEEDS = "在市场散步 在桥边唱歌 在图书馆休息 在车站等待朋友 在花园绘画 在港口修理马车 在山谷聆听雨声".split()


def _english(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    """A context, a question about it and the answer; a long one's evidence lies beyond the short window."""
    window = WINDOW if tokens > 2 * WINDOW else 0
    sample = kinds.make_sample(tokenizer, seed, "far", tokens, window, "planted")
    return sample.context, sample.instruction, sample.answer


def _chinese(tokenizer: Any, seed: Sequence[int], tokens: int) -> tuple[str, str, str]:
    """Sentences of a small Chinese world with one fact among them; a character is about three tokens."""
    pick, sentences = np.random.default_rng(seed).choice, list[str]()
    while 3 * len("".join(sentences)) < tokens:
        sentences.append(f"{pick(_NAMES)}先生{pick(_DEEDS)}。")
    who, value = pick(_NAMES), str(pick(_VALUES))
    sentences.insert(pick(len(sentences)), f"{who}女士的密码是{value}。")
    return "".join(sentences), f"{who}女士的密码是什么？", value


def _longalign(tokenizer: Any) -> Files:
    """LongAlign-10k: documents of 400 to 900 tokens, and three records that must be dropped."""
    drawn, records = [kind for kind in kinds.KINDS if kind != "near_duplicate"], []
    for n in range(LONG):
        length, kind = 400 + 500 * n // LONG, drawn[n % len(drawn)]
        name = digest(f"long {n}")[:24]
        record = to_record(kinds.make_sample(tokenizer, [90, n], kind, length, WINDOW, name))
        records.append({"id": record["id"], "length": length, "messages": record["messages"]})
    user, assistant = records[0]["messages"]
    empty = {"id": "empty-response", "length": 9, "messages": [user, assistant | {"content": " "}]}
    turned = {"id": "assistant-first", "length": 9, "messages": [assistant, user]}
    return {"long.jsonl": _lines([*records, empty, turned, records[1]])}


def _sharegpt(tokenizer: Any) -> Files:
    """ShareGPT: conversations of one to three pairs of turns in two files, and four that must be dropped."""
    records = []
    for n in range(SHORT):
        turns = []
        for pair in range(1 + n % 3):
            context, asked, answer = _english(tokenizer, [91, n, pair], 90)
            turns += [{"from": "human", "value": f"{context}\n\n{asked}"}, {"from": "gpt", "value": answer}]
        records.append({"id": digest(f"short {n}")[:7], "conversations": turns})
    first = records[1]["conversations"]
    system = {"from": "system", "value": "You answer briefly."}
    bad = {"no-turns": [], "by-system": [system, *first], "gpt-first": first[1:], "no-answer": first[:1]}
    records += [{"id": name, "conversations": turns} for name, turns in bad.items()]
    name, half = "HTML_cleaned_raw_dataset/sg_90k_part{}_html_cleaned.json", len(records) // 2
    return {name.format(1): _json(records[:half]), name.format(2): _json(records[half:])}


def _longbench(tokenizer: Any) -> Files:
    """LongBench's archive with the twelve tasks of GATEAU's tables; some contexts exceed the window."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for t, (name, task) in enumerate(TASKS.items()):
            make = _chinese if task.language == "zh" else _english
            asks = task.group != "summarisation" or name == "qmsum"
            records = []
            for n in range(PER_TASK):
                context, asked, answer = make(tokenizer, [92, t, n], 300 + 500 * n)
                length = len(context if task.language == "zh" else context.split())
                record = {"input": asked if asks else "", "context": context, "answers": [answer]}
                about = {"dataset": name, "language": task.language, "all_classes": None}
                records.append(record | about | {"length": length, "_id": digest(f"{name} {n}")[:48]})
            # A fixed time, or the archive's bytes would change from run to run.
            archive.writestr(zipfile.ZipInfo(f"data/{name}.jsonl", (2023, 8, 29, 0, 0, 0)), _lines(records))
    return {"data.zip": packed.getvalue()}


def _longbench_chat(tokenizer: Any) -> Files:
    """LongBench-Chat's test cases with three rated answers each; one is Chinese."""
    cases, shots = [], []
    for n in range(1, QUESTIONS + 1):
        make = _chinese if n == QUESTIONS else _english
        context, asked, answer = make(tokenizer, [93, n], 700)
        cases.append({"idx": n, "prompt": f"{context}\n\n{asked}", "query": asked, "answer": answer})
        rated = {answer: 10, f"{answer}?": 7, make(tokenizer, [94, n], 100)[2]: 1}
        shots.append([{"answer": text, "score": score} for text, score in rated.items()])
    return {"LongBench_Chat/test_cases.json": _json(cases), "LongBench_Chat/few_shots.json": _json(shots)}


def _mt_bench(tokenizer: Any) -> Files:
    """MT-Bench's questions of two turns as a table; a reasoning question has references."""
    rows = []
    for n, category in enumerate(("writing", "reasoning", "extraction", "math")):
        turns = [_english(tokenizer, [95, n, turn], 90) for turn in range(2)]
        references = [answer for *_, answer in turns] if category in ("reasoning", "math") else []
        rows.append((81 + n, category, [f"{context}\n\n{asked}" for context, asked, _ in turns], references))
    table = pd.DataFrame(rows, columns=["question_id", "category", "turns", "reference"])
    return {"data/train-00000-of-00001.parquet": table.to_parquet()}


def _haystack(tokenizer: Any) -> Files:
    """Essays: filler in paragraphs, as a table of title, date and text."""
    rows = []
    for n in range(4):
        writer = Writer(tokenizer, np.random.default_rng([96, n]), world.filler)
        rows.append(
            (f"Essay {n + 1}", "May 2024", "\n\n".join(join(writer.passage(150))[0] for _ in range(4)))
        )
    table = pd.DataFrame(rows, columns=["title", "date", "text"])
    return {"pual_graham_essays.csv": table.to_csv(index=False).encode()}


DATA_SETS: dict[str, Callable[[Any], Files]] = {  # of the registry
    "longalign-10k": _longalign, "sharegpt": _sharegpt, "longbench": _longbench,
    "longbench-chat": _longbench_chat, "mt-bench": _mt_bench, "haystack": _haystack,
}  # fmt: skip


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _lines(records: Sequence[Any]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
