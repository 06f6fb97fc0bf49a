"""Verdicts (rows of `claims.verdicts`) in words, as figures, beside what others report (09, README)."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from gateau_lib.experiments import captions
from gateau_lib.experiments.claims import DECISIVE, VERDICTS, Claim, load_claims
from gateau_lib.experiments.figures import blank, draw_dots, name_lines
from gateau_lib.experiments.ranking import COLUMN_OF
from gateau_lib.experiments.training_figures import draw_by_length, draw_differences
from gateau_lib.study.style import BLUE, GREY, ORANGE, RED, styled

REPORTED = Path(__file__).with_name("reported.yml")
SETTINGS = ("real-world", "limited")  # 100,000 and 10,000 short instructions beside the long ones
STATEMENT = 125  # characters of a claim beside its mark
SHARE = 50  # per cent, the share all of the paper's tables have
HEADLINE_SELECTORS = "hmg_minmax_ntk hmg_log_truncate contrast_log cam_default segment_contrast".split()
HEADLINE_SELECTORS += "gateau_rank prolong ifd perplexity_guidance zlib_contrast longest".split()
HEADLINE_POOLS = {"clean": "no noise", "noisy": "much noise"}
HEADLINE_STRATEGIES = ["theta_a_stretched", "normal", "packed", "pose", "skip_outer", "skip_all"]
LOOKS = dict(zip(VERDICTS, [(BLUE, "o"), (RED, "X"), (ORANGE, "D"), (GREY, ".")], strict=True))


def read_reported() -> dict[str, Any]:
    """What ``reported.yml`` holds: the paper's tables, comparisons with claims, reviewers' questions."""
    return yaml.safe_load(REPORTED.read_text(encoding="utf-8"))


def reported() -> pd.DataFrame:
    """Every number that GATEAU reports and this study compares itself with; none was measured here.

    Columns ``table, setting, row, share`` (per cent; missing where a row has no choice), ``value`` (of 100).
    """
    content, rows = read_reported(), []
    for table in content["tables"]:
        for setting in SETTINGS:
            for name, given in table[setting].items():
                shares, values = (content["shares"], given) if isinstance(given, list) else ([None], [given])
                place = (table["table"], setting, name)
                rows += [(*place, *each) for each in zip(shares, values, strict=True)]
    table = pd.DataFrame(rows, columns=["table", "setting", "row", "share", "value"])
    return table.dropna(subset="value", ignore_index=True)


def reported_table(table: str) -> pd.DataFrame:
    """One reported table: rows by setting and share, in the paper's order."""
    rows = reported().query("table == @table")
    shares = rows["share"].map(lambda share: "" if np.isnan(share) else f"{share:.0f} %")
    wide = rows.assign(share=shares).pivot(index="row", columns=["setting", "share"], values="value")
    columns = [(setting, share) for setting in SETTINGS for share in ("", "10 %", "30 %", "50 %")]
    return wide.loc[rows["row"].unique(), [column for column in columns if column in wide]]


def beside(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Reported differences beside ours, for the claims that are about a reported row.

    Columns ``claim, table, row, against``, the reported difference of each setting in points, our
    ``difference`` in the claim's unit, ``verdict``, and ``sign``: same or opposite if our interval excludes
    zero, else open.
    """
    numbers = reported()
    numbers = numbers[numbers["share"].isna() | (numbers["share"] == SHARE)]
    points = numbers.set_index(["table", "row", "setting"])["value"].unstack("setting")
    ours, rows = verdicts.set_index("id"), []
    for place in read_reported()["comparisons"]:
        theirs = points.loc[place["table"], place["row"]] - points.loc[place["table"], place["against"]]
        mine = ours.loc[place["claim"]]
        about = {"difference": mine["difference"], "verdict": mine["verdict"], "sign": _sign(theirs, mine)}
        rows.append({**place, **theirs[list(SETTINGS)], **about})
    return pd.DataFrame(rows)


def _sign(theirs: pd.Series, mine: pd.Series) -> str:
    signs = {bool(value > 0) for value in theirs}
    if len(signs) > 1 or not np.isfinite(mine["low"]) or mine["low"] <= 0 <= mine["high"]:
        return "open"
    return "same" if (mine["difference"] > 0) in signs else "opposite"


def noise(table: pd.DataFrame) -> str:
    """In a sentence, how many reported differences exceed what the choice of items explains; of `beside`."""
    about = read_reported()["noise"]
    least = 1.96 * 2**0.5 * about["standard_error"]  # of the difference of two independent means, in points
    gaps = table.loc[table["table"] == about["table"], list(SETTINGS)].abs().to_numpy()
    return (
        f"Reported differences on {about['table']} ({about['items']} items) of more than {least:.1f} points: "
        f"{(gaps > least).sum()} of {gaps.size}. Two equal models differ by more in one of twenty "
        "comparisons if their errors are independent. This limit is our estimate; where errors go "
        "together, it is lower."
    )


def reviewers(verdicts: pd.DataFrame) -> pd.DataFrame:
    """What reviewers asked, whether and how the study answers it, and the verdicts that belong to it."""
    known, asked = verdicts.set_index("id")["verdict"], pd.DataFrame(read_reported()["reviewers"])
    told = asked["claims"].map(lambda names: "; ".join(f"{name}: {known[name]}" for name in names) or "–")
    return asked.assign(verdicts=told)[["asked", "answered", "how", "verdicts"]]


def sentence(row: Any) -> str:
    """One verdict in words, with its numbers or with why there are none."""
    return f"**{row.verdict}** · {row.statement} {row.reason} (`{row.id}`)"


def sentences(verdicts: pd.DataFrame, only: Sequence[str] = VERDICTS) -> str:
    """A Markdown list of the verdicts among ``only``, in the order of `claims.VERDICTS`, or "None.".

    Of one verdict the surest first, by the p-value within its family.
    """
    rows = verdicts[verdicts["verdict"].isin(only)].sort_values("p", kind="stable")
    rows = rows.sort_values("verdict", key=lambda names: names.map(VERDICTS.index), kind="stable")
    return "\n".join(f"- {sentence(row)}" for row in rows.itertuples()) or "None."


def summary(verdicts: pd.DataFrame) -> str:
    """How many claims hold, fail and stay open, in one sentence."""
    held, failed, unsure, untested = ((verdicts["verdict"] == name).sum() for name in VERDICTS)
    tail = f", and {untested} cannot be tested at this scale" if untested else ""
    return f"Of {len(verdicts)} claims {held} hold, {failed} fail, {unsure} stay inconclusive{tail}."


def by_paper(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Number of verdicts of each kind, papers in the ledger's order by `claims.VERDICTS`."""
    table = pd.crosstab(verdicts["paper"], verdicts["verdict"])
    return table.reindex(index=verdicts["paper"].unique(), columns=list(VERDICTS), fill_value=0)


def by_family(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The same by family of claims, in the ledger's order, with the share ``decided`` (holds or fails)."""
    table = pd.crosstab(verdicts["family"], verdicts["verdict"])
    table = table.reindex(index=verdicts["family"].unique(), columns=list(VERDICTS), fill_value=0)
    return table.assign(decided=table[list(DECISIVE)].sum(axis=1) / table.sum(axis=1))


@styled
def forest(verdicts: pd.DataFrame) -> Figure:
    """Every claim's difference with its 95 % interval; grey ticks: the margin it has to pass or keep (09)."""
    rules = {claim.id: claim for claim in load_claims()}
    fig, (axis,) = blank(12, 0.24 * len(verdicts) + 1.2)
    for y, row in enumerate(verdicts.itertuples()):
        ticks = margins(rules[row.id]) if np.isfinite(row.difference) else []
        axis.plot(ticks, [y] * len(ticks), "|", color="#444444", markersize=9, linestyle="none")
    draw_differences(axis, verdicts.fillna({"difference": 0}), verdicts["verdict"].map(LOOKS))
    name_lines(
        axis, [shorten(said.rstrip("."), STATEMENT, placeholder=" …") for said in verdicts["statement"]]
    )
    axis.tick_params(axis="y", labelsize=8)
    largest = verdicts[["difference", "low", "high"]].abs().max().max()
    reach = min(1.0, max(0.3, 1.1 * largest)) if np.isfinite(largest) else 1.0
    axis.set(
        xlabel="difference (AUC, precision, correlation, share, probability, or nats)", xlim=(-reach, reach)
    )
    for name, (colour, marker) in LOOKS.items():
        if (verdicts["verdict"] == name).any():
            axis.plot([], [], marker, color=colour, label=name, markersize=6)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(VERDICTS))
    fig.set_label(summary(verdicts))
    return fig


def with_cost(values: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of selectors with the tokens that each lets models read, rows ``forwarded`` of ``metrics``.

    Without those that are no selectors. Arms of training have the names of registered methods.
    """
    costs = metrics[metrics["metric"] == "forwarded"].groupby("method")["value"].mean()
    named = values["method"].map(lambda name: COLUMN_OF.get(name, name))
    return values.assign(cost=named.map(costs)).dropna(subset="cost")


def margins(claim: Claim) -> list[float]:
    """Where the difference of a claim has to pass (above, below) or stay (not_below, within)."""
    at = {"above": [claim.margin], "below": [-claim.margin], "not_below": [-claim.margin]}
    return at.get(claim.relation, [-claim.margin, claim.margin])


@styled
def headline(metrics: pd.DataFrame) -> Figure:
    """The study in one picture: who finds far evidence, and SkipAlign by length (09, README)."""
    auc = metrics[(metrics["metric"] == "auc") & metrics["condition"].isin(list(HEADLINE_POOLS))]
    auc = auc[auc["method"].isin(HEADLINE_SELECTORS)].sort_values("condition", kind="stable")
    auc = auc.assign(condition=auc["condition"].map(HEADLINE_POOLS))
    by_length = (metrics["metric"] == "needle_probability") & metrics["condition"].astype(str).str.isdigit()
    skip = metrics[by_length & metrics["method"].isin(HEADLINE_STRATEGIES)]
    skip = skip.sort_values("method", key=lambda names: names.map(HEADLINE_STRATEGIES.index), kind="stable")
    fig, (left, right) = blank(10, 4.4, 2)
    draw_dots(left, auc, "AUC for samples that need far evidence", 0.5)
    if len(auc):
        left.legend(loc="lower right")  # above it stands the title
    left.set_title("Who finds the samples with far evidence?")
    draw_by_length(right, skip, ylabel="probability of the answer")
    if len(skip):
        right.legend(loc="lower left")  # no room beside the axes; recall of short contexts stays above it
    right.set_title("Short samples only: what extends the window?")
    lengths = skip.assign(length=skip["condition"].astype(int))
    told = captions.dots(auc, "AUC"), captions.by_length(lengths, "probability of the answer")
    fig.set_label(" ".join(told))
    return fig
