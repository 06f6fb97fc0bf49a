"""The rows that claims about scores are judged by, from the scored pools of a pair (notebooks 03 to 06)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from gateau_lib.data.kinds import NEEDS_FAR
from gateau_lib.experiments import explanations, pool, ranking, selection_runs, workload
from gateau_lib.experiments.compositions import mixed
from gateau_lib.experiments.ranking import Rows
from gateau_lib.methods import METHODS as registered
from gateau_lib.methods import cam, selection
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study

REPLACED = ("cam_uniform_attention", "cam_shuffled_attention")  # see `with_replaced_attention`
AWARENESS = (*pool.CAM_VARIANTS, "importance_range", "top_segment_match", *REPLACED)
COMBINED = (
    *ranking.COMBINATIONS,
    "prolong",
    "ifd",
    "facts",
    *dict.fromkeys(("longest", "random", *ranking.OTHERS)),
)
PRECISE = (
    *ranking.COMBINATIONS, "hmg_minmax_ntk", "hmg_log_truncate", "cam_default", "prolong",
    "perplexity_guidance", "ifd", "longest", *ranking.OTHERS, "contrast_log", "random",
)  # fmt: skip
COMPARED = ("gateau_rank", "hmg_minmax_ntk", "hmg_log_truncate", "cam_default", "perplexity_guidance", "ifd")
AUDIT = {"hmp": "hmp", "cam": "cam_default", "length": "n_tokens"}  # condition: what combinations resemble
# Every method whose scores of each sample are kept.
METHODS = tuple(
    dict.fromkeys((*ranking.GUIDANCE, *AWARENESS, *COMBINED, "hmp", "prolong_no_specificity", "random"))
)


def guided(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The pools of real text with the methods of `ranking.GUIDANCE`."""
    return ranking.by_pool(pool.scored(study, pair, data, ("real",), ["homologous"]), ranking.guidance)


def scored(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The independent pools with all `pool.PARTS`, as arms choose from them."""
    return pool.scored(study, pair, data, ("independent",), list(pool.PARTS))


def mixtures(study: Study, data: Path, pair: Path, parts: Sequence[str]) -> pd.DataFrame:
    """The independent pools in every composition with some of `pool.PARTS`, ``homologous`` among them.

    With the methods of `ranking.GUIDANCE`, ``random``, and of ``awareness`` those of `AWARENESS` and
    ``segment_contrast``.
    """
    drawn = pool.scored(study, pair, data, ("independent",), list(parts))
    drawn["random"] = np.random.default_rng(study.seed).random(len(drawn))
    if "awareness" in parts:
        drawn = with_replaced_attention(drawn, study.seed)
    scores = ranking.by_pool(mixed(drawn, study.seed), ranking.guidance)
    if "awareness" in parts:
        scores = ranking.by_pool(scores, ranking.others, study.profile.alpha, ranking.DERIVED)
    return scores


def whole(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The independent pools in every composition with all of `METHODS`, and what is known of each sample."""
    alpha = study.profile.alpha
    scores = ranking.by_pool(mixtures(study, data, pair, list(pool.PARTS)), ranking.combined, alpha)
    return ranking.by_pool(scores, ranking.others, alpha)


def with_replaced_attention(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """CAM of every sample with its attention made uniform, and shuffled over segments and then softmaxed."""
    rng = np.random.default_rng(seed)
    read = [(n, pool.layered(a, n)) for n, a in zip(scores["segment_nll"], scores["attention"], strict=True)]
    uniform = [cam.contextual_awareness(n, np.ones((1, len(n)))) for n, _ in read]
    moved = [cam.contextual_awareness(n, rng.permutation(a, axis=1), attention="softmax") for n, a in read]
    return scores.assign(cam_uniform_attention=uniform, cam_shuffled_attention=moved)


def guidance_rows(scores: pd.DataFrame, methods: Sequence[str] = tuple(ranking.GUIDANCE)) -> Rows:
    """AUC in every pool, and correlation with length (03)."""
    length = ranking.correlation_rows(composition(scores, "clean"), methods, "n_tokens", "length")
    return ranking.auc_rows(scores, methods) + length


def awareness_rows(scores: pd.DataFrame, methods: Sequence[str] = AWARENESS) -> Rows:
    """AUC of CAM in its forms, and what its attention changes (04)."""
    softmaxed = "cam_softmax_attention"
    same = ranking.correlation_rows(composition(scores, "clean"), REPLACED, softmaxed, softmaxed)
    return ranking.auc_rows(scores, methods) + same


def combination_rows(scores: pd.DataFrame) -> Rows:
    """AUC of combinations and the other selectors, precision of all, what combinations resemble (06)."""
    rows = ranking.auc_rows(scores, COMBINED) + ranking.precision_rows(scores, PRECISE)
    for condition, column in AUDIT.items():
        rows += ranking.correlation_rows(
            composition(scores, "clean"), tuple(ranking.COMBINATIONS), column, condition
        )
    return rows


def document_rows(documents: pd.DataFrame) -> Rows:
    """AUC of ProLong on plain documents: dependent ones against all others, and repetitive ones (05)."""
    marked = documents.assign(pool="documents", dependent=documents["kind"] == "dependent")
    against = marked[marked["kind"].isin(["dependent", "repetitive"])].assign(pool="documents_repetitive")
    methods = ("prolong", "prolong_no_specificity")
    parts = (ranking.auc_rows(part, methods, "dependent") for part in (marked, against))
    return [row for rows in parts for row in rows]


def composition(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    """The samples of the pools in one of `compositions.COMPOSITIONS`."""
    return scores[scores["pool"] == name]


def length_rows(scores: pd.DataFrame, methods: Sequence[str] = METHODS) -> Rows:
    """AUC of each method among samples of like length, ``auc_like_lengths``, without and with noise."""
    parts = (composition(scores, name) for name in ("clean", "noisy"))
    return [row for part in parts for row in ranking.like_length_rows(part, methods)]


def cost_rows(profile: Profile) -> Rows:
    """Tokens that each selector lets models read, as a multiple of the pool's own, ``forwarded``."""
    samples = workload.planted(profile)
    whole, rows = sum(sample.whole for sample in samples), []
    for name, method in registered.items():
        asked = "hmg cam" if name == "gateau" else name
        reads = method.passes or name == "gateau"
        tokens = workload.scoring(profile, samples, len(samples), asked)["tokens"].sum() if reads else 0
        row = {"metric": "forwarded", "method": ranking.COLUMN_OF.get(name, name), "condition": "planned"}
        rows.append(row | {"seed": 0, "value": float(tokens / whole), "n": len(samples)})
    return rows


def kind_rows(scores: pd.DataFrame, methods: Sequence[str] = METHODS) -> Rows:
    """AUC of each needy kind alone (the condition) against all honest samples that need nothing far."""
    drawn = composition(scores, "clean")
    parts = [
        drawn[~drawn["needs_far"] | (drawn["kind"] == kind)].assign(pool=kind) for kind in sorted(NEEDS_FAR)
    ]
    return [row for part in parts for row in ranking.auc_rows(part, methods)]


def rows(study: Study, data: Path, pair: Path) -> Rows:
    """All of them for one pair."""
    scores = whole(study, data, pair)
    planted = guidance_rows(scores) + awareness_rows(scores) + combination_rows(scores) + kind_rows(scores)
    planted += length_rows(scores) + cost_rows(study.profile)
    documents = pool.scored_documents(study, pair, data)
    real = ranking.auc_rows(guided(study, data, pair), tuple(ranking.GUIDANCE))
    explained = explanations.rows(study, data, pair, composition(scores, "independent"), documents)
    return planted + document_rows(documents) + real + explained


def chosen(study: Study, data: Path, pair: Path) -> dict[int, dict[str, list[str]]]:
    """What each arm takes of the independent pool of each number, see `selection_runs.choices`."""
    pools, first = scored(study, data, pair).groupby("seed", sort=False), 100 * study.seed
    return {int(n): selection_runs.choices(part, study.profile, first + int(n)) for n, part in pools}


def common(study: Study, data: Path, pair: Path) -> dict[str, list[str]]:
    """What `COMPARED` take of the common pool, which every pair has alike, best first."""
    scores = pool.scored(study, pair, data, ("common",), ["homologous", "awareness"])
    scores = ranking.combined(ranking.guidance(scores), study.profile.alpha)
    share = study.profile.fraction
    return {name: selection.top_fraction(list(scores["id"]), scores[name], share) for name in COMPARED}
