"""The local scoring engine: a data set in, one row a sample out, in shards that a killed run takes up again.

A shard is a run of consecutive records. Its part file is named by the content of everything that decides its rows: the
records, the models' weights, the options, the library's code and the versions below it. So a part is either right or not
there, a restarted run ends with the same bytes, and a changed option never meets old parts. Ranks and other statements about
the whole pool are left to the selection.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gateau_lib import cam, hmg, prolong
from gateau_lib.nll import NonFiniteLoss, continuation_nll, response_nll
from gateau_lib.progress import track
from gateau_lib.samples import DataError, Encoded, Sample, encode, from_record, read_records
from gateau_lib.selectors import instruction_following_difficulty
from gateau_lib.store import atomic_write, source_hash, versions

METHODS = ("hmg", "cam", "prolong", "ifd", "contrast", "perplexity")
COUNTS = ("n_context", "n_instruction", "n_response", "n_dropped")  # tokens read, and context tokens cut on the left
SCORES = ("nll_short", "nll_long", "hmg", "cam", "prolong", "ifd", "contrast")
COLUMNS = ("id", *COUNTS, *SCORES, "error")
PROBE = "Stones, 1024 rivers;\n\n\tnaïve café — 山 and {code_like: [1.5]}"


class ScoreError(ValueError):
    """Options or models that do not fit together; the message says which and what to do."""


@dataclass(frozen=True)
class Item:
    """One record of the data: a usable sample, or the reason why there is none."""

    id: str | None
    sample: Sample | None
    error: str | None = None


@dataclass(frozen=True)
class Options:
    """What decides a score, beside data and models; lengths in tokens."""

    methods: tuple[str, ...]
    reading: str  # how the short model reads beyond its window, see `hmg.READINGS`
    segment_length: int
    max_length: int
    short_window: int
    prolong_pairs: int = 500  # the released scripts' value
    seed: int = 0


@dataclass(frozen=True)
class Pair:
    """Homologous models in eval mode and their common tokenizer; ``short`` may be the same object as ``long``."""

    short: PreTrainedModel
    long: PreTrainedModel
    tokenizer: Any


def read_items(path: str | Path) -> list[Item]:
    """Every record of the data in its order; a record that cannot be scored keeps its place and says why.

    Raises:
        DataError: no such file, nothing in it, or a line that is no JSON (its number).
    """
    items, seen = [], {}
    for where, record in read_records(path):
        where = where.removeprefix(f"{path}, ")  # the same data under another path gives the same bytes
        given = record.get("id") if isinstance(record, dict) else None
        name = None if given in (None, "") else str(given)
        try:
            sample = from_record(record, where)
            if name in seen:
                raise DataError(f"{where}: id {name!r} was already used at {seen[name]}; ids must be unique")
            items.append(Item(name, sample))
        except DataError as error:
            items.append(Item(name, None, str(error)))
        if name is not None:
            seen.setdefault(name, where)
    return items


def check_homologous(short: PreTrainedModel, short_tokenizer: Any, long: PreTrainedModel, long_tokenizer: Any) -> None:
    """Raise ScoreError unless both models read text as the same tokens (HMG compares their losses token by token)."""
    a, b = short_tokenizer.get_vocab(), long_tokenizer.get_vocab()
    fix = "HMG needs two models of one family with one tokenizer"
    if a != b:
        differing = sum(a.get(token) != b.get(token) for token in a.keys() | b.keys())
        raise ScoreError(f"the models are not homologous: their vocabularies differ in {differing:,} tokens; {fix}")
    if short_tokenizer(PROBE)["input_ids"] != long_tokenizer(PROBE)["input_ids"]:
        raise ScoreError(f"the models are not homologous: their tokenizers split the same text differently; {fix}")
    for name, model in (("short", short), ("long", long)):
        if model.get_input_embeddings().num_embeddings < len(b):
            rows = model.get_input_embeddings().num_embeddings
            raise ScoreError(f"the {name} model has {rows:,} embeddings for a tokenizer of {len(b):,} tokens; {fix}")


def fingerprint(model: PreTrainedModel, tokenizer: Any) -> str:
    """SHA-256 of a model's weights (in the dtype they are read in), configuration and tokenizer; where it lies does not count."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def score_items(items: Sequence[Item], pair: Pair, options: Options) -> list[dict[str, Any]]:
    """Rows with the keys `COLUMNS`, one an item in its order; None where nothing was computed.

    A sample whose loss is not finite is an error row and does not touch the others.
    """
    rows = [dict.fromkeys(COLUMNS) | {"id": item.id, "error": item.error} for item in items]
    ready: list[tuple[dict[str, Any], Encoded]] = []
    for item, row in zip(items, rows, strict=True):
        if item.sample is None:
            continue
        try:
            sample = encode(item.sample, pair.tokenizer, options.max_length)
        except DataError as error:
            row["error"] = str(error)
            continue
        sizes = len(sample.context), len(sample.instruction), len(sample.response), sample.dropped
        row |= dict(zip(COUNTS, sizes, strict=True))
        ready.append((row, sample))
    try:
        _fill(ready, pair, options)
    except NonFiniteLoss:  # find the culprits one by one; rare, so their cost does not matter
        for row, sample in ready:
            try:
                _fill([(row, sample)], pair, options)
            except NonFiniteLoss as error:
                row |= dict.fromkeys(SCORES) | {"error": str(error)}
    return rows


def _fill(ready: Sequence[tuple[dict[str, Any], Encoded]], pair: Pair, options: Options) -> None:
    """Compute the options' methods for the encoded samples and put them into their rows."""
    encoded = [sample for _, sample in ready]
    if not encoded:
        return
    columns: dict[str, Sequence[Any]] = {}
    if "cam" in options.methods:  # the pass that gives the attention gives the long model's loss too
        passes = cam.long_pass(pair.long, encoded, options.segment_length)
        nlls = cam.segment_importance(pair.long, encoded, options.segment_length)
        columns["cam"] = [
            cam.contextual_awareness(nll, p.attention) if len(nll) else None for nll, p in zip(nlls, passes, strict=True)
        ]
        columns["nll_long"] = [p.nll for p in passes]
    elif set(options.methods) - {"prolong"}:
        columns["nll_long"] = response_nll(pair.long, encoded)
    if "hmg" in options.methods:
        columns["nll_short"] = hmg.short_reader_nll(
            pair.short, encoded, options.reading, window=options.short_window, target=options.max_length
        )
        columns["hmg"] = hmg.pool_gap(columns["nll_short"], columns["nll_long"], scale="log")
    if "contrast" in options.methods:
        cut = hmg.short_reader_nll(pair.long, encoded, "truncate", window=options.short_window)
        columns["contrast"] = hmg.pool_gap(cut, columns["nll_long"], scale="log")
    if "ifd" in options.methods:
        starts = [sample.start or [pair.tokenizer.eos_token_id] for sample in encoded]
        alone = continuation_nll(pair.long, starts, [sample.response for sample in encoded])
        columns["ifd"] = [
            instruction_following_difficulty([nll], [loss.mean()])[0] if loss.mean() > 0 else None
            for nll, loss in zip(columns["nll_long"], alone, strict=True)
        ]
    if "prolong" in options.methods:
        scored = prolong.score_documents(
            pair.long,
            [sample.context + sample.instruction + sample.response for sample in encoded],  # as notebook 05 reads a pool
            segment_length=options.segment_length,
            pairs=options.prolong_pairs,
            window_segments=max(2, options.max_length // options.segment_length),
            seed=options.seed,
        )
        columns["prolong"] = [lds if n else None for lds, n in zip(scored["lds"], scored["pairs"], strict=True)]
    for name, values in columns.items():
        for (row, _), value in zip(ready, values, strict=True):
            row[name] = None if value is None else float(value)


def shard_keys(items: Sequence[Item], size: int, pair: Pair, options: Options) -> list[str]:
    """The content key of every shard of ``size`` items, 16 hex digits each."""
    long = fingerprint(pair.long, pair.tokenizer)
    common: list[Any] = [asdict(options), long, long if pair.short is pair.long else fingerprint(pair.short, pair.tokenizer)]
    common += [source_hash([score_items]), versions(), str(pair.long.device.type), str(pair.long.dtype)]
    # The size is part of the key: how samples are batched moves the last bits of a loss.
    head = hashlib.sha256(json.dumps([*common, size], sort_keys=True).encode()).hexdigest()
    parts = [[asdict(item) for item in items[i : i + size]] for i in range(0, len(items), size)]
    return [hashlib.sha256((head + json.dumps(part, sort_keys=True)).encode()).hexdigest()[:16] for part in parts]


def score_shards(items: Sequence[Item], folder: Path, size: int, pair: Pair, options: Options) -> list[dict[str, Any]]:
    """All rows in input order; finished shards are read from ``folder``, each new one is written there at once."""
    keys = shard_keys(items, size, pair, options)
    rows = []
    for number, key in track(list(enumerate(keys)), f"scoring, shards of {size}"):
        part = folder / f"{key}.json"
        if not part.is_file():
            done = score_items(items[number * size : (number + 1) * size], pair, options)
            atomic_write(part, json.dumps(done, ensure_ascii=False, allow_nan=False))
        rows += json.loads(part.read_text(encoding="utf-8"))
    return rows
