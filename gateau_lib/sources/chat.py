"""A model that answers messages: an OpenAI-compatible endpoint (``http://host/v1#name``), or a local one.

The endpoint is spoken to with Python's own HTTP client: the hub's would send the user's hub token to any
server, and refuses to speak to one's own while ``HF_HUB_OFFLINE`` is set.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from gateau_lib.models import loading, rope
from gateau_lib.models.generate import continue_by_chance, continue_greedily, end_tokens
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.pair import fingerprint
from gateau_lib.models.prompts import SEPARATOR, has_template, plain_ids, templated_ids
from gateau_lib.study import devices
from gateau_lib.study.errors import DataError, UserError

KEY = "GATEAU_CHAT_KEY"  # environment variable; what it holds is sent to the endpoint and nowhere else
SECONDS = 600.0  # a long document may take minutes to read
LONGEST_PAUSE = 300.0  # that a server may ask for


class ChatError(UserError):
    """A model that cannot be asked (any more); the message says why and how to go on."""


class Busy(Exception):
    """No answer this time; the next try may bring one."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause  # seconds that the server asks for


@dataclass(frozen=True)
class Request:
    """Messages and how to answer them; ``temperature`` 0 is greedy."""

    messages: tuple[Mapping[str, str], ...]  # {"role": "system" | "user" | "assistant", "content": text}
    max_tokens: int = 2048
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back. ``finish``: "stop", "length" (cut at ``max_tokens``) or "refused" (``error``: why)."""

    text: str
    finish: str = "stop"
    error: str = ""


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server."""

    url: str  # up to and without /chat/completions
    name: str
    parallel: int = 4  # requests under way at once

    @property
    def identity(self) -> dict[str, str]:
        """What decides the answers. The address does not: a server that moved goes on with its transcript."""
        return {"model": self.name}

    def reply(self, request: Request) -> Reply:
        """One answer; ChatError: no server of this kind, or it does not accept the key.

        Raises Busy: time-out, dropped connection, status 408, 429 or 5xx, a body that is no chat completion.
        """
        body = {"model": self.name, "messages": [dict(m) for m in request.messages], "stream": False}
        body |= {"max_tokens": request.max_tokens, "temperature": request.temperature, "seed": request.seed}
        url, header = self.url + "/chat/completions", {"Content-Type": "application/json"}
        call = urllib.request.Request(url, json.dumps(body).encode(), header, method="POST")
        if key := _key():
            call.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(call, timeout=SECONDS) as answer:
                return _completion(answer.read())
        except urllib.error.HTTPError as error:
            return self._refused(error)
        except (OSError, http.client.HTTPException) as error:  # time-outs, broken connections of every kind
            cause = getattr(error, "reason", error)
            raise Busy(_line(str(cause)) or type(error).__name__) from None

    def _refused(self, error: urllib.error.HTTPError) -> Reply:
        try:
            said = _line(_secret(error.read().decode("utf-8", "replace")))
        except (OSError, http.client.HTTPException):
            said = ""
        why = f"status {error.code}: {said or error.reason}"
        if error.code in (401, 403):
            raise ChatError(f"{self.url}: does not accept the key ({why}); put the right one into {KEY}")
        if error.code == 404 or error.code < 400:
            what = f"no model {self.name!r} there ({why})"
            raise ChatError(f"{self.url}: {what}; give URL#name, URL usually ends in /v1")
        if error.code in (408, 429) or error.code >= 500:
            asked = error.headers.get("Retry-After", "")
            raise Busy(why, min(float(asked), LONGEST_PAUSE) if asked.isdigit() else 0.0)
        return Reply("", "refused", why)  # this request only: too long, say


@dataclass(frozen=True)
class Local:
    """A causal language model in this process; one request at a time."""

    name: str
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    identity: dict[str, str]
    parallel: int = 1

    def reply(self, request: Request) -> Reply:
        """One answer; a conversation that is too long for the model or its memory is refused."""
        model, tokenizer, most = self.model, self.tokenizer, request.max_tokens
        prompt, window = self.prompt(request.messages), rope.window(model)
        room = len(prompt) if window is None else window - most
        if len(prompt) > room:
            return Reply("", "refused", f"{len(prompt)} tokens; the window leaves {room} for the messages")
        heat, seed, ends = request.temperature, request.seed, end_tokens(model, tokenizer)
        try:
            if heat == 0:
                new = continue_greedily(model, [prompt], most, ends, tokenizer.pad_token_id)[0]
            else:
                new = continue_by_chance(model, prompt, most, ends, temperature=heat, seed=seed)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Reply("", "refused", f"{len(prompt)} tokens do not fit into memory")
        text = tokenizer.decode(new, skip_special_tokens=True)
        return Reply(text, "stop" if len(new) < most else "length")

    def prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation: in the tokenizer's chat template, else as in `prompts.plain_ids`.

        Raises ChatError: the template fails, also with the system turn put before the question.
        """
        texts, tokenizer = [message["content"] for message in messages], self.tokenizer
        if not has_template(tokenizer):
            return plain_ids(tokenizer, texts)
        what = {"whose": self.name, "remedy": "mend it, or take another model"}
        try:
            return templated_ids(tokenizer, messages, **what)
        except DataError as error:
            if messages[0]["role"] != "system":
                raise ChatError(str(error)) from None
        # Some templates know no system turn.
        return self.prompt([{"role": "user", "content": SEPARATOR.join(texts[:2])}, *messages[2:]])


Chat = Endpoint | Local


@lru_cache(maxsize=1)  # a judge marks several runs; a large model is loaded once
def open_model(spec: str) -> Chat:
    """An endpoint, else a folder or hub id; ChatError: no name, a key inside it. ModelError: none there."""
    if not spec:
        raise ChatError("no model is named; give http://host:8000/v1#name, a folder or a hub id")
    if spec.startswith(("http://", "https://")):
        url, _, name = spec.partition("#")
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            what = f"--model {name}: its address holds a key or query"
            raise ChatError(f"{what}; put the key into the environment as {KEY}")
        if not name or not parts.hostname:
            raise ChatError(f"{spec}: name the model after a #, for example http://host:8000/v1#name")
        return Endpoint(url.rstrip("/").removesuffix("/chat/completions"), name)
    device = devices.device()
    model, tokenizer = loading.load(spec, "bfloat16" if device.type == "cuda" else "float32", device)
    return Local(spec, model, tokenizer, {"model": spec, "weights": fingerprint(model, tokenizer)})


def said(reply: Reply) -> str:
    """The text of a reply without the thoughts that some models put before it in ``<think>`` tags."""
    return re.sub(r"\A\s*<think>.*?</think>", "", reply.text, flags=re.DOTALL).strip()


def _completion(body: bytes) -> Reply:
    """The first choice of a chat completion."""
    try:
        choice = json.loads(body)["choices"][0]
        text, finish = choice["message"].get("content") or "", choice.get("finish_reason") or "stop"
        if not (isinstance(text, str) and isinstance(finish, str)):
            raise TypeError
        # JSON may hold halves of surrogate pairs.
        return Reply(_secret(text.encode("utf-8", "replace").decode()), finish)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise Busy(f"not a chat completion: {_line(_secret(body.decode('utf-8', 'replace')))!r}") from None


def _key() -> str:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ChatError(f"the environment's {KEY} holds characters that are in no key; set it again")
    return key


def _secret(text: str) -> str:
    """The text without the key, should a server have repeated it."""
    return text.replace(key, f"${KEY}") if (key := _key()) else text


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
