"""What the SkipAlign experiment came to: needles, short tasks, plain text inside the short window (08)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data import passages
from gateau_lib.data.corpus import NEEDLE_DEPTHS, needles
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.evaluation.haystack import needle_map
from gateau_lib.experiments import skip_runs, workload
from gateau_lib.experiments.outcomes import PERPLEXITY_TAIL, Model, by_method, metrics_rows
from gateau_lib.models import loading
from gateau_lib.models.nll import continuation_nll
from gateau_lib.models.sizes import Work
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

UNTRAINED = ("theta_a", "theta_a_stretched")  # the short model, and with its RoPE base raised
MEASURES = {"accuracy": "token_accuracy", "probability": "probability"}  # end of a metric's name: column


def wider_window(profile: Profile) -> int:
    """Window of the second short model, tokens: the conditions of its rows begin with it."""
    return profile.skip_wider_stages[-1][0]


def _start(window: int | None) -> str:
    """How conditions of the second start's rows begin; ``window``: its window, None: of the first start."""
    return "" if window is None else f"{window}:"


def skip_metrics(rows: pd.DataFrame, cells: pd.DataFrame, window: int | None = None) -> list[dict[str, Any]]:
    """Metrics of one start's runs from `outcomes.evaluated` on needle and short, and `needle_cells`.

    ``needle_probability`` and ``needle_accuracy`` by length of the context, ``short_probability`` and
    ``short_accuracy`` on ``short_tasks``.
    ``window``: of the second start, which its conditions begin with: ``512:2048``, ``512:short_tasks``.
    """
    ours = (*UNTRAINED, *skip_runs.STRATEGIES, *skip_runs.VARIANTS)
    rows = rows[rows["method"].isin(ours)]
    start = _start(window)
    needle = rows[rows["set"] == "needle"].merge(cells, on="id", validate="many_to_one")
    parts = [("needle", needle.assign(at=start + needle["length"].astype(str)))]
    parts.append(("short", rows[rows["set"] == "short"].assign(at=f"{start}short_tasks")))
    return [
        row
        for name, part in parts
        for measure, column in MEASURES.items()
        for row in metrics_rows(part, f"{name}_{measure}", column, "at")
    ]


def plain_texts(study: Study, tokenizer: Any) -> dict[str, list[list[int]]]:
    """Token ids of texts that fill the short window: held-out ones of the planted world, and real ones.

    ``planted``: documents whose facts are restated. ``real``: documentation, paragraphs in a drawn order; the
        pair has met single paragraphs in pretraining, in other company.
    """
    window, seed = study.profile.short_window, study.seed * 100 + 91_000
    count = 2 * study.profile.eval_items
    # A document may miss its wanted length by a sentence or two.
    longer = replace(study.profile, pool_tokens=(window + 50, window + 150))
    drawn = passages.documents(longer, tokenizer, seed, "dependent", count)
    read = partial(tokenizer, verbose=False)
    texts = {"planted": [read(text)["input_ids"][:window] for _, text in drawn], "real": []}
    rng, paragraphs = np.random.default_rng([seed, 1]), real_paragraphs()
    for _ in range(count):
        ids: list[int] = []
        while len(ids) < window:
            ids += read("\n" * bool(ids) + paragraphs[int(rng.integers(len(paragraphs)))])["input_ids"]
        texts["real"].append(ids[:window])
    return texts


def _write_plain(model: Path, texts: dict[str, list[list[int]]], dtype: str, out: Path) -> None:
    loaded, _ = loading.load(model, dtype)
    rows = []
    for text, documents in texts.items():
        losses = continuation_nll(loaded, [ids[:1] for ids in documents], [ids[1:] for ids in documents])
        rows += [{"text": text, "document": i, "nll": float(loss.mean())} for i, loss in enumerate(losses)]
    pd.DataFrame(rows).to_parquet(out / "rows.parquet")


def plain_losses(study: Study, models: Sequence[Model], tokenizer: Any) -> pd.DataFrame:
    """Loss of every model on `plain_texts`: ``method, seed, text, document, nll`` (nats per token).

    All tokens but the first count. Tuning has seen responses only: what it forgets of plain text shows here.
    """
    inputs = {"texts": plain_texts(study, tokenizer), "dtype": study.profile.dtype}
    builds = {m.name: Build("plain", _write_plain, {"model": m.folder, **inputs}) for m in models}
    folders = build_all(study, builds, at_once(study.profile), "plain text")
    read = {name: pd.read_parquet(path / "rows.parquet") for name, path in zip(builds, folders, strict=True)}
    return by_method(pd.concat(read, names=["model"]).reset_index("model"), models, study.profile.pool_seeds)


def plain_metrics(losses: pd.DataFrame, tokens: int, window: int | None = None) -> list[dict[str, Any]]:
    """Metrics ``plain_nll`` and ``real_nll`` of `plain_losses`; the condition is the texts' length, tokens.

    ``window``: as in `skip_metrics`.
    """
    names, at = {"planted": "plain_nll", "real": "real_nll"}, f"{_start(window)}{tokens}"
    parts = [(name, losses[losses["text"] == text]) for text, name in names.items()]
    return [row for name, part in parts for row in metrics_rows(part, name, "nll", at)]


def needle_maps(
    rows: pd.DataFrame, cells: pd.DataFrame, methods: Sequence[str], measure: str = "probability"
) -> dict[str, pd.DataFrame]:
    """Needle map of each method, mean over seeds: a measure of `planted` by depth (row), length (column)."""
    needle = rows[rows["set"] == "needle"]
    means = needle.groupby(["method", "id"])[measure].mean().reset_index()
    return {method: needle_map(means[means["method"] == method], cells, measure) for method in methods}


def cost(profile: Profile) -> Work:
    """What notebook 08 costs for this experiment: its runs and their starts on needles, short tasks, texts.

    On the needles also the long model, as it was and tuned on GATEAU's selection.
    """
    starts = len(UNTRAINED) * (1 + bool(profile.skip_wider_stages))
    models = len(skip_runs.run_names(profile)) + starts
    needled = models + 1 + profile.pool_seeds
    model, answer, texts = workload.pair(profile)[0], workload.RESPONSE, max(2, profile.eval_items // 2)
    # How many are read, tokens of each, and of those the scored ones.
    reads = [(needled * 2 * profile.eval_items, round(workload.short_tokens(profile)), answer)]
    for length in profile.eval_lengths:
        reads.append((needled * len(NEEDLE_DEPTHS) * needles(profile, length), length, answer))
        reads.append((models * texts, length, PERPLEXITY_TAIL))
    reads.append((models * 4 * profile.eval_items, profile.short_window, profile.short_window - 1))
    tokens = sum(count * length for count, length, _ in reads)
    operations = sum(count * model.flops(length, scored) for count, length, scored in reads)
    return Work("08", "evaluate skipping", tokens, operations)
