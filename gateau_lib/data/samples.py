"""The one `Sample` type, and samples turned into token ids.

A sample is a long context *c*, an instruction *x* and a response *y* (GATEAU, section 3.1). The text a model
reads is ``c + "\\n\\n" + x + "\\n\\n" + y``, the papers' plain prompt. The parts are tokenized one by one:
the same tokens stand for *x* and *y* whether they follow the whole context, one segment of it, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gateau_lib.models import control_tokens
from gateau_lib.models.prompts import SEPARATOR, has_template, templated
from gateau_lib.study.errors import DataError

# What stands before a turn in the plain prompt, where a conversation has several exchanges.
NAMES = {"system": "System:", "user": "User:", "assistant": "Assistant:", "tool": "Tool:"}


@dataclass(frozen=True)
class Sample:
    """One long instruction sample; without instruction and response a plain document."""

    id: str
    context: str
    instruction: str
    response: str
    kind: str = ""
    evidence: tuple[tuple[int, int], ...] = ()  # character spans [start, end) of the context (planted data)
    answer: str = ""  # the part of the response that only the evidence can tell (planted data)
    source: str = ""
    system: str = ""  # what the system says before the conversation
    earlier: int = 0  # turns before the exchange; the context holds them, by their names

    @property
    def is_document(self) -> bool:
        """Whether it is a plain document, which has no loss of a response."""
        return not (self.instruction or self.response)


@dataclass(frozen=True)
class Encoded:
    """Token ids of one sample's parts. ``ids = start + context + instruction + response``."""

    id: str
    start: list[int]  # [bos] or [], then the system's turn
    context: list[int]
    instruction: list[int]  # with the separators around it
    response: list[int]  # without an end-of-text token
    dropped: int = 0  # context tokens cut on the left to fit max_length

    @property
    def prompt(self) -> list[int]:
        """Ids of everything before the response."""
        return self.start + self.context + self.instruction

    @property
    def ids(self) -> list[int]:
        """Ids of the whole sample."""
        return self.prompt + self.response


def encode(sample: Sample, tokenizer: Any, max_length: int | None = None, chat: bool = False) -> Encoded:
    """Tokenize one sample; over-long context is cut on the left, instruction and response stay whole.

    ``max_length``: tokens of the whole sample at most (GATEAU cuts at 64,000).
    ``chat``: put the tokenizer's chat template around it: what it writes before the user's text is ``start``,
        what it writes after it ends ``instruction``; the response stays last, without an end of turn.
    Raises DataError: empty response, instruction and response exceed ``max_length``, or an unusable template.
    """
    lead = SEPARATOR if sample.context else ""
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    context, response = _ids(sample.context, tokenizer), _ids(sample.response, tokenizer)
    if sample.is_document:
        return _fit(Encoded(sample.id, start, context, [], []), max_length)
    if chat:
        before, after = _template(sample, tokenizer, sample.context + lead + sample.instruction)
        start = control_tokens.of_rendered(tokenizer, before)["input_ids"]
    else:
        after = SEPARATOR + (NAMES["assistant"] + SEPARATOR if sample.earlier else "")
        start = start + _ids(sample.system + SEPARATOR if sample.system else "", tokenizer)
    asked = control_tokens.hidden(tokenizer, lead + sample.instruction) + after
    instruction = control_tokens.of_rendered(tokenizer, asked)["input_ids"]
    return _fit(Encoded(sample.id, start, context, instruction, response), max_length)


def encode_asked(sample: Sample, tokenizer: Any, max_length: int | None = None) -> Encoded:
    """The sample as a model is asked in a conversation: the templated prompt tokenized as one text.

    So training fits asking. `encode` tokenizes part by part, as scoring needs; some tokenizers (Llama-2's)
    then put a mark before each part. DataError as there.
    """
    lead = SEPARATOR if sample.context else ""
    before, after = _template(sample, tokenizer, sample.context + lead + sample.instruction)
    texts = (control_tokens.hidden(tokenizer, text) for text in (sample.context, lead + sample.instruction))
    start, context, instruction = split_tokens(tokenizer, before, next(texts), next(texts) + after)
    return _fit(Encoded(sample.id, start, context, instruction, _ids(sample.response, tokenizer)), max_length)


def split_tokens(tokenizer: Any, *parts: str) -> list[list[int]]:
    """Ids of the parts of one text, tokenized as a whole; a token belongs where its last character is."""
    read = control_tokens.of_rendered(tokenizer, "".join(parts), return_offsets_mapping=True)
    ends = np.cumsum([len(control_tokens.shown(part)) for part in parts])
    ids: list[list[int]] = [[] for _ in parts]
    for token, (begin, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        ids[int(np.searchsorted(ends, max(begin, end - 1), side="right"))].append(token)
    return ids


def _fit(whole: Encoded, max_length: int | None) -> Encoded:
    """A sample as it fits into ``max_length`` tokens, its context cut on the left."""
    if whole.instruction and not whole.response:
        raise DataError(f"sample {whole.id!r}: the response is empty; give it an assistant message with text")
    if max_length is None:
        return whole
    dropped = max(0, len(whole.ids) - max_length)
    if dropped > len(whole.context):
        both = f"instruction and response alone take {len(whole.ids) - len(whole.context)} tokens"
        fix = f"more than max_length {max_length}; raise --max-length or shorten the sample"
        raise DataError(f"sample {whole.id!r}: {both}, {fix}")
    return replace(whole, context=whole.context[dropped:], dropped=dropped)


def _ids(text: str, tokenizer: Any) -> list[int]:
    return control_tokens.of_text(tokenizer, text)["input_ids"] if text else []


def _template(sample: Sample, tokenizer: Any, user: str) -> tuple[str, str]:
    """What the tokenizer's chat template writes before and after a user turn that asks for an answer."""
    if not has_template(tokenizer):
        why = "the model's tokenizer has no chat template"
        raise DataError(f"sample {sample.id!r}: {why}; leave out --chat-template")
    what = {"whose": f"sample {sample.id!r}", "remedy": "leave out --chat-template"}
    said = control_tokens.hidden(tokenizer, sample.system)
    system = [{"role": "system", "content": said}] if said else []

    def written(text: str) -> str:
        return templated(tokenizer, [*system, {"role": "user", "content": text}], **what)

    marker = "\ue000user\ue001"  # private-use characters: in no template's own words
    around = written(marker).split(marker)
    # Many templates strip the turn; white space at its ends stays here, so that places are the sample's own.
    if len(around) != 2 or written(user) not in (user.join(around), user.strip().join(around)):
        why = "the chat template rewrites the user's text, so context and instruction cannot be found in it"
        raise DataError(f"sample {sample.id!r}: {why}; leave out --chat-template")
    return around[0], around[1]


def context_offsets(sample: Sample, tokenizer: Any, encoded: Encoded, segment_length: int) -> list[int]:
    """Borders of the kept context's segments in characters: segment i is ``context[found[i]:found[i + 1]]``.

    The first is above 0 where context was cut on the left; without kept context there is one, the end.
    """
    if not encoded.context:
        return [len(sample.context)]
    begins = [begin for begin, _ in _offsets(sample.context, tokenizer)][encoded.dropped :]
    return [*begins[::segment_length], len(sample.context)]


def kept_context(sample: Sample, tokenizer: Any, encoded: Encoded) -> str:
    """The context without what was cut off on the left to fit."""
    if not encoded.dropped:
        return sample.context
    return sample.context[context_offsets(sample, tokenizer, encoded, len(encoded.ids))[0] :]


def far_and_near(sample: Sample, tokenizer: Any, encoded: Encoded, window: int) -> tuple[str, str]:
    """The kept context, parted where the last ``window`` tokens of the sample begin, start token included.

    Near is what a reader of that window still sees, see `methods.model_passes.last_window`; either may be "".
    """
    borders = context_offsets(sample, tokenizer, encoded, 1)
    others = len(encoded.start) + len(encoded.instruction) + len(encoded.response)
    near = borders[max(0, len(encoded.context) - max(0, window - others))]
    return sample.context[borders[0] : near], sample.context[near:]


def _offsets(text: str, tokenizer: Any) -> list[tuple[int, int]]:
    """Where each token of a text stands in it, ``(begin, end)`` in characters."""
    return control_tokens.of_text(tokenizer, text, return_offsets_mapping=True)["offset_mapping"]


def evidence_tokens(sample: Sample, tokenizer: Any) -> list[tuple[int, int]]:
    """Evidence spans in context tokens, ``[start, end)``, before any truncation."""
    spans, offsets = [], _offsets(sample.context, tokenizer)
    for begin, end in sample.evidence:
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > begin]
        if not inside:
            raise DataError(f"sample {sample.id!r}: evidence {begin}-{end} covers no token of the context")
        spans.append((inside[0], inside[-1] + 1))
    return spans


def segments(tokens: Sequence[int], length: int) -> list[list[int]]:
    """Consecutive segments of ``length`` tokens; the last may be shorter; an empty context has none."""
    return [list(tokens[i : i + length]) for i in range(0, len(tokens), length)]
