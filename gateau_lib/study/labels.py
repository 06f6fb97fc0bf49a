"""What readers see in place of short names that neither a registered method nor a variant's module brings."""

LABELS = {
    "theta_a": "short model", "theta_a_ntk": "short model, stretched", "theta_b": "long model",
    "theta_a_stretched": "stretched, not tuned", "theta_wide": "wider model", "base": "long model, not tuned",
    "length_matched": "random, same lengths", "full": "whole pool", "full_epochs": "whole pool, equal epochs",
    "short_only": "short samples only", "oracle": "by the labels", "near": "random, near evidence",
    "n_tokens": "length", "nll_long": "NLL, long model",
    "normal": "ordinary SFT", "packed": "packed SFT", "pose": "PoSE", "skip_outer": "Skip-Outer",
    "skip_inner": "Skip-Inner", "skip_all": "Skip-All", "randpos": "RandPos",
    "skip_outer_turns": "Skip-Outer, answer only", "skip_outer_half": "Skip-Outer, half of samples",
}  # fmt: skip
# Name -> colour and marker of its line. Registered methods add theirs; no two share a colour.
LOOKS: dict[str, tuple[str, str]] = {
    "short_only": ("#88CCEE", "<"), "length_matched": ("#999933", "d"),
    "full": ("#882255", "h"), "full_epochs": ("#AA4499", "h"),
    "randpos": ("#BF5B17", "p"), "skip_outer_turns": ("#5E3C99", "v"),
    "skip_outer_half": ("#888800", "v"),
}  # fmt: skip
