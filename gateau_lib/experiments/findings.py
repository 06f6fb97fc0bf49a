"""Verdicts (rows of `claims.verdicts`) in words, as figures, beside what others report (09, README)."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gateau_lib.experiments import captions
from gateau_lib.experiments.canvas import name_lines, says_empty
from gateau_lib.experiments.claims import DECISIVE, VERDICTS, Claim, load_claims
from gateau_lib.experiments.figures import draw_dots
from gateau_lib.experiments.ranking import COLUMN_OF
from gateau_lib.experiments.training_figures import LENGTH, ORDINARY, apart_from, draw_differences, draw_gaps
from gateau_lib.study.labels import FAMILIES
from gateau_lib.study.looks import GREY
from gateau_lib.study.style import SMALL, WIDTH, label, styled

REPORTED = Path(__file__).with_name("reported.yml")
SETTINGS = ("real-world", "limited")  # 100,000 and 10,000 short instructions beside the long ones
STATEMENT = 74  # characters of a line of a claim beside its mark
SHARE = 50  # per cent, the share all of the paper's tables have
NOT_THEIRS = ("field", "ours")  # papers of claims that others hold against the three, or that are the study's
HEADLINE_SELECTORS = "hmg_minmax_ntk hmg_log_truncate contrast_log cam_default segment_contrast".split()
HEADLINE_SELECTORS += "gateau_rank prolong ifd perplexity_guidance zlib_contrast longest".split()
HEADLINE_POOLS = {"clean": "no noise", "noisy": "much noise"}
HEADLINE_STRATEGIES = ["theta_a_stretched", "normal", "packed", "pose", "skip_outer", "skip_all"]
LOOKS = dict(zip(VERDICTS, [("#00695C", "o"), ("#B00020", "X"), ("#C98A00", "D"), (GREY, ".")], strict=True))
# What the differences of a metric are measured in; a metric that is not here stands for itself.
UNITS = {
    "AUC": ("auc", "auc_like_lengths", "link_auc"),
    "rank correlation": ("rank_correlation", "importance_correlation"),
    "probability of the answer": ("long_probability", "short_probability", "needle_probability"),
    "share of answer tokens right": ("answer_accuracy", "answer_accuracy_retold"),
    "share of samples or pairs": (
        *("precision_at_30", "evidence_first", "jaccard", "planted_pairs_strong", "strong_pairs_planted"),
    ),
    "loss, nats per token": ("effect_far", "plain_nll"),
}


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


def folded(verdicts: pd.DataFrame) -> str:
    """The same list folded under one line that counts it, for a page whose figure shows the claims."""
    title = f"In words: {summary(verdicts)}"
    return f"<details><summary>{title}</summary>\n\n{sentences(verdicts)}\n\n</details>"


def summary(verdicts: pd.DataFrame) -> str:
    """How many claims hold, fail and stay open, in one sentence."""
    held, failed, unsure, untested = ((verdicts["verdict"] == name).sum() for name in VERDICTS)
    if held == len(verdicts) > 1:
        return f"All {held} claims hold."
    tail = f", and {untested} cannot be tested at this scale" if untested else ""
    return f"Of {len(verdicts)} claims {held} hold, {failed} fail, {unsure} stay inconclusive{tail}."


def likelier_and_right(metrics: pd.DataFrame, condition: str) -> str:
    """Over pairs, two arms by p(answer) and by how often all of the answer is right, in a sentence; or ""."""
    held = metrics[metrics["condition"] == condition]
    means = held.groupby(["metric", "method"])["value"].mean()
    told = []
    for method in ("short_only", "oracle"):
        places = [(metric, method) for metric in ("long_probability", "long_exact")]
        if any(place not in means for place in places):
            return ""
        likely, right = (means[place] for place in places)
        told.append(f"*{label(method)}* p(answer) {likely:.2f}, every token the first choice in {right:.0%}")
    return f"Likely and right are two measures. Over pairs, after {'; after '.join(told)} of the answers."


def by_paper(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Number of verdicts of each kind: the papers in the ledger's order, then what is not theirs."""
    table = pd.crosstab(verdicts["paper"], verdicts["verdict"])
    named = list(verdicts["paper"].unique())
    order = [name for name in named if name not in NOT_THEIRS] + [
        name for name in NOT_THEIRS if name in named
    ]
    return table.reindex(index=order, columns=list(VERDICTS), fill_value=0)


def by_family(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The same by family of claims, in words, in the ledger's order, with the share ``decided``."""
    table = pd.crosstab(verdicts["family"], verdicts["verdict"])
    table = table.reindex(index=verdicts["family"].unique(), columns=list(VERDICTS), fill_value=0)
    table = table.rename(index=FAMILIES)
    return table.assign(decided=table[list(DECISIVE)].sum(axis=1) / table.sum(axis=1))


def unit_of(metric: str) -> str:
    """What a metric is measured in, of `UNITS`."""
    return next((unit for unit, metrics in UNITS.items() if metric in metrics), metric.replace("_", " "))


@styled
def forest(verdicts: pd.DataFrame) -> Figure:
    """Every claim's difference with its 95 % interval, a panel a unit (09).

    Grey ticks: the margin that the difference has to pass or keep.
    """
    rules = {claim.id: claim for claim in load_claims()}
    units = verdicts["id"].map(lambda name: unit_of(rules[name].value.metric))
    panels = [
        (unit, verdicts[units == unit]) for unit in dict.fromkeys([*UNITS, *units]) if (units == unit).any()
    ]
    heights = [len(rows) + 1.6 for _, rows in panels]
    fig = Figure(figsize=(WIDTH, 0.3 * sum(heights) + 0.5), layout="constrained")
    axes = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, rows) in zip(axes, panels, strict=True):
        for y, row in enumerate(rows.itertuples()):
            ticks = margins(rules[row.id]) if np.isfinite(row.difference) else []
            axis.plot(ticks, [y] * len(ticks), "|", color="#444444", markersize=9, linestyle="none")
        draw_differences(axis, rows.fillna({"difference": 0}), rows["verdict"].map(LOOKS))
        name_lines(axis, [fill(said.rstrip("."), STATEMENT) for said in rows["statement"]])
        axis.tick_params(axis="y", labelsize=SMALL)
        axis.set(xlabel=f"difference: {unit}", xlim=(-(reach := _reach(rows, rules)), reach))
        axis.locator_params(axis="x", nbins=5)
    marks = [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=name, markersize=6)
        for name, (colour, marker) in LOOKS.items()
        if (verdicts["verdict"] == name).any()
    ]
    fig.legend(handles=marks, loc="outside upper center", ncols=len(VERDICTS))
    fig.set_label(summary(verdicts))
    return fig


def _reach(rows: pd.DataFrame, rules: dict[str, Claim]) -> float:
    """How far the axis of some claims goes: to every mean and margin, not to the end of a far interval."""
    ends, means = (rows[names].abs().max().max() for names in (["low", "high"], ["difference"]))
    least = 1.5 * max(rules[name].margin for name in rows["id"])
    if not np.isfinite(means):
        return least
    return float(max(least, 1.15 * means, 1.1 * min(ends if np.isfinite(ends) else 0, 2 * means)))


def with_cost(values: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of selectors with the tokens that each lets models read, rows ``forwarded`` of ``metrics``.

    Without those that are no selectors. A variant that is the method itself gets the method's name, which
    arms of training have, too.
    """
    costs = metrics[metrics["metric"] == "forwarded"].groupby("method")["value"].mean()
    named = values["method"].map(lambda name: COLUMN_OF.get(name, name))
    return values.assign(method=named, cost=named.map(costs)).dropna(subset="cost")


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
    fig = Figure(figsize=(WIDTH, 8), layout="constrained")
    left, right = fig.subplots(2, 1, height_ratios=(1.35, 1))
    draw_dots(left, auc, "AUC for samples that need far evidence", 0.5)
    if legend := left.get_legend():  # above it stands the title
        left.legend(handles=legend.legend_handles, loc="lower right")
    left.set_title("Who finds the samples with far evidence?")
    lengths = skip.assign(length=skip["condition"].astype(int))
    gaps = apart_from(lengths) if ORDINARY in set(skip["method"]) else lengths.iloc[:0]
    if not says_empty(right, gaps):
        draw_gaps(right, gaps)
        right.set(xlabel=LENGTH, ylabel=f"p(answer), minus {label(ORDINARY)}")
    right.set_title("Short samples only: what extends the window?")
    told = [captions.dots(auc, "AUC"), captions.by_length(lengths, "probability of the answer")]
    told += [captions.from_ordinary(gaps)] if len(gaps) else []
    fig.set_label(" ".join(told))
    return fig
