"""A page a claim, and one of all of them: statement, rule, values, interval, and how to make them again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from claim_links import families

from gateau_lib.experiments import evidence_files, findings
from gateau_lib.experiments.claims import by_pair
from gateau_lib.experiments.explanations import reading_label
from gateau_lib.experiments.ledger import Claim, Selector, load_claims
from gateau_lib.experiments.pages import table
from gateau_lib.study import style
from gateau_lib.study.labels import FAMILIES

METRICS = {
    "auc": "AUC", "auc_like_lengths": "AUC among samples of like length",
    "link_auc": "AUC for pairs of segments that a planted link joins", "rank_correlation": "rank correlation",
    "answer_accuracy": "answer tokens right, asked in the same tongue",
    "answer_accuracy_retold": "answer tokens right, asked in the other tongue",
    "effect_far": "rise of the response's loss without its far evidence, nats a token",
    "evidence_first": "share of samples whose first segment holds evidence",
    "importance_correlation": "rank correlation with what leaving a segment out costs",
    "jaccard": "what two choices share, over what either takes",
    "planted_pairs_strong": "share of planted links that are called strong",
    "strong_pairs_planted": "share of strong pairs that are planted links",
    "long_probability": "p(answer) on long tasks", "short_probability": "p(answer) on short tasks",
    "needle_probability": "p(answer) for a needle", "plain_nll": "loss of plain text, nats a token",
}  # fmt: skip
VARIANTS = {
    "attention_top": "attention, strongest tokens", "attention_heads": "attention, chosen heads",
    "cam_segments_half": "CAM, segments half as long", "cam_segments_double": "CAM, segments twice as long",
    "cam_layer_2": "CAM, layer 2 alone", "prolong_short_model": "ProLong by the short model",
}  # fmt: skip
PAPERS = {
    "GATEAU": "Of GATEAU", "ProLong": "Of ProLong", "SkipAlign": "Of SkipAlign",
    "field": "What others hold against them", "ours": "Our own",
}  # fmt: skip
RULES = {
    "above": "is above the other side: the 95 % interval of the difference excludes zero, and its mean reaches the margin",
    "below": "is below the other side: the 95 % interval of the difference excludes zero, and its mean reaches the margin",
    "not_below": "is not worse than the other side by more than the tolerance: the interval stays inside it",
    "within": "is the same as the other side up to the tolerance: the interval stays inside it",
}


def write(folder: Path) -> None:
    """All pages into a folder, from the committed evidence; without evidence every claim is not testable."""
    folder.mkdir(parents=True)
    found = evidence_files.read_evidence(evidence_files.place())
    verdicts = found.verdicts()
    (folder / "index.md").write_text(index(verdicts), encoding="utf-8")
    rows = verdicts.set_index("id", drop=False)
    for claim in load_claims():
        text = page(claim, rows.loc[claim.id], found.metrics, len(rows.query("family == @claim.family")))
        (folder / f"{claim.id}.md").write_text(text, encoding="utf-8")


def index(verdicts: pd.DataFrame) -> str:
    """Counts by paper, then every claim with its numbers."""
    counts = findings.by_paper(verdicts)
    counts = counts.rename(index=PAPERS)
    lines = [[paper, *map(str, row)] for paper, row in zip(counts.index, counts.to_numpy(), strict=True)]
    parts = [
        f"# All claims\n\n{findings.summary(verdicts)}\n\n{table(['claims', *counts.columns], lines, '---:')}"
    ]
    parts.append(
        "How a claim comes to its verdict: [chapter 09, section 2](../notebooks/09_findings.ipynb). Each has a page with the "
        "numbers of every pair of models."
    )
    for paper, title in PAPERS.items():
        rows = verdicts[verdicts["paper"] == paper]
        if rows.empty:
            continue
        lines = [
            [f"[{row.statement}]({row.id}.md)", f"**{row.verdict}**", *numbers(row)]
            for row in rows.itertuples()
        ]
        parts.append(
            f"## {title}\n\n{table(['claim', 'verdict', 'measured', 'against', 'difference'], lines)}"
        )
    hidden = "```{toctree}\n:hidden:\n:glob:\n\n*\n```"
    return "\n\n".join([*parts, hidden]) + "\n"


def page(claim: Claim, verdict: pd.Series, metrics: pd.DataFrame, among: int) -> str:
    """One claim."""
    value, against, difference = numbers(verdict)
    kind = "margin" if claim.relation in ("above", "below") else "tolerance"
    lines = [
        ["measured", f"{side(claim.value)}: {value}"],
        ["against", f"{side(claim.against)}: {against}"],
        ["difference", difference],
        ["rule", f"The measured side {RULES[claim.relation]}."],
        [kind, f"{claim.margin:g}, fixed on {claim.fixed}"],
        ["asks about", f"{FAMILIES[claim.family]}, as {among} claims do; Holm's procedure allows for them"],
        ["whose", f"{claim.paper}: {claim.source}"],
    ]
    shown = f"Its figures stand in [chapter {claim.evidence[:2]}](../notebooks/{claim.evidence}.ipynb)."
    again = (
        "`make evidence PAIRS=12` makes the rows again, `python -m gateau_lib.evidence --judge` only the verdict. "
        f"The rows are those of `results/evidence/metrics.csv` with {where(claim)}."
    )
    parts = [
        f"# {claim.statement}",
        f"**{verdict['verdict']}**: {families(verdict['reason'])}.",
        table(["what", "of this claim"], lines),
    ]
    return "\n\n".join([*parts, pairstable(claim, metrics), shown, again]) + "\n"


def pairstable(claim: Claim, metrics: pd.DataFrame) -> str:
    """Both sides for every pair of models."""
    if not len(metrics):
        return "No pair has been measured here yet."
    measured = by_pair(metrics, claim.value)
    other = by_pair(metrics, claim.against) if isinstance(claim.against, Selector) else None
    lines = []
    for pair, value in measured.items():
        against = claim.against if other is None else other.get(pair, float("nan"))
        lines.append(
            [str(pair), *(f"{float(x):.3f}" for x in (value, against, float(value) - float(against)))]
        )
    return (
        table(["pair", "measured", "against", "difference"], lines, "---:")
        if lines
        else "No pair has rows of it."
    )


def side(selected: Selector | float) -> str:
    """One side of a claim in words."""
    if not isinstance(selected, Selector):
        return "a fixed value"
    metric, number = METRICS.get(selected.metric), selected.metric.removeprefix("precision_at_")
    metric = metric or f"share of wanted samples in the top {number} %"
    method = VARIANTS.get(selected.method) or reading_label(selected.method)
    return f"{metric} · {method} · {style.condition(selected.condition)}"


def where(claim: Claim) -> str:
    """The rows of a claim."""
    sides = [each for each in (claim.value, claim.against) if isinstance(each, Selector)]
    told = (f"metric `{s.metric}`, method `{s.method}`, condition `{s.condition}`" for s in sides)
    return ", and ".join(dict.fromkeys(told))


def numbers(row: pd.Series) -> list[str]:
    """Measured, against, and the difference with its interval."""
    if pd.isna(row.difference):
        return ["–", "–", "–"]
    gap = f"{row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    return [f"{row.value:.3f}", f"{row.against:.3f}", gap]
