"""Near-identical contexts: MinHash (Broder 1997) of shingles finds them, their Jaccard index decides."""

import re
from collections.abc import Callable, Sequence
from itertools import islice

from datasketch import MinHash, MinHashLSH

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
    ids: Sequence[str], context_of: Callable[[str], str], threshold: float
) -> dict[str, tuple[str, float]]:
    """Samples to drop, each with the kept one that it nearly equals and their Jaccard index, in order.

    ``context_of``: the context of an id, asked once for each and once more for each that is compared.
    Whoever comes first is kept: give the pool best first. A sample is dropped if its context's shingles have
    a Jaccard index of at least ``threshold``, in (0, 1], with those of a kept one; one without context never
    is. A pair whose signatures agree in no band is overlooked: below 1 % at the threshold, less above it.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    index = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold))
    dropped: dict[str, tuple[str, float]] = {}
    for place, name in enumerate(track(ids, "near-identical contexts")):
        if not (mine := shingles(context_of(name))):
            continue
        mark = signature(mine)
        close = [(jaccard(mine, shingles(context_of(ids[other]))), -other) for other in index.query(mark)]
        similarity, best = max(close, default=(0.0, 0))
        if similarity >= threshold:
            dropped[name] = ids[-best], similarity
        else:
            index.insert(place, mark, check_duplication=False)
    return dropped


def _bands(threshold: float, overlooked: float = 0.01) -> tuple[int, int]:
    """Bands and rows a band of the index: the longest bands that overlook a pair at the threshold rarely."""
    fits = [(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS + 1)]
    good = [(n, rows) for n, rows in fits if n > 1 and (1 - threshold**rows) ** n <= overlooked]
    return good[-1] if good else fits[0]
