"""What is seen on a figure, computed from what it draws: its caption, and the text for who cannot see it.

A function for each figure of `figures`, `training_figures` and `findings`, of the same tables.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from gateau_lib.data.kinds import NEEDS_FAR
from gateau_lib.experiments.ranking import auc
from gateau_lib.study.style import label

NOTHING = "Nothing was measured for it at this scale."
Form = Callable[[float], str]


def decimals(value: float) -> str:
    """Two decimals, without a minus zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def extremes(values: pd.Series, form: Form = decimals) -> str:
    """ "from A (lowest) to B (highest)", by name; of one value "A (value)"."""
    low, high = values.idxmin(), values.idxmax()
    if len(values) == 1:
        return f"{label(str(low))} ({form(values[low])})"
    if values[low] == values[high]:
        return f"all {form(values[low])}"
    return f"from {label(str(low))} ({form(values[low])}) to {label(str(high))} ({form(values[high])})"


def dots(rows: pd.DataFrame, measure: str, chance: float | None = 0.5) -> str:
    """The ends of each condition, and how many methods are above chance."""
    if rows.empty:
        return NOTHING
    parts = []
    for condition, part in rows.groupby("condition", sort=False):
        means = part.groupby("method", sort=False)["value"].mean()
        over = "" if chance is None else f", {(means > chance).sum()} of {len(means)} above chance"
        parts.append(f"{label(str(condition))}: {extremes(means)}{over}")
    if len(parts) == 1:
        return f"{begun(measure)}: {parts[0].partition(': ')[2]}."
    return f"{begun(measure)}, {'; '.join(parts)}."


def begun(measure: str) -> str:
    """A measure's name at the beginning of a sentence; a symbol stays what it is."""
    return measure if measure.startswith("p(") else measure[0].upper() + measure[1:]


def scores_by_kind(scores: pd.DataFrame, found: Collection[str], wanted: str) -> str:
    """In which panel the kinds that should be on top stand highest, and lowest."""
    held = scores.dropna(subset="value")
    held = held.assign(label=held["kind"].isin(list(found)))
    areas = {
        str(method): auc(part["label"], part["value"])
        for method, part in held.groupby("method", sort=False)
        if part["label"].nunique() == 2
    }
    if not areas:
        return NOTHING
    return f"How often “{wanted}” scores above the rest: {extremes(pd.Series(areas))}."


def corpus(samples: pd.DataFrame, short_window: int) -> str:
    """Lengths of the kinds, and which have their evidence beyond the window."""
    lengths, apart = (
        samples.groupby("kind", sort=False)[column].median() for column in ("tokens", "distance")
    )
    far = list(apart.index[apart > short_window])
    named = ", ".join(kind.replace("_", " ") for kind in far) or "none"
    return (
        f"Median lengths of the kinds lie between {lengths.min():,.0f} and {lengths.max():,.0f} tokens; "
        f"the median evidence stands beyond the short window for {named}."
    )


def importance_and_attention(segments: pd.DataFrame, evidence: Sequence[int]) -> str:
    """Where both peak, and where the evidence stands."""
    peaks = [int(segments["segment"].iloc[segments[c].argmax()]) for c in ("importance", "attention")]
    there = ", ".join(map(str, sorted(map(int, evidence)))) or "in none"
    hit = {2: "both lie on it", 1: "one of them lies on it", 0: "neither lies on it"}
    where = hit[sum(peak in set(evidence) for peak in peaks)] if len(evidence) else "there is nothing to hit"
    return (
        f"The most important segment is number {peaks[0]}, the most attended number {peaks[1]}; "
        f"evidence stands in {there}: {where}."
    )


def token_losses(tokens: Sequence[str], losses: Mapping[str, Sequence[float]]) -> str:
    """Where each reader loses most against the first."""
    first, *others = losses
    told = []
    for name in others:
        gap = np.subtract(losses[name], losses[first])
        word = tokens[int(gap.argmax())].strip()
        told.append(f"the {name} on “{word}”, {decimals(gap.max())} nats more")
    return f"Against the {first}, most is lost by {'; by '.join(told)}."


def pair_matrix(terms: pd.DataFrame, threshold: float, planted: Collection[tuple[int, int]]) -> str:
    """How many pairs are strong, and how many of the planted links are among them."""
    strong = terms["strength"] > threshold
    linked = pd.Series([pair in planted for pair in zip(terms["i"], terms["j"], strict=True)], terms.index)
    text = f"{strong.sum()} of {len(terms)} pairs ({strong.mean():.0%}) are above the threshold"
    if not linked.any():
        return f"{text}; no link is planted here."
    return (
        f"{text}, and {(strong & linked).sum()} of the {linked.sum()} planted links; "
        f"of the strong pairs {linked[strong].mean() if strong.any() else 0:.0%} are links."
    )


def correlation(matrix: pd.DataFrame) -> str:
    """The two that are most alike, and the two least."""
    upper = np.triu_indices(len(matrix), 1)
    values = matrix.to_numpy()[upper]
    if not len(values):
        return NOTHING
    names = [
        f"{label(str(matrix.index[i]))} and {label(str(matrix.columns[j]))}"
        for i, j in zip(*upper, strict=True)
    ]
    most, least = int(np.nanargmax(values)), int(np.nanargmin(values))
    return (
        f"Most alike are {names[most]} ({decimals(values[most])}), "
        f"least {names[least]} ({decimals(values[least])})."
    )


def composition(counts: pd.DataFrame) -> str:
    """Shares of wanted and of corrupt samples in the selections."""
    table = counts.groupby(["selection", "kind"], sort=False)["count"].sum().unstack(fill_value=0, sort=False)
    shares = table.div(table.sum(axis=1), axis=0)
    wanted = shares[[kind for kind in shares if kind in NEEDS_FAR]].sum(axis=1)
    text = f"Share of wanted samples: {extremes(wanted, '{:.0%}'.format)}"
    if "corrupt" in shares:
        text += f"; of corrupt ones: {extremes(shares['corrupt'], '{:.0%}'.format)}"
    return f"{text}."


def turning(panels: Mapping[str, pd.DataFrame]) -> str:
    """What falls most as noise grows, what least, and what turns from right to wrong; of the first panel."""
    if not panels:
        return NOTHING
    table = next(iter(panels.values()))
    first, last = table.iloc[:, 0], table.iloc[:, -1]
    changes = last - first
    worst, best = changes.idxmin(), changes.idxmax()
    turned = [label(str(name)) for name in table.index if first[name] > 0.5 > last[name]]
    text = (
        f"From {table.columns[0]} to {table.columns[-1]} noise {label(str(worst))} goes from "
        f"{decimals(first[worst])} to {decimals(last[worst])}, the largest fall; "
        f"{label(str(best))} goes from {decimals(first[best])} to {decimals(last[best])}. "
    )
    return text + f"From right to wrong turn: {', '.join(turned) or 'none'}."


def cost(share: pd.DataFrame) -> str:
    """Seconds over those of the released procedure, (section, what) by ``seconds``."""
    parts = (f"{what} {section} {row['seconds']:.0%}" for (section, what), row in share.iterrows())
    return f"Of the released procedure's seconds: {', '.join(parts)}."


def loss_curves(log: pd.DataFrame) -> str:
    """Where the losses end."""
    last = log.sort_values("step", kind="stable").groupby("model", sort=False)["loss"].last()
    return f"Loss at the last step: {extremes(last)} nats per token."


def by_length(rows: pd.DataFrame, measure: str, form: Form = decimals) -> str:
    """The ends at the shortest and at the longest length; columns ``method, length, value``."""
    if rows.empty:
        return NOTHING
    means = rows.groupby(["length", "method"], sort=False)["value"].mean()
    ends = (rows["length"].min(), rows["length"].max())
    told = "; ".join(
        f"at {length:,.0f} tokens {extremes(means[length], form)}" for length in dict.fromkeys(ends)
    )
    return f"{begun(measure)}: {told}."


def from_ordinary(gaps: pd.DataFrame) -> str:
    """The ends of the differences from ordinary SFT, ``method, length, value``, at the longest length."""
    longest = gaps["length"].max()
    means = gaps[gaps["length"] == longest].groupby("method", sort=False)["value"].mean()
    return f"Against {label('normal')} at {longest:,.0f} tokens: {extremes(means, '{:+.2f}'.format)}."


def positions(drawn: Mapping[str, Sequence[int]], target: int) -> str:
    """How far the ids of each strategy reach."""
    last = pd.Series({name: max(ids) for name, ids in drawn.items()})
    return f"The largest position id, of {target:,}: {extremes(last, '{:,.0f}'.format)}."


def reach(panels: Mapping[str, np.ndarray], jumps: Sequence[int]) -> str:
    """Whether a token behind the first jump hears of one before it."""
    if not jumps:
        return NOTHING
    parts = {title: float(np.mean(grid[jumps[0] :, : jumps[0]] > 0)) for title, grid in panels.items()}
    told = "; ".join(f"{title}: {share:.0%}" for title, share in parts.items())
    return f"Of the pairs across the first jump, so many are heard: {told}."


def padding(batches: Mapping[str, Sequence[tuple[int, int]]]) -> str:
    """Share of what is forwarded that is padding."""
    sums = {name: np.array(sizes).sum(axis=0) for name, sizes in batches.items()}
    told = "; ".join(f"{name}: {empty / (used + empty):.0%}" for name, (used, empty) in sums.items())
    return f"Padding among the tokens forwarded: {told}."


def needle_maps(panels: Mapping[str, pd.DataFrame], measure: str) -> str:
    """Means over depths at the longest length."""
    longest = next(iter(panels.values())).columns[-1]
    means = pd.Series({name: grid[longest].mean() for name, grid in panels.items()})
    return f"At {longest:,} tokens, mean over depths ({measure}): {extremes(means)}."


def needle_gains(gains: Mapping[str, pd.DataFrame], before: str, measure: str) -> str:
    """Means over depths at the longest length, and the cell that gains most of all."""
    longest = next(iter(gains.values())).columns[-1]
    means = pd.Series({name: grid[longest].mean() for name, grid in gains.items()})
    best = max(gains, key=lambda name: gains[name].max().max())
    depth, length = gains[best].stack().idxmax()
    most = f"{label(best)} at a depth of {depth:.0%} in {length:,} tokens"
    return (
        f"Against {label(before)}, at {longest:,} tokens, mean over depths ({measure}): "
        f"{extremes(means, lambda value: f'{value:+.2f}')}. "
        f"Most gains {most} ({gains[best].loc[depth, length]:+.2f})."
    )


def cost_and_quality(panels: Mapping[str, pd.DataFrame]) -> str:
    """The best that is free, and the best of all with what it costs; of each panel's first condition."""
    parts = []
    for measure, rows in panels.items():
        if rows.empty:
            continue
        condition = rows["condition"].iloc[0]
        means = rows[rows["condition"] == condition].groupby("method", sort=False)[["cost", "value"]].mean()
        best, free = means["value"].idxmax(), means[means["cost"] == 0]["value"]
        text = f"{measure} ({label(str(condition))}): best is {label(str(best))}, "
        text += f"{decimals(means.loc[best, 'value'])}, "
        text += f"for {means.loc[best, 'cost']:.1f} times the pool's tokens"
        if len(free):
            text += f"; without a model {label(str(free.idxmax()))}, {decimals(free.max())}"
        parts.append(text)
    return f"{'. '.join(parts)}." if parts else NOTHING


def differences(table: pd.DataFrame, measure: str) -> str:
    """The ends, and how many intervals exclude zero; columns ``difference, low, high``."""
    held = table.dropna(subset="difference")
    if held.empty:
        return NOTHING
    signed: Form = "{:+.2f}".format
    text = f"{begun(measure)}: {extremes(held['difference'], signed)}"
    sure = held.dropna(subset=["low", "high"])
    if len(sure) and np.isfinite(sure[["low", "high"]]).all(axis=None):
        apart = ((sure["low"] > 0) | (sure["high"] < 0)).sum()
        text += f"; {apart} of {len(sure)} intervals exclude zero"
    return f"{text}."


def cut_curve(curve: pd.DataFrame, window: int) -> str:
    """Where the contrast is best, and what it loses at the ends."""
    by_cut = curve.set_index("cut")["auc"]
    best, first, last = by_cut.idxmax(), by_cut.index[0], by_cut.index[-1]
    where = (
        "the window that the labels are defined by" if best == window else f"not at the labels' {window:,}"
    )
    return (
        f"The one-model contrast is best at {best:,} tokens ({decimals(by_cut[best])}), {where}; "
        f"cut at {first:,} it has {decimals(by_cut[first])}, at {last:,} {decimals(by_cut[last])}."
    )
