"""Every setting of the paper profile and of the code beside it, with its source or what was assumed."""

from pathlib import Path
from typing import Any

import yaml

from gateau_lib.study.profiles import resolve
from gateau_lib.training import trainer
from gateau_lib.training.packing import GROUP
from gateau_lib.training.recipe import ByEpochs, FineTune


def rows() -> list[tuple[str, str, str]]:
    """``(setting, value, source)``: every field of the paper profile, then what the code fixes."""
    fixed = yaml.safe_load(Path(__file__).with_name("setting_sources.yml").read_text(encoding="utf-8"))
    arguments = trainer_arguments()
    settings = [(f"`{name}`", _text(value), source) for name, value, source in resolve("paper").describe()]
    for name, source in fixed["trainer"].items():
        settings.append((f"`{name}` (Trainer)", _text(getattr(arguments, name)), source))
    for what, value, source in fixed["also"]:
        settings.append((what, value.format(group=GROUP), source))
    return settings


def trainer_arguments() -> Any:
    """The arguments of a published run of 100 steps, but for how it is shared among GPUs."""
    p = resolve("paper")
    length = ByEpochs(p.epochs, p.batch_samples)
    job = FineTune("audit", p.long_model, (), p.long_window, p.sft_learning_rate, seed=0, length=length)
    return trainer._arguments(job, 100, Path("unused"))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return getattr(value, "value", None) or str(value)
