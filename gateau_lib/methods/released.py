"""GATEAU's and ProLong's public procedures as they were released, so that what the fixes change can be measured.

Every defect is a switch of `Defects` with its source. With all of them off, the same unbatched code computes what the library
computes. Some defects move numbers, others only cost time: the tests say which. Sources are files of the repositories
S1s-Z/GATEAU (commit 38789ff) and October2001/ProLong (commit 193a51b). What belongs to the data is not repeated here: the
headings in the prompts ("### Input:" and so on), and joining result files by line number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import entropy
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from gateau_lib.data.samples import Encoded, segments
from gateau_lib.methods.prolong import THRESHOLD, document_segments, sample_pairs
from gateau_lib.models.attention import refuse_unread
from gateau_lib.models.rope import extend_window

if TYPE_CHECKING:
    from gateau_lib.models.pair import Pair

CUT = 500  # tokens of the instruction and of the response, start token included (select/cam, construct_data: max_length=500)
SEGMENTS_AT_ONCE = 32  # select/cam, run_multiprocess_ppl.sh
PAIRS_AT_ONCE, SINGLES_AT_ONCE = 8, 16  # prolong/run.py
_IMPLEMENTATION = "sdpa_with_rows"


@dataclass(frozen=True)
class Defects:
    """What the released code does and the library does not; ``Defects()`` is the code as released."""

    raw_short_reader: bool = True
    """The NTK patch replaces a class that flash attention does not use: the short model reads without it (select/hmg)."""
    late_labels: bool = True
    """The prompt is counted before truncation and masked after it: over-long samples lose response tokens (select/hmg)."""
    pad_context: bool = True
    """Every context is padded to the window, and all segments of the window are scored (select/cam, construct_data)."""
    see_padding: bool = True
    """The attention pass masks padding in the weights that it reports, not in the pass (select/cam, LlamaXFormersAttention)."""
    drop_first: bool = True
    """No start token, and the first tokens of instruction and response are dropped as if they were one (select/cam)."""
    cut_parts: bool = True
    """Instruction and response are cut to their first `CUT` tokens (select/cam, construct_data)."""
    all_tokens: bool = True
    """A segment's loss is divided by all tokens of its sequence but one, not by response tokens (select/cam, compute_ppl)."""
    half_precision: bool = True
    """Attention is stored as float16, whose smallest step is 6e-8 (select/cam, compute_sentence_attn)."""

    @classmethod
    def none(cls) -> Defects:
        """All switches off."""
        return cls(**{field.name: False for field in fields(cls)})

    @classmethod
    def only(cls, name: str) -> Defects:
        """One switch on; ``see_padding`` has padding to see only together with ``pad_context``, so it brings that along."""
        return replace(cls.none(), **{name: True}, **({"pad_context": True} if name == "see_padding" else {}))


@torch.inference_mode()
def _response_nll(model: PreTrainedModel, sample: Encoded, window: int, late: bool, count: Counter | None) -> float:
    """Mean NLL of the response from one forward pass with all logits; NaN if the labels leave no token."""
    body = sample.context + sample.instruction + sample.response
    ids = sample.start + body[max(0, len(body) + len(sample.start) - window) :]
    prompt = len(sample.prompt) + sample.dropped if late else len(ids) - len(sample.response)
    row = torch.tensor([ids], device=model.device)
    labels = row.clone()
    labels[0, :prompt] = -100
    _add(count, row, len(ids))
    return float(model(input_ids=row, labels=labels, use_cache=False).loss)


def released_hmg(
    pair: Pair, encoded: Sequence[Encoded], window: int, *, defects: Defects | None = None, count: Counter | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean response NLL of the short and of the long model as select/hmg computes them: one sample at a time, every logit.

    Args:
        window: tokens of a sample at most, cut on the left (select/hmg: 64,000).

    Returns:
        ``nll_short`` and ``nll_long``, each (n,), nats per token. NaN where the released code gives NaN: a sample whose prompt
        alone fills the window.
    """
    on = defects or Defects()
    short = pair.short if on.raw_short_reader else extend_window(pair.short, window)
    readers = (short, pair.long)
    losses = [[_response_nll(model, s, window, on.late_labels, count) for s in encoded] for model in readers]
    return np.array(losses[0]), np.array(losses[1])


@dataclass
class _Rows:
    """Which rows of the attention pass are wanted, which keys they may see, and what was found."""

    first: int
    seen: torch.Tensor  # (N,) bool
    found: list[torch.Tensor]  # per layer (rows, N), mean over heads


def _attention_with_rows(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, released_rows: _Rows | None = None, **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """SDPA, and beside it all weights of the rows after the context, from one product as in select/cam."""
    refuse_unread(module, kwargs)
    if released_rows is not None:
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        scores = query[:, :, released_rows.first :] @ keys.transpose(2, 3) * scaling  # (1, heads, rows, N)
        columns = torch.arange(key.shape[2], device=key.device)
        allowed = (columns <= columns[released_rows.first :, None]) & released_rows.seen  # (rows, N)
        weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1, dtype=torch.float32)
        released_rows.found.append(weights[0].mean(0))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(_IMPLEMENTATION, _attention_with_rows)
AttentionMaskInterface.register(_IMPLEMENTATION, sdpa_mask)


def _parts(sample: Encoded, on: Defects) -> tuple[list[int], list[int], list[int]]:
    """Start, instruction and response as select/cam reads them."""
    cut = CUT if on.cut_parts else None
    first = 1 if on.drop_first else 0
    return ([] if on.drop_first else sample.start), sample.instruction[:cut][first:], sample.response[:cut][first:]


def _started(start: list[int], part: list[int], real: list[bool]) -> tuple[list[int], list[bool], int]:
    """A padded part with the start token before its first real token, which of it is real, and how much padding leads."""
    lead = real.index(True) if True in real else len(part)
    return part[:lead] + start + part[lead:], real[:lead] + [True] * len(start) + real[lead:], lead


@torch.inference_mode()
def _segment_attention(
    model: PreTrainedModel, sample: Encoded, context: list[int], real: list[bool], size: int, on: Defects, count: Counter | None
) -> np.ndarray:
    """Attention of the response to the segments of ``context``, (layers, segments), mean over heads, rows and keys."""
    start, instruction, response = _parts(sample, on)
    first, seen_first, lead = _started(start, context, real)
    ids = torch.tensor([first + instruction + response], device=model.device)
    seen = torch.tensor(seen_first + [True] * (len(instruction) + len(response)), device=model.device)
    before = model.config._attn_implementation
    model.set_attn_implementation(_IMPLEMENTATION)
    rows = _Rows(len(first), seen, [])
    mask = torch.ones_like(ids) if on.see_padding else seen[None].long()
    _add(count, ids, int(seen.sum()))
    try:  # the base model: select/cam leaves out the head in this pass
        model.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=_positions(ids), use_cache=False, released_rows=rows
        )
    finally:
        model.set_attn_implementation(before)
    keys = [layer[len(instruction) :, : len(first)].mean(0) for layer in rows.found]  # of the response
    keys = [torch.cat([layer[:lead], layer[lead + len(start) :]]) for layer in keys]  # of the context
    means = torch.stack([torch.stack([part.mean() for part in layer.split(size)]) for layer in keys])
    return means.to(torch.float16 if on.half_precision else torch.float64).double().cpu().numpy()


@torch.inference_mode()
def _segment_nll(
    model: PreTrainedModel, sample: Encoded, context: list[int], real: list[bool], size: int, on: Defects, count: Counter | None
) -> np.ndarray:
    """Loss of the response after each segment of ``context``, (segments,), every logit computed."""
    start, instruction, response = _parts(sample, on)
    parts, seen = segments(context, size), segments(real, size)
    whole = [i for i, part in enumerate(parts) if len(part) == size]
    short = [[i] for i, part in enumerate(parts) if len(part) < size]  # the last one, if the context is not padded
    found = []
    for chosen in segments(whole, SEGMENTS_AT_ONCE) + short:
        first = [_started(start, parts[i], seen[i]) for i in chosen]
        after = instruction + response
        ids = torch.tensor([part + after for part, _, _ in first], device=model.device)
        mask = torch.tensor([known + [True] * len(after) for _, known, _ in first], device=model.device).long()
        labels = ids.clone()
        labels[:, : -len(response)] = -100
        _add(count, ids, int(mask.sum()))
        logits = model(input_ids=ids, attention_mask=mask, position_ids=_positions(ids), use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="none")
        loss = loss.view(len(chosen), -1).double().sum(1)
        found += (loss / (ids.shape[1] - 1 if on.all_tokens else len(response))).tolist()
    return np.array(found)


def released_cam(
    pair: Pair,
    encoded: Sequence[Encoded],
    window: int,
    segment_length: int,
    *,
    side: str = "left",
    defects: Defects | None = None,
    count: Counter | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two vectors of CAM as select/cam computes them, one sample at a time, by the long model.

    The released code knows Llama only: a response row sees every key before it, so no sliding windows.

    Args:
        window: tokens a context is padded to, or cut to on the right; a multiple of ``segment_length`` (select/cam: 64,000 in
            segments of 128).
        side: where the padding stands. Nothing in the released code says it, the tokenizer's files do. On the right it parts
            context and instruction, so that it moves every distance between them; on the left it shifts the segments' borders.

    Returns:
        For each sample ``segment_nll`` (segments,) in nats, and ``attention`` (layers, segments); with ``pad_context`` there are
        always ``window / segment_length`` segments. Turn them into a score with `cam.contextual_awareness`; the released
        code has no such step.

    Raises:
        ValueError: a window that is no multiple of the segment, an unknown side, a response that is lost with its first token.
    """
    on = defects or Defects()
    if window % segment_length:
        raise ValueError(f"window {window} must be a multiple of the segment length {segment_length}")
    if side not in ("left", "right"):
        raise ValueError(f"unknown side {side!r}: choose left or right")
    found = []
    for sample in encoded:
        if not _parts(sample, on)[2]:
            raise ValueError(f"sample {sample.id!r}: the released code drops the first response token, and there is no other")
        context = sample.context[:window] if on.pad_context else sample.context
        pad = [pair.long.config.pad_token_id or 0] * (window - len(context) if on.pad_context else 0)
        real, empty = [True] * len(context), [False] * len(pad)
        whole, seen = (pad + context, empty + real) if side == "left" else (context + pad, real + empty)
        shared = (pair.long, sample, whole, seen, segment_length, on, count)
        found.append((_segment_nll(*shared), _segment_attention(*shared)))
    return found


@torch.inference_mode()
def _perplexities(
    model: PreTrainedModel, rows: Sequence[list[int]], last: int, at_once: int, count: Counter | None
) -> np.ndarray:
    """Perplexity of the last tokens of sequences of one length, in batches, every logit computed."""
    found = []
    for begin in range(0, len(rows), at_once):
        ids = torch.tensor(rows[begin : begin + at_once], device=model.device)
        _add(count, ids, ids.numel())
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=_positions(ids), use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        found += loss.view(len(ids), -1)[:, -last:].mean(1).exp().tolist()
    return np.array(found)


def released_prolong(
    model: PreTrainedModel,
    docs: Sequence[Sequence[int]],
    *,
    segment_length: int,
    pairs: int,
    window_segments: int = 256,
    seed: int = 0,
    count: Counter | None = None,
) -> np.ndarray:
    """ProLong's score as prolong/run_batch_multi_process.py computes it: pair by pair, every logit, loops over all pairs.

    0 for a document of fewer than ``pairs`` pairs, for a score that is NaN, and for any error; such a 0 cannot be told from
    "no dependency". Which pairs are drawn follows `prolong.sample_pairs`: the released draw depends on a document's place.

    Returns:
        (n,) scores.
    """
    scores = []
    for document in docs:
        try:
            parts = document_segments(document, segment_length, window_segments, seed)
            alone = _perplexities(model, parts, segment_length - 1, SINGLES_AT_ONCE, count)
            chosen = sample_pairs(len(parts), pairs, seed)
            if len(chosen) < pairs:
                scores.append(0.0)
                continue
            joined = [parts[j] + parts[i] for i, j in chosen]
            after = _perplexities(model, joined, segment_length - 1, PAIRS_AT_ONCE, count)
            scores.append(np.nan_to_num(_dependency(alone, after, chosen, window_segments)))
        except Exception:  # noqa: BLE001  the released code's own rule
            scores.append(0.0)
    return np.array(scores, dtype=float)


def _dependency(alone: np.ndarray, after: np.ndarray, chosen: np.ndarray, n_max: int) -> float:
    """LDS from perplexities (prolong/run.py, compute_lds)."""
    total = 0.0
    for i in np.unique(chosen[:, 0]):
        row = chosen[:, 0] == i
        help_in_ppl = alone[i] - after[row]
        shares = np.exp(help_in_ppl - help_in_ppl.max())
        most = np.log(len(shares))
        specificity = 1.0 if len(shares) == 1 else float(np.clip((most - entropy(shares)) / most, 0, 1))
        strength, distance = help_in_ppl / alone[i], np.clip((i - chosen[row, 1]) / (n_max - 1), 0, 1)
        total += float(((strength + distance) * specificity)[strength > THRESHOLD].sum())
    return total


def _positions(ids: torch.Tensor) -> torch.Tensor:
    """Positions from the left edge, padding included, as the library of that time counted them."""
    return torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)


def _add(count: Counter | None, ids: torch.Tensor, tokens: int) -> None:
    if count is not None:
        count.update(tokens=tokens, padded=ids.numel(), forwards=1)
