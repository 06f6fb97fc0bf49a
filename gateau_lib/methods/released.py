"""GATEAU's public procedure as it was released, so that what the fixes change can be measured.

Every defect is a switch of `Defects` with its source, a file of the repository S1s-Z/GATEAU (commit 38789ff).
With all of them off, the same unbatched code computes what the library computes. What belongs to the data is
not repeated here: headings in the prompts ("### Input:" and so on), joining result files by line number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from gateau_lib.data.samples import Encoded
from gateau_lib.models import rope
from gateau_lib.models.attention import Layer, check_layers, reading_rows
from gateau_lib.models.nll import Count, add
from gateau_lib.models.pair import Pair
from gateau_lib.study.errors import ModelError

CUT = 500  # tokens of instruction and response, with start token (select/cam, construct_data: max_length=500)
SEGMENTS_AT_ONCE = 32  # select/cam, run_multiprocess_ppl.sh


@dataclass(frozen=True)
class Defects:
    """What the released code does and the library does not; ``Defects()`` is the code as released."""

    raw_short_reader: bool = True
    """The NTK patch replaces a class that flash attention does not use: no stretching (select/hmg)."""
    late_labels: bool = True
    """The prompt is counted before truncation and masked after it: responses lose tokens (select/hmg)."""
    pad_context: bool = True
    """Contexts are padded to the window, all of whose segments are scored (select/cam, construct_data)."""
    see_padding: bool = True
    """Padding is masked in the weights reported, not in the pass (select/cam, LlamaXFormersAttention)."""
    drop_first: bool = True
    """No start token; the first tokens of both parts are dropped as if they were one (select/cam)."""
    cut_parts: bool = True
    """Instruction and response are cut to their first `CUT` tokens (select/cam, construct_data)."""
    all_tokens: bool = True
    """A segment's loss is divided by all tokens but one, not by response tokens (select/cam, compute_ppl)."""
    half_precision: bool = True
    """Attention is stored as float16, whose smallest step is 6e-8 (select/cam, compute_sentence_attn)."""

    @classmethod
    def none(cls) -> Defects:
        """All switches off."""
        return cls(**{field.name: False for field in fields(cls)})

    @classmethod
    def only(cls, name: str) -> Defects:
        """One switch on; ``see_padding`` brings along ``pad_context``, without which there is none to see."""
        names = {name, "pad_context"} if name == "see_padding" else {name}
        return replace(cls.none(), **dict.fromkeys(names, True))


# GATEAU, select/hmg


@torch.inference_mode()
def _response_nll(model: PreTrainedModel, sample: Encoded, window: int, late: bool, count: Count) -> float:
    """Mean NLL of the response from one forward pass with all logits; NaN if the labels leave no token."""
    body = sample.context + sample.instruction + sample.response
    ids = sample.start + body[max(0, len(body) + len(sample.start) - window) :]
    prompt = len(sample.prompt) + sample.dropped if late else len(ids) - len(sample.response)
    row = torch.tensor([ids], device=model.device)
    labels = row.clone()
    labels[0, :prompt] = -100
    add(count, row, len(ids))
    return float(model(input_ids=row, labels=labels, use_cache=False).loss)


def released_hmg(
    pair: Pair, encoded: Sequence[Encoded], window: int, defects: Defects | None = None, count: Count = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean response NLL of both models as select/hmg computes them: one sample at a time, every logit.

    ``window``: tokens of a sample at most, cut on the left (select/hmg: 64,000).
    Returns ``nll_short`` and ``nll_long``, each (n,), nats per token. NaN where the released code gives NaN:
        a sample whose prompt alone fills the window.
    """
    on = defects or Defects()
    short = pair.short if on.raw_short_reader else rope.extend_window(pair.short, window)
    nll_short = [_response_nll(short, sample, window, on.late_labels, count) for sample in encoded]
    nll_long = [_response_nll(pair.long, sample, window, on.late_labels, count) for sample in encoded]
    return np.array(nll_short), np.array(nll_long)


# GATEAU, select/cam


@dataclass(frozen=True)
class _Text:
    """A sample as select/cam reads it."""

    start: list[int]
    context: list[int]  # padded
    real: list[bool]  # which of the context is no padding
    instruction: list[int]
    response: list[int]

    def opened(self, part: slice) -> tuple[list[int], list[bool], int]:
        """A part, opened before its first real token: ids, which are real, how much padding leads."""
        ids, real = self.context[part], self.real[part]
        lead = real.index(True) if True in real else len(ids)
        opened = ids[:lead] + self.start + ids[lead:]
        return opened, real[:lead] + [True] * len(self.start) + real[lead:], lead


def _text(sample: Encoded, pad: int, window: int, on: Defects) -> _Text:
    context = sample.context[:window] if on.pad_context else sample.context
    padding = window - len(context) if on.pad_context else 0
    cut, first = (CUT if on.cut_parts else None), (1 if on.drop_first else 0)
    return _Text(
        start=[] if on.drop_first else sample.start,
        context=[pad] * padding + context,
        real=[False] * padding + [True] * len(context),
        instruction=sample.instruction[:cut][first:],
        response=sample.response[:cut][first:],
    )


@torch.inference_mode()
def _segment_attention(
    model: PreTrainedModel, text: _Text, size: int, on: Defects, count: Count
) -> np.ndarray:
    """Attention of the response to each segment, (layers, segments), mean over heads, rows and keys."""
    first, seen_first, lead = text.opened(slice(None))
    after = text.instruction + text.response
    ids = torch.tensor([first + after], device=model.device)
    seen = torch.tensor(seen_first + [True] * len(after), device=model.device)  # (N,)
    columns = torch.arange(len(seen), device=model.device)
    allowed = (columns <= columns[len(first) :, None]) & seen  # (rows after the context, N)
    found: list[torch.Tensor] = []  # (segments,) a layer

    def tap(layer: Layer) -> None:
        """All weights of the rows after the context, from one product as in select/cam."""
        added = layer.mask is not None and layer.mask.is_floating_point()
        if not layer.sees_all or added or layer.softcap is not None or layer.sinks is not None:
            raise _not_llama(model, "layers with windows, soft caps, sinks or masks that are added")
        keys = layer.key.repeat_interleave(layer.query.shape[1] // layer.key.shape[1], dim=1)
        scores = layer.query[:, :, len(first) :] @ keys.transpose(2, 3) * layer.scaling  # (1, heads, rows, N)
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1, dtype=torch.float32)[0].mean(0)
        mean = weights[len(text.instruction) :, : len(first)].mean(0)  # from the response
        mean = torch.cat([mean[:lead], mean[lead + len(text.start) :]])  # to the context
        found.append(torch.stack([part.mean() for part in torch.split(mean, size)]))

    add(count, ids, int(seen.sum()))
    mask = torch.ones_like(ids) if on.see_padding else seen[None].long()
    with reading_rows(model, tap):  # of the base model: select/cam leaves out the head in this pass
        decoder = model.get_decoder()  # type: ignore[no-untyped-call]  # transformers leaves it without types
        decoder(**_inputs(ids, mask))
    check_layers(model, len(found))
    stored = torch.stack(found).to(torch.float16 if on.half_precision else torch.float64)
    return stored.double().cpu().numpy()


@torch.inference_mode()
def _segment_nll(model: PreTrainedModel, text: _Text, size: int, on: Defects, count: Count) -> np.ndarray:
    """Loss of the response after each segment of the context, (segments,), every logit computed."""
    n, after = len(text.context), text.instruction + text.response
    whole = [slice(begin, begin + size) for begin in range(0, n - size + 1, size)]
    batches = [whole[begin : begin + SEGMENTS_AT_ONCE] for begin in range(0, len(whole), SEGMENTS_AT_ONCE)]
    if n % size:  # a short last segment, where the context is not padded
        batches.append([slice(n - n % size, n)])
    found = []
    for batch in batches:
        opened = [text.opened(part) for part in batch]
        ids = torch.tensor([part + after for part, _, _ in opened], device=model.device)
        mask = torch.tensor([real + [True] * len(after) for _, real, _ in opened], device=model.device).long()
        losses = every_loss(model, ids, mask, count)[:, -len(text.response) :].double().sum(1)
        found += (losses / (ids.shape[1] - 1 if on.all_tokens else len(text.response))).tolist()
    return np.array(found)


def released_cam(
    pair: Pair,
    encoded: Sequence[Encoded],
    window: int,
    segment_length: int,
    *,
    defects: Defects | None = None,
    count: Count = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two vectors of CAM as select/cam computes them, one sample at a time, by the long model.

    The released code knows Llama only: a response row sees every key before it. Families with sliding
    windows, soft caps, sinks, added masks or positions that are not rotary are refused.
    Padding stands on the left, where it shifts the borders of segments; tokenizers say so, the code does not.
    ``window``: tokens a context is padded to, or cut to on the right; a multiple of ``segment_length``
        (select/cam: 64,000 in segments of 128). The padding token is the tokenizer's, else its end of text.
    Returns for each sample ``segment_nll`` (segments,) in nats, and ``attention`` (layers, segments); with
        ``pad_context`` there are always ``window / segment_length``. Their score is the library's
        (`cam.contextual_awareness`); the released code has none.
    Raises ValueError: a window of no whole segments, a response that is lost with its first token;
        ModelError: a family that it would misread.
    """
    on = defects or Defects()
    if window % segment_length:
        raise ValueError(f"window {window} must be a multiple of the segment length {segment_length}")
    _check_llama(pair.long)
    pad = next((i for i in (pair.tokenizer.pad_token_id, pair.tokenizer.eos_token_id) if i is not None), 0)
    found = []
    for sample in encoded:
        text = _text(sample, pad, window, on)
        if not text.response:
            why = "the released code drops the first response token, and there is no other"
            raise ValueError(f"sample {sample.id!r}: {why}")
        nll = _segment_nll(pair.long, text, segment_length, on, count)
        found.append((nll, _segment_attention(pair.long, text, segment_length, on, count)))
    return found


def _check_llama(model: PreTrainedModel) -> None:
    """Raise ModelError for a configuration of which select/cam would see less than it says."""
    text = model.config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if not rope.parameters(model.config):
        raise _not_llama(model, "positions that are not rotary")
    if kinds or (getattr(text, "layer_types", None) is None and getattr(text, "sliding_window", None)):
        raise _not_llama(model, f"layers of {', '.join(sorted(kinds)) or 'a sliding window'}")


def _not_llama(model: PreTrainedModel, what: str) -> ModelError:
    kind = model.config.model_type
    return ModelError(f"{kind}: {what}, which the released code, written for Llama, would misread")


def every_loss(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, count: Count) -> torch.Tensor:
    """NLL of every token but the first, (B, N - 1), from one forward pass with all logits."""
    add(count, ids, int(mask.sum()))
    logits = model(**_inputs(ids, mask)).logits[:, :-1]
    losses = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return losses.view(len(ids), -1)


def _inputs(ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """A pass with positions from the left edge, padding included, as the library then counted them."""
    positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
