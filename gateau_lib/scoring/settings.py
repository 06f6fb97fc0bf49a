"""What decides a score, beside data and models."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from gateau_lib.models import loading
from gateau_lib.study.errors import ScoreError

METHODS = ("hmg", "cam", "prolong", "ifd", "contrast", "perplexity", "longattn")
AS_RELEASED = ("hmg", "cam", "prolong")  # the methods whose authors published code


@dataclass(frozen=True)
class Options:
    """What decides a score, beside data and models; lengths in tokens."""

    methods: tuple[str, ...]
    reading: str  # how the short model reads beyond its window, see `model_passes.READINGS`
    segment_length: int
    max_length: int
    short_window: int
    prolong_pairs: int = 500  # the released scripts' value
    seed: int = 0
    chat: bool = False  # the tokenizer's chat template instead of the papers' plain prompt
    adaptive: bool = False  # estimated segment importance, see `cam_adaptive.adaptive_importance`
    as_released: bool = False  # the authors' public procedures with their defects, see `released`

    @property
    def cam_mode(self) -> str:
        """How segment importance is found."""
        return "as_released" if self.as_released else "adaptive" if self.adaptive else "exact"
SEGMENT_LENGTH = 128  # GATEAU select/cam
SHIPPED_STRETCH = 2  # times the long window


def methods_of(text: str) -> tuple[str, ...]:
    """The methods asked for, in the library's order.

    Raises:
        ScoreError: an unknown name, or none.
    """
    asked = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(asked - set(METHODS)):
        raise ScoreError(f"--methods: unknown method {unknown[0]!r}; choose from {', '.join(METHODS)}")
    if not asked:
        raise ScoreError(f"--methods: none given; choose from {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in asked)


def options_of(given: argparse.Namespace, short_window: int, long_window: int) -> Options:
    """Lengths from the models' windows where the command line does not give them.

    Raises:
        ScoreError: segments too short for ProLong.
    """
    methods = methods_of(given.methods)
    if given.long is None:  # the shipped pair; lengths must not depend on whether a method reads with its short model
        short_window = loading.load_config(loading.SHIPPED / "short").max_position_embeddings
    segment = given.segment_length if given.segment_length is not None else min(SEGMENT_LENGTH, max(1, short_window // 8))
    # The shipped pair's window is short for real text: stretched, it still holds long instructions and responses whole.
    usual = long_window * (SHIPPED_STRETCH if given.long is None else 1)
    if segment < 2 and "prolong" in methods:
        raise ScoreError("--segment-length must be at least 2 for prolong: a segment's first token has no loss")
    return Options(
        methods,
        given.reading,
        segment,
        given.max_length or usual,
        short_window,
        prolong_pairs=given.prolong_pairs,
        chat=given.chat_template,
        adaptive=given.adaptive,
        as_released=given.as_released,
    )
