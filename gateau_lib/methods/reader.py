"""Some samples read by both models: what the methods ask of them, each pass done at most once, whoever asks.

A pass stands here with what it costs, so that the plan needs no second list. Several methods share the long
model's pass over whole samples; where one wants its attention, the others take their losses from it, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gateau_lib.data.samples import Encoded, Sample, context_offsets, encode
from gateau_lib.methods.base import Options
from gateau_lib.methods.cam_adaptive import adaptive_importance, plan_reading
from gateau_lib.methods.longattn import long_attention_score
from gateau_lib.methods.model_passes import (
    LongPass,
    cut_losses,
    long_pass,
    mean_nll,
    response_losses,
    response_nll,
    segment_importance,
    short_reader_nll,
)
from gateau_lib.methods.pair_passes import score_documents
from gateau_lib.models import rope
from gateau_lib.models.nll import TokenLosses, continuation_nll
from gateau_lib.models.pair import Pair
from gateau_lib.study.errors import ModelError

if TYPE_CHECKING:
    from gateau_lib.models.sizes import Size

COUNTED = ("tokens", "padded", "forwards")  # of each pass


@dataclass(frozen=True)
class Lengths:
    """Tokens of one sample's parts."""

    start: int
    context: int
    instruction: int
    response: int
    dropped: int = 0  # context tokens cut on the left; ProLong reads them

    @property
    def whole(self) -> int:
        """Tokens of the whole sample."""
        return self.start + self.context + self.instruction + self.response


Cost = tuple[int, float]  # tokens and floating-point operations
CostOf = Callable[[Lengths, "Size", "Size", Options], Cost]  # of one sample, for a short and a long model


class Pass(cached_property[Any]):
    """A property of `Reader` that asks a model, remembered, with what it costs."""

    def __init__(
        self, read: Callable[[Reader], Any], counted: str, cost: CostOf, needs_short: bool = False
    ) -> None:
        super().__init__(read)
        # Its name in manifests and plans; what it costs; whether it needs the short model or its window.
        self.counted, self.cost, self.needs_short = counted, cost, needs_short


def reads(**about: Any) -> Callable[[Callable[[Reader], Any]], Pass]:
    """Make a property of `Reader` a pass; ``about``: ``counted``, ``cost`` and ``needs_short`` of `Pass`."""
    return partial(Pass, **about)


def named_passes(names: Collection[str]) -> list[Pass]:
    """The passes of these names, in the order of `Reader`; of those counted as one only the first."""
    there = {name: each for name, each in vars(Reader).items() if isinstance(each, Pass)}
    if unknown := [name for name in names if name not in there]:
        known = ", ".join(there)
        raise ValueError(f"no pass {unknown[0]!r}: a Reader has {known}; a new one is a property there")
    found: dict[str, Pass] = {}
    for name, each in there.items():
        if name in names:
            found.setdefault(each.counted, each)
    return list(found.values())


# What a pass costs


def _whole_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    return sample.whole, long.flops(sample.whole, sample.response)


def _short_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    read = min(sample.whole, options.short_window) if options.reading == "truncate" else sample.whole
    return read, short.flops(read, sample.response)


def _cut_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    read = min(sample.whole, options.short_window)
    return read, long.flops(read, sample.response)


def _alone_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    return 1 + sample.response, long.flops(1 + sample.response, sample.response)


def _segments_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    """Each segment once, with start, instruction and response around it."""
    begins = range(0, sample.context, options.segment_length)
    parts = np.array([min(options.segment_length, sample.context - begin) for begin in begins], dtype=int)
    if options.adaptive and len(parts):
        # How many segments are read does not depend on what the attention says.
        parts = parts[plan_reading(np.ones((1, len(parts))), np.zeros(len(parts))).read]
    tokens = (parts + sample.start + sample.instruction + sample.response).tolist()
    return sum(tokens), sum(long.flops(n, sample.response) for n in tokens)


def _pairs_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    """Every segment once, and once more for every sampled pair, after a cached one."""
    length = options.segment_length
    document = sample.whole - sample.start + sample.dropped
    count = min(document // length, _window_segments(options))
    pairs = min(options.prolong_pairs, count * (count - 1) // 2)
    alone, after = long.flops(length, length), long.flops(length, length - 1, before=length)
    return (count + pairs) * length, count * alone + pairs * after


def _far_cost(sample: Lengths, short: Size, long: Size, options: Options) -> Cost:
    """One layer of a pass, whose tokens are counted as a whole one's."""
    return sample.whole, long.flops(sample.whole, 0) / long.layers


def _window_segments(options: Options) -> int:
    return max(2, options.max_length // options.segment_length)


# The passes


def _entropies(losses: Sequence[TokenLosses], name: str) -> list[np.ndarray]:
    found = [loss.entropy for loss in losses if loss.entropy is not None]
    if len(found) != len(losses):
        raise ValueError(f"{name} was not asked for; name it among the passes of the method")
    return found


def extended(pair: Pair, options: Options, passes: Collection[str]) -> Pair:
    """The models as a `Reader` takes them, for passes of these names: stretched by one fixed NTK base each.

    The long model where ``max_length`` lies beyond its window, the short one for reading ``ntk`` (GATEAU's
    extended window), so that no sample's score depends on its company.
    """
    short = pair.short
    if options.reading == "ntk" and "nll_short" in passes:
        short = rope.extend_window(short, options.max_length)
    return replace(pair, short=short, long=rope.extend_window(pair.long, options.max_length))


@dataclass(eq=False, repr=False)
class Reader:
    """The samples of a shard as both models read them.

    ``samples``, ``encoded``: as text and as tokens, in one order.
    ``pair``: the models, from `extended`.
    ``passes``: names of all that will be asked for, so that shared ones are done in the form that serves all.
    ``counts``: pass -> its ``tokens``, ``padded`` and ``forwards`` are increased.
    Every property may raise NonFiniteLoss or OutOfMemory, which name the sample.
    """

    samples: Sequence[Sample]
    encoded: Sequence[Encoded]
    pair: Pair
    options: Options
    passes: Collection[str] = ()
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, name: str) -> Counter[str]:
        """What is counted of a pass; one that reads nothing has its zeros."""
        return self.counts.setdefault(name, Counter(dict.fromkeys(COUNTED, 0)))

    @reads(counted="long_pass", cost=_whole_cost)
    def long_pass(self) -> list[LongPass]:
        """The long model's pass over whole samples with its attention to every segment."""
        size, entropy = self.options.segment_length, "entropy_long" in self.passes
        return long_pass(self.pair.long, self.encoded, size, entropy=entropy, count=self.count("long_pass"))

    @cached_property
    def _whole(self) -> list[TokenLosses]:
        """Losses of the long model over whole samples, in the form that serves all passes."""
        if "long_pass" in self.passes:
            return [each.tokens for each in self.long_pass]
        entropy, count = "entropy_long" in self.passes, self.count("long_pass")
        return response_losses(self.pair.long, self.encoded, entropy=entropy, count=count)

    @reads(counted="long_pass", cost=_whole_cost)
    def nll_long(self) -> np.ndarray:
        """Mean response NLL of the long model, (n,) nats per token."""
        return mean_nll(self._whole)

    @reads(counted="long_pass", cost=_whole_cost)
    def token_nll_long(self) -> list[np.ndarray]:
        """Losses of the response tokens by the long model, (|y|,) nats a sample."""
        return [loss.nll for loss in self._whole]

    @reads(counted="long_pass", cost=_whole_cost)
    def entropy_long(self) -> list[np.ndarray]:
        """Entropies of what the long model predicts at the response tokens, (|y|,) nats a sample."""
        return _entropies(self._whole, "entropy_long")

    @reads(counted="hmg", cost=_short_cost, needs_short=True)
    def nll_short(self) -> np.ndarray:
        """Mean response NLL of the short model, (n,) nats per token, read as the options say."""
        count = self.count("hmg")
        if self.options.reading in ("truncate", "ntk_each"):
            reading, window = self.options.reading, self.options.short_window
            return short_reader_nll(self.pair.short, self.encoded, reading, window=window, count=count)
        return response_nll(self.pair.short, self.encoded, count=count)  # stretched by `extended`, or raw

    @reads(counted="contrast", cost=_cut_cost, needs_short=True)
    def nll_cut(self) -> np.ndarray:
        """Mean response NLL of the long model on what the short window holds, (n,) nats per token."""
        return mean_nll(self._cut)

    @cached_property
    def _cut(self) -> list[TokenLosses]:
        window, entropy = self.options.short_window, "entropy_cut" in self.passes
        count = self.count("contrast")
        return cut_losses(self.pair.long, self.encoded, window, entropy=entropy, count=count)

    @reads(counted="contrast", cost=_cut_cost, needs_short=True)
    def token_nll_cut(self) -> list[np.ndarray]:
        """As `token_nll_long` on what the short window holds; of a longer response the last tokens only."""
        return [loss.nll for loss in self._cut]

    @reads(counted="contrast", cost=_cut_cost, needs_short=True)
    def entropy_cut(self) -> list[np.ndarray]:
        """As `entropy_long` on what the short window holds; of a longer response the last tokens only."""
        return _entropies(self._cut, "entropy_cut")

    @reads(counted="ifd", cost=_alone_cost)
    def nll_alone(self) -> np.ndarray:
        """Mean NLL of the response without its prompt by the long model, (n,) nats per token."""
        # One token before the response: a chat template's opening would be an instruction of its own.
        end = self.pair.tokenizer.eos_token_id
        starts = [sample.start[:1] or ([] if end is None else [end]) for sample in self.encoded]
        if [] in starts:
            why = "its tokenizer has neither a start nor an end token to put before a response alone"
            raise ModelError(f"{self.pair.long.config.name_or_path or 'the model'}: {why}; leave out ifd")
        responses = [sample.response for sample in self.encoded]
        losses = continuation_nll(self.pair.long, starts, responses, count=self.count("ifd"))
        return np.array([loss.mean() for loss in losses])

    @reads(counted="longattn", cost=_far_cost)
    def far_attention(self) -> np.ndarray:
        """LongAttn's score of each sample, (n,)."""
        return long_attention_score(self.pair.long, self.encoded, count=self.count("longattn"))

    @reads(counted="cam", cost=_segments_cost)
    def segment_nll(self) -> list[np.ndarray]:
        """Mean response NLL given one segment and the instruction, (segments,) a sample, nats per token."""
        size, count = self.options.segment_length, self.count("cam")
        if self.options.adaptive:
            return adaptive_importance(self.pair.long, self.encoded, self.long_pass, size, count=count)
        return segment_importance(self.pair.long, self.encoded, size, count=count)

    @reads(counted="prolong", cost=_pairs_cost)
    def dependencies(self) -> pd.DataFrame:
        """ProLong's scores of the samples as plain documents, see `pair_passes.score_documents`."""
        texts = []
        for sample, encoded in zip(self.samples, self.encoded, strict=True):
            if encoded.dropped:  # all of its context: pairs are short, whatever the length of the text
                encoded = encode(sample, self.pair.tokenizer, chat=self.options.chat)
            texts.append(encoded.context + encoded.instruction + encoded.response)
        shape = {"segment_length": self.options.segment_length, "pairs": self.options.prolong_pairs}
        shape |= {"window_segments": _window_segments(self.options), "seed": self.options.seed}
        return score_documents(self.pair.long, texts, **shape, count=self.count("prolong"))

    def segment_chars(self) -> list[list[int]]:
        """Where each sample's segments begin and end, as characters of its context; asks no model."""
        size = self.options.segment_length
        both = zip(self.samples, self.encoded, strict=True)
        return [context_offsets(sample, self.pair.tokenizer, encoded, size) for sample, encoded in both]
