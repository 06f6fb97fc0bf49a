"""What readers see in place of the short names of methods, models and scores.

A registered method brings its title and its look (`gateau_lib.methods`), a variant's label stands in the
module that makes the variant; the names here belong to neither.
"""

from __future__ import annotations

LABELS = {
    "theta_a": "short model",
    "theta_a_ntk": "short model, NTK-extended",
    "theta_a_stretched": "stretched, not tuned",
    "theta_b": "long model",
    "base": "long model, not tuned",
    "length_matched": "random, same lengths",
    "full": "whole pool",
    "full_epochs": "whole pool, equal epochs",
    "short_only": "short samples only",
    "n_tokens": "length",
    "nll_long": "NLL, long model",
    "normal": "ordinary SFT",
    "packed": "packed SFT",
    "pose": "PoSE",
    "skip_outer": "Skip-Outer",
    "skip_inner": "Skip-Inner",
    "skip_all": "Skip-All",
    "randpos": "RandPos",
}
# Name -> colour and marker of its line. Registered methods add theirs; no two share a colour.
LOOKS: dict[str, tuple[str, str]] = {
    "short_only": ("#88CCEE", "<"),
    "full": ("#882255", "h"),
    "full_epochs": ("#AA4499", "h"),
    "length_matched": ("#999933", "d"),
}
