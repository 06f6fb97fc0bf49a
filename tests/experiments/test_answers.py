"""Sentences of verdicts: each is one that the verdict allows, filled with its own numbers."""

from __future__ import annotations

import re
import string
from types import SimpleNamespace

import pandas as pd
import pytest

from gateau_lib.experiments import answers
from gateau_lib.experiments.beside_evidence import NOTHING_YET, Settled
from gateau_lib.experiments.ledger import load_claims

CLAIMS = {claim.id: claim for claim in load_claims()}
TOLD = answers.told()


def verdict(name: str, said: str, **numbers: float) -> SimpleNamespace:
    known = {"value": 0.125, "against": 0.375, "low": -0.3, "high": -0.2, "p": 0.01} | numbers
    return SimpleNamespace(id=name, verdict=said, statement=CLAIMS[name].statement, **known)


@pytest.mark.parametrize("name", sorted(TOLD))
def test_every_sentence_can_be_said_and_has_no_number_of_its_own(name):
    said = TOLD[name]
    assert {"holds", "fails"} <= set(said) <= {"holds", "fails", "turned", "more"}
    assert "more" not in said or CLAIMS[name].relation == "not_below"
    assert len(set(said.values())) == len(said)
    if "turned" in said:
        assert CLAIMS[name].relation in ("above", "below")
    for text in said.values():
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field}
        assert "value" in fields <= {"value", "against"}
        assert not re.search(r"\d", re.sub(r"\{[^}]*\}", "", text)), "numbers come from the verdict"
        whole = text.format(value=0.125, against=0.375)
        assert whole[0].isupper() and whole.endswith(".") and "{" not in whole
        # It may stand first, or in another order.
        assert not whole.startswith(("It ", "They ", "So ", "Nor ", "This "))


def test_each_notebook_tells_its_own_claims_and_the_headline_is_told():
    for notebook, by_claim in answers.templates().items():
        if notebook != answers.HEADLINE:
            ours = {CLAIMS[name].evidence for name in by_claim}
            assert ours == {notebook} or (
                notebook == "01_data_synthesis" and ours <= {notebook, "03_hmg_scoring"}
            )
    assert set(answers.templates()[answers.HEADLINE]) <= set(TOLD)
    assert len(TOLD) == sum(
        len(said) for name, said in answers.templates().items() if name != answers.HEADLINE
    )


def test_the_sentence_is_that_of_the_verdict_and_of_the_sign():
    name = "gateau-beats-random"
    said = TOLD[name]
    for told, numbers in {
        "holds": {"value": 0.5, "against": 0.25, "low": 0.1, "high": 0.3},
        "fails": {"value": 0.26, "against": 0.25, "low": -0.01, "high": 0.02},
        "turned": {"value": 0.25, "against": 0.5, "low": -0.3, "high": -0.1},
    }.items():
        row = verdict(name, "holds" if told == "holds" else "fails", **numbers)
        assert answers.sentence(row) == said[told].format(**numbers)
    below = verdict("cam-wrong-with-noise", "fails", low=0.1, high=0.2)
    assert answers.turned(below) and not answers.turned(verdict("cam-wrong-with-noise", "fails"))
    better = {"value": 0.5, "against": 0.25, "low": 0.1, "high": 0.3}
    name, said = "short-instructions-suffice", TOLD["short-instructions-suffice"]
    assert answers.sentence(verdict(name, "holds", **better)) == said["more"].format(**better)
    same = better | {"low": -0.01}
    assert answers.sentence(verdict(name, "holds", **same)) == said["holds"].format(**same)
    name = "gateau-beats-random"
    # Nothing is said to be equal or different before it is decided.
    unsure = verdict(name, "inconclusive", low=-0.1, high=0.1)
    assert answers.sentence(unsure) == f"Undecided (0.12 against 0.38) is the claim: {CLAIMS[name].statement}"
    without = verdict(name, "not testable here", value=float("nan"))
    assert answers.sentence(without) == f"Not testable here: {CLAIMS[name].statement}"


def test_an_answer_is_its_notebooks_sentences_with_what_they_rest_on():
    asked = list(answers.templates()["03_hmg_scoring"])
    rows = [vars(verdict(name, "fails", low=-0.01, high=0.02)) for name in [*asked, "gateau-beats-random"]]
    found = Settled(pd.DataFrame(), "9 pairs of models.", pd.DataFrame(rows))
    text = answers.answer_text(found, "03_hmg_scoring")
    assert text.startswith("**Answer**, by 9 pairs of models. ")
    expected = [TOLD[name]["fails"].format(value=0.125, against=0.375) for name in asked]
    assert text.endswith(" ".join(expected))
    empty = found._replace(verdicts=found.verdicts.assign(value=float("nan")))
    assert answers.answer_text(empty, "03_hmg_scoring") == f"**Answer.** {NOTHING_YET}"


def test_the_headline_begins_with_what_is_surest_and_leaves_open_claims_out():
    names = ["gateau-beats-random", "skip-outer-extends", "prolong-finds-dependent", "longest-is-blind"]
    rows = [
        vars(verdict(name, said, p=p))
        for name, said, p in zip(
            names, ["fails", "holds", "inconclusive", "holds"], [0.02, 0.01, 0, 0], strict=True
        )
    ]
    lines = answers.headline(pd.DataFrame(rows)).splitlines()
    assert [line.split("`")[1] for line in lines] == ["skip-outer-extends", "gateau-beats-random"]
    assert answers.headline(pd.DataFrame(rows), 1).count("- ") == 1
    assert answers.headline(pd.DataFrame(rows[2:])) == "None."


def test_a_summary_has_five_lines_computed_from_the_verdicts_of_its_notebook():
    names = [
        "prolong-finds-dependent",
        "prolong-finds-far-clean",
        "specificity-guards",
        "hmg-ranks-far-clean",
    ]
    said = ["holds", "fails", "inconclusive", "holds"]
    rows = [
        vars(verdict(name, each, p=0.1 * n, difference=0.25)) | {"paper": CLAIMS[name].paper}
        | {"evidence": CLAIMS[name].evidence, "reason": "too few", "pairs": 9}
        for n, (name, each) in enumerate(zip(names, said, strict=True))
    ]  # fmt: skip
    found = Settled(pd.DataFrame(), "9 pairs of models.", pd.DataFrame(rows))
    own = pd.DataFrame({"id": names[:3], "value": [1.0, 0.0, float("nan")], "against": 0.5})
    text = answers.summary_text(found, "05_prolong_comparison", own)
    told = TOLD["prolong-finds-dependent"]["holds"].format(value=0.125, against=0.375)
    assert text.splitlines() == [
        "**Summary**",
        "",
        "- Of 3 claims 1 hold, 1 fail, 1 stay inconclusive.",
        f"- Surest: {told}",
        f"- What papers say and what fails here: GATEAU: {CLAIMS[names[1]].statement.rstrip('.')}.",
        f"- Nearest to a verdict: {CLAIMS[names[2]].statement} too few.",
        "- One pair alone, this one, has the sign of the many in 1 of 2 claims.",
    ]
    nothing = found._replace(verdicts=found.verdicts.assign(value=float("nan")))
    assert answers.summary_text(nothing, "05_prolong_comparison", own) == f"**Summary.** {NOTHING_YET}"
