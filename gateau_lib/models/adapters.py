"""LoRA adapters (peft): low-rank matrices beside a frozen model's linear layers, trained in their place.

A folder with adapters holds them as safetensors, but not the base itself. It may hold a tokenizer, and the
configuration that the base is to be read with (its RoPE base and window); else those of the base serve.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gateau_lib.study.errors import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(UserError):
    """Adapters that cannot be made or put on their base; the message says what to do."""


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise AdapterError("adapters need peft, which is not installed: pip install peft") from None
    return peft


def attach(model: PreTrainedModel, base: Path | str, rank: int, seed: int) -> torch.nn.Module:
    """The model, frozen, with new adapters at all linear layers but the output head, ready to be trained.

    The adapters begin as zero changes, in float32 whatever the dtype of the model.
    ``base``: where `merged` will find the model again, folder or hub id; ``rank``: half of alpha.
    """
    peft = _peft()
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    return adapted.train()


def base_of(folder: Path | str) -> str | None:
    """The base that the adapters in a folder belong to; None for a folder without adapters.

    Raises AdapterError: the base is not named, the adapters are not LoRA or ask for a module by its name.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        base, kind = settings["base_model_name_or_path"], settings["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{CONFIG} is not as peft writes it ({type(error).__name__}: {error})") from None
    if not isinstance(base, str) or not base:
        raise AdapterError(f"base_model_name_or_path in {CONFIG} names no model; write its folder or hub id")
    if kind != "LORA":
        raise AdapterError(f"adapters of type {kind!r}; LoRA is read here, merge others into their base")
    if settings.get("megatron_config"):  # peft would import what megatron_core names
        raise AdapterError(f"megatron_config in {CONFIG} asks for code of its own, which is never run here")
    return base


def conversion_command(folder: Path | str) -> str:
    """The command that writes a folder's pickled adapters as safetensors; it reads tensors only."""
    source = f"torch.load('{folder}/adapter_model.bin', weights_only=True, map_location='cpu')"
    save = f"save_file({source}, '{folder}/{WEIGHTS}', {{'format': 'pt'}})"
    return f'python -c "import torch; from safetensors.torch import save_file; {save}"'


def check_weights(folder: Path | str) -> None:
    """Raise AdapterError unless a folder's adapters are safetensors: peft would read pickled ones."""
    if not (Path(folder) / WEIGHTS).is_file():
        pickled = (Path(folder) / "adapter_model.bin").is_file()
        convert = f"pickled adapters are not loaded; convert them once: {conversion_command(folder)}"
        raise AdapterError(convert if pickled else f"no {WEIGHTS} there; fetch it again")


def merged(base: PreTrainedModel, folder: Path | str) -> PreTrainedModel:
    """The base with the adapters of a folder added to its weights; AdapterError if they do not fit."""
    check_weights(folder)
    peft = _peft()
    other = "its adapters do not belong to this base"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
        try:
            # peft reads a JSON file and tensors; with the base given, it has no code to fetch.
            adapted = peft.PeftModel.from_pretrained(base, str(folder))
            # Read once more: only this call tells what did not fit.
            fit = adapted.load_adapter(str(folder), "default")
        except RuntimeError as error:  # tensors of other sizes, one a line
            raise AdapterError(f"{other} ({str(error).strip().splitlines()[-1].strip()})") from error
    for kind, names in (("nothing for", fit.missing_keys), ("no place for", fit.unexpected_keys)):
        if names:
            raise AdapterError(f"{other}: {kind} {names[0]} and {len(names) - 1} more")
    return adapted.merge_and_unload()
