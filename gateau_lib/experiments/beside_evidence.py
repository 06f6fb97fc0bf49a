"""What one pair of models measured beside what many pairs decided: the claims of a notebook (01 to 09).

A verdict is never one pair's. Where the sample of pairs stands is `evidence_files.place`; a profile that has
pools enough of its own is judged by these.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import pandas as pd

from gateau_lib.experiments import evidence_files
from gateau_lib.experiments.claims import DECISIVE, by_pair, verdicts
from gateau_lib.experiments.findings import summary
from gateau_lib.experiments.ledger import Selector, load_claims
from gateau_lib.study.evidence import read_metrics
from gateau_lib.study.intervals import SEEDS
from gateau_lib.study.store import Study

NOTHING_YET = "No evidence here yet: `make evidence`."
Rows = Sequence[Mapping[str, Any]]
HOW = "How a verdict comes about: notebook 09, section 2."


class Settled(NamedTuple):
    """The metrics that claims are judged by, what they rest on in words, and the verdicts."""

    metrics: pd.DataFrame
    source: str
    verdicts: pd.DataFrame


def settled(study: Study) -> Settled:
    """Judged by the study's own pools where they suffice for an interval, else by the evidence there is."""
    if study.profile.pool_seeds >= SEEDS:
        metrics = read_metrics(study)
        source = f"{study.profile.pool_seeds} pools of one pair of models (profile {study.profile.name})."
        return Settled(metrics, source, verdicts(metrics, study.profile.name))
    folder = evidence_files.place()
    found = evidence_files.read_evidence(folder)
    pairs = found.metrics["pair"].nunique()
    source = f"{pairs} pairs of models (results/{folder.name})." if pairs else NOTHING_YET
    return Settled(found.metrics, source, found.verdicts())


def agreement() -> str:
    """How far the verdicts came out again for other pairs, in a sentence; "" if that was not compared."""
    path = evidence_files.place() / evidence_files.AGREEMENT
    if not path.exists():
        return ""
    kept = evidence_files.read_csv(path)
    first, second = kept.columns[1:3]
    decided = kept[[first, second]].isin(DECISIVE).any(axis=1)
    of_all, of_decided = kept["same"].mean(), kept["same"][decided].mean()
    turned = (kept[[first, second]].isin(DECISIVE).all(axis=1) & ~kept["same"]).sum()
    settled = kept[evidence_files.TOGETHER].isin(DECISIVE).sum()
    return (
        f"{of_all:.0%} of {len(kept)} verdicts are the same in {first} and in {second}, whose pairs have "
        f"other seeds; of the {decided.sum()} that hold or fail in at least one, {of_decided:.0%}. "
        f"{turned} hold in one and fail in the other. Over the pairs of both together {settled} hold or fail."
    )


def own_values(study: Study, notebook: str, rows: Rows = ()) -> pd.DataFrame:
    """What this study measured of a notebook's claims: ``id, statement, value, against``, means over pools.

    ``rows``: metrics rows in hand; the others are those of the notebooks up to this one. NaN: not measured,
    or measured between pairs only.
    """
    kept = read_metrics(study)
    frames = [kept[kept["notebook"] <= notebook], pd.DataFrame(list(rows))]
    metrics = pd.concat([frame for frame in frames if len(frame)] or [kept[:0]])
    lines = []
    for claim in (claim for claim in load_claims() if claim.evidence == notebook):
        sides = (_own(metrics, side) for side in (claim.value, claim.against))
        lines.append((claim.id, claim.statement, *sides))
    return pd.DataFrame(lines, columns=["id", "statement", "value", "against"])


def _own(metrics: pd.DataFrame, side: Selector | float) -> float:
    if not isinstance(side, Selector):
        return side
    values = by_pair(metrics, side)
    return mean(values) if len(values) else float("nan")


def table(study: Study, notebook: str, rows: Rows = (), late: bool = False) -> str:
    """Markdown: a notebook's claims, this pair's values, the verdicts over pairs with numbers and reasons.

    ``late``: only those claims that waited for ``rows`` of a later notebook, told there; "" if none did.
    """
    own = own_values(study, notebook, rows).set_index("id")
    if late:
        before = own_values(study, notebook).set_index("id")
        own = own[before["value"].isna() & own["value"].notna()]
        if own.empty:
            return ""
    found = evidence_files.read_evidence(evidence_files.place())
    judged = found.verdicts(notebook).set_index("id").loc[own.index] if len(found.metrics) else None
    head = ["claim", "this pair"] + (
        ["over pairs", "difference", "verdict", "why"] if judged is not None else []
    )
    lines = ["|".join(["", *head, ""]), "|".join(["", *["---"] * len(head), ""])]
    for name, mine in own.iterrows():
        cells = [f"{mine['statement']} `{name}`", _sides(mine)]
        if judged is not None:
            row = judged.loc[name]
            cells += [_sides(row), _difference(row), f"**{row['verdict']}**", _why(row["reason"])]
        lines.append("|".join(["", *cells, ""]))
    counts = NOTHING_YET if judged is None else f"{summary(judged.reset_index())} {HOW}"
    return "\n".join([counts, "", *lines])


def _sides(row: pd.Series) -> str:
    value, against = (f"{x:.3f}" if pd.notna(x) else "–" for x in (row["value"], row["against"]))
    return f"{value} against {against}"


def _difference(row: pd.Series) -> str:
    if pd.isna(row["difference"]):
        return "–"
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], margin {row['margin']:g}"


def _why(reason: str) -> str:
    """A verdict's reason without the numbers that stand beside it."""
    numbers, _, why = reason.partition("; ")
    return why or ("" if ", margin " in numbers else numbers)
