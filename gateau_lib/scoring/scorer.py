"""One record in, one row out: every method's score of a few samples, each model reading each of them as seldom as possible.

A pass of the long model over whole samples gives the response's loss and the attention to every segment; all methods share
it. A sample that cannot be scored is a row that says why and never touches the others. Ranks and other statements about the whole
pool are left to the selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateau_lib.data.samples import Encoded, Sample, context_offsets, encode
from gateau_lib.data.sharded import Item
from gateau_lib.methods import cam, hmg, model_passes, pair_passes
from gateau_lib.methods.baselines import instruction_following_difficulty
from gateau_lib.methods.model_passes import response_nll
from gateau_lib.models.memory import is_out_of_memory
from gateau_lib.models.nll import NonFiniteLoss, OutOfMemory, SequenceError, continuation_nll
from gateau_lib.models.pair import Pair
from gateau_lib.scoring.score_table import COLUMNS, COUNTS, SCORES, SEGMENTS
from gateau_lib.scoring.settings import Options
from gateau_lib.study.errors import DataError

PASS = ("tokens", "padded", "forwards")  # what is counted of each pass of a model


class NothingLeft(SequenceError):
    """A sample of whose response the released code scores no token."""

    reason = "the released code leaves no token of the response; raise --max-length, or leave out --as-released"




@dataclass(frozen=True)
class Ready:
    """A sample as it stands in its record, as tokens, and the row that is being filled."""

    sample: Sample
    encoded: Encoded
    row: dict[str, Any]


def score_items(
    items: Sequence[Item], pair: Pair, options: Options, counts: dict[str, Counter] | None = None
) -> list[dict[str, Any]]:
    """Rows with the keys `COLUMNS`, one an item in its order; None where nothing was computed.

    A sample whose loss is not finite, or that does not fit into memory alone, is an error row and does not touch the others.

    Args:
        counts: pass -> its ``tokens``, ``padded`` and ``forwards`` are increased. The long model's pass over whole samples,
            which all methods share, is ``long_pass``; the others are named after the method that asked for them.
    """
    counts = {} if counts is None else counts
    rows = [dict.fromkeys(COLUMNS) | {"id": item.id, "error": item.error} for item in items]
    ready: list[Ready] = []
    for item, row in zip(items, rows, strict=True):
        if item.sample is None:
            continue
        try:
            encoded = encode(item.sample, pair.tokenizer, options.max_length, chat=options.chat)
        except DataError as error:
            row["error"] = str(error)
            continue
        sizes = len(encoded.context), len(encoded.instruction), len(encoded.response), encoded.dropped
        row |= dict(zip(COUNTS, sizes, strict=True))
        ready.append(Ready(item.sample, encoded, row))
    _fill_or_mark(ready, pair, options, counts)
    return rows


def _fill_or_mark(ready: Sequence[Ready], pair: Pair, options: Options, counts: dict[str, Counter]) -> None:
    """Fill the rows; a sample that cannot be scored is found by halving, and marked."""
    try:
        _fill(ready, pair, options, counts)
    except SequenceError as error:
        if len(ready) > 1:
            for half in (ready[: len(ready) // 2], ready[len(ready) // 2 :]):
                _fill_or_mark(half, pair, options, counts)
            return
        row = ready[0].row
        message = str(error) if error.sample is not None else f"sample {row['id']!r}: {error.reason}"
        row.update(dict.fromkeys((*SCORES, "cam_mode", *SEGMENTS)), error=message)


def _fill(ready: Sequence[Ready], pair: Pair, options: Options, counts: dict[str, Counter]) -> None:
    """Compute the options' methods for the encoded samples and put them into their rows."""
    if not ready:
        return
    columns = (_released if options.as_released else _columns)(ready, pair, options, counts)
    for name, values in columns.items():
        for each, value in zip(ready, values, strict=True):
            each.row[name] = _plain(value)


def _plain(value: Any) -> Any:
    """A number or a list of numbers as JSON knows them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return float(value) if isinstance(value, float | np.floating) else value


def _columns(ready: Sequence[Ready], pair: Pair, options: Options, counts: dict[str, Counter]) -> dict[str, Sequence[Any]]:
    encoded, asked, columns = [each.encoded for each in ready], set(options.methods), {}
    if "cam" in asked:  # the pass that gives the attention gives the long model's loss too
        columns |= _cam(ready, pair, options, counts)
    elif asked - {"prolong", "longattn"}:
        columns["nll_long"] = response_nll(pair.long, encoded, count=_count(counts, "long_pass"))
    if "hmg" in asked:
        columns["nll_short"] = model_passes.short_reader_nll(
            pair.short,
            encoded,
            options.reading,
            window=options.short_window,
            target=options.max_length,
            count=_count(counts, "hmg"),
        )
        columns["hmg"] = hmg.pool_gap(columns["nll_short"], columns["nll_long"], scale="log")
    if "contrast" in asked:
        count = _count(counts, "contrast")
        cut = model_passes.short_reader_nll(pair.long, encoded, "truncate", window=options.short_window, count=count)
        columns["contrast"] = hmg.pool_gap(cut, columns["nll_long"], scale="log")
    if "ifd" in asked:
        # One token before the response: a chat template's opening would be an instruction of its own.
        starts = [sample.start[:1] or [pair.tokenizer.eos_token_id] for sample in encoded]
        alone = continuation_nll(pair.long, starts, [sample.response for sample in encoded], count=_count(counts, "ifd"))
        columns["ifd"] = [
            instruction_following_difficulty([nll], [loss.mean()])[0] if loss.mean() > 0 else None
            for nll, loss in zip(columns["nll_long"], alone, strict=True)
        ]
    if "prolong" in asked:
        whole = [_uncut(each, pair, options) for each in ready]  # pairs are short, whatever the length of the text
        scored = pair_passes.score_documents(pair.long, _documents(whole), **_pairs(options), count=_count(counts, "prolong"))
        columns["prolong"] = [lds if n else None for lds, n in zip(scored["lds"], scored["pairs"], strict=True)]
    if "longattn" in asked:
        from gateau_lib.methods.longattn import long_attention_score

        columns["longattn"] = long_attention_score(pair.long, encoded, count=_count(counts, "longattn"))
    return columns


def _cam(ready: Sequence[Ready], pair: Pair, options: Options, counts: dict[str, Counter]) -> dict[str, Sequence[Any]]:
    """CAM, what it is made of, and the loss that comes with it; a sample without context has no CAM."""
    encoded, length = [each.encoded for each in ready], options.segment_length
    passes = model_passes.long_pass(pair.long, encoded, length, count=_count(counts, "long_pass"))
    if options.adaptive:
        from gateau_lib.methods.cam_adaptive import adaptive_importance

        nlls = adaptive_importance(pair.long, encoded, passes, length, count=_count(counts, "cam"))
    else:
        nlls = model_passes.segment_importance(pair.long, encoded, length, count=_count(counts, "cam"))
    has = [len(nll) > 0 for nll in nlls]
    both = list(zip(has, nlls, passes, strict=True))
    return {
        "nll_long": [p.nll for p in passes],
        "cam": [cam.contextual_awareness(nll, p.attention) if any_ else None for any_, nll, p in both],
        "cam_mode": [options.cam_mode if any_ else None for any_ in has],
        "segment_nll": [nll if any_ else None for any_, nll, _ in both],
        "segment_attention": [p.mass.mean(0) if any_ else None for any_, _, p in both],
        "segment_chars": [
            [int(n) for n in context_offsets(each.sample, pair.tokenizer, each.encoded, length)] if any_ else None
            for any_, each in zip(has, ready, strict=True)
        ],
    }


def _released(ready: Sequence[Ready], pair: Pair, options: Options, counts: dict[str, Counter]) -> dict[str, Sequence[Any]]:
    """The columns as the public code would fill them; its segments are those of a padded window, so they are not listed."""
    columns: dict[str, list[Any]] = {}
    for each in ready:
        try:
            found = _released_one(each, pair, options, counts)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(0, each.encoded.id) from None
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    return columns


def _released_one(each: Ready, pair: Pair, options: Options, counts: dict[str, Counter]) -> dict[str, Any]:
    from gateau_lib.methods import released, released_prolong

    sample, columns, length = each.encoded, {}, options.segment_length
    name = sample.id
    if "hmg" in options.methods:
        (short,), (long,) = released.released_hmg(pair, [sample], options.max_length, count=_count(counts, "hmg"))
        if np.isnan([short, long]).any():  # the mean over no token at all
            raise NothingLeft(0, name)
        if not np.isfinite([short, long]).all():
            raise NonFiniteLoss(0, name)
        columns |= {"nll_short": short, "nll_long": long, "hmg": short - long}
    if "cam" in options.methods:
        if len(sample.response) < 2:
            raise NothingLeft(0, name)
        window = max(1, options.max_length // length) * length
        whole = _uncut(each, pair, options)  # this code cuts a context on the right
        ((nll, attention),) = released.released_cam(pair, [whole], window, length, count=_count(counts, "cam"))
        if not (np.isfinite(nll).all() and np.isfinite(attention).all()):
            raise NonFiniteLoss(0, name)
        columns |= {"cam": cam.contextual_awareness(nll, attention), "cam_mode": options.cam_mode}
    if "prolong" in options.methods:
        documents = _documents([_uncut(each, pair, options)])
        (columns["prolong"],) = released_prolong.released_prolong(
            pair.long, documents, **_pairs(options), count=_count(counts, "prolong")
        )
    return columns


def _uncut(each: Ready, pair: Pair, options: Options) -> Encoded:
    """The sample with all of its context."""
    return encode(each.sample, pair.tokenizer, None, chat=options.chat) if each.encoded.dropped else each.encoded


def _documents(encoded: Sequence[Encoded]) -> list[list[int]]:
    """The whole text of each sample, as notebook 05 reads a pool."""
    return [sample.context + sample.instruction + sample.response for sample in encoded]


def _pairs(options: Options) -> dict[str, int]:
    return {
        "segment_length": options.segment_length,
        "pairs": options.prolong_pairs,
        "window_segments": max(2, options.max_length // options.segment_length),
        "seed": options.seed,
    }


def _count(counts: dict[str, Counter], name: str) -> Counter:
    return counts.setdefault(name, Counter(dict.fromkeys(PASS, 0)))  # a pass that reads nothing has its zeros
