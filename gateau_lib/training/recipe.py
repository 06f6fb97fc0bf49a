"""One fine-tuning run as data: what is trained on what, and how."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from gateau_lib.methods.skipalign import Reach, Strategy
from gateau_lib.study.errors import TrainingError
from gateau_lib.study.store import UNKEYED


def _how(default: Any) -> Any:
    """A field that names no artefact and no checkpoint, so what was computed stays when it changes."""
    return field(default=default, metadata=UNKEYED)


@dataclass(frozen=True)
class ByTokens:
    """A run of so many training tokens, prompts included; it ends with the sample that comes closest."""

    tokens: int
    batch_tokens: int  # of an optimizer step


@dataclass(frozen=True)
class ByEpochs:
    """A run of so many passes over the samples."""

    epochs: float
    batch_samples: int  # of an optimizer step (GATEAU: 96)


@dataclass(frozen=True)
class FineTune:
    """One fine-tuning run. ``samples`` are used whole; of ``pool`` the samples with the ids ``selected``.

    Raises:
        TrainingError: fields that contradict each other, or a value that is no choice.
    """

    name: str = field(metadata=UNKEYED)
    base: Path | str  # model folder or hub id
    samples: tuple[Path, ...]  # LongAlign JSONL or Parquet
    window: int  # tokens, longest sample and target of skipped positions
    learning_rate: float  # peak; cosine with 3 % warm-up
    seed: int
    length: ByTokens | ByEpochs
    pool: Path | None = None
    selected: tuple[str, ...] = ()
    strategy: Strategy = "normal"
    skip_share: float = 1.0  # share of samples whose positions are skipped; the rest keep 0, 1, 2, ...
    jumps: int = 2  # see skipalign.skip_positions
    reach: Reach = "uniform"  # see skipalign.skip_positions
    packed_isolated: bool = True  # see input_rows.pack_rows; positions of an open pack run on
    rope_theta: float | None = None  # RoPE base to train with; None: the base model's
    # Chat template (Jinja) put on the tokenizer and around each sample; None: the plain prompt.
    template: str | None = None
    # Mean over the response tokens of a step, or over its samples, so that each counts once (LongAlign).
    loss: Literal["token", "sample"] = "token"
    # "bfloat16": autocast over float32 weights, saved in bfloat16.
    dtype: Literal["float32", "bfloat16"] = "float32"
    # "lora": adapters of all linear layers beside a base in ``dtype``.
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = 16  # alpha is twice the rank
    # How processes share the model: "ddp", each holds all; "fsdp", each holds a part; "deepspeed", ZeRO-3.
    sharding: Literal["ddp", "fsdp", "deepspeed"] = "ddp"

    # What tables call the run.
    experiment: str = _how("")
    method: str = _how("")
    pool_seed: int = _how(0)  # number of the candidate pool, the seed of metrics rows

    # How the run is computed: another number of processes, or passes of another size, gives the same losses
    # up to the order of summation.
    processes: int = _how(1)  # that train the model together; 0: one a visible GPU
    # Padded tokens of one forward pass of a process; None: its share of the step at once.
    micro_tokens: int | None = _how(None)
    gradient_checkpointing: bool = _how(False)
    # Optimizer steps between checkpoints; None: see trainer.save_steps_of.
    save_steps: int | None = _how(None)

    def __post_init__(self) -> None:
        hints = get_type_hints(FineTune)
        allowed = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                given, choices = f"{name} {getattr(self, name)!r}", ", ".join(values)
                raise TrainingError(f"{self.name}: {given}; choose one of {choices}")
        if self.tuning == "lora" and self.sharding != "ddp":
            why = "adapters are trained whole on each GPU"
            raise TrainingError(f"{self.name}: {why}; with tuning 'lora' give sharding 'ddp'")


def to_json(job: FineTune) -> str:
    """The job as JSON, for `from_json`."""
    return json.dumps(asdict(job), default=str)


def from_json(text: str) -> FineTune:
    """The job that `to_json` wrote."""
    record = json.loads(text)
    by = ByTokens if "tokens" in record["length"] else ByEpochs
    parts = {"samples": tuple(map(Path, record["samples"])), "pool": record["pool"] and Path(record["pool"])}
    parts |= {"selected": tuple(record["selected"]), "length": by(**record["length"])}
    return FineTune(**record | parts)
