"""What a worker needs before it scores its first shard: the models as they will read."""

from __future__ import annotations

import torch

from gateau_lib.methods.reader import extended
from gateau_lib.models.pair import Pair, choose_device, load_pair
from gateau_lib.scoring.scorer import passes_of
from gateau_lib.scoring.settings import ScoringRun, asked_methods, needs_short


def prepare(run: ScoringRun) -> Pair:
    """The models in this process, each stretched to the run's length once for all shards."""
    if run.threads:
        torch.set_num_threads(run.threads)
    asked = asked_methods(run.options.methods)
    pair = load_pair(run.short, run.long, needs_short(asked), run.dtype, choose_device(run.device))
    return extended(pair, run.options, passes_of(asked))
