"""Many questions to a model, and the transcript of all that was asked and answered.

Every answer is appended to ``transcript.jsonl`` the moment it is there, with the request, its parameters,
seed and model. A killed run goes on with what is missing, and asks nothing twice.
"""

import errno
import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from io import FileIO
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
    longer window. ``requests`` may be a generator, few are held at a time; ``total`` is their number.
    Raises ChatError: no answer after `PAUSES`, or the server refuses everything; answers so far are kept.
        ScoreError: another run writes to ``folder``.
    """
    with locked(folder), (folder / TRANSCRIPT).open("ab+", buffering=0) as file:
        talk, keys, waiting = _Talk(model, file), list[str](), set[Future[None]]()
        missing, pool = talk.missing(requests, keys), ThreadPoolExecutor(model.parallel)
        # What a resumed run has already is passed here, before the clock starts.
        first = list(islice(missing, 1))
        left = None if total is None else total - len(keys) + len(first)
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
        return [talk.answers.get(key) or talk.refused[key] for key in keys]


def _settle(waiting: set[Future[None]]) -> set[Future[None]]:
    done, rest = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return rest


class _Talk:
    """Requests of one call, and the append-only file of them; a line that a kill left torn is asked again."""

    def __init__(self, model: Chat, file: FileIO) -> None:
        self.model, self.file, self.path = model, file, Path(file.name)
        self.answers: dict[str, Reply] = {}
        self.refused: dict[str, Reply] = {}
        self.finished: Counter[str] = Counter()  # by this call
        self.ended, self.turn = threading.Event(), threading.Lock()
        end = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                try:
                    record = json.loads(line)
                    self._keep(record["key"], Reply(**record["reply"]))
                except (ValueError, KeyError, TypeError):
                    where = f"{self.path}, line {number}"
                    raise ChatError(f"{where}: damaged; delete that line, it will be asked again") from None
        file.truncate(end)

    def _keep(self, key: str, reply: Reply) -> None:
        (self.refused if reply.finish == "refused" else self.answers)[key] = reply

    def missing(self, requests: Iterable[Request], keys: list[str]) -> Iterator[tuple[str, Request]]:
        """Requests without an answer, each once, with their keys; the keys of all are put into ``keys``."""
        seen = set(self.answers)
        for request in requests:
            told = json.dumps([self.model.identity, asdict(request)], sort_keys=True)
            key = hashlib.sha256(told.encode()).hexdigest()[:32]
            keys.append(key)
            if key not in seen:
                seen.add(key)
                yield key, request

    def ask(self, key: str, request: Request) -> None:
        """Get one reply, and keep it; its errors are those of the function `ask`."""
        where = getattr(self.model, "url", self.model.name)
        for pause in (*PAUSES, None):
            begin = time.time()
            try:
                reply = self.model.reply(request)
                break
            except Busy as busy:
                if pause is None:
                    what = f"no answer after {len(PAUSES) + 1} tries ({busy}); {len(self.answers)} answers"
                    how = f"are kept in {self.path}, see to the server and give the same command to go on"
                    raise ChatError(f"{where}: {what} {how}") from None
                pause = max(pause, busy.pause)
                log.warning("%s: %s; again in %.0f s", where, busy, pause)
                if self.ended.wait(pause):
                    return  # another request ended the run
        self.add(key, request, reply, begin)
        self.finished[reply.finish] += 1
        refused = self.finished["refused"]
        if refused >= REFUSALS and refused == self.finished.total():
            fault = f"refused the first {REFUSALS} requests: {reply.error}"
            raise ChatError(f"{self.model.name} {fault}; see {self.path}")

    def add(self, key: str, request: Request, reply: Reply, begin: float) -> None:
        """Append one exchange and keep its answer; on a full disk the file stays as it was."""
        record = {"key": key, **self.model.identity, "url": getattr(self.model, "url", None)} | asdict(
            request
        )
        took = round(time.time() - begin, 3)
        record |= {"reply": asdict(reply), "asked": round(begin, 3), "seconds": took}
        line = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self.turn:
            end = self.file.seek(0, os.SEEK_END)
            try:
                if self.file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
                os.fsync(self.file.fileno())
            except OSError:
                self.file.truncate(end)
                raise
            self._keep(key, reply)
