"""Near-identical contexts: MinHash (Broder 1997) of shingles finds them, their Jaccard index decides."""

import re
from collections.abc import Callable
from itertools import islice

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from gateau_lib.study.progress import track

SHINGLE, PERMUTATIONS = 5, 128  # words of a shingle, hashes of a signature
CHUNK = 4096  # shingles hashed at a time: bounds memory at 4 MiB an array, however long a context is
# In Chinese and Japanese every character counts as a word, since no spaces stand between words.
_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W{_IDEOGRAPH}]+")


def shingles(text: str) -> set[str]:
    """Every run of `SHINGLE` words, case and punctuation aside; a shorter text is one shingle."""
    words = _WORD.findall(text.casefold()) or text.split()
    count = max(1, len(words) - SHINGLE + 1) if words else 0
    return {" ".join(words[i : i + SHINGLE]) for i in range(count)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared shingles over all shingles of two texts, in [0, 1]."""
    return len(a & b) / len(a | b) if a or b else 0.0


def signature(of: set[str]) -> MinHash:
    """The MinHash of a set of shingles; the same in every process."""
    found, left = MinHash(num_perm=PERMUTATIONS), iter(of)
    while part := [each.encode("utf-8", "surrogatepass") for each in islice(left, CHUNK)]:
        found.update_batch(part)
    return found


def near_identical(
    many: int, context_of: Callable[[int], str], threshold: float
) -> dict[int, tuple[int, float]]:
    """Samples to drop, each with the kept one that it nearly equals and their Jaccard index, in order.

    ``context_of``: the context of a sample by its place, 0 to ``many`` - 1; asked once for each, and again
    for each that is compared.
    Whoever comes first is kept: give the pool best first. A sample is dropped if its context's shingles have
    a Jaccard index of at least ``threshold``, in (0, 1], with those of a kept one; one without context never
    is. A pair whose signatures agree in no band is overlooked: below 1 % at the threshold, less above it.
    Memory: 8 bytes a sample and band (at 0.8: 21 bands).
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    earlier = _earlier(many, context_of, *_bands(threshold))
    dropped: dict[int, tuple[int, float]] = {}
    for place in track(np.flatnonzero(earlier.max(axis=0) >= 0).tolist(), "near-identical contexts"):
        close = set[int]()
        for band in earlier:
            other = int(band[place])
            if other in dropped:  # whose own pointer leads to a kept one, as every pointer does from now on
                other = band[place] = int(band[other])
            while other >= 0:
                close.add(other)
                other = int(band[other])
        mine = shingles(context_of(place)) if close else set()
        like = ((jaccard(mine, shingles(context_of(other))), -other) for other in close)
        similarity, best = max(like, default=(0.0, 0))
        if similarity >= threshold:
            dropped[place] = -best, similarity
    return dropped


def _earlier(many: int, context_of: Callable[[int], str], bands: int, rows: int) -> npt.NDArray[np.int64]:
    """The last sample before each whose signature agrees in a band, (bands, many); -1 if there is none."""
    found, given = np.full((bands, many), -1, dtype=np.int64), np.zeros(many, dtype=bool)
    for place in track(range(many), "signatures of contexts"):
        if mine := shingles(context_of(place)):
            given[place] = True
            values = signature(mine).hashvalues[: bands * rows].reshape(bands, rows)
            found[:, place] = [hash(band.tobytes()) for band in values]
    those = np.flatnonzero(given)
    for band in found:
        order = those[np.argsort(band[those], kind="stable")]
        same = band[order[1:]] == band[order[:-1]]
        band[:] = -1
        band[order[1:][same]] = order[:-1][same]
    return found


def _bands(threshold: float, overlooked: float = 0.01) -> tuple[int, int]:
    """Bands and rows a band of the index: the longest bands that overlook a pair at the threshold rarely."""
    fits = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS + 1)]
    good = [(n, rows) for n, rows in fits if n > 1 and (1 - threshold**rows) ** n <= overlooked]
    return good[-1] if good else fits[0]
