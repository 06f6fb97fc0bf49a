"""What a profile will cost, and what this machine lacks for it, before anything is downloaded or computed.

Estimates, good to a factor of about two: a forward pass takes 2 floating-point operations a parameter and token, and
``2 * layers * hidden * context`` for causal attention; training takes three times that.
"""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from typing import NamedTuple

from gateau_lib import manifest
from gateau_lib.profiles import Profile

NEEDS_GPU = ("gpu", "paper")
RATE = 150e12  # operations a second of one 80 GB data-centre GPU at the usual 40 % of its bf16 peak
KINDS, READINGS, STRATEGIES = 9, 3, 7  # corpus.KINDS, hmg.READINGS, skipalign.STRATEGIES
SELECTIONS = 9  # GATEAU, HMG, CAM, ProLong, perplexity, random, length-matched random, longest, full
TASKS = 5  # needle map, single fact, multi-hop, aggregate, short tasks
QUESTION = 64  # tokens of an instruction with its response
OPTIMIZER_BYTES = 16  # a parameter in training: fp32 weight, gradient, two Adam moments


class PlanError(ValueError):
    """This machine cannot run the profile; the message says what is missing and what to do."""


class Size(NamedTuple):
    """What decides a Llama's cost."""

    layers: int
    hidden: int
    mlp: int
    vocabulary: int
    tied: bool
    biased: bool = False  # query, key, value and output projections have biases

    @property
    def parameters(self) -> int:
        """Weights, norms and biases, with key and value heads as many as query heads."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        vectors = (2 * self.layers + 1 + 4 * self.layers * self.biased) * self.hidden
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.mlp) + vectors + embeddings

    def forward(self, tokens: float, context: float) -> float:
        """Operations to read ``tokens`` tokens in sequences of ``context`` tokens."""
        return tokens * (2 * self.parameters + 2 * self.layers * self.hidden * context)


LLAMA_2_7B = Size(layers=32, hidden=4096, mlp=11008, vocabulary=32_000, tied=False)  # both published models


class Work(NamedTuple):
    """One part of the study: tokens that models read or are trained on, and operations."""

    what: str
    tokens: float
    operations: float


def size(profile: Profile) -> Size:
    """The size of the profile's models."""
    if profile.short_model not in ("scratch", "shipped"):
        return LLAMA_2_7B
    from gateau_lib.tokenizer import build_tokenizer

    mlp = -(-profile.hidden_size * 8 // 3 // 32) * 32  # as models.build_llama
    return Size(profile.layers, profile.hidden_size, mlp, len(build_tokenizer()), tied=True, biased=True)


def work(profile: Profile) -> list[Work]:
    """Everything the profile computes, in the order of the notebooks."""
    model = size(profile)
    parts = []
    for name, stages in (("pretrain the short model", profile.short_stages), ("pretrain the long model", profile.long_stages)):
        if stages:
            operations = sum(3 * model.forward(steps * tokens, window) for window, steps, tokens in stages)
            parts.append(Work(name, sum(steps * tokens for _, steps, tokens in stages), operations))
    length, samples = sum(profile.pool_tokens) / 2, KINDS * profile.pool_per_kind * profile.pool_seeds
    read = samples * length
    parts.append(Work("HMG", read * (READINGS + 1), model.forward(read * (READINGS + 1), length)))
    alone = samples * (length + length / profile.segment_length * QUESTION)
    parts.append(Work("CAM", read + alone, model.forward(read, length) + model.forward(alone, profile.segment_length)))
    pairs = samples * (length + 2 * profile.segment_length * profile.prolong_pairs)
    parts.append(Work("ProLong", pairs, model.forward(pairs, 2 * profile.segment_length)))
    tuned = SELECTIONS * profile.pool_seeds * profile.sft_tokens
    parts.append(Work("fine-tune on each selection", tuned, 3 * model.forward(tuned, length)))
    skipped = STRATEGIES * profile.pool_seeds * profile.skip_steps * profile.sft_batch_tokens
    parts.append(Work("SkipAlign and its rivals", skipped, 3 * model.forward(skipped, profile.short_window)))
    models = (SELECTIONS + STRATEGIES) * profile.pool_seeds + 2
    items = models * TASKS * profile.eval_items
    judged = sum(model.forward(items * tokens, tokens) for tokens in profile.eval_lengths)
    return [*parts, Work("evaluate", items * sum(profile.eval_lengths), judged)]


def memory(profile: Profile) -> dict[str, float]:
    """GPU memory in bytes that scoring and training take at their peaks."""
    model, scratch = size(profile), profile.short_model in ("scratch", "shipped")
    width = 8 * model.hidden + 3 * model.mlp  # activations that one layer keeps, numbers a token
    number = 2 if profile.dtype == "bfloat16" else 4
    scoring = 2 * model.parameters * number + profile.max_length * width * number
    if scratch:
        kept = profile.sft_batch_tokens * model.layers * width * 4
    else:  # one sample at a time, gradient checkpoints: each layer's input, and one layer in full
        kept = profile.max_length * (model.layers * model.hidden + width) * number
    return {"scoring": scoring, "training": model.parameters * OPTIMIZER_BYTES + kept}


def describe(profile: Profile) -> str:
    """The plan as text: models, data, tokens, operations, memory. Asks nothing of the network."""
    model, parts, peak = size(profile), work(profile), memory(profile)
    samples = KINDS * profile.pool_per_kind
    total = sum(part.operations for part in parts)
    lines = [
        f"plan of profile {profile.name} (estimates)",
        f"  models   {profile.short_model} ({profile.short_window:,} tokens) and {profile.long_model} "
        f"({profile.long_window:,} tokens), {_short(model.parameters)} parameters each, scored in {profile.dtype}",
        f"  data     {profile.pool_seeds} pool(s) of {samples:,} samples of {profile.pool_tokens[0]:,} to "
        f"{profile.pool_tokens[1]:,} tokens, {profile.short_pool:,} short instructions",
        *(f"  {p.what:28} {_short(p.tokens):>7} tokens  {p.operations:8.1e} operations" for p in parts),
        f"  {'in all':28} {_short(sum(p.tokens for p in parts)):>7} tokens  {total:8.1e} operations, "
        f"{total / RATE / 3600:,.1f} hours of one 80 GB GPU",
        f"  memory   {peak['scoring'] / 2**30:,.1f} GB to score, {peak['training'] / 2**30:,.1f} GB to train",
    ]
    return "\n".join(lines)


def missing(profile: Profile) -> list[str]:
    """What this machine lacks for the profile, each with its remedy; empty for smoke and cpu."""
    if profile.name not in NEEDS_GPU:
        return []
    lacks = []
    have, need = gpu_memory(), max(memory(profile).values())
    if not have:
        lacks.append("no NVIDIA GPU is visible (use a machine with one, or make cpu)")
    else:
        if "+cpu" in version("torch"):
            lacks.append("torch is the CPU build (rm -r .venv, then make env TORCH_INDEX=<an index with CUDA wheels>)")
        if sum(have) < need:
            lacks.append(f"{need / 2**30:,.0f} GB of GPU memory needed, {sum(have) / 2**30:,.0f} GB here (use more GPUs)")
    for name in dict.fromkeys((profile.short_model, profile.long_model)):
        if name not in ("scratch", "shipped") and not available(name):
            lacks.append(f"{name} is not in the cache and the hub does not answer (hf download {name} where there is a network)")
    return lacks


def check(profile: Profile) -> None:
    """Stop before any work if the machine lacks something.

    Raises:
        PlanError: one line with everything that is missing.
    """
    if lacks := missing(profile):
        raise PlanError(f"profile {profile.name} cannot run here: {'; '.join(lacks)}")


def gpu_memory() -> list[int]:
    """Memory of each NVIDIA GPU in bytes, as the driver tells; importing torch would take seconds."""
    if not manifest.gpu():
        return []
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    return [int(line) * 2**20 for line in done.stdout.split("\n") if line.strip().isdigit()]


def available(name: str) -> bool:
    """Whether a hub model is in the local cache or the hub answers for it."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    try:
        return HfApi().model_info(name, timeout=10) is not None
    except Exception:  # whatever the reason, the answer is the same
        return False


def _short(number: float) -> str:
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.1f}{name}"
    return f"{number:.0f}"
