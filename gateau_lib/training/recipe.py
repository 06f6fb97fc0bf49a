"""One fine-tuning run as data: what is trained on what, and how."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gateau_lib.methods.skipalign import STRATEGIES
from gateau_lib.study.errors import TrainingError

# How a run is computed, not what: another number of processes or another size of the passes gives the same losses up to the
# order of summation. These fields name no artefact and no checkpoint, so what was computed stays when they change.
HOW = ("name", "processes", "micro_tokens", "gradient_checkpointing", "save_steps")


@dataclass(frozen=True)
class FineTune:
    """One fine-tuning run. ``samples`` are used whole; of ``pool`` the samples with the ids ``selected``.

    How long it is: either ``tokens`` and ``batch_tokens``, or ``epochs`` and ``batch_samples``.
    """

    name: str
    base: Path | str  # model folder or hub id
    samples: tuple[Path, ...]  # LongAlign JSONL or Parquet
    window: int  # tokens, longest sample and target of skipped positions
    learning_rate: float  # peak; cosine with 3 % warm-up
    seed: int
    tokens: int | None = None  # training tokens, prompts included; the run ends with the sample that comes closest
    batch_tokens: int | None = None  # tokens an optimizer step
    epochs: float | None = None  # passes over the samples
    batch_samples: int | None = None  # samples an optimizer step (GATEAU: 96)
    pool: Path | None = None
    selected: tuple[str, ...] = ()
    strategy: str = "normal"  # one of skipalign.STRATEGIES
    skip_share: float = 1.0  # share of samples whose positions are skipped; the rest keep 0, 1, 2, ...
    jumps: int = 2  # see skipalign.skip_positions
    reach: str = "uniform"  # see skipalign.skip_positions
    document_turn: bool = False  # see skipalign.sample_turns
    packed_isolated: bool = True  # see skipalign.pack_rows; positions of an open pack run on
    rope_theta: float | None = None  # RoPE base to train with; None: the base model's
    template: str | None = None  # chat template (Jinja) put on the tokenizer and around each sample; None: the plain prompt
    loss: str = "token"  # mean over response tokens of a step, or "sample": each sample counts once (LongAlign)
    dtype: str = "float32"  # "bfloat16": autocast over float32 weights, saved in bfloat16
    tuning: str = "full"  # or "lora": adapters of all linear layers beside a frozen base in ``dtype``
    lora_rank: int = 16  # alpha is twice the rank
    processes: int = 1  # that train the model together; 0: one a visible GPU
    sharding: str = "ddp"  # how they share it: "ddp", each holds all; "fsdp", each holds a part; "deepspeed", ZeRO-3
    micro_tokens: int | None = None  # padded tokens of one forward pass of a process; None: its share of the step at once
    gradient_checkpointing: bool = False
    save_steps: int | None = None  # optimizer steps between checkpoints; None: see trainer.save_steps_of


def check(job: FineTune) -> None:
    """Refuse a job that contradicts itself.

    Raises:
        TrainingError: names the run, the fields and what they may be.
    """
    allowed = {
        "strategy": STRATEGIES,
        "loss": ("token", "sample"),
        "dtype": ("float32", "bfloat16"),
        "tuning": ("full", "lora"),
        "sharding": ("ddp", "fsdp", "deepspeed"),
    }
    for field, values in allowed.items():
        if getattr(job, field) not in values:
            raise TrainingError(f"{job.name}: {field} {getattr(job, field)!r}; choose one of {', '.join(values)}")
    by_tokens, by_epochs = (job.tokens, job.batch_tokens), (job.epochs, job.batch_samples)
    if (None in by_tokens) == (None in by_epochs) or any(by_tokens) and any(by_epochs):
        raise TrainingError(f"{job.name}: give either tokens and batch_tokens, or epochs and batch_samples")
    if job.tuning == "lora" and job.sharding != "ddp":
        raise TrainingError(f"{job.name}: adapters are trained whole on each GPU; with tuning 'lora' give sharding 'ddp'")


def to_json(job: FineTune) -> str:
    """The job as JSON, for `from_json`."""
    return json.dumps(asdict(job), default=str)


def from_json(text: str) -> FineTune:
    """The job that `to_json` wrote."""
    record = json.loads(text)
    paths = {"samples": tuple(map(Path, record["samples"])), "pool": record["pool"] and Path(record["pool"])}
    return FineTune(**record | paths | {"selected": tuple(record["selected"])})
# GATEAU and LongAlign, pre_tokenize.py of both: "[INST]" + user + "[/INST]" + answer, rounds parted by a blank line, after the
# start token.
INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}"
    "{% else %}{{ raise_exception('this template has no place for the role ' + message['role']) }}{% endif %}{% endfor %}"
)
