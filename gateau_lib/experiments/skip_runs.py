"""The SkipAlign experiment of notebooks 07 and 08: which training runs there are, and where they start.

A short model, its RoPE base raised and not yet trained at it, is tuned on short instructions alone under each
position strategy, with equal tokens and the same samples in the same order. That is done from two short
models: the pair's, and one of a wider window that is trained on from it. Both are raised to the same RoPE
base, so that the second differs in its window alone. Every run exists once a candidate pool ``n``, its seed.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from gateau_lib.experiments import workload
from gateau_lib.experiments.tuning_runs import scale
from gateau_lib.models import loading, rope
from gateau_lib.models.sizes import Work, work
from gateau_lib.study.devices import device
from gateau_lib.study.profiles import Profile
from gateau_lib.study.store import Study, artefact
from gateau_lib.training import pretrain
from gateau_lib.training.recipe import ByTokens, FineTune

# Name of a run: fields of `FineTune` that make it. Skip-Outer of the papers on samples of one question has a
# single boundary, before the response: `skip_outer_turns`. All others jump between document and question too.
STRATEGIES: dict[str, dict[str, Any]] = {
    "normal": {"strategy": "normal"},
    # Plain causal attention over the whole row. Kept apart, it would only be Normal in other batches.
    "packed": {"strategy": "packed", "packed_isolated": False},
    "pose": {"strategy": "pose"},
    "randpos": {"strategy": "randpos"},
    "skip_outer": {"strategy": "skip_outer", "document_turn": True},
    "skip_outer_turns": {"strategy": "skip_outer"},
    "skip_inner": {"strategy": "skip_inner", "document_turn": True},
    "skip_all": {"strategy": "skip_all", "document_turn": True},
}
# One setting changed: half of the samples skipped.
VARIANTS: dict[str, dict[str, Any]] = {
    "skip_outer_half": STRATEGIES["skip_outer"] | {"skip_share": 0.5},
}
WIDER = ("normal", "skip_outer", "skip_all")  # of the wider model
# RoPE base of the wider model over the short one's. At the short model's own (1,000) its window is learnt
# slowly, at the raised one (20,000) it recalls four windows without any skipping.
WIDER_ROPE = 4.0
SKIPPING, SKIPPING_WIDER = "skipping", "skipping_wider"  # what tables call the two experiments


def methods(profile: Profile, experiment: str = SKIPPING) -> list[str]:
    """Names of the runs of an experiment, in order; none from a wider model where a profile has no such."""
    if experiment == SKIPPING_WIDER:
        return list(WIDER) if profile.skip_wider_stages else []
    return [*STRATEGIES, *VARIANTS]


def run_names(profile: Profile) -> list[str]:
    """Names of all runs, for example ``skip-pose-0``, and ``skip-wider-pose-0`` from the wider model."""
    return [
        _name(experiment, method, n)
        for experiment in (SKIPPING, SKIPPING_WIDER)
        for n in range(profile.pool_seeds)
        for method in methods(profile, experiment)
    ]


def _name(experiment: str, method: str, n: int) -> str:
    return f"skip-{'wider-' * (experiment == SKIPPING_WIDER)}{method}-{n}"


def skip_jobs(study: Study, data: Path, pair: Path, second: Path | None = None) -> list[FineTune]:
    """The runs from the pair's short model, or those from ``second``, the folder of `wider`."""
    profile, experiment = study.profile, SKIPPING_WIDER if second else SKIPPING
    how = scale(profile) | {"base": second or pair / "short", "rope_theta": raised_theta(study, pair)}
    how |= {"window": profile.long_window, "learning_rate": profile.skip_learning_rate}
    batch = profile.skip_batch_tokens
    how |= {"experiment": experiment, "length": ByTokens(profile.skip_steps * batch, batch)}
    return [
        FineTune(
            _name(experiment, method, n),
            method=method,
            samples=(data / "plenty" / f"{n}.jsonl",),
            pool_seed=n,
            seed=study.seed * 100 + n,
            **how | (STRATEGIES | VARIANTS)[method],
        )
        for n in range(profile.pool_seeds)
        for method in methods(profile, experiment)
    ]


def all_jobs(study: Study, data: Path, pair: Path) -> list[FineTune]:
    """The runs from the pair's short model, then those from the wider one, which is made if it is missing."""
    jobs = skip_jobs(study, data, pair)
    if study.profile.skip_wider_stages:
        jobs += skip_jobs(study, data, pair, wider(study, pair))
    return jobs


def raised_theta(study: Study, pair: Path) -> float:
    """The RoPE base that all runs train at."""
    return rope.theta_of(loading.load_config(pair / "short")) * study.profile.skip_rope_factor


def stretched(study: Study, pair: Path, second: Path | None = None) -> Path:
    """Folder of a short model with its RoPE base raised, untrained at it: where skipping starts.

    It is the pair's, or ``second``, the folder of `wider`.
    """
    theta, window, dtype = raised_theta(study, pair), study.profile.long_window, study.profile.dtype
    short = second or pair / "short"

    def build(out: Path) -> None:
        # Not on a GPU: it is on its way to a file only.
        model, tokenizer = loading.load(short, dtype, torch.device("cpu"))
        rope.with_rope_theta(model, theta, window).save_pretrained(out)
        tokenizer.save_pretrained(out)

    made_of = {"short": short, "theta": theta, "window": window, "dtype": dtype}
    return artefact(study, "stretched", build, code=[stretched], **made_of)


def wider(study: Study, pair: Path) -> Path:
    """Folder of the second short model: the pair's, trained on at the windows of ``skip_wider_stages``.

    For a number of steps, not until it recalls as well as the pair: three times as many changed little.
    """
    profile, short = study.profile, pair / "short"
    stages, seed = (
        profile.skip_wider_stages,
        study.seed + 1_000_000,
    )  # rows that neither model of the pair saw
    how: dict[str, Any] = {"question_share": profile.question_share, "far": True, "dtype": profile.dtype}

    def build(out: Path) -> None:
        model, tokenizer = loading.load(short, "float32", device())
        theta = WIDER_ROPE * rope.rope_theta(model)
        model = rope.with_rope_theta(copy.deepcopy(model), theta, stages[-1][0])
        pretrain.train(model, tokenizer, stages, seed=seed, micro_tokens=profile.micro_tokens, **how)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)

    return artefact(study, "wider", build, code=[wider], short=short, stages=stages, seed=seed, how=how)


def cost(profile: Profile) -> list[Work]:
    """What the wider model and the runs of `skip_jobs` cost."""
    near, model = round(workload.short_tokens(profile)), workload.pair(profile)[0]
    tokens = len(run_names(profile)) * profile.skip_steps * profile.skip_batch_tokens
    steps = len(run_names(profile)) * profile.skip_steps
    rows = [(tokens / near, near, workload.RESPONSE)]
    passes = workload.passes_a_step(profile)
    found = [work("07", "SkipAlign, its rivals", model, rows, passes, steps=steps)]
    if stages := profile.skip_wider_stages:
        rows = [
            (count * n / window, window, round(pretrain.TRAINED_ON * window)) for window, count, n in stages
        ]
        steps = sum(count for _, count, _ in stages)
        found.insert(0, work("07", "the wider short model", model, rows, 3, steps=steps))
    return found


@torch.inference_mode()
def influence(model: PreTrainedModel, ids: Sequence[int], positions: Sequence[int], mask: bool) -> np.ndarray:
    """Which tokens change what the model computes at which others: each is exchanged, outputs compared.

    ``mask``: pass a mask of ones. Returns bool (tokens, tokens): at row i, column j if token j reaches token
        i.
    """
    n, vocabulary = len(ids), model.config.vocab_size
    batch = torch.tensor(ids).repeat(n + 1, 1)
    batch[range(n), range(n)] = (batch[range(n), range(n)] + 1) % vocabulary  # the last row stays as it is
    given = {"input_ids": batch, "position_ids": torch.tensor(positions).repeat(n + 1, 1)}
    given |= {"attention_mask": torch.ones_like(batch)} if mask else {}
    there = {name: tensor.to(model.device) for name, tensor in given.items()}
    hidden = model.model(**there, use_cache=False).last_hidden_state
    change = (hidden[:n] - hidden[n]).abs().amax(-1)  # (exchanged token, token)
    return (change > 1e-6 * hidden.abs().max()).T.cpu().numpy()
