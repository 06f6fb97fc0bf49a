"""What the costs of all parts are counted with: sizes of the pair, lengths of samples, operations of a pass.

What a part of the study costs stands beside the part, in a function `cost`; `plan` sums them. Not counted:
tokenizing, figures, and the few samples that show what the released code's defects change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.methods.base import Options, Reading
from gateau_lib.methods.reader import Lengths
from gateau_lib.models import sizes
from gateau_lib.models.loading import SHIPPED
from gateau_lib.models.sizes import Size, Work
from gateau_lib.scoring.pass_costs import passes
from gateau_lib.study.intervals import SEEDS
from gateau_lib.study.profiles import Profile

INSTRUCTION, RESPONSE = 12, 10  # tokens of a planted sample's question and answer
SHORT = (1 / 3 + 3 / 4) / 2  # of the short window, mean length of a planted short instruction
# Lengths of public data, assumed where their source gives no mean. LongAlign (3.3): "8k to 64k", fairly even.
LONG_TOKENS, LONG_RESPONSE = (8_192, 65_536), 256
SHORT_TOKENS, SHORT_RESPONSE = 500, 300  # the first question of a conversation and its answer
SPREAD = 16  # lengths that stand for those of a pool


@cache
def pair(profile: Profile) -> tuple[Size, Size]:
    """Sizes of the profile's short and long model; a rehearsal's are those of the shipped pair.

    Raises:
        UnknownSize: a model that is neither in the registry nor readable.
    """
    if profile.short_model == "scratch":
        return _scratch(profile, profile.short_window), _scratch(profile, profile.long_window)
    if profile.rehearsed or not profile.from_hub:
        return sizes.of(str(SHIPPED / "short")), sizes.of(str(SHIPPED / "long"))
    return sizes.of(profile.short_model), sizes.of(profile.long_model)


def _scratch(profile: Profile, window: int) -> Size:
    """As `tiny.build_llama` builds them."""
    hidden, heads = profile.hidden_size, profile.heads
    mlp = -(-hidden * 8 // 3 // 32) * 32
    vocabulary = len(build_tokenizer())
    return sizes.llama(
        profile.layers, hidden, mlp, heads, heads, vocabulary, tied=True, window=window, biased=True
    )


def planted(profile: Profile) -> list[Lengths]:
    """Lengths of the samples of a planted pool, evenly spread."""
    return _spread(profile, profile.pool_tokens, INSTRUCTION, RESPONSE)


def published(profile: Profile) -> list[Lengths]:
    """Lengths of the published long samples, cut to what the profile reads."""
    return _spread(profile, LONG_TOKENS, 64, min(LONG_RESPONSE, profile.max_length // 4))


def _spread(profile: Profile, bounds: tuple[int, int], instruction: int, response: int) -> list[Lengths]:
    wholes = [min(round(n), profile.max_length) for n in np.linspace(*bounds, SPREAD)]
    return [Lengths(1, n - 1 - instruction - response, instruction, response) for n in wholes]


def mean_tokens(samples: Sequence[Lengths]) -> float:
    """Mean length of a sample."""
    return float(np.mean([sample.whole for sample in samples]))


def short_tokens(profile: Profile) -> float:
    """Mean length of a planted short instruction."""
    return SHORT * profile.short_window


def scoring(
    profile: Profile, samples: Sequence[Lengths], count: float, methods: str, reading: Reading = "ntk"
) -> dict[str, np.ndarray]:
    """What ``count`` samples like these cost: pass of the scoring methods -> (tokens, operations).

    Args:
        methods: their names, between spaces. reading: of the short model, see
            `model_passes.short_reader_nll`.
    """
    options = Options(
        methods=tuple(methods.split()),
        reading=reading,
        segment_length=profile.segment_length,
        max_length=profile.max_length,
        short_window=profile.short_window,
        prolong_pairs=profile.prolong_pairs,
    )
    short, long = pair(profile)
    found: dict[str, np.ndarray] = {}
    for sample in samples:
        for name, cost in passes(sample, short, long, options).items():
            found[name] = found.get(name, np.zeros(2)) + cost
    return {name: cost * count / len(samples) for name, cost in found.items()}


def reading(notebook: str, what: str, costs: Iterable[np.ndarray], alone: bool = False) -> Work:
    """The work of passes that only read; ``costs`` of `scoring`."""
    tokens, operations = np.sum([np.zeros(2), *costs], axis=0)
    return Work(notebook, what, float(tokens), float(operations), alone=alone)


def forward(model: Size, samples: Sequence[Lengths], tokens: float) -> float:
    """Operations to read that many tokens of samples like these once."""
    operations = sum(model.flops(sample.whole, sample.response) for sample in samples)
    return tokens * operations / sum(sample.whole for sample in samples)


def passes_a_step(profile: Profile) -> int:
    """Forward passes that a training step costs.

    Backward twice one (once if only adapters have gradients); one more where layers are computed anew instead
    of kept, as in models from the hub.
    """
    return (3 if profile.tuning == "full" else 2) + profile.from_hub


def steps(profile: Profile, tokens: float) -> int:
    """Optimizer steps of the planted part for that many tokens."""
    return math.ceil(tokens / profile.sft_batch_tokens)


def recall(profile: Profile) -> Work:
    """Notebook 02's test of the pair: the short model, as it is and stretched, and the long one."""
    short, long = pair(profile)
    lengths = [*profile.eval_lengths, 2 * profile.long_window]
    items = SEEDS * profile.eval_items
    operations = sum(2 * short.flops(n, RESPONSE) + long.flops(n, RESPONSE) for n in lengths)
    return Work("02", "recall of the pair", 3 * items * sum(lengths), items * operations, alone=True)
