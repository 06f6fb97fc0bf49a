"""What each defect of the released procedures changes in a pool's scores, a row a defect (notebook 10)."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, encode
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.released import Defects, released_cam, released_hmg
from gateau_lib.models import loading
from gateau_lib.models.pair import Pair
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build

WORDS = {  # defect -> the score that it touches, and what the released code does, for a reader
    "raw_short_reader": ("HMG", "window extension inert: the short model reads beyond its window"),
    "late_labels": ("HMG", "prompt counted before truncation: over-long samples lose response tokens"),
    "pad_context": ("CAM", "context padded to the window, empty segments scored too"),
    "see_padding": ("CAM", "the same, and the attention pass sees the padding"),
    "drop_first": ("CAM", "no start token; first tokens of instruction and response dropped"),
    "cut_parts": ("CAM", "instruction and response cut to 500 tokens"),
    "all_tokens": ("CAM", "segment loss divided by all tokens, not by response tokens"),
    "half_precision": ("CAM", "attention stored in half precision"),
}
RELEASED = "all of them: as released"
SCORES = ("HMG", "CAM")
SAME = 0.99  # rank correlation from which a ranking counts as unchanged


def changes(pair: Pair, encoded: Sequence[Encoded], window: int, segment_length: int) -> pd.DataFrame:
    """Every defect by itself, and all together, against none; ``window``: tokens, a multiple of a segment.

    Columns ``score`` (HMG or CAM), ``defect``; ``rank_correlation`` (Spearman, of samples with both scores;
    NaN under three), ``largest_change`` (HMG: nats per token; CAM: one minus cosine), ``lost`` (samples whose
    score is NaN), ``cost`` (tokens read, padding included, over those without the defect).
    """

    def scored(score: str, defects: Defects) -> tuple[np.ndarray, int]:
        count: Counter[str] = Counter()
        if score == "HMG":
            short, long = released_hmg(pair, encoded, window, defects=defects, count=count)
            return short - long, count["padded"]
        vectors = released_cam(pair, encoded, window, segment_length, defects=defects, count=count)
        return np.array([contextual_awareness(nll, attention) for nll, attention in vectors]), count["padded"]

    jobs = [(score, name, Defects.only(name)) for name, (score, _) in WORDS.items()]
    jobs += [(score, RELEASED, Defects()) for score in SCORES]
    fixed = {score: scored(score, Defects.none()) for score in SCORES}
    rows = []
    for score, name, defects in track(jobs, "what the fixes change"):
        (exact, least), (values, read) = fixed[score], scored(score, defects)
        rows.append({"score": score, "defect": name, **_change(values, exact), "cost": read / least})
    return pd.DataFrame(rows)


def told(changed: pd.DataFrame) -> str:
    """What the table of `changes` comes to, in two or three sentences."""
    single = changed[changed["defect"] != RELEASED].dropna(subset="rank_correlation")
    if single.empty:
        return "Too few samples were scored here to rank them."
    moved, worst = single[single["rank_correlation"] < SAME], single.loc[single["rank_correlation"].idxmin()]
    whole = changed[changed["defect"] == RELEASED].set_index("score")
    left = " and ".join(f"{whole.loc[score, 'rank_correlation']:.2f} for {score}" for score in SCORES)
    return (
        f"Of {len(single)} defects of the released procedures {len(moved)} change the ranking of samples, "
        f"most of all this one of {worst['score']}: {WORDS[worst['defect']][1]} (rank correlation with the "
        f"mended score {worst['rank_correlation']:.2f}). With all of them together it is {left}, "
        f"and CAM reads {whole.loc['CAM', 'cost']:.1f} times the tokens."
    )


def _change(values: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    both = np.isfinite(values) & np.isfinite(exact)
    values, exact = values[both], exact[both]
    ranked = len(values) >= 3 and np.ptp(values) > 0 and np.ptp(exact) > 0
    return {
        "rank_correlation": float(spearmanr(values, exact).statistic) if ranked else float("nan"),
        "largest_change": float(np.abs(values - exact).max()) if len(values) else float("nan"),
        "lost": int((~both).sum()),
    }


def measured(study: Study, pair: Path, samples: Path) -> pd.DataFrame:
    """`changes` over a few samples of every kind of a pool, at most three; computed once and kept."""
    profile = study.profile
    inputs = {"pair": pair, "samples": samples, "per_kind": max(1, min(3, profile.pool_per_kind // 4))}
    inputs |= {"window": profile.max_length, "segment_length": profile.segment_length, "dtype": profile.dtype}
    return pd.read_csv(Build(f"fixes-{samples.stem}", write_changes, inputs).folder(study) / "changes.csv")


def write_changes(
    pair: Path, samples: Path, per_kind: int, window: int, segment_length: int, dtype: str, out: Path
) -> None:
    """Leave the table of `measured` in the folder ``out``."""
    short, tokenizer = loading.load(pair / "short", dtype)
    long, _ = loading.load(pair / "long", dtype)
    pool = pd.DataFrame({"sample": sorted(read_samples(samples), key=lambda sample: sample.id)})
    kinds = pool["sample"].map(lambda sample: sample.kind)
    first = pool["sample"].groupby(kinds, sort=False).head(per_kind)
    encoded = [encode(sample, tokenizer, window) for sample in first]
    found = changes(Pair(short, long, tokenizer), encoded, window, segment_length)
    found.to_csv(out / "changes.csv", index=False)
