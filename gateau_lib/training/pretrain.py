"""Pretrain a homologous pair in minutes; the long model goes on from the short one, its RoPE base raised.

What makes half a million parameters recall: values of several tokens, copy practice with random period, most
loss weight on tokens that the text so far determines, and windows that grow.
"""

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from gateau_lib.data import corpus
from gateau_lib.models.loading import SHIPPED, load_tokenizer
from gateau_lib.models.rope import with_rope_theta
from gateau_lib.models.sizes import Size, Work, work
from gateau_lib.models.tiny import build_llama
from gateau_lib.sources import hub
from gateau_lib.study.code_hash import path_hash
from gateau_lib.study.devices import device
from gateau_lib.study.profiles import Profile, Stage
from gateau_lib.study.progress import say, track
from gateau_lib.study.store import Study, artefact
from gateau_lib.training.pretrain_rows import BACKGROUND_SAMPLE, BACKGROUND_WEIGHT, RowMaker

LEARNING_RATE = 3e-3  # peak
WARM_UP = 30  # steps
LOG_EVERY, CHECK_EVERY = 10, 20  # steps
AT_ONCE = 8192  # tokens of a forward pass that every machine holds
HELD_OUT = 64  # facts of each kind that tell when training may end
LONG_SEED = 500_000  # added for the long model's rows, which no pair's short model has seen
ATTEMPTS, ANEW = 3, 1_000_000  # times that a pair is begun; between their seeds
ONE_TONGUE = 0.55  # share of the short model's stages in which all texts are in the first tongue
TRAINED_ON = 0.4  # share of the tokens that have a loss
# Fields of `profiles.Profile` that decide what a pair trained from scratch becomes.
RECIPE = (
    "short_window long_window long_rope_factor hidden_size layers heads rope_theta short_stages long_stages "
    "question_share long_question_share recall_target more_steps dtype"
).split()


def _logits(model: PreTrainedModel, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Logits that predict ``ids[:, 1:][where]``, ``(where.sum(), vocabulary)``; no others are computed."""
    inputs = ids[:, :-1]
    read = model.model(input_ids=inputs, attention_mask=torch.ones_like(inputs), use_cache=False)
    return model.lm_head(read.last_hidden_state[where])


def weighted_loss(
    model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor, total: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean NLL, nats per token, of ids (rows, window + 1); ``total``: the whole step's weight."""
    where = weights[:, 1:] > 0
    logits, weight = _logits(model, ids, where).float(), weights[:, 1:][where]
    nll = torch.nn.functional.cross_entropy(logits, ids[:, 1:][where], reduction="none")
    return (nll * weight).sum() / (weight.sum() if total is None else total)


def backward(
    model: PreTrainedModel, ids: torch.Tensor, weights: torch.Tensor, micro_tokens: int = 0
) -> torch.Tensor:
    """Add the gradients of `weighted_loss` of all rows, ``micro_tokens`` at a time (0: all); return it."""
    rows = max(1, micro_tokens // (ids.shape[1] - 1)) if micro_tokens else len(ids)
    total = weights[:, 1:].sum() if rows < len(ids) else None
    losses = []
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


def held_out(tokenizer: Any, window: int, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and weights as of `RowMaker.batch` of facts to be recalled, in their own and the other tongue."""
    sets = []
    for retold in (False, True):
        items = corpus.recall_items(tokenizer, window, seed, HELD_OUT, retold)
        ids = torch.full((len(items), window), tokenizer.pad_token_id)  # behind an item: it reads none of it
        weights = torch.zeros(ids.shape)
        for row, item in enumerate(items):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
            weights[row, len(item.prompt) : len(item.ids)] = 1.0
        sets.append((ids, weights))
    return sets


def train(
    model: PreTrainedModel,
    tokenizer: Any,
    stages: tuple[Stage, ...],
    *,
    seed: int,
    question_share: float,
    target: float = 0.0,
    more: int = 0,
    far: bool = False,
    micro_tokens: int = 0,
    dtype: str = "float32",
    after_step: Callable[[int], None] = lambda step: None,
) -> list[dict[str, float]]:
    """Train in stages ``(window in tokens, steps, tokens a step)`` with AdamW; weights change in place.

    The learning rate warms up, stays at its peak, and falls to a tenth over some last steps, an eighth of the
    stages'. They begin when `held_out` facts are recalled, the worse kind by a share of ``target`` of their
    tokens: before that the last stage goes on for up to ``more`` steps.
    ``far``: of `RowMaker`. ``micro_tokens``: of `backward`, so that a step of many tokens fits into memory.
    ``dtype``: ``bfloat16`` computes under autocast; the weights are trained in float32 all the same.
    Returns log rows: step, window, loss (nats per weighted token), recall (share), tokens seen, seconds; the
    share of held-out tokens recalled as ``held_out`` where it was asked.
    """
    plan = [(window, tokens) for window, steps, tokens in stages for _ in range(steps)]
    if not plan:
        return []
    rows, fall = RowMaker(tokenizer, seed, question_share, far), len(plan) // 8
    how: dict[str, Any] = {"betas": (0.9, 0.98), "weight_decay": 0.01, "fused": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, **how)
    kinds = held_out(tokenizer, plan[-1][0], seed) if target else []
    log: list[dict[str, float]] = []
    step, seen, start, falling = 0, 0, time.perf_counter(), len(plan) + (more if target else 0)
    half = torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    model.train()
    for _ in track(range(falling + fall), f"pretraining up to {plan[-1][0]} tokens"):
        row: dict[str, float] = {}
        if kinds and len(plan) <= step <= falling and (step - len(plan)) % CHECK_EVERY == 0:
            with half:
                recalled = [recall_accuracy(model, *(t.to(model.device) for t in kind)) for kind in kinds]
            row["held_out"] = min(recalled)
            falling = step if row["held_out"] >= target else falling
        if step == falling + fall:
            break
        window, tokens = plan[min(step, len(plan) - 1)]
        down = 1 - 0.9 * max(0, step - falling) / max(1, fall)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min((step + 1) / WARM_UP, down)
        rows.mixed = far or step >= ONE_TONGUE * len(plan)
        ids, weights = (t.to(model.device) for t in rows.batch(window, tokens))
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = backward(model, ids, weights, micro_tokens)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step, seen = step + 1, seen + ids[:, 1:].numel()
        after_step(step)
        if row or step % LOG_EVERY == 0 or step == falling + fall:
            row |= {"step": step, "window": window, "loss": loss.item()}
            with half:
                row["recall"] = recall_accuracy(model, ids[:2], weights[:2])
            log.append(row | {"tokens": seen, "seconds": time.perf_counter() - start})
    model.eval()
    return log


def build_pair(out: Path, tokenizer: Any, profile: Profile, seed: int) -> None:
    """Train the pair and leave ``out/short``, ``out/long``, ``out/training.json``.

    ``out/early``: the long model half-way through its stages, which knows less.
    """
    shape = {name: getattr(profile, name) for name in ("hidden_size", "layers", "heads", "rope_theta")}
    shape["window"] = profile.short_window
    # Rows of a step are equally long: to read few at a time saves no padding, only memory.
    micro = max(profile.micro_tokens, AT_ONCE) if profile.micro_tokens else 0
    how: dict[str, Any] = {"target": profile.recall_target, "micro_tokens": micro}
    how |= {"more": profile.more_steps, "dtype": profile.dtype}
    shares = profile.question_share, profile.long_question_share
    # transformers' wrapper hides self
    short = build_llama(len(tokenizer), seed=seed, **shape).to(device())  # type: ignore[arg-type]
    torch.manual_seed(seed)
    short_log = train(short, tokenizer, profile.short_stages, seed=seed, question_share=shares[0], **how)
    # The long model must own its weights: training it would change the short one's through shared tensors.
    theta = profile.rope_theta * profile.long_rope_factor
    long = with_rope_theta(copy.deepcopy(short), theta, profile.long_window)
    half = sum(steps for _, steps, _ in profile.long_stages) // 2

    def keep(step: int) -> None:
        if step == half:
            long.save_pretrained(out / "early")
            tokenizer.save_pretrained(out / "early")

    again: dict[str, Any] = {"question_share": shares[1], "far": True, "after_step": keep}
    long_log = train(long, tokenizer, profile.long_stages, seed=seed + LONG_SEED, **again, **how)
    for name, model in (("short", short), ("long", long)):
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    settings = {"seed": seed, "question_shares": shares, **shape}
    training = {"settings": settings, "short": short_log, "long": long_log}
    (out / "training.json").write_text(json.dumps(training, indent=1))


def cost(profile: Profile, short: Size, long: Size) -> list[Work]:
    """What training the pair costs; nothing if the profile trains none."""
    found = []
    for name, stages, size in (("short", profile.short_stages, short), ("long", profile.long_stages, long)):
        if stages:
            rows = [(steps * n / window, window, round(TRAINED_ON * window)) for window, steps, n in stages]
            steps, what = sum(steps for _, steps, _ in stages), f"pretrain the {name} model"
            found.append(work("02", what, size, rows, 3, steps=steps, alone=True))
    return found


def pair(study: Study, corpus: Path) -> Path:
    """The study's homologous pair, see `trained_once`; one that misses its recall target is begun anew.

    Up to `ATTEMPTS` times, from other weights and other texts; if all miss it, the one that recalls most.
    What a pair is later judged by plays no part.
    """
    target, found = study.profile.recall_target, {}
    for attempt in range(ATTEMPTS):
        folder = trained_once(replace(study, seed=study.seed + attempt * ANEW), corpus)
        reached = recalled(folder) if study.profile.short_model == "scratch" and target else target
        if reached >= target:
            return folder
        found[folder] = reached
        left = "another is begun" if attempt + 1 < ATTEMPTS else "the best of them is taken"
        short_of = f"recalls {reached:.2f} of held-out tokens, {target:g} are wanted"
        say(f"pair of seed {study.seed}: {short_of}; {left}")
    return max(found, key=lambda folder: found[folder])


def recalled(folder: Path) -> float:
    """What the worse model of a pair recalled of held-out facts when its training ended, a share."""
    log = json.loads((folder / "training.json").read_text())
    last = ([row["held_out"] for row in log[name] if "held_out" in row][-1:] for name in ("short", "long"))
    return min((shares[0] for shares in last if shares), default=0.0)


def trained_once(study: Study, corpus: Path) -> Path:
    """A homologous pair: a folder with ``short``, ``long`` and, if it trained, ``training.json``.

    ``scratch`` trains the pair; ``shipped`` copies the repository's pair and still trains the profile's few
    steps, so that the training code runs; anything else is a hub id or folder, whose files are linked.
    """
    profile = study.profile
    names = {"short": profile.short_model, "long": profile.long_model}
    made_of: dict[str, Any] = {
        "tokenizer": path_hash(corpus / "tokenizer"),
        "seed": study.seed,
        "names": names,
    }
    made_of |= {name: getattr(profile, name) for name in RECIPE}
    if profile.short_model == "shipped":
        made_of["shipped"] = SHIPPED
    elif profile.short_model != "scratch":
        made_of["revisions"] = [hub.identity(study, source) for source in names.values()]

    def build(out: Path) -> None:
        if profile.short_model == "scratch":
            build_pair(out, load_tokenizer(corpus / "tokenizer"), profile, study.seed)
        elif profile.short_model == "shipped":
            build_pair(out / "practice", load_tokenizer(corpus / "tokenizer"), profile, study.seed)
            (out / "practice" / "training.json").rename(out / "training.json")
            for name in names:
                shutil.copytree(SHIPPED / name, out / name)
        else:
            for name, source in names.items():
                (out / name).mkdir()
                for file in hub.model(study, source).iterdir():  # a copy would take the models' room twice
                    (out / name / file.name).symlink_to(file.resolve())

    return artefact(study, "pair", build, code=[trained_once], **made_of)
