"""The paper profile and what code fixes beside it, setting by setting, with the published source of each or what was assumed.

Run as a program, it writes the tables of docs/scale.md again. Sources are paths in the authors' repositories: S1s-Z/GATEAU,
THUDM/LongAlign, October2001/ProLong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateau_lib.study.profiles import resolve

# Arguments of transformers' Trainer that `gateau_lib.training.trainer` fixes, and where they are published.
TRAINER = {
    "optim": "GATEAU train/main.py: adamw_torch, the same updates",
    "adam_beta1": "GATEAU train/scripts",
    "adam_beta2": "GATEAU train/scripts",
    "weight_decay": "GATEAU train/scripts",
    "lr_scheduler_type": "GATEAU train/scripts",
    "warmup_steps": "GATEAU train/scripts: warmup_ratio 0.03; shown for 100 steps",
    "max_grad_norm": "LongAlign ds_config/stage3.json: auto, which is the Trainer's 1.0",
}

# What no single value in the code says.
ALSO = [
    ("order of samples", "sorted, groups of {group} shuffled, each epoch anew", "LongAlign sort_and_group.py: once for all"),
    ("short samples", "first question and answer of a conversation", "GATEAU train/pre_tokenize.py: whole conversations"),
    ("loss of a step", "mean over samples of the mean over a sample's tokens", "GATEAU train/scripts: one sample at a time"),
    ("what has a loss", "answers and the end-of-text token", "GATEAU train/pre_tokenize.py"),
    ("short model beyond its window", "ntk, one fixed base for all samples", "GATEAU select/hmg: NTK; its rule was not found"),
    ("scoring prompt", "context, instruction, response, blank lines between", "GATEAU select: '### Input:' and so on; assumed"),
    ("CAM: cosine's sign, normalisation", "1 - cos(softmax(-NLL), shares of attention)", "in no commit of the code; assumed"),
    ("combination", "alpha x HMP + (1 - alpha) x CAM", "GATEAU select/rank.py"),
    ("seed", "0", "not stated; assumed"),
    ("decoding", "greedy", "GATEAU train/LongBench/eval.py: one beam, no sampling asked for"),
    ("LongBench's score", "F1 and ROUGE-L of the benchmark", "GATEAU's tables; it also rates with GPT-4"),
    ("judge", "what the user names", "GATEAU train/LongBench_Chat/eval.py: gpt-4, version not stated"),
]


def rows() -> list[tuple[str, str, str]]:
    """``(setting, value, source)``: every field of the paper profile, then what the code fixes."""
    profile = resolve("paper")
    found = [(f"`{name}`", _text(value), source) for name, value, _, source in profile.describe() if name != "name"]
    arguments = trainer_arguments()
    found += [(f"`{name}` (Trainer)", _text(getattr(arguments, name)), source) for name, source in TRAINER.items()]
    from gateau_lib.training.packing import GROUP

    return found + [(what, value.format(group=GROUP), source) for what, value, source in ALSO]


def trainer_arguments() -> Any:
    """The arguments with which a run of the published part of 100 steps is trained, but for how it is shared among GPUs."""
    from gateau_lib.training import trainer
    from gateau_lib.training.recipe import ByEpochs, FineTune

    profile = resolve("paper")
    job = FineTune(
        "audit",
        profile.long_model,
        (),
        profile.long_window,
        profile.sft_learning_rate,
        seed=0,
        length=ByEpochs(profile.epochs, profile.batch_samples),
    )
    return trainer._arguments(job, 100, Path("unused"))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return getattr(value, "value", None) or str(value)






