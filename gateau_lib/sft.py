"""Supervised fine-tuning with transformers' `Trainer`: loss on responses only, equal token budgets, exact resume.

An optimizer step is one batch of about ``batch_tokens`` tokens, planned by `batching`. All batches of a run follow from its job
and its data, so a resumed run sees the same ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from gateau_lib import models
from gateau_lib.batching import plan_batches
from gateau_lib.nll import head_on
from gateau_lib.samples import DataError, Encoded, Sample, encode, read_samples
from gateau_lib.skipalign import IGNORED, STRATEGIES, Row, collate, pack_rows, sample_row, sample_turns, skip_positions
from gateau_lib.store import Study
from gateau_lib.workers import Build, build_all

LOG = "log.json"


@dataclass(frozen=True)
class FineTune:
    """One fine-tuning run. ``samples`` are used whole; of ``pool`` the samples with the ids ``selected``."""

    name: str
    base: Path | str  # model folder or hub id
    samples: tuple[Path, ...]  # LongAlign JSONL or Parquet
    tokens: int  # training tokens, prompts included; the run ends with the sample that comes closest
    batch_tokens: int  # tokens an optimizer step
    window: int  # tokens, longest sample and target of skipped positions
    learning_rate: float  # peak; cosine with 3 % warm-up
    seed: int
    pool: Path | None = None
    selected: tuple[str, ...] = ()
    strategy: str = "normal"  # one of skipalign.STRATEGIES
    skip_share: float = 1.0  # share of samples whose positions are skipped; the rest keep 0, 1, 2, ...
    jumps: int = 2  # see skipalign.skip_positions
    reach: str = "uniform"  # see skipalign.skip_positions
    document_turn: bool = False  # see skipalign.sample_turns
    packed_isolated: bool = True  # see skipalign.pack_rows; positions of an open pack run on
    rope_theta: float | None = None  # RoPE base to train with; None: the base model's
    loss: str = "token"  # mean over response tokens of a batch, or "sample": each sample counts once (LongAlign)
    dtype: str = "float32"  # "bfloat16": autocast, weights stay float32
    gradient_checkpointing: bool = False
    save_steps: int | None = None  # optimizer steps between checkpoints; None: the run is too short to need them


def response_loss(model: PreTrainedModel, batch: dict[str, torch.Tensor], loss: str = "token") -> torch.Tensor:
    """Mean NLL of the labelled tokens of a batch, nats; logits are computed at those tokens only.

    Args:
        batch: from `skipalign.collate`.
        loss: ``token``, every labelled token counts the same; ``sample``, every sample does: 1/M sum_i L_i/N_i over the
            M samples of the batch (LongAlign's loss weighting).
    """
    labels = batch["labels"]
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    wanted = (labels != IGNORED).flatten()  # (B * L,); a row's first token is part of a prompt
    places = wanted.nonzero().squeeze(-1)
    with head_on(model, places - 1):
        logits = model(**inputs, use_cache=False).logits[0]  # (labelled tokens, vocabulary)
    nll = functional.cross_entropy(logits.float(), labels.flatten()[places], reduction="none")
    if loss == "token":
        return nll.mean()
    first = wanted & ~wanted.roll(1)  # prompts part the responses of rows and of packed samples
    sample = first.cumsum(0)[places] - 1
    counts = torch.bincount(sample).to(nll.dtype)
    return (nll / counts[sample]).sum() / len(counts)


def training_samples(job: FineTune) -> list[Sample]:
    """The samples of a job: its files, then the selected part of its pool in pool order.

    Raises:
        DataError: a selected id that is not in the pool, or no samples at all.
    """
    samples = [sample for path in job.samples for sample in read_samples(path)]
    if job.pool is not None:
        pool, wanted = read_samples(job.pool), set(job.selected)
        missing = wanted - {sample.id for sample in pool}
        if missing:
            raise DataError(f"{job.pool}: {len(missing)} selected ids are missing, first {min(missing)!r}; select from this pool")
        samples += [sample for sample in pool if sample.id in wanted]
    if not samples:
        raise DataError(f"fine-tuning run {job.name!r} has no samples; give it sample files, or a pool and selected ids")
    return samples


def training_batches(job: FineTune, encoded: Sequence[Encoded], ending: Sequence[int]) -> list[list[Row]]:
    """All batches of a run in order, positions drawn.

    Args:
        ending: ids after each response, trained on as well (end-of-text).
    """
    if job.strategy not in STRATEGIES or job.loss not in ("token", "sample"):
        raise ValueError(f"{job.name}: strategy {job.strategy!r} or loss {job.loss!r}; see skipalign.STRATEGIES, token, sample")
    lengths = [len(e.ids) + len(ending) for e in encoded]
    packed = job.strategy == "packed"
    plan = plan_batches(lengths, job.tokens, job.batch_tokens, job.seed, job.window if packed else None)
    rng = np.random.default_rng([job.seed, 1])  # apart from the plan's, so strategies share their order of samples

    def row(index: int) -> Row:
        turns = sample_turns(encoded[index], ending, document_turn=job.document_turn)
        strategy = job.strategy if rng.random() < job.skip_share else "normal"
        return sample_row(encoded[index], ending, skip_positions(turns, job.window, strategy, rng, job.jumps, reach=job.reach))

    def pack(indices: Sequence[int]) -> Row:
        return pack_rows([row(i) for i in indices], continuing=not job.packed_isolated, isolated=job.packed_isolated)

    return [[pack(indices) if packed else row(indices[0]) for indices in batch] for batch in plan]


class ResponseTrainer(Trainer):
    """`Trainer` whose loss is `response_loss`; its data set is a list of batches, taken in order."""

    def __init__(self, job: FineTune, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.response_loss = job.loss
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: PreTrainedModel, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean NLL of the response tokens of one batch, nats."""
        loss = response_loss(model, inputs, self.response_loss)
        return (loss, {}) if return_outputs else loss


@contextmanager
def _restored_determinism() -> Iterator[None]:
    """Undo full determinism after a run: it is a switch of the whole process, and scoring does not want it."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def make_trainer(job: FineTune, model: PreTrainedModel, batches: list[list[Row]], folder: Path) -> ResponseTrainer:
    """The `Trainer` of a job over its batches; checkpoints, if asked for, go below ``folder``."""
    on_cpu = models.device().type == "cpu"
    if not on_cpu and torch.cuda.device_count() > 1:
        raise ValueError(f"{torch.cuda.device_count()} GPUs are visible and a run uses one: set CUDA_VISIBLE_DEVICES to one")
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=on_cpu,
        full_determinism=True,
        seed=job.seed,
        data_seed=job.seed,
        per_device_train_batch_size=1,  # one planned batch
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        learning_rate=job.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(0.03 * len(batches)),
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        bf16=job.dtype == "bfloat16",
        save_strategy="steps" if job.save_steps else "no",
        save_steps=job.save_steps or 500,
        save_total_limit=1,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
    )
    if job.gradient_checkpointing:  # the Trainer's argument for it changes its name between versions
        model.gradient_checkpointing_enable({"use_reentrant": False})
    pad = model.config.pad_token_id or 0  # masked and never a label, so any id will do

    def collator(items: list[list[Row]]) -> dict[str, torch.Tensor]:
        return collate(items[0], pad)

    return ResponseTrainer(job, model=model, args=arguments, train_dataset=batches, data_collator=collator)


def fine_tune(job: FineTune, output: Path) -> dict[str, Any]:
    """Train one job and save model, tokenizer and ``log.json`` in ``output``.

    With ``save_steps``, checkpoints lie beside ``output`` under a name that depends on the job and its data; a run that was
    killed goes on from the last one and ends with the same weights (bitwise on CPU). They are removed at the end.

    Returns:
        the log: ``losses`` (nats, one an optimizer step), ``tokens`` used, ``response_tokens``, ``padded`` (tokens forwarded,
        padding included), ``samples`` seen, ``distinct`` samples, ``epochs``, ``steps``, ``max_position``, ``seconds``.

    Raises:
        RuntimeError: the loss is not finite; names run and step.
    """
    started = time.monotonic()
    samples = training_samples(job)
    with _restored_determinism():
        model, tokenizer = models.load(job.base)
        theta = job.rope_theta or models.rope_theta(model)
        model = models.with_rope_theta(model, theta, max(job.window, model.config.max_position_embeddings)).train()
        ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        encoded = [encode(sample, tokenizer, job.window - len(ending)) for sample in samples]
        batches = training_batches(job, encoded, ending)
        with _checkpoints(job, batches, output) as folder:
            trainer = make_trainer(job, model, batches, folder)
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
            losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            broken = [step for step, loss in enumerate(losses, 1) if not math.isfinite(loss)]
            if broken:
                raise RuntimeError(f"{job.name}: the loss is {losses[broken[0] - 1]} at step {broken[0]}; lower learning_rate")
            model.save_pretrained(output)
            tokenizer.save_pretrained(output)
    log = {"losses": losses, **_usage(batches, len(samples)), "seconds": round(time.monotonic() - started, 2)}
    (output / LOG).write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    return log


def _usage(batches: list[list[Row]], samples: int) -> dict[str, Any]:
    rows = [row for batch in batches for row in batch]
    # A prompt parts the responses of a pack, so every sample begins one run of labels.
    seen = sum(sum(a == IGNORED != b for a, b in zip(row.labels, row.labels[1:], strict=False)) for row in rows)
    return {
        "tokens": sum(len(row.input_ids) for row in rows),
        "response_tokens": sum(label != IGNORED for row in rows for label in row.labels),
        "padded": sum(len(batch) * max(len(row.input_ids) for row in batch) for batch in batches),
        "samples": seen,
        "distinct": min(seen, samples),
        "epochs": round(seen / samples, 4),
        "steps": len(batches),
        "max_position": max(max(row.position_ids) for row in rows),
    }


@contextmanager
def _checkpoints(job: FineTune, batches: list[list[Row]], output: Path) -> Iterator[Path]:
    """Where checkpoints go: a folder that the next try of the same run finds again, removed after success."""
    if job.save_steps is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
        return
    content = json.dumps([asdict(job), [asdict(row) for batch in batches for row in batch]], default=str)
    folder = output.parent / f"{job.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _last_checkpoint(folder: Path) -> str | None:
    """The last whole checkpoint; one that a kill cut short is removed (`Trainer` writes its state last)."""
    while found := get_last_checkpoint(str(folder)):
        try:
            json.loads((Path(found) / "trainer_state.json").read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            shutil.rmtree(found)
    return None


def fine_tune_all(study: Study, jobs: Sequence[FineTune], workers: int | None = None) -> list[Path]:
    """Folders of all fine-tuned models, in the order of ``jobs``; a run that is in the study's cache is not repeated.

    Args:
        workers: processes (see `workers.build_all`); None: the profile's.

    Raises:
        ValueError: two jobs with one name.
        JobError: a run that failed, by name.
    """
    if len({job.name for job in jobs}) < len(jobs):
        raise ValueError("two fine-tuning runs have the same name; give each its own")
    builds = {}
    for job in jobs:
        inputs = {key: value for key, value in asdict(job).items() if key != "name"}
        builds[job.name] = Build(job.name, fine_tune, (job,), inputs)
    return build_all(study, builds, study.profile.workers if workers is None else workers, "fine-tuning")


def training_log(folder: Path) -> dict[str, Any]:
    """The log that `fine_tune` left in a model folder."""
    return json.loads((folder / LOG).read_text(encoding="utf-8"))
