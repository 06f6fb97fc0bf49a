"""Pretrain a homologous pair from scratch in minutes.

The short model sees windows up to ``short_window``; the long model starts from its weights, with the RoPE
base raised, and goes on with longer windows of the same text. What makes half a million parameters recall:
values of several tokens, copy practice with random period, most loss weight on tokens that the text so far
determines, and windows that grow.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gateau_lib.models.loading import SHIPPED, load_tokenizer
from gateau_lib.models.rope import with_rope_theta
from gateau_lib.models.sizes import Size, Work, work
from gateau_lib.models.tiny import build_llama
from gateau_lib.sources import hub
from gateau_lib.study.devices import device
from gateau_lib.study.profiles import Profile, Stage
from gateau_lib.study.progress import track
from gateau_lib.study.store import Study, artefact
from gateau_lib.training.pretrain_rows import BACKGROUND_SAMPLE, BACKGROUND_WEIGHT, RowMaker

LEARNING_RATE = 3e-3  # peak
TRAINED_ON = 0.4  # share of the tokens that have a loss
# Speed of an A100 in single precision, in which this trains, over bfloat16's (its data sheet).
SINGLE = 19.5 / 312


@dataclass(frozen=True)
class PairRecipe:
    """What a pair that is trained from scratch becomes: fields of `profiles.Profile`, with their units."""

    short_window: int
    long_window: int
    long_rope_factor: float
    hidden_size: int
    layers: int
    heads: int
    rope_theta: float
    short_stages: tuple[Stage, ...]
    long_stages: tuple[Stage, ...]
    question_share: float

    @classmethod
    def of(cls, profile: Profile) -> PairRecipe:
        """The recipe of a profile."""
        return cls(**{each.name: getattr(profile, each.name) for each in fields(cls)})


def _logits(model: PreTrainedModel, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that predict ``ids[:, 1:][where]``, ``(where.sum(), vocabulary)``; no others are computed."""
    inputs = ids[:, :-1]
    hidden = model.model(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[where])


def weighted_loss(
    model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor, total: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean NLL in nats per token of next-token prediction over rows ``(rows, window + 1)``.

    Args:
        total: sum of the weights to divide by, where the rows are a part of a step; None: that of these rows.
    """
    where = weights[:, 1:] > 0
    nll = torch.nn.functional.cross_entropy(
        _logits(model, ids, where).float(), ids[:, 1:][where], reduction="none"
    )
    weight = weights[:, 1:][where]
    return (nll * weight).sum() / (weight.sum() if total is None else total)


def backward(
    model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor, micro_tokens: int = 0
) -> torch.Tensor:
    """Add the gradients of `weighted_loss` over all rows, and return it.

    Args:
        micro_tokens: tokens of the rows that are read at a time; 0: all.
    """
    window = ids.shape[1] - 1
    rows = max(1, micro_tokens // window) if micro_tokens else len(ids)
    if rows >= len(ids):
        loss = weighted_loss(model, ids, weights)
        loss.backward()
        return loss.detach()
    total, losses = weights[:, 1:].sum(), []
    for part in zip(ids.split(rows), weights.split(rows), strict=True):
        loss = weighted_loss(model, *part, total)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses).sum()


@torch.no_grad()
def recall_accuracy(model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor) -> float:
    """Share of determined tokens (weight above the background's) that are the model's first choice."""
    where = weights[:, 1:] > BACKGROUND_WEIGHT / BACKGROUND_SAMPLE
    return float((_logits(model, ids, where).argmax(-1) == ids[:, 1:][where]).float().mean())


def _learning_rate(step: int, total: int, peak: float, warmup: int = 30) -> float:
    """Linear warm-up, the peak, and a linear fall to a tenth over the last third: long windows come late."""
    return peak * min(1.0, (step + 1) / warmup, 0.1 + 2.7 * (total - step) / total)


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    stages: tuple[Stage, ...],
    *,
    seed: int,
    question_share: float,
    learning_rate: float,
    far: bool = False,
    micro_tokens: int = 0,
    log_every: int = 10,
    at_stage_end: Callable[[int, PreTrainedModel], None] = lambda stage, model: None,
) -> list[dict[str, float]]:
    """Train in stages of growing windows with AdamW; weights change in place.

    Args:
        stages: ``(window in tokens, steps, tokens a step)``, in order.
        far: of `RowMaker`.
        micro_tokens: tokens of one forward pass, so that a step of many tokens fits into memory; 0: the whole
            step.
        at_stage_end: called with the stage number and the model, for checkpoints.

    Returns:
        Log rows: step, window, loss (nats per weighted token), recall (share), tokens seen, seconds.
    """
    rows = RowMaker(tokenizer, seed, question_share, far)
    where = model.device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    total = sum(steps for _, steps, _ in stages)
    log: list[dict[str, float]] = []
    step, seen, start = 0, 0, time.perf_counter()
    model.train()
    for stage, (window, steps, tokens) in enumerate(stages):
        for _ in track(range(steps), f"pretraining, window {window}"):
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(step, total, learning_rate)
            ids, weights = (t.to(where) for t in rows.batch(window, tokens))
            optimizer.zero_grad(set_to_none=True)
            loss = backward(model, ids, weights, micro_tokens)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, seen = step + 1, seen + ids[:, 1:].numel()
            if step % log_every == 0 or step == total:
                row = {"step": step, "window": window, "loss": loss.item()}
                row["recall"] = recall_accuracy(model, ids[:2], weights[:2])
                log.append(row | {"tokens": seen, "seconds": time.perf_counter() - start})
        at_stage_end(stage, model)
    model.eval()
    return log


def build_pair(
    out: Path,
    tokenizer: Any,
    recipe: PairRecipe,
    seed: int,
    *,
    micro_tokens: int = 0,
    to: torch.device | None = None,
) -> None:
    """Train the pair and leave ``out/short``, ``out/long``, ``out/long_stage<N>`` and ``out/training.json``.

    Every folder of a model or a checkpoint is loadable by ``from_pretrained``.

    Args:
        micro_tokens: of `train`.
        to: device; None: `devices.device`.
    """
    out.mkdir(exist_ok=True)

    def save(model: PreTrainedModel, name: str) -> None:
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)

    shape = {name: getattr(recipe, name) for name in ("hidden_size", "layers", "heads", "rope_theta")}
    shape["window"] = recipe.short_window
    how: dict[str, Any] = {
        "question_share": recipe.question_share,
        "learning_rate": LEARNING_RATE,
        "micro_tokens": micro_tokens,
    }
    built = build_llama(len(tokenizer), seed=seed, **shape)
    short = built.to(to or device())  # type: ignore[arg-type]  # transformers' wrapper hides self
    torch.manual_seed(seed)
    short_log = train(short, tokenizer, recipe.short_stages, seed=seed, **how)
    save(short, "short")
    # The long model must own its weights: training it would change the short one's through shared tensors.
    theta = recipe.rope_theta * recipe.long_rope_factor
    long = with_rope_theta(copy.deepcopy(short), theta, recipe.long_window)
    long_log = train(
        long,
        tokenizer,
        recipe.long_stages,
        seed=seed + 1,
        far=True,
        at_stage_end=lambda stage, model: save(model, f"long_stage{stage}"),
        **how,
    )
    save(long, "long")
    settings = {"seed": seed, "question_share": recipe.question_share, **shape}
    training = {"settings": settings, "short": short_log, "long": long_log}
    (out / "training.json").write_text(json.dumps(training, indent=1))


def cost(profile: Profile, short: Size, long: Size) -> list[Work]:
    """What training the pair costs; nothing if the profile trains none."""
    found = []
    for name, stages, size in (("short", profile.short_stages, short), ("long", profile.long_stages, long)):
        if stages:
            rows = [(steps * n / window, window, round(TRAINED_ON * window)) for window, steps, n in stages]
            steps, what = sum(steps for _, steps, _ in stages), f"pretrain the {name} model"
            found.append(work("02", what, size, rows, 3, steps=steps, speed=SINGLE, alone=True))
    return found


def pair(study: Study, corpus: Path) -> Path:
    """The study's homologous pair: a folder with ``short``, ``long`` and, if it trained, ``training.json``.

    ``scratch`` trains the pair; ``shipped`` copies the pair of this repository and still trains the few steps
    the profile asks for, so that the training code runs; anything else is a hub id or folder, whose files are
    linked.
    """
    profile = study.profile
    recipe = PairRecipe.of(profile)
    names = {"short": profile.short_model, "long": profile.long_model}
    made_of: dict[str, Any] = {"corpus": corpus, "seed": study.seed, "names": names, **asdict(recipe)}
    if profile.short_model == "scratch":

        def build(out: Path) -> None:
            tokenizer = load_tokenizer(corpus / "tokenizer")
            build_pair(out, tokenizer, recipe, study.seed, micro_tokens=profile.micro_tokens)

    elif profile.short_model == "shipped":
        made_of["shipped"] = SHIPPED

        def build(out: Path) -> None:
            tokenizer = load_tokenizer(corpus / "tokenizer")
            build_pair(out / "practice", tokenizer, recipe, study.seed)
            (out / "practice" / "training.json").rename(out / "training.json")
            for name in names:
                shutil.copytree(SHIPPED / name, out / name)

    else:
        made_of["revisions"] = [hub.identity(study, source) for source in names.values()]

        def build(out: Path) -> None:
            for name, source in names.items():
                (out / name).mkdir()
                for file in hub.model(study, source).iterdir():
                    # Linked, since a copy would take the models' room twice.
                    (out / name / file.name).symlink_to(file.resolve())

    return artefact(study, "pair", build, code=[pair], **made_of)
