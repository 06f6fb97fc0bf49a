"""The rows that claims about scores are judged by, from the scored pools of a pair (notebooks 03 to 05)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.experiments import compositions, pool, ranking, selection_runs
from gateau_lib.methods import cam
from gateau_lib.study.store import Study

Rows = list[dict[str, Any]]

REPLACED = ("cam_uniform_attention", "cam_shuffled_attention")  # see `with_replaced_attention`
AWARENESS = (*pool.CAM_VARIANTS, "importance_range", "top_segment_match", *REPLACED)
COMBINED = (*ranking.COMBINATIONS, "prolong", "ifd", "longest", *ranking.OTHERS)
PRECISE = (
    *ranking.COMBINATIONS, "hmg_minmax_ntk", "cam_default", "prolong", "perplexity_guidance", "ifd",
    "longest", *ranking.OTHERS, "contrast_log", "random",
)  # fmt: skip
AUDIT = {"hmp": "hmp", "cam": "cam_default", "length": "n_tokens"}  # condition: what combinations resemble
# Every method whose scores of each sample are kept.
METHODS = tuple(
    dict.fromkeys((*ranking.GUIDANCE, *AWARENESS, *COMBINED, "hmp", "prolong_no_specificity", "random"))
)


def guided(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The independent pool in every composition, and the real one, with the methods of `ranking.GUIDANCE`."""
    scores = pool.scored(study, pair, data, ("independent", "real"), ["homologous"])
    return ranking.by_pool(compositions.mixed(scores, study.seed), ranking.guidance)


def whole(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The independent pool in every composition with all of `METHODS`, beside what is known of each sample.

    What belongs to a sample by itself is the same in all compositions; combinations are of each anew.
    """
    scores, alpha = pool.scored(study, pair, data, ("independent",), list(pool.PARTS)), study.profile.alpha
    scores = with_replaced_attention(scores, study.seed)
    scores = scores.assign(random=np.random.default_rng(study.seed).random(len(scores)))
    scores = ranking.by_pool(compositions.mixed(scores, study.seed), ranking.guidance)
    return ranking.by_pool(ranking.by_pool(scores, ranking.combined, alpha), ranking.others, alpha)


def with_replaced_attention(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """CAM of every sample with its attention made uniform, and shuffled over segments and then softmaxed."""
    rng = np.random.default_rng(seed)
    read = [(n, pool.layered(a, n)) for n, a in zip(scores["segment_nll"], scores["attention"], strict=True)]
    uniform = [cam.contextual_awareness(n, np.ones((1, len(n)))) for n, _ in read]
    moved = [cam.contextual_awareness(n, rng.permutation(a, axis=1), attention="softmax") for n, a in read]
    return scores.assign(cam_uniform_attention=uniform, cam_shuffled_attention=moved)


def guidance_rows(scores: pd.DataFrame, methods: Sequence[str] = tuple(ranking.GUIDANCE)) -> Rows:
    """AUC in every pool, and correlation with length (03)."""
    length = ranking.correlation_rows(independent(scores), methods, "n_tokens", "length")
    return ranking.auc_rows(scores, methods) + length


def awareness_rows(scores: pd.DataFrame, methods: Sequence[str] = AWARENESS) -> Rows:
    """AUC of CAM in its forms, and what its attention changes (04)."""
    softmaxed = "cam_softmax_attention"
    same = ranking.correlation_rows(independent(scores), REPLACED, softmaxed, softmaxed)
    return ranking.auc_rows(scores, methods) + same


def combination_rows(scores: pd.DataFrame) -> Rows:
    """AUC of combinations and the other selectors, precision of all, what combinations resemble (05)."""
    rows = ranking.auc_rows(scores, COMBINED) + ranking.precision_rows(scores, PRECISE)
    for condition, column in AUDIT.items():
        rows += ranking.correlation_rows(independent(scores), tuple(ranking.COMBINATIONS), column, condition)
    return rows


def document_rows(documents: pd.DataFrame) -> Rows:
    """AUC of ProLong on plain documents: dependent ones against all others, and repetitive ones (05)."""
    marked = documents.assign(pool="documents", dependent=documents["kind"] == "dependent")
    against = marked[marked["kind"].isin(["dependent", "repetitive"])].assign(pool="documents_repetitive")
    methods = ("prolong", "prolong_no_specificity")
    parts = (ranking.auc_rows(part, methods, "dependent") for part in (marked, against))
    return [row for rows in parts for row in rows]


def independent(scores: pd.DataFrame) -> pd.DataFrame:
    """The samples of the independent pools."""
    return scores[scores["pool"] == "independent"]


def rows(study: Study, data: Path, pair: Path) -> Rows:
    """All of them for one pair."""
    scores = whole(study, data, pair)
    planted = awareness_rows(scores) + combination_rows(scores)
    documents = document_rows(pool.scored_documents(study, pair, data))
    return guidance_rows(guided(study, data, pair)) + planted + documents


def chosen(study: Study, scores: pd.DataFrame) -> dict[int, dict[str, list[str]]]:
    """What each arm takes of the independent pool of each number, see `selection_runs.choices`; of `whole`."""
    pools, first = independent(scores).groupby("seed", sort=False), 100 * study.seed
    return {int(n): selection_runs.choices(part, study.profile, first + int(n)) for n, part in pools}
