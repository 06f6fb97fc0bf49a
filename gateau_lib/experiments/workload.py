"""What the costs of all parts, their functions `cost`, are counted with: sizes, lengths, operations.

Not counted: tokenizing, figures, and the few samples that show what the released code's defects change.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch

from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments.recall import DRAWS
from gateau_lib.methods.base import Options, Reading
from gateau_lib.methods.reader import Lengths
from gateau_lib.models import sizes, tiny
from gateau_lib.models.loading import SHIPPED
from gateau_lib.models.sizes import Rows, Size, Work
from gateau_lib.scoring.pass_costs import totals
from gateau_lib.study.profiles import Profile

INSTRUCTION, RESPONSE = 12, 10  # tokens of a planted sample's question and answer
SHORT = (1 / 3 + 3 / 4) / 2  # of the short window, mean length of a planted short instruction
# Lengths of public data, assumed where their source gives no mean. LongAlign (3.3): "8k to 64k", fairly even.
LONG_TOKENS, LONG_RESPONSE = (8_192, 65_536), 256
SHORT_TOKENS, SHORT_RESPONSE = 500, 300  # the first question of a conversation and its answer
SPREAD = 16  # lengths that stand for those of a pool


@cache
def pair(profile: Profile) -> tuple[Size, Size]:
    """Sizes of the profile's short and long model, in a rehearsal of the shipped pair; as `sizes.of`."""
    if profile.short_model == "scratch":
        shape = {"hidden_size": profile.hidden_size, "layers": profile.layers, "heads": profile.heads}
        with torch.device("meta"):
            built = tiny.build_llama(len(build_tokenizer()), **shape, window=1, rope_theta=1.0, seed=0)
        return (sizes.of_config(built.config),) * 2  # the window changes nothing
    if profile.rehearsed or not profile.from_hub:
        return sizes.of(str(SHIPPED / "short")), sizes.of(str(SHIPPED / "long"))
    return sizes.of(profile.short_model), sizes.of(profile.long_model)


def planted(profile: Profile) -> list[Lengths]:
    """Lengths of the samples of a planted pool, evenly spread."""
    return _spread(profile, profile.pool_tokens, INSTRUCTION, RESPONSE)


def published(profile: Profile) -> list[Lengths]:
    """Lengths of the published long samples, cut to what the profile reads."""
    return _spread(profile, LONG_TOKENS, 64, min(LONG_RESPONSE, profile.max_length // 4))


def _spread(profile: Profile, bounds: tuple[int, int], instruction: int, response: int) -> list[Lengths]:
    wholes = [min(round(n), profile.max_length) for n in np.linspace(*bounds, SPREAD)]
    return [Lengths(1, n - 1 - instruction - response, instruction, response) for n in wholes]


def rows(samples: Sequence[Lengths], count: float) -> list[Rows]:
    """What a model reads of ``count`` samples like these, as `sizes.work` takes it."""
    return [(count / len(samples), sample.whole, sample.response) for sample in samples]


def short_tokens(profile: Profile) -> float:
    """Mean length of a planted short instruction."""
    return SHORT * profile.short_window


def scoring(
    profile: Profile, samples: Sequence[Lengths], count: float, methods: str, reading: Reading = "ntk"
) -> pd.DataFrame:
    """`pass_costs.totals` of the scoring methods (names between spaces) at the profile's lengths."""
    lengths = profile.segment_length, profile.max_length, profile.short_window
    options = Options(tuple(methods.split()), reading, *lengths, profile.prolong_pairs)
    return totals(samples, count, *pair(profile), options)


def reading(notebook: str, what: str, *costs: pd.DataFrame, alone: bool = False) -> Work:
    """The work of passes that only read; ``costs`` of `scoring`."""
    tokens, operations = pd.concat(costs).sum()
    return Work(notebook, what, tokens, operations, alone=alone)


def passes_a_step(profile: Profile) -> int:
    """Forward passes that a training step costs."""
    # Backward twice one (once if only adapters have gradients); one more where layers are computed anew, not
    # kept, as in models from the hub.
    return (3 if profile.tuning == "full" else 2) + profile.from_hub


def recall(profile: Profile) -> Work:
    """Notebook 02's test of the pair: the short model, as it is and stretched, and the long one."""
    short, long = pair(profile)
    items, lengths = 2 * DRAWS * profile.eval_items, list(profile.eval_lengths)
    read = [(items, n, RESPONSE) for n in lengths]
    parts = [sizes.work("02", "", model, read) for model in (short, short, long)]
    tokens, operations = (sum(getattr(part, name) for part in parts) for name in ("tokens", "operations"))
    return Work("02", "recall of the pair", tokens, operations, alone=True)
