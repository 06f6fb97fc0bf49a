"""How a prompt is written, and its token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateau_lib.study.errors import DataError, reason


def prompt_ids(tokenizer: Any, turns: Sequence[str], said: Sequence[str], chat: bool) -> list[int]:
    """Token ids of a conversation up to where the model speaks: user turns, with ``said``, its answers so far, between them.

    Args:
        turns: at least one more than ``said``; later ones are not read.
        chat: the tokenizer's chat template; without one ``[INST]question[/INST]answer``, joined by an empty line, as LongAlign
            and GATEAU write it (train/pre_tokenize.py). Otherwise the study's plain prompt, every part followed by an empty line.

    Raises:
        DataError: the chat template fails.
    """
    said = [text.strip() for text in said]
    asked = turns[: len(said) + 1]
    if chat and getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": asked[0]}]
        for text, turn in zip(said, asked[1:], strict=True):
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": turn}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of its own: jinja's errors, and whatever it raises itself
            raise DataError(f"the tokenizer's chat template fails ({reason(error)}); mend it, or ask without chat") from None
        return _ids(text, tokenizer)  # a template writes its own start token
    if chat:
        rounds = [f"[INST]{turn}[/INST]{text}" for turn, text in zip(asked, [*said, ""], strict=True)]
        text = SEPARATOR.join(rounds)
    else:
        text = "".join(f"{turn}{SEPARATOR}{text}{SEPARATOR}" for turn, text in zip(asked, said, strict=False))
        text += asked[-1] + SEPARATOR
    return [*([tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []), *_ids(text, tokenizer)]


def _ids(text: str, tokenizer: Any) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
SEPARATOR = "\n\n"
