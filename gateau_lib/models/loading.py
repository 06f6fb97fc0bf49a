"""Load or build causal language models, and stretch a RoPE window without touching the library's code.

Weights are safetensors; code that a model brings along is never run. A window is stretched by building a second model over the
same weight tensors with another RoPE base, so the reading of one sample never depends on what was read before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import LogRecord
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import logging

from gateau_lib.models import adapters
from gateau_lib.study.devices import device
from gateau_lib.study.errors import ModelError

logging.disable_progress_bar()  # loading a model takes seconds here; its bars would drown our own progress lines

SHIPPED = Path(__file__).parent / "tiny_pair"  # short/ and long/, the pair the cpu profile trained








def _resolve(name: str | Path, *enough: str) -> str:
    """The folder or hub id that a name stands for; a folder must hold config.json or a file that is enough."""
    text = str(name)
    folder = Path(text).expanduser()
    looks_local = text.startswith((".", "/", "~")) or folder.exists() or text.count("/") != 1
    if looks_local and not any((folder / file).is_file() for file in ("config.json", *enough)):
        raise ModelError(f"{text}: no config.json there; give a folder with a saved model or a hub id owner/name")
    source = str(folder) if looks_local else text
    _refuse_code(source)
    return source


def _refuse_code(source: str) -> None:
    """Raise ModelError if a model or tokenizer asks for code of its own.

    It would not be run in any case. But where transformers has a class for the same type, it takes that one without a word, and
    nothing says that the two compute the same.
    """
    readers = {"config.json": lambda: PreTrainedConfig.get_config_dict(source)[0]}
    readers["tokenizer_config.json"] = lambda: get_tokenizer_config(source)
    for file, read in readers.items():
        try:
            asks = read().get("auto_map")
        except (OSError, ValueError):  # not there or not readable, which the one who needs it says
            continue
        if asks:
            raise ModelError(
                f"{source}: auto_map in its {file} asks for code of its own, which is never run here; use another model, or "
                "delete auto_map from a copy if transformers knows the model by itself"
            )


def load_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a local folder or hub id.

    Raises:
        ModelError: nothing there, the hub cannot be reached, or the model asks for code of its own.
    """
    source = _resolve(name)
    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from error


def load_tokenizer(name: str | Path) -> Any:
    """The fast tokenizer of a local folder, with or without a model, or of a hub id.

    Raises:
        ModelError: nothing there, the hub cannot be reached, or the tokenizer asks for code of its own.
    """
    source = _resolve(name, "tokenizer_config.json")
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from error


def first_line(error: Exception) -> str:
    """What an error says, in one line; the name of its kind if it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _unloadable(source: str, error: Exception) -> ModelError:
    return ModelError(f"{source}: cannot load ({first_line(error)}); download it first, or give a local folder")


def load(name: str | Path, dtype: str = "float32", to: torch.device | None = None) -> tuple[PreTrainedModel, Any]:
    """A causal language model in eval mode with its fast tokenizer, from a local folder or the hub.

    A folder of adapters (`gateau_lib.models.adapters`) gives their base with the adapters merged into it.

    Raises:
        ModelError: nothing there, the hub cannot be reached, weights and configuration are not of one model, or
            the model asks for code of its own.
    """
    tokenizer, source = load_tokenizer(name), _resolve(name)
    base = adapters.base_of(source)
    if base is None:
        model = _load_model(source, dtype)
    else:  # the base is read with the RoPE base and window that the adapters were trained at
        whole = _load_model(_resolve(base), dtype, load_config(source))
        try:
            model = adapters.merged(whole, source)
        except adapters.AdapterError as error:
            raise ModelError(f"{source}: {error}") from error
        except (OSError, ValueError, SafetensorError) as error:
            raise _unloadable(source, error) from error
    return model.to(to or device()).eval(), tokenizer


def _load_model(source: str, dtype: str, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model of a folder or hub id, read with another configuration than its own if one is given."""
    options = {"config": config, "dtype": getattr(torch, dtype), "use_safetensors": True}
    # What does not fit is refused below, by name; transformers would only stop at sizes, and at these without a name.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    try:
        with _without_report():
            model, info = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unloadable(source, error) from error
    if wrong := _misfits(info):
        raise ModelError(f"{source}: {wrong}; weights and configuration are not of one model, fetch or save both again")
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' report of weights that do not fit, unless some were not converted: only it says why."""

    def keep(record: LogRecord) -> bool:
        text = record.getMessage()
        return "CONVERSION" in text or not ("LOAD REPORT" in text or "checkpoint seem corrupted" in text)

    logger = logging.get_logger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _misfits(info: dict[str, Any]) -> str:
    """Weights of a model that its files lack, that only the files have, or that have another size; "" if none.

    Weights that are tied to others, and those that a family is known to leave out or to have too many of, are no
    misfits: transformers has taken them out.
    """
    sizes = [
        f"{name} ({' x '.join(map(str, found))}, not {' x '.join(map(str, wanted))})"
        for name, found, wanted in info["mismatched_keys"]
    ]
    kinds = {"weights missing for": info["missing_keys"], "no place for": info["unexpected_keys"], "of another size": sizes}
    return "; ".join(f"{kind} {_some(names)}" for kind, names in kinds.items() if names)


def _some(names: Iterable[str], shown: int = 2) -> str:
    """The first few of many names."""
    ordered = sorted(names)
    return ", ".join(ordered[:shown]) + (f" and {len(ordered) - shown} more" if len(ordered) > shown else "")


def exact(name: str | Path) -> tuple[PreTrainedModel, Any]:
    """`load` in single precision on the CPU, for worked examples: exact, and it takes no GPU memory from what is measured."""
    return load(name, to=torch.device("cpu"))




















