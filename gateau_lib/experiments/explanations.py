"""Where the scores of a pool come from: what is changed, and what is left of them (one pair, many claims).

Each part writes a table once; its function in `PARTS` makes metrics rows of the tables. The questions: where
the short reader must be cut, how far it must be stretched, how much the long model must know, what CAM's
attention agrees with, whether ProLong's strong pairs are the planted ones.
"""

import re
from bisect import bisect
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import read_documents
from gateau_lib.data.kinds import NOISE
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.passages import both
from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.experiments import interventions
from gateau_lib.experiments.pool import evidence_segments
from gateau_lib.experiments.ranking import Rows, auc, rank_correlation
from gateau_lib.methods import head_attention, leave_one_out, pair_passes, prolong
from gateau_lib.methods.model_passes import long_pass, response_nll, segment_importance, short_reader_nll
from gateau_lib.models import loading, rope
from gateau_lib.study.store import Study
from gateau_lib.study.style import label
from gateau_lib.study.workers import Build

CUTS = (2,)  # where the short reader is cut: its window divided by these, and times them
STRETCHES = (2,)  # NTK factors, beside the published reading's fixed one
ABLATED = 2  # samples of each of these kinds whose segments are left out one by one
ABLATED_KINDS = ("far", "paraphrase", "multi_hop", "near", "repeated", "lure")
LINKED = 6  # dependent documents whose pairs of segments are all read
TABLE = "table.parquet"


def read_pool(
    pair: Path, name: str, dtype: str, texts: Path, longest: int
) -> tuple[Any, Any, list[Sample], list[Encoded]]:
    """One model of a pair, its tokenizer, and a file's samples, also as tokens."""
    model, tokenizer = loading.load(pair / name, dtype)
    samples = read_samples(texts)
    return model, tokenizer, samples, [encode(sample, tokenizer, longest) for sample in samples]


def write_readings(pair: Path, texts: Path, window: int, longest: int, dtype: str, out: Path) -> None:
    """Losses of both models under other cuts and stretches, of the early long model, and `effects`."""
    long, tokenizer, samples, encoded = read_pool(pair, "long", dtype, texts, longest)
    table = interventions.effects(long, tokenizer, samples, window, longest)
    for cut in [window // by for by in CUTS] + [window * by for by in CUTS]:
        table[f"cut_{cut}"] = short_reader_nll(long, encoded, "truncate", window=cut)
    short, _ = loading.load(pair / "short", dtype)
    for by in STRETCHES:
        stretched = rope.with_rope_theta(short, rope.stretched_theta(short.config, by * window), by * window)
        table[f"stretch_{by}"] = response_nll(stretched, encoded)
    if (pair / "early").exists():
        early, _ = loading.load(pair / "early", dtype)
        table["early"] = response_nll(early, encoded)
        table["early_cut"] = short_reader_nll(early, encoded, "truncate", window=window)
    table.to_parquet(out / TABLE)


def write_ablations(pair: Path, texts: Path, size: int, longest: int, dtype: str, out: Path) -> None:
    """Of a few honest samples: importance of segments by leaving them out, and what should agree with it."""
    long, tokenizer, samples, _ = read_pool(pair, "long", dtype, texts, longest)
    chosen: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: sample.id):
        if sample.kind in ABLATED_KINDS and sum(one.kind == sample.kind for one in chosen) < ABLATED:
            chosen.append(sample)
    encoded = [encode(sample, tokenizer, longest) for sample in chosen]
    truth = leave_one_out.leave_one_out(long, encoded, size)
    by_head = head_attention.head_attention(long, encoded, size)
    first = range(0, len(chosen), ABLATED)  # heads are chosen on some samples and judged on the others
    heads = head_attention.best_heads([by_head[i] for i in first], [truth[i] for i in first], heads=2)
    columns: dict[str, list[np.ndarray]] = {
        "leave_one_out": truth,
        "one_segment": [-nll for nll in segment_importance(long, encoded, size)],
        "attention": [each.attention.mean(axis=0) for each in long_pass(long, encoded, size)],
        "attention_top": [
            each.mean(axis=(0, 1))
            for each in head_attention.head_attention(long, encoded, size, top=head_attention.TOP)
        ],
        "attention_heads": [head_attention.of_heads(each, heads).mean(axis=0) for each in by_head],
    }
    evidence = [evidence_segments(*each, tokenizer, size) for each in zip(chosen, encoded, strict=True)]
    judged = [i not in first for i in range(len(chosen))]
    pd.DataFrame({"id": [s.id for s in chosen], "judged": judged, "evidence": evidence} | columns).to_parquet(
        out / TABLE
    )


def write_links(pair: Path, texts: Path, size: int, window: int, dtype: str, out: Path) -> None:
    """Every pair of segments of some dependent documents: ProLong's terms, and whether a link was planted."""
    long, tokenizer = loading.load(pair / "long", dtype)
    tables = []
    for document in [d for d in read_documents(texts) if d["kind"] == "dependent"][:LINKED]:
        ids = tokenizer(document["text"], add_special_tokens=False, verbose=False)["input_ids"]
        n = len(ids) // size
        every = prolong.sample_pairs(n, n * n, 0)
        terms = prolong.dependency_terms(
            *pair_passes.pair_nll(long, ids, size, every, window_segments=window // size),
            every,
            window // size,
        )
        planted = links(document["text"], tokenizer, size)
        linked = [pair in planted for pair in zip(terms["i"], terms["j"], strict=True)]
        tables.append(terms.assign(id=document["id"], planted=linked))
    pd.concat(tables, ignore_index=True).to_parquet(out / TABLE)


def write_short_scorer(
    pair: Path, texts: Path, size: int, window: int, pairs: int, dtype: str, out: Path
) -> None:
    """ProLong's score of plain documents by the short model, whose window holds any two segments."""
    short, tokenizer = loading.load(pair / "short", dtype)
    plain = read_documents(texts)
    tokens = [tokenizer(d["text"], add_special_tokens=False, verbose=False)["input_ids"] for d in plain]
    segments = window // size
    found = pair_passes.score_documents(
        short, tokens, segment_length=size, window_segments=segments, pairs=pairs, seed=0
    )
    pd.DataFrame({"id": [d["id"] for d in plain], "prolong_short_model": found["lds"]}).to_parquet(
        out / TABLE
    )


def links(text: str, tokenizer: Any, size: int) -> set[tuple[int, int]]:
    """Pairs of segments (i, j), numbered as in `prolong`: in i ends a restatement of what j states."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    begins, left = (
        [begin for begin, _ in offsets],
        len(offsets) % size,
    )  # read to the end: what is left is first

    def segment(place: int) -> int:
        return (bisect(begins, place) - 1 - left) // size

    found = set()
    for again in re.finditer(r"Again, the (.+?)\.", text):
        told = max(text.rfind(each, 0, again.start()) for each in both(f"The {again[1]}."))
        pair = segment(again.end(1) - 1), segment(told)
        if told >= 0 and pair[1] >= 0 and pair[0] > pair[1]:
            found.add(pair)
    return found


def reading_rows(table: pd.DataFrame, scores: pd.DataFrame) -> Rows:
    """AUC where the reader is cut or stretched otherwise, of an earlier long model, and of the intervention.

    ``scores``: the independent pool with ``kind``, ``needs_far`` and the losses of `pool.homologous`.
    """
    held = scores.merge(table, on="id", validate="one_to_one")
    long, found = held["nll_long"], {}
    for name in table:
        if name.startswith("cut_"):
            found[f"contrast_{name}"] = held[name] - long
        elif name.startswith("stretch_"):
            found[f"hmg_log_ntk_{name.removeprefix('stretch_')}x"] = held[name] - long
    if "early" in table:
        found["contrast_early"] = held["early_cut"] - held["early"]
        found["hmg_log_ntk_early"] = held["nll_short_ntk"] - held["early"]
        found["perplexity_early"] = held["early"]
    found |= {name: held[name] for name in ("effect", "effect_far")}
    clean = ~held["kind"].isin(NOISE)
    rows = [_row("auc", name, "clean", auc(held["needs_far"][clean], values[clean]), clean.sum())
            for name, values in found.items()]  # fmt: skip
    return rows + [
        _row(column, str(kind), "independent", part[column].median(), len(part))
        for kind, part in held.groupby("kind")
        for column in ("effect", "effect_far")
    ]


def reading_label(name: str) -> str:
    """What a reader sees for a method of `reading_rows`, or of any other rows."""
    if name.startswith("contrast_cut_"):
        return f"contrast, cut to {name.rpartition('_')[2]} tokens"
    told = {
        "contrast_early": "contrast, long model half-way",
        "hmg_log_ntk_early": "HMG, log gap, long model half-way",
        "perplexity_early": "Perplexity Guidance, long model half-way",
        "effect": "loss when all evidence is taken out",
        "effect_far": "loss when far evidence is taken out",
    }
    stretched = name.removeprefix("hmg_log_ntk_")
    if stretched != name and stretched.endswith("x"):
        return f"HMG, log gap, stretched {stretched.removesuffix('x')} times"
    return told.get(name, label(name))


def ablation_rows(table: pd.DataFrame) -> Rows:
    """Agreement with leave-one-out (Spearman, mean), and how often the first segment is evidence."""
    judged = table[table["judged"]]
    rows = []
    for name in ("one_segment", "attention", "attention_top", "attention_heads"):
        found = [rank_correlation(a, b) for a, b in zip(judged["leave_one_out"], judged[name], strict=True)]
        rows.append(_row("importance_correlation", name, "clean", float(np.mean(found)), len(found)))
    for name in ("leave_one_out", "one_segment", "attention", "attention_top", "attention_heads"):
        hits = [int(np.argmax(a)) in list(e) for a, e in zip(judged[name], judged["evidence"], strict=True)]
        rows.append(_row("evidence_first", name, "clean", float(np.mean(hits)), len(hits)))
    return rows


def link_rows(table: pd.DataFrame) -> Rows:
    """How well ProLong's terms find the planted pairs of segments: AUC, and the share of strong pairs."""
    rows = [
        _row("link_auc", name, "documents", auc(table["planted"], table[name]), len(table))
        for name in ("strength", "distance", "specificity")
    ]
    strong = table["strength"] > prolong.THRESHOLD
    if strong.any():
        share = table["planted"][strong].mean()
        rows.append(_row("strong_pairs_planted", "strength", "documents", share, int(strong.sum())))
    found = strong[table["planted"]].mean()
    return [*rows, _row("planted_pairs_strong", "strength", "documents", found, int(table["planted"].sum()))]


def _row(metric: str, method: str, condition: str, value: float, n: int) -> dict[str, Any]:
    row = {"metric": metric, "method": method, "condition": condition, "seed": 0}
    return row | {"value": float(value), "n": int(n)}


def builds(study: Study, data: Path, pair: Path) -> dict[str, Build]:
    """The tables' artefacts by name."""
    sizes, pool = study.profile, data / "pools" / "independent-0.jsonl"
    pool_of = {"pair": pair, "texts": pool, "longest": sizes.max_length, "dtype": sizes.dtype}
    documents = {"pair": pair, "texts": data / "documents" / "0.jsonl", "dtype": sizes.dtype}
    shape = {"size": sizes.segment_length}
    pairs = {"pairs": sizes.prolong_pairs}
    return {
        "readings": Build("readings", write_readings, pool_of | {"window": sizes.short_window}),
        "ablations": Build("ablations", write_ablations, pool_of | shape),
        "links": Build("links", write_links, documents | shape | {"window": sizes.long_window}),
        "scorer": Build(
            "scorer", write_short_scorer, documents | shape | pairs | {"window": sizes.long_window}
        ),
    }


def table(study: Study, data: Path, pair: Path, name: str) -> pd.DataFrame:
    """One of the tables: ``readings``, ``ablations``, ``links`` or ``scorer``; made if it is missing."""
    return pd.read_parquet(builds(study, data, pair)[name].folder(study) / TABLE)


def scorer_rows(table: pd.DataFrame, documents: pd.DataFrame) -> Rows:
    """Whether ProLong ranks documents alike by both models; ``documents``: of `pool.scored_documents`.

    No row where a model gives all of them one score, as untrained ones do: then there is no ranking.
    """
    scored = documents.merge(table, on="id", validate="one_to_one")
    if np.ptp(scored["prolong_short_model"]) == 0 or np.ptp(scored["prolong"]) == 0:
        return []
    alike = rank_correlation(scored["prolong_short_model"], scored["prolong"])
    return [_row("rank_correlation", "prolong_short_model", "prolong", alike, len(scored))]


def rows(study: Study, data: Path, pair: Path, scores: pd.DataFrame, documents: pd.DataFrame) -> Rows:
    """All rows of one pair; ``scores``: of `reading_rows`, ``documents``: of `pool.scored_documents`."""
    made = {name: table(study, data, pair, name) for name in ("readings", "ablations", "links", "scorer")}
    found = reading_rows(made["readings"], scores) + ablation_rows(made["ablations"])
    return found + link_rows(made["links"]) + scorer_rows(made["scorer"], documents)
