"""Control tokens (`<s>`, `<|im_end|>`): a template writes them; in a text the same letters are text.

A tokenizer reads the letters `</s>` as its end-of-text token wherever they stand, so a document that mentions
them would break off there. A text in which one is spelled is read by a twin of the tokenizer that knows
control tokens by names which no text has. Everything else is read by the tokenizer itself, as always.
"""

import json
import re
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from gateau_lib.study.errors import DataError

# Unicode's noncharacters are in no text. One of them breaks what a text spells, so that it is told from what
# a template writes around it; in a name of the twin one fills what the token's own letters were.
BREAK, FILL = "\ufddf", "\ufdd0"
# `<s>`, `[INST]`, `<|eot_id|>`: not a full stop or "!" that serves as padding, which a text may hold as well.
# Nor `<0x0A>`, which stands for a byte in any text.
MARK = re.compile(r"(?!<0x[0-9A-F]{2}>)\W.*\w.*\W", flags=re.DOTALL)


def of_text(tokenizer: Any, text: str, **more: Any) -> Any:
    """A text as the tokenizer reads it, nothing added, control tokens that it spells as text.

    ``more``: of the tokenizer's call; ``return_offsets_mapping`` is all that the twin knows.
    """
    read = tokenizer(text, add_special_tokens=False, verbose=False, **more)
    if marks(tokenizer).keys().isdisjoint(read["input_ids"]):
        return read
    broken = hidden(tokenizer, text)
    return read if broken == text else of_rendered(tokenizer, broken, **more)  # an unknown letter, say


def hidden(tokenizer: Any, text: str) -> str:
    """A text that a template may take in: the control tokens that it spells are broken by `BREAK`."""
    for mark in marks(tokenizer).values():
        if mark in text:
            text = text.replace(mark, mark[0] + BREAK + mark[1:])
    return text


def shown(text: str) -> str:
    """A text without what `hidden` put into it."""
    return text.replace(BREAK, "")


def of_rendered(tokenizer: Any, text: str, **more: Any) -> Any:
    """As `of_text`, of what a template wrote around texts from `hidden`: its own control tokens are meant.

    Places are those in the `shown` text.
    """
    if BREAK not in text:
        return tokenizer(text, add_special_tokens=False, verbose=False, **more)
    twin, names = _twin(tokenizer)
    for mark in sorted(names, key=len, reverse=True):  # `</s>` before what is a part of it
        text = text.replace(mark, names[mark])
    read = twin.encode(shown(text), add_special_tokens=False)
    return {"input_ids": read.ids, "offset_mapping": read.offsets}


@lru_cache(maxsize=8)
def marks(tokenizer: Any) -> dict[int, str]:
    """The control tokens of a tokenizer that are spelled as such, by id."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).items()
    return {i: token.content for i, token in added if token.special and MARK.fullmatch(token.content)}


@lru_cache(maxsize=8)
def _twin(tokenizer: Any) -> tuple[Tokenizer, dict[str, str]]:
    """The tokenizer with its control tokens under other names of the same lengths, and these names."""
    ids = marks(tokenizer)
    names = {mark: chr(0xF0000 + n) + FILL * (len(mark) - 1) for n, mark in enumerate(ids.values())}
    about = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    for token in about["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = about["model"]
    # Also in the vocabulary itself: a unigram model would find the piece, and byte pairs may add up to it.
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        parts = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
        model["merges"] = [each for each in parts if names.keys().isdisjoint([*each, "".join(each)])]
    try:
        twin = Tokenizer.from_str(json.dumps(about))
        apart = [twin.token_to_id(name) for name in names.values()] == list(ids)
    except Exception:  # a tokenizer of parts that this library does not know
        apart = False
    if not apart:
        why = "this tokenizer cannot tell its control tokens from a text that spells them"
        raise DataError(f"{why}; take them out of the text")
    return twin, names
