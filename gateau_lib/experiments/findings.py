"""Verdicts as sentences, as one figure, and beside what the papers report and their reviewers asked (notebook 08, README)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from gateau_lib.experiments.claims import VERDICTS, Claim, load_claims
from gateau_lib.study.style import BLUE, GREY, ORANGE, RED, styled

REPORTED = Path(__file__).with_name("reported.yml")
SETTINGS = ("real-world", "limited")  # 100,000 and 10,000 short instructions beside the long ones
SHARE = 50  # per cent, the share all of the paper's tables have
LOOKS = {"holds": (BLUE, "o"), "fails": (RED, "X"), "inconclusive": (ORANGE, "D"), "not testable here": (GREY, ".")}


def _file() -> dict[str, Any]:
    return yaml.safe_load(REPORTED.read_text(encoding="utf-8"))


def reported() -> pd.DataFrame:
    """Every number that GATEAU reports and this study compares itself with, points of 100, none of them measured here.

    Returns:
        Columns ``table, setting, row, share`` (per cent of the long samples; missing where the row has no choice), ``value``.
    """
    content, rows = _file(), []
    for table in content["tables"]:
        for setting in SETTINGS:
            for name, given in table[setting].items():
                values = zip(content["shares"], given, strict=True) if isinstance(given, list) else [(np.nan, given)]
                rows += [(table["table"], setting, name, share, value) for share, value in values if value is not None]
    return pd.DataFrame(rows, columns=["table", "setting", "row", "share", "value"])


def reported_table(table: str) -> pd.DataFrame:
    """One reported table: rows by setting and share, in the paper's order."""
    rows = reported().query("table == @table")
    shares = rows["share"].map(lambda share: "" if np.isnan(share) else f"{share:.0f} %")
    wide = rows.assign(share=shares).pivot(index="row", columns=["setting", "share"], values="value")
    wide = wide.loc[list(dict.fromkeys(rows["row"]))]
    return wide[[(s, share) for s in SETTINGS for share in ("", "10 %", "30 %", "50 %") if (s, share) in wide]]


def beside(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Reported differences beside ours, for the claims that are about a reported row.

    Args:
        verdicts: of `claims.verdicts`.

    Returns:
        Columns ``claim, table, row, against``, the reported difference of each setting in points, our ``difference`` in the
        claim's own unit, ``verdict``, and ``sign``: same or opposite if our interval excludes zero, else open.
    """
    numbers = reported()
    numbers = numbers[numbers["share"].isna() | (numbers["share"] == SHARE)].set_index(["table", "setting", "row"])["value"]
    ours, rows = verdicts.set_index("id"), []
    for place in _file()["comparisons"]:
        pairs = [[numbers[place["table"], setting, place[side]] for side in ("row", "against")] for setting in SETTINGS]
        found = dict(zip(SETTINGS, (a - b for a, b in pairs), strict=True))
        mine = ours.loc[place["claim"]]
        rows.append({**place, **found, "difference": mine["difference"], "verdict": mine["verdict"], "sign": _sign(found, mine)})
    return pd.DataFrame(rows)


def _sign(found: dict[str, float], mine: pd.Series) -> str:
    signs = {bool(value > 0) for value in found.values()}
    if len(signs) > 1 or not np.isfinite(mine["low"]) or mine["low"] <= 0 <= mine["high"]:
        return "open"
    return "same" if (mine["difference"] > 0) in signs else "opposite"


def noise(table: pd.DataFrame) -> str:
    """In a sentence, how many reported differences exceed what the choice of the benchmark's items explains; of `beside`."""
    about = _file()["noise"]
    least = 1.96 * 2**0.5 * about["standard_error"]  # of the difference of two independent means, in points
    gaps = table.loc[table["table"] == about["table"], list(SETTINGS)].abs().to_numpy()
    where = f"{about['table']} ({about['items']} items)"
    return (
        f"Reported differences on {where} of more than {least:.1f} points: {(gaps > least).sum()} of {gaps.size}. Two equal "
        "models differ by more in one of twenty comparisons if their errors are independent. "
        "This limit is our estimate; where errors go together, it is lower."
    )


def reviewers(verdicts: pd.DataFrame) -> pd.DataFrame:
    """What reviewers asked, whether and how the study answers it, and the verdicts that belong to the answer."""
    known = verdicts.set_index("id")["verdict"]
    rows = [q | {"verdicts": "; ".join(f"{name}: {known[name]}" for name in q["claims"]) or "–"} for q in _file()["reviewers"]]
    return pd.DataFrame(rows)[["asked", "answered", "how", "verdicts"]]


def sentence(row: Any) -> str:
    """One verdict in words, with its numbers; ``row`` is a row of `claims.verdicts`."""
    if not np.isfinite(row.difference):
        return f"**{row.verdict}** · {row.statement} ({row.reason}; `{row.id}`)"
    difference, low, high = (f"{round(x, 3) + 0.0:+.3f}" for x in (row.difference, row.low, row.high))  # no minus zero
    numbers = f"{row.value:.3f} against {row.against:.3f}, difference {difference} [{low}, {high}]"
    note = f"; {row.reason}" if row.reason else ""
    return f"**{row.verdict}** · {row.statement} {numbers}, {row.seeds} seeds{note} (`{row.id}`)"


def sentences(verdicts: pd.DataFrame, only: Sequence[str] = VERDICTS) -> str:
    """A Markdown list of the verdicts among ``only``, in the order of `claims.VERDICTS`; says so if there are none."""
    rows = [row for name in VERDICTS if name in only for row in verdicts[verdicts["verdict"] == name].itertuples()]
    return "\n".join(f"- {sentence(row)}" for row in rows) or "None."


def summary(verdicts: pd.DataFrame) -> str:
    """How many claims hold, fail and stay open, in one sentence."""
    count = verdicts["verdict"].value_counts()
    held, failed, unsure, untested = (int(count.get(name, 0)) for name in VERDICTS)
    tail = f", and {untested} cannot be tested at this scale" if untested else ""
    return f"Of {len(verdicts)} claims {held} hold, {failed} fail, {unsure} stay inconclusive{tail}."


def by_paper(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Number of verdicts of each kind, papers in the ledger's order by `claims.VERDICTS`."""
    table = pd.crosstab(verdicts["paper"], verdicts["verdict"])
    return table.reindex(index=list(dict.fromkeys(verdicts["paper"])), columns=list(VERDICTS), fill_value=0)


@styled
def forest(verdicts: pd.DataFrame, ledger: Sequence[Claim] | None = None) -> Figure:
    """Every claim's difference with its 95 % interval and, as grey ticks, the margin it has to pass or keep (08).

    Args:
        verdicts: of `claims.verdicts`, all of them or some.
    """
    rules = {claim.id: claim for claim in ledger or load_claims()}
    fig = Figure(figsize=(8.5, 0.23 * len(verdicts) + 1.2), layout="constrained")
    axis = fig.subplots()
    for y, row in enumerate(verdicts.itertuples()):
        colour, marker = LOOKS[row.verdict]
        tested = bool(np.isfinite(row.difference))
        if tested:
            axis.plot([row.low, row.high], [y, y], color=colour, linewidth=1.3)
            axis.plot(ticks := margins(rules[row.id]), [y] * len(ticks), "|", color="#444444", markersize=9, linestyle="none")
        axis.plot(row.difference if tested else 0, y, marker, color=colour, markersize=6)
    axis.axvline(0, color=GREY, linestyle="--", linewidth=1)
    axis.set_yticks(range(len(verdicts)), [name.replace("-", " ") for name in verdicts["id"]])
    shown = verdicts[["difference", "low", "high"]].abs().max().max()
    reach = min(1.0, max(0.3, 1.1 * shown)) if np.isfinite(shown) else 1.0
    axis.set(xlabel="difference (AUC, precision, correlation or share right)", xlim=(-reach, reach))
    axis.set_ylim(len(verdicts) - 0.5, -0.5)
    for name in [name for name in VERDICTS if name in set(verdicts["verdict"])]:
        axis.plot([], [], LOOKS[name][1], color=LOOKS[name][0], label=name, markersize=6)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(VERDICTS))
    return fig


def margins(claim: Claim) -> list[float]:
    """Where the difference of a claim has to pass (above, below) or stay (not_below, within)."""
    at = {"above": [claim.margin], "below": [-claim.margin], "not_below": [-claim.margin]}
    return at.get(claim.relation, [-claim.margin, claim.margin])
