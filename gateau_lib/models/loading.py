"""Load causal language models and their tokenizers, from folders or the hub.

Weights are safetensors; code that a model brings along is never run (chat templates are, in the sandbox that
transformers gives them). What is loaded is whole: weights that are missing, or of another model than the
configuration, are refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger, LogRecord, getLogger
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.utils import find_adapter_config_file, has_file, logging

from gateau_lib.models import adapters
from gateau_lib.study.devices import device
from gateau_lib.study.errors import ModelError, reason

# Loading a model takes seconds here, and its bars would drown our own progress lines.
logging.disable_progress_bar()

SHIPPED = Path(__file__).parent / "tiny_pair"  # short/ and long/, the pair the cpu profile trained
SAFE = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")

_LOG = getLogger(__name__)


def _resolve(name: str | Path, *enough: str) -> str:
    """The folder or hub id that a name stands for; a folder must hold config.json or one of ``enough``."""
    text = str(name)
    folder = Path(text).expanduser()
    looks_local = text.startswith((".", "/", "~")) or folder.exists() or text.count("/") != 1
    if looks_local and not any((folder / file).is_file() for file in ("config.json", *enough)):
        fix = "give a folder with a saved model or a hub id owner/name"
        raise ModelError(f"{text}: no config.json there; {fix}")
    source = str(folder) if looks_local else text
    _refuse_code(source)
    return source


def _refuse_code(source: str) -> None:
    """Raise ModelError if a model or tokenizer can only be read by code of its own."""
    # Many repositories still name such code (``auto_map``) although transformers knows their model by now;
    # its own class is loaded then, and whether weights and configuration fit it is checked as always.
    files = {
        "config.json": (lambda: PreTrainedConfig.get_config_dict(source)[0], _knows_model),
        "tokenizer_config.json": (lambda: get_tokenizer_config(source), _knows_tokenizer),
    }
    for file, (read, knows) in files.items():
        try:
            settings = dict(read())
        except Exception:  # not there or not readable, which the one who needs it says
            continue
        if kernel := next(_kernels(settings), None):
            why = f"{kernel} in its {file} asks for compiled code from the hub, which is never run here"
            raise ModelError(f"{source}: {why}; delete that line")
        if not settings.get("auto_map"):
            continue
        if not knows(settings):
            raise ModelError(
                f"{source}: auto_map in its {file} asks for code of its own, which is never run here; use "
                "another model, or a version of transformers that knows this one by itself"
            )
        _LOG.info("%s: auto_map in its %s is left alone; transformers' own class is used", source, file)


def _kernels(settings: dict[str, Any]) -> Iterator[str]:
    """Names of settings, also inside others, by which transformers would fetch a kernel for attention."""
    for name, value in settings.items():
        if "attn_implementation" in name and "/" in str(value):
            yield name
        elif isinstance(value, dict):
            yield from _kernels(value)


def _knows_model(settings: dict[str, Any]) -> bool:
    """Whether transformers has classes of its own in place of the code that a config.json names."""
    known = {"AutoConfig": CONFIG_MAPPING_NAMES, "AutoModelForCausalLM": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    kind = settings.get("model_type")
    return all(kind in names for auto, names in known.items() if auto in settings["auto_map"])


def _knows_tokenizer(settings: dict[str, Any]) -> bool:
    """Whether the class that a tokenizer_config.json names is one of transformers."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    return any(tokenizer_class_from_name(each) is not None for each in (name, f"{name}Fast") if name)


def load_config(name: str | Path) -> PreTrainedConfig:
    """The configuration of a local folder or hub id; ModelError as `load`."""
    source = _its_own_or_its_base(_resolve(name, adapters.CONFIG), "config.json")
    with _loadable(source):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def load_tokenizer(name: str | Path) -> Any:
    """The fast tokenizer of a local folder, with or without a model, or of a hub id; ModelError as `load`."""
    source = _its_own_or_its_base(_resolve(name, "tokenizer_config.json", adapters.CONFIG), *TOKENIZERS)
    with _loadable(source):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer("A text.")  # some settings are looked at by the first text only
    if not hasattr(tokenizer, "backend_tokenizer"):
        why = "has no fast form, which tells where tokens stand in a text"
        raise ModelError(f"{source}: its tokenizer ({type(tokenizer).__name__}) {why}; use another model")
    return tokenizer


def _base_of(source: str) -> str | None:
    """The base of a folder with adapters, None if it has none; ModelError for adapters that are not read."""
    with _loadable(source):
        return adapters.base_of(source)


def _its_own_or_its_base(source: str, *files: str) -> str:
    """A folder that has one of the files, or is not one of adapters; else the base of its adapters."""
    base = _base_of(source)
    if base is None or any((Path(source) / file).is_file() for file in files):
        return source
    return _resolve(base)


@contextmanager
def _loadable(source: str) -> Iterator[None]:
    try:
        yield
    except adapters.AdapterError as error:
        raise ModelError(f"{source}: {error}") from error
    except ModelError:
        raise
    except Exception as error:  # a file that is not what its name says fails in any way
        why, fix = reason(error), "download it first, or give a local folder"
        if not isinstance(error, OSError | ValueError | RuntimeError | SafetensorError):
            why = f"{type(error).__name__}: {why}"
        raise ModelError(f"{source}: cannot load ({why}); {fix}") from error


def check_weights(name: str | Path) -> None:
    """Raise ModelError for weights that are not loaded: pickled ones, and pointers in their place.

    Reads a few bytes of a folder; of a hub id it asks which files there are.
    """
    source = _resolve(name, adapters.CONFIG)
    if (base := _base_of(source)) is not None:
        with _loadable(source):
            adapters.check_weights(source)
        if _base_of(_resolve(base, adapters.CONFIG)) is not None:
            raise ModelError(f"{source}: its base {base} holds adapters; merge them into a model first")
        check_weights(base)
    elif Path(source).is_dir():
        _check_folder(source)
    else:
        with _loadable(source):
            _check_hub(source)


def _check_folder(source: str) -> None:
    weights = sorted(Path(source).glob("*.safetensors"))
    pickled = sorted(path.name for path in Path(source).glob("pytorch_model*.bin"))
    if pickled and not weights:
        raise ModelError(_convert(source, pickled[0]))
    for path in weights:
        with path.open("rb") as file:
            if file.read(24).startswith(b"version https://git-lfs"):
                raise ModelError(f"{path}: a git-lfs pointer in place of weights; fetch them: git lfs pull")


def _check_hub(source: str) -> None:
    safe = any(has_file(source, file) for file in SAFE)
    if pickled := [] if safe else [file for file in PICKLED if has_file(source, file)]:
        raise ModelError(_convert(source, pickled[0]))
    if find_adapter_config_file(source) is not None:
        raise ModelError(f"{source}: adapters are read from folders; fetch them: hf download {source}")


def _convert(source: str, pickled: str) -> str:
    """What to do with pickled weights, with the command; torch reads them as tensors only."""
    out = source if Path(source).is_dir() else source.rpartition("/")[2]
    how = "use_safetensors=False, dtype='auto', trust_remote_code=False"
    load = f"AutoModelForCausalLM.from_pretrained('{source}', {how})"
    names = "AutoModelForCausalLM, AutoTokenizer"
    command = f"from transformers import {names}; {load}.save_pretrained('{out}')"
    if out != source:
        tokenizer = f"AutoTokenizer.from_pretrained('{source}', trust_remote_code=False)"
        command += f"; {tokenizer}.save_pretrained('{out}')"
    why = f"pickled weights ({pickled}) are not loaded"
    return f'{source}: {why}; convert them once, then give {out}: python -c "{command}"'


def load(
    name: str | Path, dtype: str = "float32", to: torch.device | None = None
) -> tuple[PreTrainedModel, Any]:
    """A causal language model in eval mode with its fast tokenizer, from a local folder or the hub.

    A folder of adapters (`gateau_lib.models.adapters`) gives their base with the adapters merged into it.
    Raises ModelError: nothing there, the hub cannot be reached, weights and configuration are not of one
        model, or the model needs code of its own.
    """
    check_weights(name)
    tokenizer, source = load_tokenizer(name), _resolve(name, adapters.CONFIG)
    base = _base_of(source)
    if base is None:
        model = _load_model(source, dtype)
    else:
        # The base is read with the RoPE base and window that the adapters were trained at.
        whole = _load_model(_resolve(base), dtype, load_config(source))
        with _loadable(source):
            model = adapters.merged(whole, source)
    # transformers' wrapper hides that `to` is a method: its stub wants the model as an argument.
    return cast(Any, model).to(to or device()).eval(), tokenizer


def load_on_cpu(name: str | Path) -> tuple[PreTrainedModel, Any]:
    """`load` in single precision on the CPU: exact, and it takes no GPU memory from what is measured."""
    return load(name, to=torch.device("cpu"))


def _load_model(source: str, dtype: str, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The model of a folder or hub id, read with another configuration than its own if one is given."""
    options = {"config": config, "dtype": getattr(torch, dtype), "use_safetensors": True}
    # What does not fit is refused below, by name; transformers would stop at sizes only, without a name.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    with _loadable(source), _without_report():
        # A pair, as output_loading_info asks; the annotation there knows the model only.
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
    model, info = loaded
    if wrong := _misfits(info):
        fix = "weights and configuration are not of one model, fetch or save both again"
        raise ModelError(f"{source}: {wrong}; {fix}")
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' report of weights that do not fit, unless conversion failed: only it says why."""

    def keep(record: LogRecord) -> bool:
        text = record.getMessage()
        is_report = "LOAD REPORT" in text or "checkpoint seem corrupted" in text
        return "CONVERSION" in text or not is_report

    logger = cast(Logger, logging.get_logger("transformers.modeling_utils"))
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _misfits(info: dict[str, Any]) -> str:
    """Weights that a model's files lack, that only they have, or that have another size; "" if none."""
    # Without tied ones and those that a family is known to leave out: transformers has taken them out.
    sizes = [
        f"{name} ({' x '.join(map(str, found))}, not {' x '.join(map(str, wanted))})"
        for name, found, wanted in info["mismatched_keys"]
    ]
    kinds = {"weights missing for": info["missing_keys"], "no place for": info["unexpected_keys"]}
    said = []
    for kind, names in (kinds | {"of another size": sizes}).items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        said += [f"{kind} {', '.join(sorted(names)[:2])}{more}"] if names else []
    return "; ".join(said)
