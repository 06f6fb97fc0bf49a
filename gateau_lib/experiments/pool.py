"""Every score of the candidate pools, computed once and kept: what the HMG, CAM and ProLong notebooks read.

`homologous`, `awareness` and `dependencies` say how a table is built; it has one row a sample in pool order.
Pool-level steps (min-max, softmax, ranks) are left to `gateau_lib.experiments.ranking`, because they depend
on which samples are in the pool.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import KINDS, needs_far, read_documents
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.passages import DOCUMENT_KINDS
from gateau_lib.experiments import pool_tables, workload
from gateau_lib.experiments.ranking import COLUMN_OF, OTHERS
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import READINGS
from gateau_lib.models.sizes import Work
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

SERIAL_BYTES = 1_200_000  # of samples


def homologous(study: Study, pair: Path, samples: Path) -> Build:
    """NLLs of the responses of a pool, in nats per response token, for HMG and its single-model relatives.

    Returns:
        How to build columns ``id``, ``n_tokens``; ``nll_long`` (theta_B, whole sample), ``nll_long_truncate``
        (theta_B, the last tokens that the short window holds), ``nll_short_<reading>`` (theta_A),
        ``nll_alone`` (theta_B, no prompt).
    """
    profile = study.profile
    used = {"max_length": profile.max_length, "window": profile.short_window, "dtype": profile.dtype}
    return _build(
        f"homologous-{samples.stem}", pool_tables.write_homologous, pair=pair, samples=samples, **used
    )


def awareness(study: Study, pair: Path, samples: Path) -> Build:
    """CAM of a pool in its normalisations, with the two vectors it compares.

    Returns:
        How to build columns ``id``; one a key of `pool_tables.CAM_VARIANTS`; ``importance_range`` (largest
        minus smallest segment NLL); ``top_segment_match`` (1 if the most attended segment is the most
        important one); ``segment_nll`` (segments,); ``attention`` (layers * segments,), layer after layer,
        the attention a key of the segment gets (see `layered`); ``evidence`` (numbers of the segments that
        hold planted evidence).
    """
    profile = study.profile
    used = {
        "max_length": profile.max_length,
        "segment_length": profile.segment_length,
        "dtype": profile.dtype,
    }
    return _build(
        f"awareness-{samples.stem}", pool_tables.write_awareness, pair=pair, samples=samples, **used
    )


def layered(attention: np.ndarray, segment_nll: np.ndarray) -> np.ndarray:
    """Attention (layers, segments) from a row's columns ``attention`` and ``segment_nll`` of `awareness`."""
    return np.asarray(attention).reshape(-1, len(segment_nll))


def dependencies(study: Study, pair: Path, texts: Path, *, documents: bool = False) -> Build:
    """ProLong's long-dependency scores, with theta_B as the scorer.

    Args:
        texts: a pool (the score is of context, instruction and response as one document) or, with
            ``documents``, plain documents.

    Returns:
        How to build columns ``id``, ``prolong``, ``prolong_no_specificity`` (every specificity at 1),
        ``pairs``, ``segments``.
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
    return _build(name, pool_tables.write_dependencies, pair=pair, texts=texts, documents=documents, **used)


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
    return _build(f"others-{samples.stem}", pool_tables.write_others, pair=pair, samples=samples, **used)


PARTS: dict[str, Callable[[Study, Path, Path], Build]] = {
    "homologous": homologous,
    "awareness": awareness,
    "dependencies": dependencies,
    "others": others,
}


def scored(study: Study, pair: Path, data: Path, pools: Sequence[str], parts: Sequence[str]) -> pd.DataFrame:
    """Scores of all samples of the named pools, of every pool seed, with what is known about the samples.

    Args:
        pair: of `pretrain.pair`. data: of `study_corpus.prepared`.
        parts: keys of `PARTS`; missing tables are built by `workers.at_once` processes, or here if there is
            little text.

    Returns:
        One row a sample: ``pool``, ``seed`` (the pool's number), ``id``, ``kind``, ``needs_far`` (the label
        to be found), then the columns of the parts. ``attrs["count"]`` has ``tokens``, ``padded`` and
        ``forwards`` of the model for each part.
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
    count: dict[str, Counter[str]] = {part: Counter() for part in parts}
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
    count: Counter[str] = Counter()
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
    every = planted + 4 * alike  # also of the real pool, which has four kinds
    costs = partial(workload.scoring, profile, workload.planted(profile))
    again = [costs(every, "hmg", reading).loc[["hmg"]] for reading in READINGS[1:]]
    documents = planted + len(DOCUMENT_KINDS) * alike
    asking = " ".join(name for name in OTHERS if METHODS[name].passes)
    found = [
        workload.reading("03", "HMG and its relatives", costs(every, "hmg contrast ifd"), *again),
        workload.reading("04", "CAM", costs(planted, "cam")),
        workload.reading("05", "ProLong", costs(documents, "prolong")),
    ]
    return found + ([workload.reading("05", "the other selectors", costs(planted, asking))] if asking else [])


def read_table(folder: Path) -> pd.DataFrame:
    """The table in an artefact folder of this module; ``attrs["count"]`` counts the model's work on it."""
    table = pd.read_parquet(folder / "scores.parquet")
    table.attrs["count"] = json.loads((folder / "count.json").read_text(encoding="utf-8"))
    return table


def _workers(study: Study, texts: Sequence[Path]) -> int:
    """Processes to score with: none for little text, because a process needs seconds to start."""
    return at_once(study.profile) if sum(path.stat().st_size for path in texts) > SERIAL_BYTES else 0


def _build(name: str, write: Callable[..., None], **inputs: Any) -> Build:
    return Build(name, write, inputs)
