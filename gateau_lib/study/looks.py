"""The colours and marks of the figures: one look for each method, model and arm of training.

A registered method brings its own (`Method.look`), some arms have theirs in `labels`; here are the models,
the strategies of training, the variants of scores, and what has a colour without being a method.
"""

from gateau_lib.study import labels

Look = tuple[str, str]  # colour, marker

# What a sample is; no method, model or arm has a colour near these.
WANTED, NEAR, NOISE = "#9B00F0", "#3D898E", "#C8B29C"  # needs far evidence; honest and does not; noise
# Parts of a sample, and what is measured of a segment.
EVIDENCE, IMPORTANCE, ATTENTION, LINK = "#FFE2A0", "#1F5C7A", "#C77C11", "#2E9E4F"
DOCUMENT, QUESTION, RESPONSE = "#9DB3C9", "#B08D57", "#1D2F4F"
# For what has no identity: ways to count, passes, parts of a batch.
PLACES = ("#2F4B6E", "#B08D57", "#7A9E7E", "#9C6B7D", "#8FA8BF")
GREY, UNKNOWN, MARKERS = "#8A8A8A", "#5F5F5F", "osD^vP*X"

# Forms of a method in a study's tables that are the method itself, and names of one model.
ALIKE = {
    "hmg_minmax_ntk": "hmg", "cam_default": "cam", "gateau_rank": "gateau", "contrast_log": "contrast",
    "perplexity_guidance": "perplexity", "base": "theta_b", "theta_wide": "theta_a",
}  # fmt: skip
HMG, LOG_GAP, CAM, GATEAU, PROLONG = "#D55E00", "#9A4400", "#009E73", "#0072B2", "#E69F00"
LOOKS: dict[str, Look] = {
    # Models that are not tuned are grey, the darker the longer they read.
    "theta_a": ("#A0A0A0", "o"), "theta_a_ntk": ("#6E6E6E", "s"), "theta_a_stretched": ("#6E6E6E", "D"),
    "theta_b": ("#404040", "*"),
    # Strategies of training on short samples; where positions skip, blue and violet.
    "normal": ("#1B6F73", "s"), "packed": ("#7FCDBB", "d"), "pose": ("#F2936F", "p"),
    "skip_outer": ("#1A1A8C", "^"), "skip_inner": ("#8FA2E8", "<"), "skip_all": ("#00B7C7", "P"),
    # Arms that no method chose.
    "oracle": ("#5D4037", "p"), "near": ("#FFB3C6", "8"),
    # Variants of a score have its hue and a mark of their own; HMG's gap in nats is darker.
    "hmg_minmax_truncate": (HMG, "^"), "hmg_minmax_raw": (HMG, "v"), "hmg_minmax_ntk_each": (HMG, "D"),
    "hmp": (HMG, "P"),
    "hmg_log_ntk": (LOG_GAP, "s"), "hmg_log_truncate": (LOG_GAP, "^"), "hmg_log_raw": (LOG_GAP, "v"),
    "hmg_log_ntk_each": (LOG_GAP, "D"),
    "cam_softmax_attention": (CAM, "s"), "cam_aligned": (CAM, "v"), "cam_ppl": (CAM, "o"),
    "cam_uniform_attention": (CAM, "^"), "cam_shuffled_attention": (CAM, "<"),
    "top_segment_match": (CAM, "P"),
    "importance_range": (CAM, "X"), "cam_segments_half": (CAM, "h"), "cam_segments_double": (CAM, "H"),
    "gateau_softmax_both": (GATEAU, "s"), "gateau_as_released": (GATEAU, "^"),
    "prolong_no_specificity": (PROLONG, "v"),
    "facts": ("#00E0A0", "X"),
}  # fmt: skip


def look(name: str, place: int = 0) -> Look:
    """Colour and marker of a name of the metrics rows; grey and the marker of its place if it has none."""
    name = ALIKE.get(name, name)
    return LOOKS.get(name) or labels.LOOKS.get(name) or (UNKNOWN, MARKERS[place % len(MARKERS)])


def shades(colour: str, count: int) -> list[str]:
    """So many tones of a colour, the first darker than it, the last light."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    found = []
    for n in range(count):
        share = 0.7 * n / max(1, count - 1) - 0.2 * (count > 1)  # of white; below 0, of black
        found.append([round(c + (255 - c) * share if share > 0 else c * (1 + share)) for c in parts])
    return ["#" + "".join(f"{part:02X}" for part in each) for each in found]
