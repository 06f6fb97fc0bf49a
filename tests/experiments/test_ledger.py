"""What the ledger claims: whole sentences with fixed margins, about rows that the study does measure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from gateau_lib.data.kinds import KINDS, NEEDS_FAR
from gateau_lib.experiments import (
    cam_settings,
    compositions,
    explanations,
    ledger,
    phase,
    ranking,
    recall,
    score_rows,
    selection_runs,
    skip_outcomes,
    skip_runs,
)
from gateau_lib.experiments.ledger import Selector
from gateau_lib.study.profiles import resolve

CLAIMS = ledger.load_claims()
NOTEBOOKS = {path.stem for path in (Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb")}
# Margins by a part of the metric's name, the first that fits.
MARGINS = {"probability": {0.03}, "effect": {0.1, 0.25}, "": {0.05, 0.1}}
PRONOUNS = ("It ", "They ", "This ", "These ", "Those ", "There ", "He ", "She ", "The same ", "So ")

every_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)


def measured() -> set[Selector]:
    """All rows of a pair of the cpu profile that a claim may be about."""
    cpu, found = resolve("cpu"), set()

    def add(metrics: Iterable[str], methods: Iterable[str], conditions: Iterable[object]) -> None:
        found.update(Selector(*map(str, each)) for each in itertools.product(metrics, methods, conditions))

    lengths = cpu.eval_lengths
    add(recall.TELLINGS, ("theta_a", "theta_a_ntk", "theta_b"), lengths)
    add(["auc"], score_rows.METHODS, (*compositions.COMPOSITIONS, *NEEDS_FAR))
    add(["auc_like_lengths"], score_rows.METHODS, ("clean", "noisy"))
    add(["auc"], ranking.GUIDANCE, ["real"])
    add(["auc"], ("prolong", "prolong_no_specificity"), ("documents", "documents_repetitive"))
    add([f"precision_at_{f:.0%}".rstrip("%") for f in ranking.FRACTIONS], score_rows.PRECISE, ["clean"])
    add(["rank_correlation"], ranking.GUIDANCE, ["length"])
    add(["rank_correlation"], score_rows.REPLACED, ["cam_softmax_attention"])
    add(["rank_correlation"], ranking.COMBINATIONS, score_rows.AUDIT)
    add(["rank_correlation"], ["prolong_short_model"], ["prolong"])
    add(["jaccard"], score_rows.COMPARED, ["common"])
    # Explanations
    cuts = [cpu.short_window // by for by in explanations.CUTS]
    cuts += [cpu.short_window * by for by in explanations.CUTS]
    changed = [f"contrast_cut_{n}" for n in cuts] + [f"hmg_log_ntk_{n}x" for n in explanations.STRETCHES]
    early = [f"{name}_early" for name in ("contrast", "hmg_log_ntk", "perplexity")]
    effects = ("effect", "effect_far")
    add(["auc"], [*changed, *early, *effects], ["clean"])
    add(effects, KINDS, ["independent"])
    layers = [f"cam_layer_{n + 1}" for n in range(cpu.layers)]
    add(["auc"], [*cam_settings.LENGTHS, *layers], ["clean"])
    halfway = [f"{name}{phase.SUFFIX}" for name in phase.HALF_WAY]
    add([phase.METRIC], [*phase.FINISHED, *halfway], [f"{share:g}" for share in phase.SHARES])
    judges = ("one_segment", "attention", "attention_top", "attention_heads")
    add(["importance_correlation", "evidence_first"], judges, ["clean"])
    add(["link_auc"], ("strength", "distance", "specificity"), ["documents"])
    add(["strong_pairs_planted", "planted_pairs_strong"], ["strength"], ["documents"])
    # Fine-tuning
    tuned = ["long_probability", "long_accuracy", "long_exact", "short_probability", "short_accuracy"]
    for arm in selection_runs.arms(cpu):
        add(tuned, (arm.selector, "base"), [arm.condition])
    starts = {skip_runs.SKIPPING: "", skip_runs.SKIPPING_WIDER: f"{skip_outcomes.wider_window(cpu)}:"}
    for experiment, start in starts.items():
        models = (*skip_outcomes.UNTRAINED, *skip_runs.methods(cpu, experiment))
        add(("needle_probability", "needle_accuracy"), models, [f"{start}{n}" for n in lengths])
        add(("short_probability", "short_accuracy"), models, [f"{start}short_tasks"])
        add(("plain_nll", "real_nll"), models, [f"{start}{cpu.short_window}"])
    return found


ROWS = measured()


def test_the_file_has_every_part_once():
    """Of two parts of one name YAML would read the later one and say nothing."""
    text = ledger.LEDGER.read_text(encoding="utf-8")
    assert re.findall(r"^(\w+):", text, re.M) == ["not_testable", "claims"]
    assert re.findall(r"^  - id: (.+)$", text, re.M) == [claim.id for claim in CLAIMS]


def test_there_are_claims_of_every_paper_and_each_has_its_own_name():
    assert len(CLAIMS) >= 60
    assert len({claim.id for claim in CLAIMS}) == len({claim.statement for claim in CLAIMS}) == len(CLAIMS)
    assert {"GATEAU", "ProLong", "SkipAlign", "ours"} <= {claim.paper for claim in CLAIMS}


@every_claim
def test_a_statement_can_be_read_by_itself(claim):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id)
    assert claim.statement.endswith(".") and claim.statement[0].isupper()
    assert not claim.statement.startswith(PRONOUNS) and "  " not in claim.statement
    assert claim.paper and claim.source
    if claim.relation in ledger.TOLERANCES:  # it says that nothing is lost, not that something is gained
        assert not re.search(r"\b(differs?|changes how|beats|better|more than|less)\b", claim.statement)


@every_claim
def test_margins_are_of_a_size_for_each_kind_of_measure(claim):
    sizes = next(sizes for part, sizes in MARGINS.items() if part in claim.value.metric)
    assert claim.margin in sizes
    if claim.effect is not None:  # what is of interest is far larger than the tolerance
        assert claim.effect >= 4 * claim.margin


@every_claim
def test_evidence_is_in_a_notebook(claim):
    assert claim.evidence in NOTEBOOKS
    assert {other.evidence for other in CLAIMS if other.family == claim.family} == {claim.evidence}


@every_claim
def test_what_is_claimed_is_measured(claim):
    for side in (claim.value, claim.against):
        if isinstance(side, Selector):
            by_length = side.condition in ("longest", "shortest")
            wanted = side._replace(condition=str(resolve("cpu").short_window)) if by_length else side
            assert wanted in ROWS, side


@every_claim
def test_nobody_compares_a_thing_with_itself(claim):
    assert claim.value != claim.against
