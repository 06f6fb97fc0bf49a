"""What verdicts say in plain words: under a notebook's question, and on the first screen of README.

The sentences of ``answers.yml`` are chosen by the verdict and filled with its numbers, so none can say what
the evidence does not.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from gateau_lib.experiments import beside_evidence, findings
from gateau_lib.experiments.beside_evidence import NOTHING_YET, Rows, Settled
from gateau_lib.experiments.claims import DECISIVE
from gateau_lib.experiments.ledger import load_claims
from gateau_lib.study.store import Study

SENTENCES = Path(__file__).with_name("answers.yml")
HEADLINE = "headline"  # its entry that is no notebook's
OURS = "ours"  # the paper of claims that none of the three makes


@cache
def templates() -> dict[str, Any]:
    """What ``answers.yml`` holds: `HEADLINE` with ids of claims, and notebook -> claim -> its sentences."""
    return yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))


def told() -> dict[str, dict[str, str]]:
    """The sentences ``holds``, ``fails`` and perhaps ``turned`` or ``more`` of each claim that has them."""
    return {claim: said for name, by_claim in templates().items() if name != HEADLINE
            for claim, said in by_claim.items()}  # fmt: skip


def sentence(row: Any) -> str:
    """One verdict (of `claims.verdicts`) in plain words; an open one by its statement, as open."""
    sides = {"value": row.value, "against": row.against}
    said = told()[row.id]
    if row.verdict in DECISIVE:
        beyond = {"fails": "turned", "holds": "more"}[row.verdict]
        return said[beyond if beyond in said and turned(row) else row.verdict].format(**sides)
    if pd.isna(row.value) or pd.isna(row.against):
        return f"Not testable here: {row.statement}"
    return f"Undecided ({row.value:.2f} against {row.against:.2f}) is the claim: {row.statement}"


def turned(row: Any) -> bool:
    """Whether the interval says more than the verdict.

    That a claim of more or less fails, and the other way round; or that what is not worse is better.
    """
    relation = {claim.id: claim.relation for claim in load_claims()}[row.id]
    beyond = {"above": row.high < 0, "below": row.low > 0, "not_below": row.low > 0}
    return bool(beyond.get(relation, False))


def answer(study: Study, notebook: str) -> Any:
    """The answer to a notebook's question for it to display, a sentence for each claim that is told."""
    from IPython.display import Markdown

    return Markdown(answer_text(beside_evidence.settled(study), notebook))


def answer_text(found: Settled, notebook: str) -> str:
    """The same as Markdown, from what the claims are judged by: what is settled, then what is open."""
    rows = found.verdicts.set_index("id", drop=False).loc[list(templates()[notebook])]
    if rows["value"].isna().all():
        return f"**Answer.** {NOTHING_YET}"
    rows = rows.sort_values("verdict", key=lambda column: ~column.isin(DECISIVE), kind="stable")
    return f"**Answer**, by {found.source} " + " ".join(sentence(row) for row in rows.itertuples())


def summary(study: Study, notebook: str, rows: Rows = ()) -> Any:
    """What a notebook leaves its reader with, five lines at most, for it to display; ``rows``: in hand."""
    from IPython.display import Markdown

    own = beside_evidence.own_values(study, notebook, rows)
    return Markdown(summary_text(beside_evidence.settled(study), notebook, own))


def summary_text(found: Settled, notebook: str, own: pd.DataFrame) -> str:
    """The same as Markdown; ``own``: this pair's values, of `beside_evidence.own_values`."""
    rows = found.verdicts[found.verdicts["evidence"] == notebook].sort_values("p", kind="stable")
    if rows["value"].isna().all():
        return f"**Summary.** {NOTHING_YET}"
    decided, unsure = rows[rows["verdict"].isin(DECISIVE)], rows[rows["verdict"] == "inconclusive"]
    failed = decided[(decided["verdict"] == "fails") & (decided["paper"] != OURS)]
    lines = [findings.summary(rows)]
    lines += [f"Surest: {_said(row)}" for row in decided.head(1).itertuples()]
    against = "; ".join(f"{row.paper}: {row.statement.rstrip('.')}" for row in failed.itertuples())
    lines.append(f"What papers say and what fails here: {against or 'nothing'}.")
    lines += [f"Nearest to a verdict: {row.statement} {row.reason}." for row in unsure.head(1).itertuples()]
    both = rows.merge(own, on="id", suffixes=("", "_here")).dropna(subset=["value_here", "against_here"])
    same = (both["value_here"] - both["against_here"]) * both["difference"] > 0
    if len(both):
        lines.append(
            f"One pair alone, this one, has the sign of the many in {same.sum()} of {len(both)} claims."
        )
    return "\n".join(["**Summary**", "", *(f"- {line}" for line in lines)])


def _said(row: Any) -> str:
    return sentence(row) if row.id in told() else f"{row.statement} ({row.verdict}: {row.reason})"


def headline(verdicts: pd.DataFrame, count: int = 20) -> str:
    """Markdown list of `HEADLINE`'s claims that hold or fail, in words, the surest first; or "None."."""
    rows = verdicts[verdicts["id"].isin(templates()[HEADLINE]) & verdicts["verdict"].isin(DECISIVE)]
    rows = rows.sort_values("p", kind="stable")[:count]
    return "\n".join(f"- {sentence(row)} (`{row.id}`)" for row in rows.itertuples()) or "None."
