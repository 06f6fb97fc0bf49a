"""What readers see in place of short names that neither a registered method nor a variant's module brings."""

LABELS = {
    "theta_a": "short model", "theta_a_ntk": "short model, stretched", "theta_b": "long model",
    "theta_a_stretched": "stretched, not tuned", "theta_wide": "wider model", "base": "long model, not tuned",
    "length_matched": "random, same lengths", "full": "whole pool", "full_epochs": "whole pool, equal epochs",
    "short_only": "short samples only", "oracle": "by the labels", "near": "random, near evidence",
    "n_tokens": "length", "nll_long": "NLL, long model", "nll_short": "NLL, short model",
    "normal": "ordinary SFT", "packed": "packed SFT", "pose": "PoSE", "skip_outer": "Skip-Outer",
    "skip_inner": "Skip-Inner", "skip_all": "Skip-All", "randpos": "RandPos",
    "skip_outer_turns": "Skip-Outer, answer only", "skip_outer_half": "Skip-Outer, half of samples",
}  # fmt: skip
# A name -> another of the same thing, whose words are shown: what a selector of the study ranks by.
SAME = {"gateau_rank": "gateau", "hmg": "hmg_minmax_ntk"}
# Families of claims: what they ask about.
FAMILIES = {
    "world": "the planted world", "pair": "the pair of models", "hmg": "HMG", "rivals": "scores of others",
    "composition": "noise and company", "cam": "CAM", "settings": "settings of CAM", "prolong": "ProLong",
    "combination": "GATEAU's combination", "selection": "training on selections",
    "premise": "what long samples teach", "shares": "how much to select",
    "plenty": "beside many short samples", "skip": "skipped positions: reach",
    "skip_cost": "skipped positions: cost",
}  # fmt: skip
# Conditions of metrics rows.
CONDITIONS = {
    "clean": "without noise", "noisy": "with 45 % noise", "independent": "in the pool as drawn",
    "confounded": "where wanted samples are the long ones", "real": "with real text as filler",
    "common": "in the pool that all pairs share", "paraphrase": "paraphrases", "length": "with length",
    "documents": "documents, against all others",
    "documents_repetitive": "documents, against repetitive ones",
    "longest": "at the longest length", "shortest": "at the shortest length",
    "short_tasks": "at their own positions", "512:2048": "from a window of 512, at 2,048 tokens",
    "scarce_10": "few short samples, 10 % of the pool", "scarce_30": "few short samples, 30 % of the pool",
    "scarce_50": "few short samples, 50 % of the pool", "plenty_30": "many short samples, 30 % of the pool",
    "scarce_30_epochs": "few short samples, 30 % of the pool, equal epochs",
    "skipping": "from the short model", "skipping_wider": "from the wider model",
}  # fmt: skip
# Name -> colour and marker of its line. Registered methods add theirs; no two share a colour.
LOOKS: dict[str, tuple[str, str]] = {
    "short_only": ("#88CCEE", "<"), "length_matched": ("#999933", "d"),
    "full": ("#882255", "h"), "full_epochs": ("#AA4499", "h"),
    "randpos": ("#BF5B17", "p"), "skip_outer_turns": ("#5E3C99", "v"),
    "skip_outer_half": ("#888800", "v"),
}  # fmt: skip
