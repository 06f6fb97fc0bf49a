"""From one score a sample to a selection: the top of a pool, within quotas if there are any.

Every function works on the whole pool, refuses NaN by name, and does not depend on the pool's order.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def numbers(values: npt.ArrayLike, name: str, ids: Sequence[str] | None = None) -> npt.NDArray[np.float64]:
    """The values as an array (n,); ValueError, naming ``name`` and the sample, if one is NaN."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or (ids is not None and array.size != len(ids)):
        wanted = "one number for each of at least one sample"
        raise ValueError(f"{name} has shape {array.shape}; expected {wanted}")
    bad = np.flatnonzero(np.isnan(array))
    if bad.size:
        where = f"sample {ids[bad[0]]!r}" if ids is not None else f"row {bad[0]}"
        raise ValueError(f"{name}: {where} is NaN; leave samples that could not be scored out of the pool")
    return array


def unique(ids: Sequence[str]) -> list[str]:
    """The ids; ValueError, naming the first that is there twice."""
    seen: set[str] = set()
    for each in ids:
        if each in seen:
            raise ValueError(f"id {each!r} occurs twice; ids must be unique")
        seen.add(each)
    return list(ids)


def size(n: int, fraction: float) -> int:
    """Samples in the top ``fraction`` of n, rounded up."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    return math.ceil(round(fraction * n, 9))  # 0.07 * 100 is 7.000000000000001


def top_fraction(ids: Sequence[str], scores: npt.ArrayLike, fraction: float) -> list[str]:
    """Ids of the highest scores, best first, ties broken by id; the number of samples is rounded up."""
    names, values = unique(ids), numbers(scores, "scores", ids)
    ranked = sorted(range(len(names)), key=lambda i: (-values[i], names[i]))
    return [names[i] for i in ranked[: size(len(names), fraction)]]


def within_quotas(
    ranking: Sequence[str], sources: Mapping[str, str], quotas: Mapping[str, int], k: int
) -> list[str]:
    """The first ``k`` ids of a ranking, passing over those whose source has given its quota; or fewer.

    ``sources``: id -> source; ``quotas``: source -> samples at most, without a limit if it is not named.
    """
    taken: list[str] = []
    given: Counter[str] = Counter()
    for name in unique(ranking):
        source = sources[name]
        if len(taken) < k and given[source] < quotas.get(source, math.inf):
            given[source] += 1
            taken.append(name)
    return taken
