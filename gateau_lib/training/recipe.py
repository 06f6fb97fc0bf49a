"""One fine-tuning run as data: what is trained on what, and how."""

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
    """One fine-tuning run; TrainingError: fields that contradict each other, or a value that is no choice."""

    name: str = field(metadata=UNKEYED)
    base: Path | str  # model folder or hub id
    samples: tuple[Path, ...]  # LongAlign JSONL or Parquet, used whole
    window: int  # tokens, longest sample and target of skipped positions
    learning_rate: float  # peak; cosine with 3 % warm-up
    seed: int
    length: ByTokens | ByEpochs
    pool: Path | None = None  # of which the samples with the ids ``selected`` are used
    selected: tuple[str, ...] = ()
    strategy: Strategy = "normal"
    skip_share: float = 1.0  # share of samples whose positions are skipped; the rest keep 0, 1, 2, ...
    jumps: int = 2  # see skipalign.skip_positions
    reach: Reach = "uniform"  # see skipalign.skip_positions
    document_turn: bool = False  # see skipalign.sample_turns
    packed_isolated: bool = True  # see input_rows.pack_rows; positions of an open pack run on
    rope_theta: float | None = None  # RoPE base to train with; None: the base model's
    template: str | None = None  # chat template (Jinja) for tokenizer and samples; None: the plain prompt
    loss: Literal["token", "sample"] = "token"  # mean of a step's response tokens, or samples (LongAlign)
    dtype: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast over float32 weights, then saved
    tuning: Literal["full", "lora"] = "full"  # lora: adapters of all linear layers, on a base in ``dtype``
    lora_rank: int = 16  # alpha is twice the rank
    # How processes share the model: "ddp", each holds all; "fsdp", each holds a part; "deepspeed", ZeRO-3.
    sharding: Literal["ddp", "fsdp", "deepspeed"] = "ddp"

    # What tables call the run.
    experiment: str = _how("")
    method: str = _how("")
    condition: str = _how("")  # of metrics rows; runs of two conditions may be one and the same
    pool_seed: int = _how(0)  # number of the candidate pool, the seed of metrics rows

    # How the run is computed: whatever stands here, the losses are the same up to the order of summation.
    processes: int = _how(1)  # that train the model together; 0: one a visible GPU
    micro_tokens: int | None = _how(None)  # padded, of a process's forward pass; None: its share at once
    gradient_checkpointing: bool = _how(False)
    save_steps: int | None = _how(None)  # optimizer steps between checkpoints; None: trainer.save_steps_of

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(FineTune).items():
            if get_origin(hint) is Literal and getattr(self, name) not in get_args(hint):
                given, choices = f"{name} {getattr(self, name)!r}", ", ".join(get_args(hint))
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
