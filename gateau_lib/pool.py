"""Every score of one candidate pool, computed once and kept: what the HMG, CAM and ProLong notebooks read.

Each function returns a table with one row a sample in pool order, joined by ``id``. Pool-level steps (min-max, softmax, ranks)
are left to the reader of the table, because they depend on which samples are in the pool.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib import models
from gateau_lib.cam import contextual_awareness, long_pass, segment_importance
from gateau_lib.corpus import read_documents
from gateau_lib.hmg import READINGS, short_reader_nll
from gateau_lib.nll import continuation_nll, response_nll
from gateau_lib.prolong import score_documents
from gateau_lib.samples import Encoded, encode, read_samples
from gateau_lib.store import Study, artefact


def _encoded(study: Study, tokenizer: Any, samples: Path) -> list[Encoded]:
    return [encode(sample, tokenizer, study.profile.max_length) for sample in read_samples(samples)]


def _save(out: Path, table: pd.DataFrame, count: Counter) -> None:
    if table.drop(columns="id").select_dtypes("number").isna().any(axis=None):
        raise ValueError(f"{out.name}: a score is NaN; the pool must be scored whole")
    table.to_parquet(out / "scores.parquet")
    (out / "count.json").write_text(json.dumps(dict(count)) + "\n", encoding="utf-8")


def homologous(study: Study, pair: Path, samples: Path) -> pd.DataFrame:
    """NLLs of the responses of a pool, in nats per response token, for HMG and its single-model relatives.

    Returns:
        Columns ``id``, ``n_tokens``; ``nll_long`` (theta_B, whole sample), ``nll_long_truncate`` (theta_B, the last tokens
        that the short window holds), ``nll_short_<reading>`` (theta_A), ``nll_alone`` (theta_B, the response without a prompt).
    """

    def build(out: Path) -> None:
        count: Counter = Counter()
        profile = study.profile
        short, tokenizer = models.load(pair / "short", profile.dtype)
        long, _ = models.load(pair / "long", profile.dtype)
        encoded = _encoded(study, tokenizer, samples)
        table = pd.DataFrame({"id": [e.id for e in encoded], "n_tokens": [len(e.ids) for e in encoded]})
        table["nll_long"] = response_nll(long, encoded, count=count)
        cut = {"window": profile.short_window, "target": profile.max_length, "count": count}
        table["nll_long_truncate"] = short_reader_nll(long, encoded, "truncate", **cut)
        for reading in READINGS:
            table[f"nll_short_{reading}"] = short_reader_nll(short, encoded, reading, **cut)
        alone = continuation_nll(long, [e.start for e in encoded], [e.response for e in encoded], count=count)
        table["nll_alone"] = [float(loss.mean()) for loss in alone]
        _save(out, table, count)

    used = {"max_length": study.profile.max_length, "window": study.profile.short_window, "dtype": study.profile.dtype}
    return _table(study, f"homologous-{samples.stem}", build, homologous, pair=pair, samples=samples, **used)


CAM_VARIANTS: dict[str, dict[str, str]] = {
    "cam_default": {},
    "cam_softmax_attention": {"attention": "softmax"},
    "cam_ppl": {"importance": "softmax_ppl"},
    "cam_aligned": {"sign": "aligned"},
}


def awareness(study: Study, pair: Path, samples: Path) -> pd.DataFrame:
    """CAM of a pool in its normalisations, with the two vectors it compares.

    Returns:
        Columns ``id``, ``nll_long``; one a key of `CAM_VARIANTS`; ``importance_range`` (largest minus smallest segment NLL),
        ``top_segment_match`` (1 if the most attended segment is the most important one), ``segment_nll`` (segments,) and
        ``attention`` (segments,), mean over layers of the attention a key of the segment gets.
    """

    def build(out: Path) -> None:
        count: Counter = Counter()
        length = study.profile.segment_length
        long, tokenizer = models.load(pair / "long", study.profile.dtype)
        encoded = _encoded(study, tokenizer, samples)
        passes = long_pass(long, encoded, length, count=count)
        segment_nll = segment_importance(long, encoded, length, count=count)
        rows = []
        for sample, one, nll in zip(encoded, passes, segment_nll, strict=True):
            attention = one.attention.mean(axis=0)
            scores = {name: contextual_awareness(nll, one.attention, **switch) for name, switch in CAM_VARIANTS.items()}
            extra = {"importance_range": float(np.ptp(nll)), "top_segment_match": float(nll.argmin() == attention.argmax())}
            vectors = {"segment_nll": nll, "attention": attention}
            rows.append({"id": sample.id, "nll_long": one.nll, **scores, **extra, **vectors})
        _save(out, pd.DataFrame(rows), count)

    used = {"max_length": study.profile.max_length, "segment_length": study.profile.segment_length, "dtype": study.profile.dtype}
    return _table(study, f"awareness-{samples.stem}", build, awareness, pair=pair, samples=samples, **used)


def dependencies(study: Study, pair: Path, texts: Path, *, documents: bool = False) -> pd.DataFrame:
    """ProLong's long-dependency scores, with theta_B as the scorer.

    Args:
        texts: a pool (the score is of context, instruction and response as one document) or, with ``documents``, plain documents.

    Returns:
        Columns ``id``, ``prolong``, ``prolong_no_specificity`` (every specificity set to 1), ``pairs``, ``segments``.
    """

    def build(out: Path) -> None:
        count: Counter = Counter()
        profile = study.profile
        long, tokenizer = models.load(pair / "long", profile.dtype)
        if documents:
            plain = read_documents(texts)
            ids = [d["id"] for d in plain]
            tokens = [tokenizer(d["text"], add_special_tokens=False)["input_ids"] for d in plain]
        else:
            encoded = _encoded(study, tokenizer, texts)
            ids, tokens = [e.id for e in encoded], [e.context + e.instruction + e.response for e in encoded]
        window = profile.long_window // profile.segment_length
        scores = score_documents(
            long,
            tokens,
            segment_length=profile.segment_length,
            pairs=profile.prolong_pairs,
            window_segments=window,
            seed=study.seed,
            count=count,
        )
        table = pd.DataFrame({"id": ids, "prolong": scores["lds"], "prolong_no_specificity": scores["lds_no_specificity"]})
        _save(out, table.assign(pairs=scores["pairs"], segments=scores["segments"]), count)

    used = {
        name: getattr(study.profile, name) for name in ("max_length", "segment_length", "long_window", "prolong_pairs", "dtype")
    }
    name = f"dependencies-{'documents-' if documents else ''}{texts.stem}"
    return _table(study, name, build, dependencies, pair=pair, samples=texts, documents=documents, seed=study.seed, **used)


def _table(study: Study, name: str, build: Any, code: Any, **inputs: Any) -> pd.DataFrame:
    folder = artefact(study, name, build, code=[code], **inputs)
    table = pd.read_parquet(folder / "scores.parquet")
    table.attrs["count"] = json.loads((folder / "count.json").read_text(encoding="utf-8"))
    return table
