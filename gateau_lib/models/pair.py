"""The two models that score: loaded, checked to be of one family, and identified by what they hold."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from gateau_lib.models import loading, rope
from gateau_lib.models.prompts import has_template
from gateau_lib.models.readable import check_readable
from gateau_lib.study import devices
from gateau_lib.study.errors import ScoreError, reason

# Spaces at both ends, which some tokenizers strip.
PROBE = "  Stones, 1024 rivers;\n\n\tnaïve café — 山 and {code_like: [1.5]} \n "
FIX = "HMG needs two models of one family with one tokenizer"


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

    Raises ScoreError: one is missing, or they are not homologous; ModelError: no model there, or one that
        cannot be read.
    """
    short, long = names(short, long, with_short)
    long_model, tokenizer = loading.load(long, dtype, device)
    check_embeddings("long", long_model, tokenizer)
    check_readable(long_model)
    if short is None:
        return Pair(long_model, long_model, tokenizer)
    short_model, short_tokenizer = loading.load(short, dtype, device)
    check_readable(short_model)
    check_homologous(short_model, short_tokenizer, long_model, tokenizer)
    return Pair(short_model, long_model, tokenizer)


def check_folders(short: str | None, long: str, chat: bool) -> None:
    """What can be said of the models of `names` before their weights are read.

    Raises ScoreError: two tokenizers, or none with a chat template where ``chat`` asks for it; ModelError:
        weights that are not loaded, a tokenizer that cannot be read.
    """
    for name in (long, short or long):
        loading.check_weights(name)
    tokenizer = loading.load_tokenizer(long)
    if chat and not has_template(tokenizer):
        raise ScoreError(f"--chat-template: the tokenizer of {long} has no chat template; leave it out")
    if short is not None:
        check_tokenizers(loading.load_tokenizer(short), tokenizer)


def windows(short: str | None, long: str, max_length: int | None) -> tuple[int, int]:
    """Tokens of the short and the long model's window; without ``short`` both are the long one's.

    A configuration that names none (Bloom, Mamba) has that of ``max_length``.
    Raises ScoreError: there is no such number, or the short model has the longer window.
    """
    of_short, of_long = (rope.window_of(loading.load_config(name)) for name in (short or long, long))
    if of_short and of_long and of_short > of_long:
        why = f"--short has a window of {of_short:,} tokens, --long one of {of_long:,}"
        raise ScoreError(f"{why}; give {long} as --short and {short} as --long")
    if max_length is None and None in (of_short, of_long):
        name = long if of_long is None else short
        why = "its configuration names no window (max_position_embeddings)"
        raise ScoreError(f"{name}: {why}; give --max-length")
    return of_short or cast(int, max_length), of_long or cast(int, max_length)


def check_tokenizers(short: Any, long: Any) -> None:
    """Raise ScoreError unless both tokenizers cut text into the same tokens."""
    a, b = short.get_vocab(), long.get_vocab()
    if a != b:
        differing = sum(a.get(token) != b.get(token) for token in a.keys() | b.keys())
        why = f"their vocabularies differ in {differing:,} tokens"
        raise ScoreError(f"the models are not homologous: {why}; {FIX}")
    if short(PROBE)["input_ids"] != long(PROBE)["input_ids"]:
        why = "their tokenizers split the same text differently"
        raise ScoreError(f"the models are not homologous: {why}; {FIX}")


def check_homologous(
    short: PreTrainedModel, short_tokenizer: Any, long: PreTrainedModel, long_tokenizer: Any
) -> None:
    """Raise ScoreError unless both models read text as the same tokens: HMG compares losses of tokens."""
    check_tokenizers(short_tokenizer, long_tokenizer)
    for name, model in (("short", short), ("long", long)):
        check_embeddings(name, model, long_tokenizer)


def check_embeddings(name: str, model: PreTrainedModel, tokenizer: Any) -> None:
    """Raise ScoreError for a tokenizer with tokens that the model does not know."""
    rows = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    if rows < (tokens := len(tokenizer.get_vocab())):
        fix = "a model needs the tokenizer that it was trained with"
        raise ScoreError(f"the {name} model has {rows:,} embeddings for {tokens:,} tokens; {fix}")


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
