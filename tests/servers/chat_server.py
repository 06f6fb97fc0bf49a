"""A small OpenAI-compatible server for the tests: it answers by rule, and misbehaves where it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], str | tuple[int, str] | bytes | float | None]


class Server:
    """What was asked (``bodies``, ``headers``), and where.

    ``answer`` gets the request's body and returns the text to answer, ``(status, body)`` of an error, bytes
    to send as they are, seconds to wait before dropping the connection, or None to drop it at once.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.under_way = self.most_under_way = 0
        self.turn = threading.Lock()

    @property
    def spec(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1#teacher"


@contextmanager
def serve(answer: Answer) -> Iterator[Server]:
    """The server of `Server`, on a free port of this machine."""
    told = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with told.turn:
                told.bodies.append(body)
                told.headers.append(
                    {name.lower(): value for name, value in self.headers.items()} | {"path": self.path}
                )
                told.under_way += 1
                told.most_under_way = max(told.most_under_way, told.under_way)
            try:
                self._say(told.answer(body))
            finally:
                told.under_way -= 1

        def _say(self, answer: Any) -> None:
            status = 200
            if answer is None or isinstance(answer, float):
                time.sleep(answer or 0.0)
                self.close_connection = True
                return
            if isinstance(answer, tuple):
                status, answer = answer[0], answer[1].encode()
            if isinstance(answer, str):
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": answer},
                    "finish_reason": "stop",
                }
                answer = json.dumps({"object": "chat.completion", "choices": [choice]}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
