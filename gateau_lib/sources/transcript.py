"""Many questions to a model, and the transcript of all that was asked and answered.

Every answer is appended to ``transcript.jsonl`` the moment it is there, with the request, its parameters,
seed and model. A killed run goes on with what is missing, and asks nothing twice.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path

from gateau_lib.sources.chat import Busy, Chat, ChatError, Reply, Request
from gateau_lib.study.progress import track
from gateau_lib.study.whole_files import locked

log = logging.getLogger(__name__)

TRANSCRIPT = "transcript.jsonl"
PAUSES = (1.0, 4.0, 15.0, 60.0)  # seconds before another try
REFUSALS = 32  # as many at the start, and no answer: the parameters are wrong, not the requests


def ask(
    model: Chat, requests: Iterable[Request], folder: Path, label: str, total: int | None = None
) -> list[Reply]:
    """Answers to all requests, in their order; what the transcript in ``folder`` holds is not asked again.

    A refused request does not end the run. It is asked again by the next call, perhaps of a server with a
    longer window.

    Args:
        requests: may be a generator; only a few are held at a time.
        label, total: for the progress line; ``total`` is the number of requests.

    Raises:
        ChatError: no answer after `PAUSES`, or the server refuses everything. Answers so far are kept.
        ScoreError: another run writes to ``folder``.
    """
    with locked(folder), _Transcript(folder / TRANSCRIPT) as transcript:
        keys: list[str] = []
        talk, pool = _Talk(model, transcript), ThreadPoolExecutor(model.parallel)
        missing = _missing(model, requests, transcript, keys)
        first = list(
            islice(missing, 1)
        )  # what a resumed run has already is passed here, before the clock starts
        left = None if total is None else total - len(keys) + len(first)
        waiting: set[Future[None]] = set()
        try:
            for key, request in track(chain(first, missing), label, left):
                waiting.add(pool.submit(talk.ask, key, request))
                while len(waiting) > model.parallel:
                    waiting = _settle(waiting)
            while waiting:
                waiting = _settle(waiting)
        except KeyboardInterrupt:
            log.warning("stopping; requests under way are waited for, and their answers kept")
            raise
        finally:  # after an error, too, those under way may still answer; nobody starts another try
            talk.ended.set()
            pool.shutdown(cancel_futures=True)
        return [transcript.answers.get(key) or talk.refused[key] for key in keys]


def _missing(
    model: Chat, requests: Iterable[Request], transcript: _Transcript, keys: list[str]
) -> Iterator[tuple[str, Request]]:
    """Requests that have no answer yet, each once, with their keys; the keys of all are put into ``keys``."""
    seen = set()
    for request in requests:
        keys.append(_key(model, request))
        if keys[-1] not in transcript.answers and keys[-1] not in seen:
            seen.add(keys[-1])
            yield keys[-1], request


def _settle(waiting: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


class _Talk:
    """Requests of one call, each tried until it is answered or refused."""

    def __init__(self, model: Chat, transcript: _Transcript) -> None:
        self.model, self.transcript = model, transcript
        self.refused: dict[str, Reply] = {}
        self.answered = 0
        self.ended = threading.Event()

    def ask(self, key: str, request: Request) -> None:
        where = getattr(self.model, "url", self.model.name)
        for pause in (*PAUSES, None):
            begin = time.time()
            try:
                reply = self.model.reply(request)
                break
            except Busy as busy:
                if pause is None:
                    kept = f"{len(self.transcript.answers)} answers are kept in {self.transcript.path}"
                    how = f"{kept}, see to the server and give the same command to go on"
                    raise ChatError(
                        f"{where}: no answer after {len(PAUSES) + 1} tries ({busy}); {how}"
                    ) from None
                pause = max(pause, busy.pause)
                log.warning("%s: %s; again in %.0f s", where, busy, pause)
                if self.ended.wait(pause):
                    return  # another request ended the run
        self.transcript.add(key, self.model, request, reply, begin)
        if reply.finish != "refused":
            self.answered += 1
            return
        self.refused[key] = reply
        if not self.answered and len(self.refused) >= REFUSALS:
            fault = f"refused the first {REFUSALS} requests: {reply.error}"
            raise ChatError(f"{self.model.name} {fault}; see {self.transcript.path}")


class _Transcript:
    """An append-only JSONL file of requests and replies. A line that a kill left torn is asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Reply] = {}
        self._turn = threading.Lock()

    def __enter__(self) -> _Transcript:
        self._file = self.path.open("ab+", buffering=0)
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> None:
        end = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    record = json.loads(line)
                    reply = Reply(**record["reply"])
                    if reply.finish != "refused":
                        self.answers[record["key"]] = reply
                except (ValueError, KeyError, TypeError):
                    raise ChatError(
                        f"{self.path}, line {number}: damaged; delete that line, it will be asked again"
                    ) from None
        self._file.truncate(end)

    def add(self, key: str, model: Chat, request: Request, reply: Reply, begin: float) -> None:
        """Append one exchange and keep its answer; on a full disk the file stays as it was."""
        record = {"key": key, **model.identity, "url": getattr(model, "url", None), **asdict(request)}
        record |= {"reply": asdict(reply), "asked": round(begin, 3), "seconds": round(time.time() - begin, 3)}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._turn:
            end = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
                os.fsync(self._file.fileno())
            except OSError:
                self._file.truncate(end)
                raise
            if reply.finish != "refused":
                self.answers[key] = reply


def _key(model: Chat, request: Request) -> str:
    return hashlib.sha256(json.dumps([model.identity, asdict(request)], sort_keys=True).encode()).hexdigest()[
        :32
    ]
