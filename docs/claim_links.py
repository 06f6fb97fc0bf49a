"""Where a page names a claim by its id, readers are led to the claim's own page."""

from __future__ import annotations

import re

from gateau_lib.experiments.ledger import load_claims
from gateau_lib.study.labels import FAMILIES

STATEMENTS = {claim.id: claim.statement.rstrip(".") for claim in load_claims()}
ANY = "|".join(sorted(map(re.escape, STATEMENTS), key=len, reverse=True))
AS_CODE = re.compile(rf"\(`({ANY})`\)|(?<!\[)`({ANY})`")
BARE = re.compile(rf"(?<![\w/`\[(-])({ANY})(?![\w`-]|\.md)")
CELL = re.compile(rf"(?m)^\| ({ANY}) \|")
FAMILY = re.compile(rf"of family ({'|'.join(FAMILIES)}) \(Holm\)")
VERDICTS = "|claim|this pair|over pairs|difference|verdict|why|"


def with_claims(text: str, place: str) -> str:
    """What a notebook's cell wrote, as readers of the site see it; ``place``: the claims' folder."""
    return families(linked(spelled(folded(text), place), place))


def linked(text: str, place: str) -> str:
    """Markdown with a link for each id that is written as code; ``place``: the claims' folder."""

    def link(match: re.Match[str]) -> str:
        target = f"{place}/{match[1] or match[2]}.md"
        return f"([claim]({target}))" if match[1] else f"[`{match[2]}`]({target})"

    return AS_CODE.sub(link, text)


def spelled(text: str, place: str) -> str:
    """A bare id gives way to what the claim says, with a link; one that fills a cell, to the word alone."""
    text = CELL.sub(rf"| [claim]({place}/\1.md) |", text)
    return BARE.sub(lambda match: f"[{STATEMENTS[match[1]]}]({place}/{match[1]}.md)", text)


def families(text: str) -> str:
    """A reason that names a family of claims names it in words."""
    return FAMILY.sub(lambda match: f"about {FAMILIES[match[1]]} (Holm)", text)


def folded(text: str) -> str:
    """A chapter's table of verdicts, the verdict beside the claim and the reason under it.

    With six columns the last ones were out of sight, on a phone the verdict was.
    """
    head, found, rows = text.partition(VERDICTS)
    if not found:
        return text
    kept = [f"{head}|claim|verdict|over pairs|difference|this pair|", "|---|---|---|---|---|"]
    for line in rows.splitlines()[2:]:
        cells = line.strip("|").split("|") if line.startswith("|") else []
        if cells:
            claim, own, pairs, difference, verdict, why = [*cells, ""][:6]
            claim = re.sub(rf"`({ANY})`", r"(`\1`)", claim) + (f"<br>*{why}*" if why else "")
            line = f"|{claim}|{verdict}|{pairs}|{difference}|{own}|"
        kept.append(line)
    return "\n".join(kept)
