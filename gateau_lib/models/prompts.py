"""How a prompt is written, and its token ids."""

from collections.abc import Mapping, Sequence
from typing import Any

from gateau_lib.models import control_tokens
from gateau_lib.study.errors import DataError, reason

SEPARATOR = "\n\n"  # between the parts of a plain prompt
# GATEAU and LongAlign, train/pre_tokenize.py of both: "[INST]" + user + "[/INST]" + answer, rounds parted by
# a blank line, after the start token. Training and asking both take it from here.
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}"
    "{% else %}{{ raise_exception('this template has no place for the role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
)


def templated(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], *, whose: str, remedy: str, template: Any = None
) -> str:
    """A conversation as a chat template writes it, its start token included, up to where the model speaks.

    A template is a program; it runs in the sandbox that transformers gives it, and reads these messages only.
    ``messages``: ``{"role": "system" | "user" | "assistant", "content": text}``.
    ``whose``, ``remedy``: beginning and end of the DataError of a template that fails.
    ``template``: Jinja text; None: the tokenizer's own.
    """
    how = {"tokenize": False, "add_generation_prompt": True, "chat_template": template}
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], **how)
    except Exception as error:  # a template is a program of its own: jinja's errors, and whatever it raises
        raise DataError(f"{whose}: the chat template fails ({reason(error)}); {remedy}") from None


def templated_ids(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], *, whose: str, remedy: str, template: Any = None
) -> list[int]:
    """Token ids of a conversation as `templated` writes it; control tokens are the template's alone."""
    texts = [{**each, "content": control_tokens.hidden(tokenizer, each["content"])} for each in messages]
    written = templated(tokenizer, texts, whose=whose, remedy=remedy, template=template)
    return control_tokens.of_rendered(tokenizer, written)["input_ids"]


def has_template(tokenizer: Any) -> bool:
    """Whether the tokenizer brings a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def prompt_ids(tokenizer: Any, turns: Sequence[str], said: Sequence[str], chat: bool) -> list[int]:
    """Token ids of a conversation up to where the model speaks.

    ``turns``: what the user says; at least one more than ``said``, later ones are not read.
    ``said``: the model's answers so far, which stand between the turns.
    ``chat``: the tokenizer's chat template, or `INST` where it has none; else the study's plain prompt.
    """
    said = [text.strip() for text in said]
    asked = turns[: len(said) + 1]
    messages = [{"role": "user", "content": asked[0]}]
    for text, turn in zip(said, asked[1:], strict=True):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": turn}]
    if not chat:
        return plain_ids(tokenizer, [message["content"] for message in messages])
    remedy = "mend it, or ask without chat"
    how: dict[str, Any] = {"template": None if has_template(tokenizer) else INST, "remedy": remedy}
    return templated_ids(tokenizer, messages, whose="the tokenizer", **how)


def plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Token ids of texts, each followed by an empty line, after the start token, if the tokenizer has one."""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + text_ids(tokenizer, "".join(text + SEPARATOR for text in texts))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text as it stands, nothing added; control tokens that it spells are text."""
    return control_tokens.of_text(tokenizer, text)["input_ids"]
