"""The tables of scores of a candidate pool, each computed in one process and left in a folder.

`gateau_lib.experiments.pool` says what the columns hold, and when a table is made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import read_documents
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, Sample, encode, evidence_tokens
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import READINGS, Options
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.model_passes import long_pass, response_nll, segment_importance, short_reader_nll
from gateau_lib.methods.pair_passes import score_documents
from gateau_lib.methods.reader import COUNTED, Reader, extended
from gateau_lib.models import loading
from gateau_lib.models.nll import continuation_nll
from gateau_lib.models.pair import Pair

CAM_VARIANTS: dict[str, dict[str, Any]] = {
    "cam_default": {},
    "cam_softmax_attention": {"attention": "softmax"},
    "cam_ppl": {"importance": "softmax_ppl"},
    "cam_aligned": {"sign": "aligned"},
}


def write_homologous(pair: Path, samples: Path, max_length: int, window: int, dtype: str, out: Path) -> None:
    """Compute the table of `pool.homologous` and leave it in the folder ``out``."""
    count: Counter[str] = Counter()
    short, tokenizer = loading.load(pair / "short", dtype)
    long, _ = loading.load(pair / "long", dtype)
    encoded = _encoded(read_samples(samples), tokenizer, max_length)
    table = pd.DataFrame({"id": [e.id for e in encoded], "n_tokens": [len(e.ids) for e in encoded]})
    table["nll_long"] = response_nll(long, encoded, count=count)
    table["nll_long_truncate"] = short_reader_nll(long, encoded, "truncate", window=window, count=count)
    for reading in READINGS:
        nll = short_reader_nll(short, encoded, reading, window=window, target=max_length, count=count)
        table[f"nll_short_{reading}"] = nll
    alone = continuation_nll(long, [e.start for e in encoded], [e.response for e in encoded], count=count)
    table["nll_alone"] = [float(loss.mean()) for loss in alone]
    _save(out, table, count)


def write_awareness(
    pair: Path, samples: Path, max_length: int, segment_length: int, dtype: str, out: Path
) -> None:
    """Compute the table of `pool.awareness` and leave it in the folder ``out``."""
    count: Counter[str] = Counter()
    long, tokenizer = loading.load(pair / "long", dtype)
    drawn = read_samples(samples)
    encoded = _encoded(drawn, tokenizer, max_length)
    passes = long_pass(long, encoded, segment_length, count=count)
    importance = segment_importance(long, encoded, segment_length, count=count)
    rows = []
    for sample, part, one, nll in zip(drawn, encoded, passes, importance, strict=True):
        most = one.attention.mean(axis=0).argmax()
        scores = {
            name: contextual_awareness(nll, one.attention, **switch) for name, switch in CAM_VARIANTS.items()
        }
        extra = {"importance_range": float(np.ptp(nll)), "top_segment_match": float(nll.argmin() == most)}
        vectors = {"segment_nll": nll, "attention": one.attention.ravel()}
        evidence = evidence_segments(sample, part, tokenizer, segment_length)
        rows.append({"id": sample.id, **scores, **extra, **vectors, "evidence": evidence})
    _save(out, pd.DataFrame(rows), count)


def evidence_segments(sample: Sample, encoded: Encoded, tokenizer: Any, segment_length: int) -> list[int]:
    """Numbers of the context segments that hold the sample's planted evidence; what was cut off has none."""
    found: set[int] = set()
    for first, last in evidence_tokens(sample, tokenizer):
        kept = range(max(0, first - encoded.dropped), max(0, last - encoded.dropped))
        found.update(token // segment_length for token in kept)
    return sorted(found)


def write_dependencies(
    pair: Path,
    texts: Path,
    documents: bool,
    max_length: int,
    segment_length: int,
    window: int,
    pairs: int,
    dtype: str,
    seed: int,
    out: Path,
) -> None:
    """Compute the table of `pool.dependencies` and leave it in the folder ``out``."""
    count: Counter[str] = Counter()
    long, tokenizer = loading.load(pair / "long", dtype)
    if documents:
        plain = read_documents(texts)
        ids = [d["id"] for d in plain]
        tokens = [tokenizer(d["text"], add_special_tokens=False, verbose=False)["input_ids"] for d in plain]
    else:
        encoded = _encoded(read_samples(texts), tokenizer, max_length)
        ids, tokens = [e.id for e in encoded], [e.context + e.instruction + e.response for e in encoded]
    shape = {"segment_length": segment_length, "pairs": pairs, "window_segments": window // segment_length}
    scores = score_documents(long, tokens, **shape, seed=seed, count=count)
    table = pd.DataFrame(
        {"id": ids, "prolong": scores["lds"], "prolong_no_specificity": scores["lds_no_specificity"]}
    )
    _save(out, table.assign(pairs=scores["pairs"], segments=scores["segments"]), count)


def write_others(
    pair: Path,
    samples: Path,
    methods: Sequence[str],
    columns: Sequence[str],
    max_length: int,
    segment_length: int,
    window: int,
    pairs: int,
    dtype: str,
    seed: int,
    out: Path,
) -> None:
    """Compute the table of `pool.others` and leave it in the folder ``out``."""
    asked = [METHODS[name] for name in methods]
    passes = {name for method in asked for name in method.passes}
    sizes: dict[str, Any] = {
        "segment_length": segment_length,
        "max_length": max_length,
        "short_window": window,
    }
    options = Options(tuple(methods), "ntk", **sizes, prolong_pairs=pairs, seed=seed)
    long, tokenizer = loading.load(pair / "long", dtype)
    short, _ = loading.load(pair / "short", dtype)
    both = extended(Pair(short, long, tokenizer), options, passes)
    drawn = read_samples(samples)
    reader = Reader(drawn, _encoded(drawn, tokenizer, max_length), both, options, passes)
    fills = [cast(Callable[[Reader], Mapping[str, Any]], method.fill) for method in asked]
    filled = {name: values for fill in fills for name, values in fill(reader).items()}
    table = pd.DataFrame({"id": [sample.id for sample in drawn]} | {name: filled[name] for name in columns})
    count = Counter(dict.fromkeys(COUNTED, 0))
    for counted in reader.counts.values():
        count.update(counted)
    _save(out, table, count)


def _encoded(drawn: Sequence[Sample], tokenizer: Any, max_length: int) -> list[Encoded]:
    return [encode(sample, tokenizer, max_length) for sample in drawn]


def _save(out: Path, table: pd.DataFrame, count: Counter[str]) -> None:
    missing = table.select_dtypes("number").isna().any(axis="columns")
    if missing.any():
        raise ValueError(
            f"{table['id'][missing.idxmax()]}: a score is missing (too short for it?); a pool must be scored whole"
        )
    table.to_parquet(out / "scores.parquet")
    (out / "count.json").write_text(json.dumps(dict(count)) + "\n", encoding="utf-8")
