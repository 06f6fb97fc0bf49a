"""Long instruction samples made from a folder of documents by a model that is asked for them."""

import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from gateau_lib.data.longalign import read_records, write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.sources.chat import Chat, Endpoint, Reply, Request, open_model, said
from gateau_lib.sources.transcript import TRANSCRIPT, ask
from gateau_lib.study.code_hash import path_hash
from gateau_lib.study.errors import DataError, ScoreError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.whole_files import atomic_write

KINDS = ("general", "summary", "reasoning", "extraction")  # LongAlign, appendix A
NUMBERED = re.compile(r"^[\s*#>-]*(?:Q|Question|问题)?\s*\d{1,2}\s*[:：.．)）、]\s*(.*)$", re.IGNORECASE)
SUFFIXES = (".txt", ".md", ".jsonl")
ABOUT = 0.2  # share of a text's words that must stand in the document
# A text as long as that (characters), mostly of pieces of the document, is a copy.
COPY_LENGTH, COPY_PIECE, COPIED = 300, 40, 0.8


@dataclass(frozen=True)
class Document:
    """A text and where it stands; ``fault`` says why it cannot be used."""

    id: str  # path below the folder, and the line in a JSONL file
    text: str
    fault: str = ""


@dataclass(frozen=True)
class Order:
    """What is to be made, of what, and by which model."""

    documents: Path  # folder or file
    model: str  # as `chat.open_model` takes it
    out: Path  # JSONL of samples; its transcript, rejections and manifest lie beside it
    per_document: int = 1
    limit: int | None = None  # documents, the first ones
    max_length: int | None = None  # characters of a sample
    max_new_tokens: int = 1024  # of an answer
    parallel: int | None = None  # requests at once to an endpoint
    seed: int = 0

    @property
    def parts(self) -> Path:
        """Folder of transcript and rejections."""
        return self.out.with_name(self.out.name + ".parts")

    @property
    def manifest(self) -> Path:
        """What the samples were made with."""
        return self.out.with_suffix(".manifest.json")


@dataclass
class Task:
    """One sample to be made, without its document's text; ``fault`` says why it was not."""

    document: str
    number: int  # of the document's tasks
    kind: str
    fault: str = ""
    detail: str = ""  # what the model or the server said instead
    question: str = ""
    answer: str = ""

    @property
    def id(self) -> str:
        """Id of the sample."""
        return f"{self.document}#{self.number}"


def files(source: Path) -> list[Path]:
    """The files with documents in a folder, by path, or the one file; DataError if there are none."""
    if not source.exists():
        raise DataError(f"{source}: no such folder; give one with {', '.join(SUFFIXES)} files")
    paths = sorted(source.rglob("*")) if source.is_dir() else [source]
    paths = [path for path in paths if path.is_file() and path.suffix in SUFFIXES]
    if not paths:
        raise DataError(f"{source}: holds no documents; they end in {', '.join(SUFFIXES)}")
    return paths


def documents(source: Path, limit: int | None = None) -> Iterator[Document]:
    """The documents of a folder, by path, or of one file, read one by one; DataError names a bad line."""
    root = source if source.is_dir() else source.parent
    found = ((path.relative_to(root).as_posix(), path) for path in files(source))
    yield from islice((document for name, path in found for document in _read(path, name)), limit)


def _read(path: Path, name: str) -> Iterator[Document]:
    if path.suffix == ".jsonl":
        for where, record in read_records(path):
            if not (isinstance(record, dict) and isinstance(record.get("text"), str)):
                raise DataError(f"{where}: no 'text'; a document is {{\"text\": ...}}")
            yield _document(f"{name}:{where.rpartition(' ')[2]}", record["text"])
        return
    try:
        yield _document(name, path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        yield Document(name, "", "not UTF-8")


def _document(name: str, text: str) -> Document:
    text = text.strip()
    return Document(name, text, "" if text else "empty document")


def language(text: str) -> str:
    """``zh`` for a text of which a third or more is Chinese characters, else ``en``."""
    return "zh" if 3 * len(re.findall("[\u4e00-\u9fff]", text)) >= len(text) else "en"


def is_copy(answer: str, document: str) -> bool:
    """Whether a long answer is, for the most part, pieces of the document."""
    answer, document = plain(answer), plain(document)
    pieces = [answer[i : i + COPY_PIECE] for i in range(0, len(answer) - COPY_PIECE + 1, COPY_PIECE)]
    return len(answer) >= COPY_LENGTH and sum(piece in document for piece in pieces) > COPIED * len(pieces)


def is_about(text: str, document: str) -> bool:
    """Whether enough of the text's words (four letters or more; Chinese pairs) are in the document."""
    mine, theirs = _words(text), _words(document)
    return not mine or len(mine & theirs) >= ABOUT * len(mine)


def _words(text: str) -> set[str]:
    runs = re.findall("[\u4e00-\u9fff]+", text)
    pairs = {run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))}
    return pairs | set(re.findall(r"[^\W\d_\u4e00-\u9fff]{4,}", text.lower()))


def plain(text: str) -> str:
    """The text in small letters, its white space made even."""
    return " ".join(text.lower().split())


@lru_cache
def prompts() -> dict[str, Any]:
    """The prompts, by language."""
    return yaml.safe_load(Path(__file__).with_name("synthesis.yml").read_text(encoding="utf-8"))


def tasks(order: Order, document: Document) -> list[Task]:
    """What shall be made of a document: kinds in a drawn order, each four tasks once."""
    kinds = random.Random(f"{order.seed}/{document.id}").sample(KINDS, len(KINDS))
    too_long = order.max_length and len(document.text) > order.max_length
    fault = document.fault or ("document too long" if too_long else "")
    return [Task(document.id, n, kinds[n % len(KINDS)], fault) for n in range(order.per_document)]


def proposal_request(order: Order, document: Document, task: Task) -> Request:
    """Ask for questions of the task's kind."""
    kit, words = prompts(), prompts()[language(document.text)]
    what = {"count": kit["questions"], "kind": words["kinds"][task.kind]}
    turn = {"role": "user", "content": words["propose"].format(document=document.text, **what)}
    return Request((turn,), order.max_new_tokens, kit["temperature"], order.seed)


def answer_request(order: Order, document: Document, task: Task) -> Request:
    """Ask the drawn question, the user turn as it will stand in the sample."""
    system = {"role": "system", "content": prompts()[language(document.text)]["answer"]}
    user = {"role": "user", "content": document.text + SEPARATOR + task.question}
    return Request((system, user), order.max_new_tokens, 0.0, order.seed)


def read_questions(reply: Reply) -> list[str]:
    """The questions of a numbered list, each once; the last one of a reply that was cut is left out."""
    matches = [match for line in said(reply).splitlines() if (match := NUMBERED.match(line))]
    found = [match[1].strip().strip("*").strip() for match in matches]
    if reply.finish == "length":
        found = found[:-1]
    return list(dict.fromkeys(question for question in found if re.search(r"\w\w", question)))


def draw(task: Task, reply: Reply, seed: int, taken: set[str]) -> None:
    """Give the task a proposed question that the document's other tasks do not ask, or its fault."""
    questions = read_questions(reply)
    free = [question for question in questions if plain(question) not in taken]
    if reply.finish == "refused":
        task.fault, task.detail = "refused", reply.error
    elif not questions:
        task.fault, task.detail = "no questions in the reply", said(reply)[:500]
    elif not free:
        task.fault = "question asked before"
    else:
        task.question = random.Random(f"{seed}/{task.id}").choice(free)
        taken.add(plain(task.question))


def settle(task: Task, document: Document, reply: Reply, max_length: int | None) -> None:
    """Give the task the answer, and its fault if the sample cannot be used."""
    task.answer = said(reply)
    length = len(document.text) + len(SEPARATOR) + len(task.question) + len(task.answer)
    faults = {
        "empty answer": not task.answer,
        "answer cut at the most new tokens": reply.finish == "length",
        "answer repeats the question": plain(task.answer) == plain(task.question),
        "too long": max_length and length > max_length,
        "answer copied from the document": is_copy(task.answer, document.text),
        "not about the document": not is_about(f"{task.question} {task.answer}", document.text),
    }
    task.fault = next((fault for fault, holds in faults.items() if holds), "")
    if reply.finish == "refused":
        task.fault, task.detail = "refused", reply.error


def _make(order: Order, model: Chat) -> list[Task]:
    """All tasks, asked and settled; progress with the estimated time goes to stderr."""
    made = [task for document in documents(order.documents, order.limit) for task in tasks(order, document)]
    taken: defaultdict[str, set[str]] = defaultdict(set)

    def replied(request: Callable[..., Request], label: str) -> Iterator[tuple[Document, Task, Reply]]:
        left = [task for task in made if not task.fault]
        requests = (request(order, document, task) for document, task in _with_documents(order, left))
        replies = ask(model, requests, order.parts, label, len(left))
        for (document, task), reply in zip(_with_documents(order, left), replies, strict=True):
            yield document, task, reply

    for _, task, reply in replied(proposal_request, "questions"):
        draw(task, reply, order.seed, taken[task.document])
    for document, task, reply in replied(answer_request, "answers"):
        settle(task, document, reply, order.max_length)
    return made


def _with_documents(order: Order, chosen: Sequence[Task]) -> Iterator[tuple[Document, Task]]:
    """The tasks with their documents, which are read again: all texts at once may not fit into memory."""
    of_document: defaultdict[str, list[Task]] = defaultdict(list)
    for task in chosen:
        of_document[task.document].append(task)
    for document in documents(order.documents, order.limit):
        yield from ((document, task) for task in of_document.get(document.id, []))


def check(order: Order) -> None:
    """Refuse options that cannot be meant (ScoreError, DataError), before anything is read or asked."""
    for name in ("per_document", "limit", "max_length", "max_new_tokens", "parallel"):
        if (value := getattr(order, name)) is not None and value < 1:
            raise ScoreError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if order.out.suffix != ".jsonl":
        raise ScoreError(f"--out {order.out}: give a name that ends in .jsonl")
    # The file itself, not what a link of that name leads to, is what a run writes.
    if order.documents.resolve() in (order.out.parent.resolve() / order.out.name).parents:
        raise ScoreError(f"--out {order.out} lies among the documents; put it into another folder")
    check_out(order.out, files(order.documents), [order.manifest], order.parts)


def run(order: Order) -> str:
    """Make the samples; returns the text to print.

    Raises ChatError, DataError, ModelError, ScoreError: input that cannot be used, or no sample was kept.
    """
    start = time.monotonic()
    check(order)
    model = open_model(order.model)
    if order.parallel is not None:
        if not isinstance(model, Endpoint):
            raise ScoreError("--parallel is for an endpoint; a local model answers one request at a time")
        model = replace(model, parallel=order.parallel)
    made = _make(order, model)
    kept, lost = [task for task in made if not task.fault], [task for task in made if task.fault]
    rejected = order.parts / "rejected.jsonl"
    lines = [json.dumps({"id": task.id} | asdict(task), ensure_ascii=False) + "\n" for task in lost]
    atomic_write(rejected, "".join(lines))
    reasons = dict(Counter(task.fault for task in lost).most_common())
    counts = ", ".join(f"{reason}: {n}" for reason, n in reasons.items())
    why = f"{len(lost)} rejected ({counts}), see {rejected}" if lost else "none rejected"
    if not kept:
        raise ScoreError(f"{order.out}: not written, no sample was kept; {why} and {TRANSCRIPT} beside it")
    pairs = _with_documents(order, kept)
    samples = (Sample(t.id, d.text, t.question, t.answer, kind=t.kind, source=d.id) for d, t in pairs)
    write_samples(samples, order.out)
    kinds, sources = dict(sorted(Counter(task.kind for task in kept).items())), {t.document for t in made}
    facts: dict[str, Any] = {"model": model.identity, "prompts": prompts()}
    facts |= {n: getattr(order, n) for n in ("seed", "per_document", "limit", "max_length", "max_new_tokens")}
    facts |= {"documents": len(sources), "asked": len(made), "kept": kinds, "rejected": reasons}
    facts |= {"sha256": {order.out.name: path_hash(order.out)}}
    atomic_write(order.manifest, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    what = f"{len(kept)} samples ({', '.join(f'{kind} {n}' for kind, n in kinds.items())})"
    return f"{order.out}: {what} on {len(sources)} documents; {why}; {time.monotonic() - start:.0f} s"
