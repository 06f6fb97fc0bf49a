"""Whether a card gives the scores that a CPU gives, and bfloat16 those of float32."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gateau_lib.data.corpus import candidate_pool
from gateau_lib.data.sharded import Item
from gateau_lib.experiments import gpu_record
from gateau_lib.experiments.gpu_card import Shapes
from gateau_lib.methods import METHODS, SCORED
from gateau_lib.methods.base import Method, Options
from gateau_lib.methods.reader import extended
from gateau_lib.models.pair import Pair, load_pair
from gateau_lib.scoring.part_files import passes_of, score_items
from gateau_lib.study.errors import ModelError, reason
from gateau_lib.study.profiles import resolve

PART = "agreement"
NOISE = 1e-5  # of a score in float32
# Layers that see everything; sliding windows; these with soft-capped scores; latent keys and values.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, grouped heads": ("llama", {"num_key_value_heads": 2}),
    "mistral, sliding window": ("mistral", {"num_key_value_heads": 2, "sliding_window": 96}),
    "gemma2, soft caps": (
        "gemma2",
        {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 96, "query_pre_attn_scalar": 16},
    ),
    "deepseek-v2, latent attention": (
        "deepseek_v2",
        {
            "num_key_value_heads": 4,
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "first_k_dense_replace": 2,
        },
    ),
}


def family(name: str, vocabulary: int, seed: int) -> Any:
    """A tiny model of a family with random weights, large enough that attention is far from uniform."""
    kind, more = FAMILIES[name]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        kind, vocab_size=vocabulary, max_position_embeddings=2048, **(sizes | more), pad_token_id=0
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    return model


def measure(path: Path, shapes: Shapes, device: torch.device) -> None:
    """Every score of planted samples by the shipped pair and tiny families, on both devices and formats."""
    each = shapes.samples_per_kind
    sizes: dict[str, Any] = {
        "pool_per_kind": each,
        "noise_per_kind": each,
        "pool_tokens": shapes.sample_tokens,
    }
    profile = replace(resolve("cpu"), **sizes)
    cpu = torch.device("cpu")
    shipped = load_pair(None, None, True, "float32", cpu)
    drawn = candidate_pool(profile, shipped.tokenizer, "independent", 0)
    items = [Item(sample.id, sample) for sample in drawn]
    lengths = (profile.segment_length, profile.max_length, profile.short_window, profile.prolong_pairs)
    options = Options(SCORED, "ntk", *lengths)
    _compare(path, "shipped pair", shipped, items, options, device)
    vocabulary = len(shipped.tokenizer)
    few = items[:: max(1, len(items) // shapes.family_samples)]
    for name in FAMILIES:
        try:
            pair = Pair(family(name, vocabulary, 1), family(name, vocabulary, 2), shipped.tokenizer)
            _compare(path, name, pair, few, replace(options, reading="raw"), device)
        except Exception as error:  # the next family may be read
            gpu_record.add(path, PART, name, note=f"{type(error).__name__}: {reason(error)}")


def _compare(
    path: Path, name: str, pair: Pair, items: Sequence[Item], options: Options, device: torch.device
) -> None:
    """Rows a score: the card against the CPU in float32, and bfloat16 against float32 on the card."""
    methods = _readable(pair, items[:1], options)
    options = replace(options, methods=tuple(method.name for method in methods))
    on_cpu = _scores(pair, items, options, methods)
    whole = _scores(_moved(pair, device, torch.float32), items, options, methods)
    half = _scores(_moved(pair, device, torch.bfloat16), items, options, methods)
    left = [method for method in SCORED if method not in options.methods]
    note = f"not read: {', '.join(left)}" if left else ""
    for column in on_cpu:
        for against, a, b in (
            (f"{device.type} against cpu, float32", whole[column], on_cpu[column]),
            (f"bfloat16 against float32, {device.type}", half[column], whole[column]),
        ):
            measured = {"score": column, "against": against, "samples": len(a), "note": note}
            gpu_record.add(path, PART, name, **measured, **agreement(a, b))


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, float | None]:
    """``largest_difference`` of two scores of the same samples, ``spread`` (standard deviation of the second,
    to compare it with), ``rank_correlation`` (Spearman; None where the score does not tell samples apart)."""
    constant = len(a) < 2 or min(np.ptp(a), np.ptp(b)) < NOISE
    return {
        "largest_difference": float(np.abs(a - b).max()),
        "spread": float(np.std(b)),
        "rank_correlation": None if constant else float(spearmanr(a, b).statistic),
    }


def _readable(pair: Pair, items: Sequence[Item], options: Options) -> list[Method]:
    """The scored methods that can read this family: some have no far attention to look at."""
    found = []
    for name in SCORED:
        try:
            _scores(pair, items, replace(options, methods=(name,)), [METHODS[name]])
        except ModelError:
            continue
        found.append(METHODS[name])
    return found


def _scores(
    pair: Pair, items: Sequence[Item], options: Options, methods: Sequence[Method]
) -> dict[str, np.ndarray]:
    """Every column of numbers that the methods leave, (n,) each; a sample without a score is an error."""
    ready = extended(pair, options, passes_of(methods))
    rows = score_items(items, ready, options, methods)
    if wrong := [row["error"] for row in rows if row["error"]]:
        raise ValueError(wrong[0])
    columns = [column for method in methods for column in method.columns]
    return {column: np.array([row[column] for row in rows], dtype=float) for column in columns}


def _moved(pair: Pair, device: torch.device, dtype: torch.dtype) -> Pair:
    """The same weights on another device, in another number format."""
    long = _twin(pair.long, device, dtype)
    return Pair(long if pair.short is pair.long else _twin(pair.short, device, dtype), long, pair.tokenizer)


def _twin(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> Any:
    """A model built in that format: casting one would cast its rotary frequencies, too."""
    twin = AutoModelForCausalLM.from_config(model.config, dtype=dtype, trust_remote_code=False)
    twin.load_state_dict(model.state_dict())
    return twin.to(device).eval()
