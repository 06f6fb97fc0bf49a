"""Every score of the candidate pools, computed once and kept: what the HMG, CAM and ProLong notebooks read.

Each of `PARTS` makes a table of one file of texts, a row a text in order. Pool-level steps (min-max, softmax,
ranks) are left to `ranking`, because they depend on which samples are in the pool.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import REAL_KINDS, read_documents, samples_of
from gateau_lib.data.kinds import KINDS, needs_far
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.passages import DOCUMENT_KINDS
from gateau_lib.data.samples import Encoded, Sample, encode, evidence_tokens
from gateau_lib.experiments import workload
from gateau_lib.experiments.ranking import COLUMN_OF, DERIVED, OTHERS
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import READINGS, Options, RankOptions
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.model_passes import long_pass, response_nll, segment_importance, short_reader_nll
from gateau_lib.methods.pair_passes import score_documents
from gateau_lib.methods.reader import COUNTED, Reader, extended
from gateau_lib.models import loading
from gateau_lib.models.nll import continuation_nll
from gateau_lib.models.pair import Pair
from gateau_lib.models.sizes import Work
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

SERIAL_BYTES = 1_200_000  # of texts; fewer are scored here, because a process needs seconds to start
CAM_VARIANTS: dict[str, dict[str, Any]] = {
    "cam_default": {},
    "cam_softmax_attention": {"attention": "softmax"},
    "cam_ppl": {"importance": "softmax_ppl"},
    "cam_aligned": {"sign": "aligned"},
}
Sizes = Mapping[str, Any]  # the settings of the profile that `PARTS` names


def homologous(pair: Path, texts: Path, sizes: Sizes, out: Path) -> None:
    """NLLs of the responses of a pool, in nats per response token, for HMG and its single-model relatives.

    Columns ``id``, ``n_tokens``; of theta_B ``nll_long``, ``nll_long_truncate`` (the last tokens that the
    short window holds), ``nll_alone`` (no prompt); of theta_A ``nll_short_<reading>``.
    """
    count: Counter[str] = Counter()
    window, target = sizes["short_window"], sizes["max_length"]
    short, tokenizer = loading.load(pair / "short", sizes["dtype"])
    long, _ = loading.load(pair / "long", sizes["dtype"])
    encoded = _encoded(read_samples(texts), tokenizer, target)
    table = pd.DataFrame({"id": [e.id for e in encoded], "n_tokens": [len(e.ids) for e in encoded]})
    table["nll_long"] = response_nll(long, encoded, count=count)
    table["nll_long_truncate"] = short_reader_nll(long, encoded, "truncate", window=window, count=count)
    for reading in READINGS:
        nll = short_reader_nll(short, encoded, reading, window=window, target=target, count=count)
        table[f"nll_short_{reading}"] = nll
    alone = continuation_nll(long, [e.start for e in encoded], [e.response for e in encoded], count=count)
    _save(out, table.assign(nll_alone=[float(loss.mean()) for loss in alone]), count)


def awareness(pair: Path, texts: Path, sizes: Sizes, out: Path) -> None:
    """CAM of a pool in its normalisations, with the two vectors it compares.

    Columns ``id``; those of `CAM_VARIANTS`; ``importance_range`` (largest minus smallest segment NLL);
    ``top_segment_match`` (1 if the most attended segment is the most important one); ``segment_nll``
    (segments,); ``attention`` (layers * segments,), layer after layer, the attention a key of the segment
    gets (see `layered`); ``evidence`` (numbers of the segments that hold planted evidence).
    """
    count: Counter[str] = Counter()
    size, drawn = sizes["segment_length"], read_samples(texts)
    long, tokenizer = loading.load(pair / "long", sizes["dtype"])
    encoded = _encoded(drawn, tokenizer, sizes["max_length"])
    attentions = [one.attention for one in long_pass(long, encoded, size, count=count)]
    importance = segment_importance(long, encoded, size, count=count)
    rows = []
    for sample, part, attention, nll in zip(drawn, encoded, attentions, importance, strict=True):
        row: dict[str, Any] = {"id": sample.id}
        row |= {name: contextual_awareness(nll, attention, **how) for name, how in CAM_VARIANTS.items()}
        row["importance_range"] = float(np.ptp(nll))
        row["top_segment_match"] = float(nll.argmin() == attention.mean(axis=0).argmax())
        row |= {"segment_nll": nll, "attention": attention.ravel()}
        rows.append(row | {"evidence": evidence_segments(sample, part, tokenizer, size)})
    _save(out, pd.DataFrame(rows), count)


def layered(attention: np.ndarray, segment_nll: np.ndarray) -> np.ndarray:
    """Attention (layers, segments) from a row's columns ``attention`` and ``segment_nll`` of `awareness`."""
    return np.asarray(attention).reshape(-1, len(segment_nll))


def evidence_segments(sample: Sample, encoded: Encoded, tokenizer: Any, segment_length: int) -> list[int]:
    """Numbers of the context segments that hold the sample's planted evidence; what was cut off has none."""
    found: set[int] = set()
    for first, last in evidence_tokens(sample, tokenizer):
        kept = range(max(0, first - encoded.dropped), max(0, last - encoded.dropped))
        found.update(token // segment_length for token in kept)
    return sorted(found)


def dependencies(pair: Path, texts: Path, sizes: Sizes, out: Path) -> None:
    """ProLong's long-dependency scores, by theta_B, of plain documents or of a pool's samples as such.

    Columns ``id``, ``prolong``, ``prolong_no_specificity`` (every specificity at 1), ``pairs``, ``segments``.
    """
    count: Counter[str] = Counter()
    long, tokenizer = loading.load(pair / "long", sizes["dtype"])
    if sizes["documents"]:
        plain = read_documents(texts)
        ids = [d["id"] for d in plain]
        tokens = [tokenizer(d["text"], add_special_tokens=False, verbose=False)["input_ids"] for d in plain]
    else:
        encoded = _encoded(read_samples(texts), tokenizer, sizes["max_length"])
        ids, tokens = [e.id for e in encoded], [e.context + e.instruction + e.response for e in encoded]
    size, window = sizes["segment_length"], sizes["long_window"]
    shape = {"segment_length": size, "window_segments": window // size, "pairs": sizes["prolong_pairs"]}
    found = score_documents(long, tokens, **shape, seed=sizes["seed"], count=count)
    found.insert(0, "id", ids)
    names = {"lds": "prolong", "lds_no_specificity": "prolong_no_specificity"}
    _save(out, found.rename(columns=names), count)


def others(pair: Path, texts: Path, sizes: Sizes, out: Path) -> None:
    """What the methods of `ranking.OTHERS` read that no other part holds: ``id``, their score columns."""
    asked = [METHODS[name] for name in sizes["others"]]
    known = {column for name in COLUMN_OF for column in METHODS[name].columns}  # the other parts hold these
    passes = {name for method in asked for name in method.passes}
    names = ("segment_length", "max_length", "short_window", "prolong_pairs", "seed")
    options = Options(tuple(sizes["others"]), "ntk", **{name: sizes[name] for name in names})
    long, tokenizer = loading.load(pair / "long", sizes["dtype"])
    short, _ = loading.load(pair / "short", sizes["dtype"])
    both = extended(Pair(short, long, tokenizer), options, passes)
    drawn = read_samples(texts)
    reader = Reader(drawn, _encoded(drawn, tokenizer, options.max_length), both, options, passes)
    fills = [cast(Callable[[Reader], Mapping[str, Any]], method.fill) for method in asked]
    filled = {name: values for fill in fills for name, values in fill(reader).items()}
    columns = sorted({column for method in asked for column in method.columns} - known)
    table = pd.DataFrame({"id": [sample.id for sample in drawn]} | {name: filled[name] for name in columns})
    count = Counter(dict.fromkeys(COUNTED, 0))
    for counted in reader.counts.values():
        count.update(counted)
    _save(out, table, count)


def model_free(study: Study, data: Path, tokenizer: Any) -> pd.DataFrame:
    """Every registered method that asks no model, as columns beside what `scored` knows of the samples.

    Of the independent pools of every number, each ranked by itself; also ``facts`` and ``n_tokens``.
    """
    asked = [METHODS[name] for name in OTHERS if not METHODS[name].passes]
    sizes, frames = study.profile, []
    names = ("segment_length", "max_length", "short_window")
    options = Options(
        tuple(method.name for method in asked), "ntk", **{name: getattr(sizes, name) for name in names}
    )
    for path, table in _known(study, data, ["independent"]).items():
        drawn = read_samples(path)
        encoded = _encoded(drawn, tokenizer, options.max_length)
        reader = Reader(drawn, encoded, Pair(None, None, tokenizer), options, set())  # type: ignore[arg-type]
        table["n_tokens"] = [len(each.ids) for each in encoded]
        filled = [method.fill(reader) for method in asked if method.fill]
        table = table.assign(**{name: values for columns in filled for name, values in columns.items()})
        ranked = {method.name: method.rank(table, RankOptions()) for method in asked}
        frames.append(table.assign(**ranked, longest=table["n_tokens"].astype(float)))
    return pd.concat(frames, ignore_index=True)


def _encoded(drawn: Sequence[Sample], tokenizer: Any, max_length: int) -> list[Encoded]:
    return [encode(sample, tokenizer, max_length) for sample in drawn]


def _save(out: Path, table: pd.DataFrame, count: Counter[str]) -> None:
    """With how much the models worked in ``attrs["count"]``."""
    missing = table.select_dtypes("number").isna().any(axis="columns")
    if missing.any():
        name = table["id"][missing.idxmax()]
        raise ValueError(f"{name}: a score is missing (too short for it?); a pool must be scored whole")
    table.attrs["count"] = dict(count)
    table.to_parquet(out / "scores.parquet")


# What scores a file, and the settings that it takes, which are the only ones in its key.
LDS = "documents max_length segment_length long_window prolong_pairs dtype seed"
PARTS: dict[str, tuple[Callable[[Path, Path, Sizes, Path], None], str]] = {
    "homologous": (homologous, "max_length short_window dtype"),
    "awareness": (awareness, "max_length segment_length dtype"),
    "dependencies": (dependencies, LDS),
    "others": (others, "others max_length segment_length short_window prolong_pairs dtype seed"),
}


def build(study: Study, part: str, pair: Path, texts: Path) -> Build:
    """How to make one of `PARTS` of a pool, or ``documents``: the dependencies of plain ones."""
    plain = part == "documents"
    entry = "dependencies" if plain else part
    asked = [name for name in OTHERS if METHODS[name].fill and name not in DERIVED]
    known = {**vars(study.profile), "seed": study.seed, "others": asked, "documents": plain}
    sizes = {name: known[name] for name in PARTS[entry][1].split()}
    return Build(f"{part}-{texts.stem}", PARTS[entry][0], {"pair": pair, "texts": texts, "sizes": sizes})


def scored(study: Study, pair: Path, data: Path, pools: Sequence[str], parts: Sequence[str]) -> pd.DataFrame:
    """Scores of all samples of the named pools, of every pool seed, with what is known about the samples.

    ``pair``: of `pretrain.pair`. ``data``: of `study_corpus.prepared`. ``parts``: keys of `PARTS`, built if
        missing. Columns ``pool``, ``seed`` (the pool's number), ``id``, ``kind``, ``needs_far`` (the label to
        be found), ``facts`` (planted sentences of evidence), those of the parts; ``attrs["count"]``: of the
        model ``tokens``, ``padded`` and ``forwards`` for each part.
    """
    return _joined(study, pair, _known(study, data, pools), parts)


def _known(study: Study, data: Path, pools: Sequence[str]) -> dict[Path, pd.DataFrame]:
    """What is known of the samples of the named pools, by file."""
    known = {}
    for pool, n in product(pools, range(study.profile.pool_seeds)):
        path = data / "pools" / f"{pool}-{n}.jsonl"
        rows = [(pool, n, s.id, s.kind, needs_far(s), float(len(s.evidence))) for s in read_samples(path)]
        known[path] = pd.DataFrame(rows, columns=["pool", "seed", "id", "kind", "needs_far", "facts"])
    return known


def scored_documents(study: Study, pair: Path, data: Path) -> pd.DataFrame:
    """ProLong's scores of plain documents: ``seed`` (their number), ``id``, ``kind``, then as `scored`."""
    known = {}
    for n in range(study.profile.pool_seeds):
        path = data / "documents" / f"{n}.jsonl"
        rows = [(n, d["id"], d["kind"]) for d in read_documents(path)]
        known[path] = pd.DataFrame(rows, columns=["seed", "id", "kind"])
    return _joined(study, pair, known, ["documents"])


def _joined(study: Study, pair: Path, known: dict[Path, pd.DataFrame], parts: Sequence[str]) -> pd.DataFrame:
    """What is known of each file's texts, beside their scores."""
    builds = {f"{part} of {p.stem}": build(study, part, pair, p) for p in known for part in parts}
    large = sum(path.stat().st_size for path in known) > SERIAL_BYTES
    folders = iter(build_all(study, builds, at_once(study.profile) if large else 0, "scoring"))
    count: dict[str, Counter[str]] = {part: Counter() for part in parts}
    frames = []
    for table in known.values():
        for part in parts:
            found = pd.read_parquet(next(folders) / "scores.parquet")
            count[part].update(found.attrs.pop("count"))
            table = table.merge(found, on="id", validate="one_to_one")
        frames.append(table)
    whole = pd.concat(frames, ignore_index=True)
    whole.attrs["count"] = {part: dict(counted) for part, counted in count.items()}
    return whole


def cost(profile: Profile) -> list[Work]:
    """What notebooks 03 to 06 read to score all pools."""
    held = {"independent": tuple(KINDS), "real": REAL_KINDS}
    planted, real = (
        profile.pool_seeds * sum(samples_of(profile, kind, pool) for kind in kinds)
        for pool, kinds in held.items()
    )
    every = planted + real
    costs = partial(workload.scoring, profile, workload.planted(profile))
    again = [costs(every, "hmg", reading).loc[["hmg"]] for reading in READINGS[1:]]
    documents = planted + len(DOCUMENT_KINDS) * profile.pool_per_kind * profile.pool_seeds
    asking = " ".join(name for name in OTHERS if METHODS[name].passes and name not in DERIVED)
    found = [
        workload.reading("03", "HMG and its relatives", costs(every, "hmg contrast ifd"), *again),
        workload.reading("04", "CAM", costs(planted, "cam")),
        workload.reading("05", "ProLong", costs(documents, "prolong")),
    ]
    return found + ([workload.reading("06", "the other selectors", costs(planted, asking))] if asking else [])
