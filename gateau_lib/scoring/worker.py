"""What a worker needs before it scores its first shard: models and parts."""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from gateau_lib.models import rope
from gateau_lib.models.pair import Pair, choose_device, load_pair
from gateau_lib.scoring import settings
from gateau_lib.scoring.settings import methods_of, options_of


def prepare(given: argparse.Namespace) -> tuple[Pair, settings.Options]:
    """The models as they will read, in this process, and the options with every length decided."""
    if given.threads:
        torch.set_num_threads(given.threads)
    pair = load_pair(given.short, given.long, methods_of(given.methods), given.dtype, choose_device(given.device))
    options = options_of(given, rope.window(pair.short), rope.window(pair.long))
    # Beyond its window the long model is read as the short one is: with one fixed NTK base for the whole run.
    return replace(pair, long=rope.extend_window(pair.long, options.max_length)), options
