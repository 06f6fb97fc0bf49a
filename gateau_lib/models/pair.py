"""The two models that score: loaded, checked to be of one family, and identified by what they hold."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from gateau_lib.models import loading
from gateau_lib.study import devices
from gateau_lib.study.errors import ScoreError, reason

PROBE = "Stones, 1024 rivers;\n\n\tnaïve café — 山 and {code_like: [1.5]}"


@dataclass(frozen=True)
class Pair:
    """Homologous models in eval mode and their tokenizer; ``short`` may be the same object as ``long``."""

    short: PreTrainedModel
    long: PreTrainedModel
    tokenizer: Any


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or the best there is; ScoreError if it cannot be used here."""
    try:
        chosen = torch.device(name) if name else devices.device()
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        why = reason(error)
        raise ScoreError(f"--device {name}: cannot be used here ({why}); leave it out or give cpu") from None
    return chosen


def names(short: str | None, long: str | None, with_short: bool) -> tuple[str | None, str]:
    """Where the models lie, the shipped pair if none is named; ScoreError if one that is needed is not."""
    if short is None and long is None:
        short, long = str(loading.SHIPPED / "short"), str(loading.SHIPPED / "long")
    if long is None:
        raise ScoreError("--long is missing; name both models, or neither for the shipped tiny pair")
    if not with_short:
        return None, long
    if short is None:
        raise ScoreError("--short is missing; one of the methods needs it, or choose other --methods")
    return short, long


def load_pair(
    short: str | None, long: str | None, with_short: bool, dtype: str, device: torch.device
) -> Pair:
    """The two models of `names`; without ``with_short`` the long one stands for both.

    Raises ScoreError: one is missing, or they are not homologous; ModelError: no model there.
    """
    short, long = names(short, long, with_short)
    long_model, tokenizer = loading.load(long, dtype, device)
    if short is None:
        return Pair(long_model, long_model, tokenizer)
    short_model, short_tokenizer = loading.load(short, dtype, device)
    check_homologous(short_model, short_tokenizer, long_model, tokenizer)
    return Pair(short_model, long_model, tokenizer)


def check_homologous(
    short: PreTrainedModel, short_tokenizer: Any, long: PreTrainedModel, long_tokenizer: Any
) -> None:
    """Raise ScoreError unless both models read text as the same tokens: HMG compares losses of tokens."""
    a, b = short_tokenizer.get_vocab(), long_tokenizer.get_vocab()
    fix = "HMG needs two models of one family with one tokenizer"
    if a != b:
        differing = sum(a.get(token) != b.get(token) for token in a.keys() | b.keys())
        why = f"their vocabularies differ in {differing:,} tokens"
        raise ScoreError(f"the models are not homologous: {why}; {fix}")
    if short_tokenizer(PROBE)["input_ids"] != long_tokenizer(PROBE)["input_ids"]:
        why = "their tokenizers split the same text differently"
        raise ScoreError(f"the models are not homologous: {why}; {fix}")
    for name, model in (("short", short), ("long", long)):
        rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
        if rows < len(b):
            both = f"{rows:,} embeddings for a tokenizer of {len(b):,} tokens"
            raise ScoreError(f"the {name} model has {both}; {fix}")


def fingerprint(model: PreTrainedModel, tokenizer: Any) -> str:
    """SHA-256 of a model's weights (in the dtype they are read in), configuration and tokenizer."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):  # where it lies does not count
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    digest.update(json.dumps(tokenizer.chat_template, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def identity(pair: Pair) -> dict[str, Any]:
    """What two workers must agree in, to give the same numbers to the last bit."""
    long = fingerprint(pair.long, pair.tokenizer)
    kind = pair.long.device.type
    return {
        "long": long,
        "short": long if pair.short is pair.long else fingerprint(pair.short, pair.tokenizer),
        "dtype": str(pair.long.dtype).removeprefix("torch."),
        "device": kind,
        # On a CPU, their number decides in which order a matrix product is summed.
        "threads": torch.get_num_threads() if kind == "cpu" else None,
    }
