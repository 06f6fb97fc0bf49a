"""What the report of a selection lets its reader look at and move, as plain data for `explorer_page`.

Samples of both ends of the ranking with all that the score table knows of them, and the pool to rank anew.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.samples import Sample
from gateau_lib.methods import METHODS, cascade
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring.explorer_page import few
from gateau_lib.scoring.score_table import LENGTHS, Segments, unfit
from gateau_lib.study.style import label

Data = dict[str, Any]
# So that the page stays a few megabytes, whatever the data.
POOL = 2000  # samples that are ranked anew
NUMBERS = 500_000  # of their segments
TEXT = 400_000  # characters of a sample's segments, of its instruction, of its response
BEGINNING = 2000  # characters of a context without segments
PARTS = ("nll_short", "nll_long", "cam")  # what GATEAU's score is made of
ALPHA = {"hmg": 1.0, "cam": 0.0}  # with these a selection is GATEAU's by one part alone


def thinned(ranked: pd.DataFrame, most: int = POOL) -> pd.DataFrame:
    """At most so many rows of a ranking, evenly spread, its first and last among them."""
    if len(ranked) <= most:
        return ranked
    return ranked.iloc[np.linspace(0, len(ranked) - 1, most).round().astype(int)]


def title(name: str) -> str:
    """What a registered method is called, or a column; the study's figures tell more variants apart."""
    return METHODS[name].title if name in METHODS else label(name)


def collect(
    ranked: pd.DataFrame,
    ends: Sequence[str],
    samples: Mapping[str, Sample],
    segments: Mapping[str, Segments],
    quotas: Mapping[str, int],
    name: str,
    options: RankOptions,
    about: Mapping[str, Any],
) -> Data:
    """All of it; the arguments are those of `report.page`, ``ends`` the ids of the samples shown whole.

    Without ``pool`` if the table lacks a part of GATEAU's score for any usable sample.
    """
    length = about.get("segment_length")
    found = {"among": len(ranked), "listed": list(ends), "score": title(name)}
    found["shown"] = shown(ranked, ends, samples, segments, name, options, length)
    if not set(PARTS) <= set(ranked) or ranked[list(PARTS)].isna().to_numpy().any():
        return found
    some = thinned(ranked)
    held = [segments[each] for each in some["id"] if each in segments]
    if (numbers := sum(2 * len(each.nll) for each in held)) > NUMBERS:
        some = thinned(some, max(2, NUMBERS * len(some) // numbers))
    found |= {"alpha": ALPHA.get(name, options.alpha), "variant": options.combine}
    found |= {"count": int(some["chosen"].sum()), "quotas": _limits(ranked, some, quotas)}
    return found | {"pool": pool(some, segments, length)}


def pool(some: pd.DataFrame, segments: Mapping[str, Segments], length: int | None) -> list[Data]:
    """A row a sample, in the order of ids, by which ties are broken; losses and CAM as they are in the table.

    With ``nll`` and ``attention`` of the segments if they are known of every sample, else of none.
    """
    drawn = sorted(some.to_dict("records"), key=lambda row: row["id"])
    parts = [segments.get(row["id"]) for row in drawn]
    keys = [_keys(each, row.get("n_context", 0), length) for each, row in zip(parts, drawn, strict=True)]
    whole, rows = all(each is not None for each in keys), list[Data]()
    for row, part, tokens in zip(drawn, parts, keys, strict=True):
        each: Data = {"id": row["id"], "chosen": bool(row["chosen"]), "cam": row["cam"]}
        each |= {"long": row["nll_long"], "readers": {"short model": row["nll_short"]}}
        each |= {"source": row["source"]} if row["source"] else {}
        each |= {"twin": True} if isinstance(row["twin"], str) else {}
        if whole and part:
            each |= {"nll": few(part.nll), "attention": few(_shares(part, tokens))}
        rows.append(each)
    return rows


def shown(
    ranked: pd.DataFrame,
    ends: Sequence[str],
    samples: Mapping[str, Sample],
    segments: Mapping[str, Segments],
    name: str,
    options: RankOptions,
    length: int | None,
) -> dict[str, Data]:
    """Samples by id with their texts, segments if there are any, scores and places in the ranking."""
    those = ranked[ranked["id"].isin(ends)]
    rows = those.reset_index(names="place").set_index("id").loc[list(ends)].to_dict("index")
    scores = places(ranked, ends, name, options)
    found = {}
    for each, row in rows.items():
        sample, parts = samples[each], segments.get(each)
        losses = {model: row.get(f"nll_{model}") for model in ("short", "long")}
        found[each] = {
            "place": row["place"] + 1,
            "chosen": bool(row["chosen"]),
            "source": sample.source,
            "tokens": int(row["tokens"]),
            "dropped": int(row["n_dropped"]),
            "instruction": _cut(sample.instruction, TEXT),
            "response": _cut(sample.response, TEXT),
            "means": {f"{model} model": few(loss) for model, loss in losses.items() if pd.notna(loss)},
            "scores": {title(score): known[each] for score, known in scores.items() if each in known},
        }
        if parts:
            keys = _keys(parts, int(row.get("n_context", 0)), length)
            found[each] |= {"segments": _texts(sample.context, parts.chars), "nll": few(parts.nll)}
            found[each] |= {"attention": few(_shares(parts, keys))}
        else:
            found[each] |= {"context": _cut(sample.context, BEGINNING)}
    return found


def places(
    ranked: pd.DataFrame, ends: Sequence[str], name: str, options: RankOptions
) -> dict[str, dict[str, list[float]]]:
    """Method -> id -> value and place, of every method that the table can be ranked by, ``name`` first.

    ``ends``: whose values and places are told. The value is the table's if it has a column of that name.
    Chance stands in it only if it selected. A sample is missing where a method has no value of it or never
    selects it.
    """
    found = {}
    for each, method in sorted(METHODS.items(), key=lambda item: item[0] != name):
        if cascade.partly_read(ranked) and "cam" in method.needs:
            continue  # places among those whose CAM was read would be none of the pool's
        if not set(method.needs) <= set(ranked) or (each == "random" and each != name):
            continue
        known = ranked[list(method.needs)].notna().all(axis="columns").to_numpy()
        fit = known & pd.isna(unfit(method, ranked))
        read = [column for column in ("id", "tokens", each, *LENGTHS, *method.needs) if column in ranked]
        some = ranked.loc[fit, list(dict.fromkeys(read))]
        values = np.asarray(method.rank(some, options), dtype=float) if len(some) else np.array([])
        some, values = some[np.isfinite(values)], values[np.isfinite(values)]
        if some.empty:
            continue
        told = values if each == name or each not in some else some[each].to_numpy()
        found[each] = {
            some["id"].iloc[i]: [_number(told[i]), _place(some["id"], values, i)]
            for i in np.flatnonzero(some["id"].isin(ends)).tolist()
        }
    return found


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else few(value)


def _place(ids: pd.Series, values: np.ndarray, i: int) -> int:
    """The place of a sample in a ranking, counted from 1, ties broken by id."""
    tied = ids[values == values[i]]
    return int((values > values[i]).sum() + (tied < ids.iloc[i]).sum()) + 1


def _keys(parts: Segments | None, tokens: int, length: int | None) -> np.ndarray | None:
    """Tokens of each segment, (segments,); None if there are none, or what is known does not fit together."""
    if not parts or length is None or not 0 < (last := tokens - length * (len(parts.nll) - 1)) <= length:
        return None
    return np.array([length] * (len(parts.nll) - 1) + [last])


def _shares(parts: Segments, keys: np.ndarray | None) -> np.ndarray:
    """Attention as CAM takes it, (segments,): of a key of each segment on average, in shares of all.

    The table keeps what a segment gets in all; without ``keys`` the shares are of that.
    """
    density = np.array(parts.attention) / (1 if keys is None else keys)
    total = density.sum()
    return density / total if total > 0 else np.full(density.shape, 1 / len(density))


def _texts(context: str, chars: Sequence[int]) -> list[str]:
    """The segments' texts, each cut if all are too long for a page."""
    most = max(80, TEXT // max(1, len(chars) - 1))
    return [_cut(context[a:b], most) for a, b in zip(chars, chars[1:], strict=False)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " …"


def _limits(ranked: pd.DataFrame, some: pd.DataFrame, quotas: Mapping[str, int]) -> list[tuple[str, int]]:
    """Source and quota; of a thinned ranking its part of it, or what it holds where a quota was reached."""
    if len(some) == len(ranked):
        return list(quotas.items())
    there = set(some["source"])  # there may be as many sources as samples
    quotas = {source: quota for source, quota in quotas.items() if source in there}
    all_chosen, chosen = (part.loc[part["chosen"], "source"].value_counts() for part in (ranked, some))
    limits = []
    for source, quota in quotas.items():
        taken, share = int(chosen.get(source, 0)), math.ceil(quota * len(some) / len(ranked))
        limits.append((source, taken if all_chosen.get(source, 0) >= quota else max(taken, share)))
    return limits
