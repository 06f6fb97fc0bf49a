"""Every score of the candidate pools, computed once and kept: what the HMG, CAM and ProLong notebooks read.

`homologous`, `awareness` and `dependencies` say how a table is built; it has one row a sample in pool order. Pool-level steps
(min-max, softmax, ranks) are left to `gateau_lib.experiments.ranking`, because they depend on which samples are in the pool.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import KINDS, needs_far, read_documents
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.passages import DOCUMENT_KINDS
from gateau_lib.data.samples import Encoded, Sample, encode, evidence_tokens
from gateau_lib.experiments import workload
from gateau_lib.experiments.ranking import COLUMN_OF, OTHERS
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import READINGS, Options
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.model_passes import (
    long_pass,
    response_nll,
    segment_importance,
    short_reader_nll,
)
from gateau_lib.methods.pair_passes import score_documents
from gateau_lib.methods.reader import Reader, extended
from gateau_lib.models import loading
from gateau_lib.models.nll import continuation_nll
from gateau_lib.models.pair import Pair
from gateau_lib.models.sizes import Work
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

SERIAL_BYTES = 1_200_000  # of samples
CAM_VARIANTS: dict[str, dict[str, str]] = {
    "cam_default": {},
    "cam_softmax_attention": {"attention": "softmax"},
    "cam_ppl": {"importance": "softmax_ppl"},
    "cam_aligned": {"sign": "aligned"},
}


def homologous(study: Study, pair: Path, samples: Path) -> Build:
    """NLLs of the responses of a pool, in nats per response token, for HMG and its single-model relatives.

    Returns:
        How to build columns ``id``, ``n_tokens``; ``nll_long`` (theta_B, whole sample), ``nll_long_truncate`` (theta_B, the last
        tokens that the short window holds), ``nll_short_<reading>`` (theta_A), ``nll_alone`` (theta_B, no prompt).
    """
    profile = study.profile
    used = {"max_length": profile.max_length, "window": profile.short_window, "dtype": profile.dtype}
    return _build(f"homologous-{samples.stem}", write_homologous, pair=pair, samples=samples, **used)


def write_homologous(pair: Path, samples: Path, max_length: int, window: int, dtype: str, out: Path) -> None:
    """Compute the table of `homologous` and leave it in the folder ``out``."""
    count: Counter = Counter()
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


def awareness(study: Study, pair: Path, samples: Path) -> Build:
    """CAM of a pool in its normalisations, with the two vectors it compares.

    Returns:
        How to build columns ``id``; one a key of `CAM_VARIANTS`; ``importance_range`` (largest minus smallest segment NLL);
        ``top_segment_match`` (1 if the most attended segment is the most important one); ``segment_nll`` (segments,);
        ``attention`` (layers * segments,), layer after layer, the attention a key of the segment gets (see `layered`);
        ``evidence`` (numbers of the segments that hold planted evidence).
    """
    profile = study.profile
    used = {
        "max_length": profile.max_length,
        "segment_length": profile.segment_length,
        "dtype": profile.dtype,
    }
    return _build(f"awareness-{samples.stem}", write_awareness, pair=pair, samples=samples, **used)


def write_awareness(
    pair: Path, samples: Path, max_length: int, segment_length: int, dtype: str, out: Path
) -> None:
    """Compute the table of `awareness` and leave it in the folder ``out``."""
    count: Counter = Counter()
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


def layered(attention: np.ndarray, segment_nll: np.ndarray) -> np.ndarray:
    """Attention (layers, segments) from a row's columns ``attention`` and ``segment_nll`` of `awareness`."""
    return np.asarray(attention).reshape(-1, len(segment_nll))


def dependencies(study: Study, pair: Path, texts: Path, *, documents: bool = False) -> Build:
    """ProLong's long-dependency scores, with theta_B as the scorer.

    Args:
        texts: a pool (the score is of context, instruction and response as one document) or, with ``documents``, plain documents.

    Returns:
        How to build columns ``id``, ``prolong``, ``prolong_no_specificity`` (every specificity at 1), ``pairs``, ``segments``.
    """
    profile = study.profile
    used = {
        "max_length": profile.max_length,
        "segment_length": profile.segment_length,
        "window": profile.long_window,
        "pairs": profile.prolong_pairs,
        "dtype": profile.dtype,
        "seed": study.seed,
    }
    name = f"dependencies-{'documents-' if documents else ''}{texts.stem}"
    return _build(name, write_dependencies, pair=pair, texts=texts, documents=documents, **used)


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
    """Compute the table of `dependencies` and leave it in the folder ``out``."""
    count: Counter = Counter()
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


def others(study: Study, pair: Path, samples: Path) -> Build:
    """What the registered methods read that no other part holds, one table for all of `ranking.OTHERS`.

    Returns:
        How to build columns ``id`` and those that the methods leave in a score table.
    """
    profile, methods = study.profile, [METHODS[name] for name in OTHERS if METHODS[name].fill]
    known = {column for name in COLUMN_OF for column in METHODS[name].columns}  # the other parts hold these
    used = {
        "methods": [method.name for method in methods],
        "columns": sorted({column for method in methods for column in method.columns} - known),
        "max_length": profile.max_length,
        "segment_length": profile.segment_length,
        "window": profile.short_window,
        "pairs": profile.prolong_pairs,
        "dtype": profile.dtype,
        "seed": study.seed,
    }
    return _build(f"others-{samples.stem}", write_others, pair=pair, samples=samples, **used)


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
    """Compute the table of `others` and leave it in the folder ``out``."""
    counts: dict[str, Counter] = {}
    asked = [METHODS[name] for name in methods]
    passes = {name for method in asked for name in method.passes}
    options = Options(
        tuple(methods), "ntk", segment_length, max_length, window, prolong_pairs=pairs, seed=seed
    )
    long, tokenizer = loading.load(pair / "long", dtype)
    short, _ = loading.load(pair / "short", dtype)
    drawn = read_samples(samples)
    encoded = _encoded(drawn, tokenizer, max_length)
    reader = Reader(
        drawn, encoded, extended(Pair(short, long, tokenizer), options, passes), options, passes, counts
    )
    filled = {name: values for method in asked for name, values in method.fill(reader).items()}
    table = pd.DataFrame({"id": [sample.id for sample in drawn]} | {name: filled[name] for name in columns})
    _save(out, table, sum(counts.values(), Counter()))


PARTS: dict[str, Callable[[Study, Path, Path], Build]] = {
    "homologous": homologous,
    "awareness": awareness,
    "dependencies": dependencies,
    "others": others,
}


def scored(study: Study, pair: Path, data: Path, pools: Sequence[str], parts: Sequence[str]) -> pd.DataFrame:
    """Scores of all samples of the named pools, of every pool seed, with what is known about the samples.

    Args:
        pair: of `pretrain.pair`. data: of `corpus.prepared`.
        parts: keys of `PARTS`; missing tables are built by `workers.at_once` processes, or here if there is little text.

    Returns:
        One row a sample: ``pool``, ``seed`` (the pool's number), ``id``, ``kind``, ``needs_far`` (the label to be found), then
        the columns of the parts. ``attrs["count"]`` has ``tokens``, ``padded`` and ``forwards`` of the model for each part.
    """
    draws = [
        (pool, n, data / "pools" / f"{pool}-{n}.jsonl")
        for pool in pools
        for n in range(study.profile.pool_seeds)
    ]
    builds = {
        f"{part} of {path.stem}": PARTS[part](study, pair, path) for _, _, path in draws for part in parts
    }
    folders = iter(build_all(study, builds, _workers(study, [path for *_, path in draws]), "scoring"))
    count = {part: Counter() for part in parts}
    frames = []
    for pool, n, path in draws:
        drawn = read_samples(path)
        labels = {
            "id": [s.id for s in drawn],
            "kind": [s.kind for s in drawn],
            "needs_far": [needs_far(s) for s in drawn],
        }
        table = pd.DataFrame({"pool": pool, "seed": n, **labels})
        for part in parts:
            found = read_table(next(folders))
            count[part].update(found.attrs.pop("count"))
            table = table.merge(found, on="id", validate="one_to_one")
        frames.append(table)
    whole = pd.concat(frames, ignore_index=True)
    whole.attrs["count"] = {part: dict(counted) for part, counted in count.items()}
    return whole


def scored_documents(study: Study, pair: Path, data: Path) -> pd.DataFrame:
    """ProLong's scores of the plain documents of every pool seed.

    Returns:
        Columns ``seed``, ``id``, ``kind`` and those of `dependencies`; ``attrs["count"]`` as in `scored`.
    """
    paths = [data / "documents" / f"{n}.jsonl" for n in range(study.profile.pool_seeds)]
    builds = {f"documents {path.stem}": dependencies(study, pair, path, documents=True) for path in paths}
    count: Counter = Counter()
    frames = []
    folders = build_all(study, builds, _workers(study, paths), "documents")
    for n, (path, folder) in enumerate(zip(paths, folders, strict=True)):
        kinds = pd.DataFrame([{"seed": n, "id": d["id"], "kind": d["kind"]} for d in read_documents(path)])
        found = read_table(folder)
        count.update(found.attrs.pop("count"))
        frames.append(kinds.merge(found, on="id", validate="one_to_one"))
    whole = pd.concat(frames, ignore_index=True)
    whole.attrs["count"] = {"documents": dict(count)}
    return whole


def cost(profile: Profile) -> list[Work]:
    """What notebooks 03 to 05 read to score all pools."""
    alike = profile.pool_per_kind * profile.pool_seeds  # samples of a kind
    planted = 2 * len(KINDS) * alike  # samples of the pools independent and confounded
    real = 4 * alike  # which has four kinds
    samples = workload.planted(profile)
    homologous = workload.scoring(profile, samples, planted + real, "hmg contrast ifd")
    for reading in ("truncate", "raw"):
        homologous[reading] = workload.scoring(profile, samples, planted + real, "hmg", reading)["hmg"]
    awareness = workload.scoring(profile, samples, planted, "cam")
    documents = len(DOCUMENT_KINDS) * alike
    dependencies = workload.scoring(profile, samples, planted + documents, "prolong")
    return [
        Work("03", "HMG and its relatives", *sum(homologous.values())),
        Work("04", "CAM", *sum(awareness.values())),
        Work("05", "ProLong", *sum(dependencies.values())),
    ]


def read_table(folder: Path) -> pd.DataFrame:
    """The table in an artefact folder of this module; ``attrs["count"]`` counts the model's work on it."""
    table = pd.read_parquet(folder / "scores.parquet")
    table.attrs["count"] = json.loads((folder / "count.json").read_text(encoding="utf-8"))
    return table


def _workers(study: Study, texts: Sequence[Path]) -> int:
    """Processes to score with: none for little text, because a process needs seconds to start."""
    return at_once(study.profile) if sum(path.stat().st_size for path in texts) > SERIAL_BYTES else 0


def _encoded(drawn: Sequence[Sample], tokenizer: Any, max_length: int) -> list[Encoded]:
    return [encode(sample, tokenizer, max_length) for sample in drawn]


def _build(name: str, write: Callable[..., None], **inputs: Any) -> Build:
    return Build(name, write, inputs)


def _save(out: Path, table: pd.DataFrame, count: Counter) -> None:
    missing = table.select_dtypes("number").isna().any(axis="columns")
    if missing.any():
        raise ValueError(
            f"{table['id'][missing.idxmax()]}: a score is missing (too short for it?); a pool must be scored whole"
        )
    table.to_parquet(out / "scores.parquet")
    (out / "count.json").write_text(json.dumps(dict(count)) + "\n", encoding="utf-8")
