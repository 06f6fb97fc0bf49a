"""A small hub on this machine: enough of its interface for the real client to list, fetch and be refused."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """Serves ``models`` and ``datasets``; ``refuse`` is an error code that every request gets,
    ``asked`` what was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[
            str, dict[str, dict[str, bytes]]
        ] = {}  # "models/owner/name" -> commit -> files; the last is main
        self.refuse: tuple[int, str] | None = None
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, key: str, files: dict[str, bytes]) -> str:
        """A new commit of a repository; its name."""
        commit = hashlib.sha1(
            repr((key, sorted(files.items()), len(self.repos.get(key, {})))).encode()
        ).hexdigest()
        self.repos.setdefault(key, {})[commit] = files
        return commit

    def add_folder(self, key: str, folder: Path) -> str:
        """The same with the files of a folder."""
        return self.add(
            key, {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        )


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if self.server.refuse:
            return self._send(self.server.refuse[0], b"{}", body, {"X-Error-Code": self.server.refuse[1]})
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            kind, repo, verb, revision = found.groups()
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, (repo, revision, name), verb = (
                ("datasets" if found[1] else "models"),
                found.groups()[1:],
                "file",
            )
        else:
            return self._send(404, b"{}", body, {})
        commits = self.server.repos.get(f"{kind}/{repo}")
        if commits is None:
            return self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._send(404, b"{}", body, {"X-Error-Code": "RevisionNotFound"})
        files = commits[commit]
        if verb == "revision":
            return self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": []}).encode(), body, {})
        if verb == "tree":
            entries = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files.items()
            ]
            return self._send(200, json.dumps(entries).encode(), body, {})
        content = files[name]
        tag = f'"{hashlib.sha1(content).hexdigest()}"'
        return self._send(200, content, body, {"ETag": tag, "X-Repo-Commit": commit})

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            headers | {"Content-Length": str(len(content)), "Content-Type": "application/json"}
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
