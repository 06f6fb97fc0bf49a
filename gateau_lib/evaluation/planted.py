"""How well a model uses its context: answers (see `answers`) that it reads or writes, perplexity by length.

Teacher-forced: it reads prompt and response; an answer token is right if it is the most likely next token.
Generated: greedy decoding from the prompt up to the end-of-text token, compared with the answer by `matches`.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.evaluation.answers import answer_tokens, matches
from gateau_lib.models import loading
from gateau_lib.models.generate import continue_greedily
from gateau_lib.models.nll import BATCH_TOKENS, continuation_nll, padded, plan_batches, target_places
from gateau_lib.models.output_head import logits_at, token_nll
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build, at_once, build_all

ROWS = "rows.parquet"


@torch.inference_mode()
def teacher_forced(
    model: PreTrainedModel,
    encoded: Sequence[Encoded],
    answers: Sequence[Sequence[int] | np.ndarray] | None = None,
    ending: Sequence[int] = (),
) -> pd.DataFrame:
    """Answers read with everything before them given.

    ``answers``: for each sample, indices of response tokens that count (see `answer_tokens`); None: all.
    ``ending``: ids that must follow the response for ``complete`` (end-of-text).
    Returns a row a sample, in order: ``id``; ``nll``, mean nats per answer token; ``probability``, of all
        answer tokens together; ``response_nll``, per response token; ``token_accuracy``, share of answer
        tokens that are the most likely ones; ``exact``, all are; ``complete``, all of response and ending
        are: greedy generation would write the response.
    """
    rows: dict[int, dict[str, Any]] = {}
    full = [[*e.ids, *ending] for e in encoded]
    for group in plan_batches([len(ids) for ids in full], BATCH_TOKENS):
        spans = [len(encoded[i].response) + len(ending) for i in group]
        nll, right = _read(model, [full[i] for i in group], spans)
        for i, losses, hits in zip(group, nll, right, strict=True):
            n = len(encoded[i].response)
            counted = list(range(n)) if answers is None else list(answers[i])
            rows[i] = {"id": encoded[i].id, "nll": losses[counted].mean(), "response_nll": losses[:n].mean()}
            rows[i]["probability"] = float(np.exp(-losses[counted].sum()))
            rows[i] |= {"token_accuracy": hits[counted].mean(), "exact": bool(hits[counted].all())}
            rows[i]["complete"] = bool(hits.all())
    return pd.DataFrame([rows[i] for i in range(len(encoded))])


def _read(
    model: PreTrainedModel, sequences: list[list[int]], spans: list[int]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """NLL and whether it is the most likely token, of the last ``spans[b]`` tokens of each sequence."""
    inputs = padded(sequences, model.device)
    places = target_places([len(s) for s in sequences], spans).to(model.device)
    logits = logits_at(model, places - 1, **inputs, use_cache=False)
    target = inputs["input_ids"].flatten()[places]
    losses = token_nll(logits, target).double().cpu()
    hits = (logits.argmax(-1) == target).cpu()
    return [p.numpy() for p in losses.split(spans)], [p.numpy() for p in hits.split(spans)]


@torch.inference_mode()
def generate(
    model: PreTrainedModel, tokenizer: Any, encoded: Sequence[Encoded], max_new_tokens: int
) -> list[str]:
    """Greedy continuations of the prompts, in order, up to the end-of-text token or ``max_new_tokens``."""
    ends, pad = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], tokenizer.pad_token_id
    texts: dict[int, str] = {}
    for group in plan_batches([len(e.prompt) + max_new_tokens for e in encoded], BATCH_TOKENS):
        written = continue_greedily(model, [encoded[i].prompt for i in group], max_new_tokens, ends, pad)
        texts.update(zip(group, map(tokenizer.decode, written), strict=True))
    return [texts[i] for i in range(len(encoded))]


def evaluate_samples(
    model: PreTrainedModel, tokenizer: Any, samples: Sequence[Sample], generated: bool = True
) -> pd.DataFrame:
    """All measures of one model on samples, one row each; ``generated`` costs about as much again.

    Returns ``id, kind, tokens`` (prompt and response), then `teacher_forced`'s columns and, if ``generated``,
        the ``text`` written (no more tokens than the longest response of all), ``exact_match`` and ``f1``.
    """
    encoded = [encode(sample, tokenizer) for sample in samples]
    answers = [answer_tokens(sample, tokenizer) for sample in samples]
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    frame = teacher_forced(model, encoded, answers, ending)
    frame.insert(1, "kind", [sample.kind for sample in samples])
    frame.insert(2, "tokens", [len(e.ids) for e in encoded])
    if generated:
        # Where every token of the response and its ending is the most likely one, greedy decoding writes it.
        todo = [i for i, done in enumerate(frame["complete"]) if not (done and ending)]
        longest = max(len(e.response) for e in encoded) + len(ending)
        written = generate(model, tokenizer, [encoded[i] for i in todo], longest)
        texts = dict(zip(todo, written, strict=True))
        frame["text"] = [texts.get(i, sample.response) for i, sample in enumerate(samples)]
        found = [matches(text, sample) for text, sample in zip(frame["text"], samples, strict=True)]
        frame["exact_match"], frame["f1"] = [match for match, _ in found], [f1 for _, f1 in found]
    return frame


def _write_rows(model: Path | str, samples: Path, generated: bool, dtype: str, out: Path) -> None:
    loaded = loading.load(model, dtype)
    evaluate_samples(*loaded, read_samples(samples), generated).to_parquet(out / ROWS)


def evaluate_all(
    study: Study, models: Mapping[str, Path | str], sets: Mapping[str, Path], generated: bool = True
) -> pd.DataFrame:
    """`evaluate_samples` of every model on every evaluation set, ``model`` and ``set`` in front; cached."""
    pairs, how = list(product(models, sets)), {"generated": generated, "dtype": study.profile.dtype}
    builds = {}
    for model, name in pairs:
        inputs = {"model": models[model], "samples": sets[name], **how}
        builds[f"{model} on {name}"] = Build("evaluation", _write_rows, inputs)
    folders = build_all(study, builds, at_once(study.profile), "evaluation")
    frames = [pd.read_parquet(folder / ROWS) for folder in folders]
    for frame, (model, name) in zip(frames, pairs, strict=True):
        frame.insert(0, "model", model)
        frame.insert(1, "set", name)
    return pd.concat(frames, ignore_index=True)


def summarise(rows: pd.DataFrame, lengths: Sequence[int], by: Sequence[str] = ("kind",)) -> pd.DataFrame:
    """Means by group and the shortest of ``lengths`` (tokens) that holds a sample; ValueError: none does."""
    edges = np.sort(np.asarray(lengths))
    place = np.searchsorted(edges, rows["tokens"])
    if (place == len(edges)).any():
        found = f"a sample of {rows['tokens'].max()} tokens is longer than every length {edges.tolist()}"
        raise ValueError(f"{found}; add a length")
    known = ("nll", "response_nll", "token_accuracy", "exact", "exact_match", "f1")
    measures = [name for name in known if name in rows]
    groups = rows.assign(length=edges[place]).groupby([*by, "length"], sort=True)
    return groups[measures].mean().assign(n=groups.size()).reset_index()


def perplexity_by_length(
    model: PreTrainedModel, documents: Sequence[Sequence[int]], lengths: Sequence[int], tail: int = 64
) -> pd.DataFrame:
    """NLL of the same last ``tail`` tokens of each document, read with more and more of the text before them.

    ``documents``: token ids, at least ``max(lengths)``. ``lengths``: tokens read in all, tail included.
    Returns a row a document and length: ``document`` (index), ``length``, ``nll`` (nats per token; perplexity
        is its exponential). Raises ValueError: a document that is too short, or a length not above ``tail``.
    """
    if min(lengths) <= tail or any(len(d) < max(lengths) for d in documents):
        wrong = f"lengths {list(lengths)} must exceed the tail ({tail} tokens)"
        raise ValueError(f"{wrong}, and no document may be shorter")
    pairs = list(product(lengths, range(len(documents))))
    prefixes = [documents[i][len(documents[i]) - length : -tail] for length, i in pairs]
    losses = continuation_nll(model, prefixes, [documents[i][-tail:] for _, i in pairs])
    found = zip(pairs, losses, strict=True)
    return pd.DataFrame([{"document": i, "length": n, "nll": loss.mean()} for (n, i), loss in found])
