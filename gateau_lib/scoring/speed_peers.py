"""Response losses by other people's tools, on the same model and texts, as far as they are installed.

They read texts with a tokenizer and a model from a folder, as a user of theirs gives them.
"""

import importlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing

from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.models.pair import Pair
from gateau_lib.study.errors import ScoreError

Losses = Callable[[], list[float]]  # nats a token of each sample
BATCH = 4  # samples that lm-evaluation-harness reads at once


@dataclass
class Peer:
    """A tool at work; ``losses`` runs it, and what its model is given is noted in ``read`` and ``scored``."""

    losses: Losses
    exact: bool  # whether it counts the same tokens as we do, so that other losses are an error
    count: Counter[str] = field(default_factory=Counter)
    read: list[list[int]] = field(default_factory=list)
    scored: int = 0  # tokens by their labels; 0: its model is given none

    def __call__(self, count: Counter[str]) -> list[float]:
        self.count, self.read, self.scored = count, [], 0
        return self.losses()

    def watch(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        """A hook of its model's forward pass."""
        ids = named["input_ids"] if "input_ids" in named else given[0]
        self.count.update(padded=ids.numel(), forwards=1)
        self.read += ids.tolist()
        if named.get("labels") is not None:
            self.scored += int((named["labels"] != -100).sum())

    def about(self, samples: Sequence[Encoded]) -> dict[str, Any]:
        """What its last run read: the same tokens as ours or not, and how many it scored, if it is known."""
        # The last token is never needed, and one of the tools leaves it out.
        ours = [one.ids[:-1] for one in samples]
        same = all(any(row[: len(ids)] == ids for row in self.read) for ids in ours)
        return {"same_tokens": same, "scored": self.scored or None}


def _harness(folder: Path, samples: Sequence[Sample], device: torch.device) -> Peer:
    """lm-evaluation-harness: log-likelihood of the response by its backend for transformers."""
    from lm_eval.api.instance import Instance  # optional, and slow
    from lm_eval.models.huggingface import HFLM

    told = {"request_type": "loglikelihood", "doc": {}, "idx": 0}
    asked = [Instance(arguments=(one.context, one.response), **told) for one in samples]
    model = HFLM(pretrained=str(folder), device=str(device), batch_size=BATCH)
    lengths = [len(model._encode_pair(one.context, one.response)[1]) for one in samples]

    def losses() -> list[float]:
        found = model.loglikelihood(asked, disable_tqdm=True)
        return [-total / n for (total, _), n in zip(found, lengths, strict=True)]

    peer = Peer(losses, exact=True)
    model.model.register_forward_pre_hook(peer.watch, with_kwargs=True)
    return peer


def _juicer(folder: Path, samples: Sequence[Sample], device: torch.device) -> Peer:
    """Data-Juicer: its perplexity filter with a language model, which puts a space before the response.

    The response's tokens are counted in the response alone, without that space, so it may score some others.
    """
    operator = importlib.import_module("data_juicer.ops.filter.llm_perplexity_filter")  # optional
    tools = importlib.import_module("data_juicer.utils.model_utils")
    names = importlib.import_module("data_juicer.utils.constant")
    templates = {"query_template": "{context}", "response_template": "{response}"}
    work = operator.LLMPerplexityFilter(hf_model=str(folder), **templates)
    model, _ = tools.get_model(work.model_key, None, work.use_cuda())

    def losses() -> list[float]:
        found = []
        for one in samples:
            # Without a rank: given one, it takes it for a sample.
            texts = {"context": one.context, "response": one.response[1:], names.Fields.stats: {}}
            stats = work.compute_stats_single(texts)[names.Fields.stats]
            found.append(float(np.log(stats[names.StatsKeys.llm_perplexity])))
        return found

    peer = Peer(losses, exact=False)
    model.register_forward_pre_hook(peer.watch, with_kwargs=True)
    return peer


Begin = Callable[[Path, Sequence[Sample], torch.device], Peer]
# Name -> module, distribution, what else it needs, how it is begun.
PEERS: dict[str, tuple[str, str, str, Begin]] = {
    "lm-evaluation-harness": ("lm_eval", "lm-eval", "accelerate peft", _harness),
    "Data-Juicer": ("data_juicer", "py-data-juicer", "ray", _juicer),
}


def versions() -> dict[str, str | None]:
    """Versions of the peers, None for those that are not installed."""
    return {name: version(of) if find_spec(module) else None for name, (module, of, *_) in PEERS.items()}


@contextmanager
def ready(pair: Pair, samples: Sequence[Sample], wanted: bool = True) -> Iterator[dict[str, Peer]]:
    """Those that are installed, by name, with a copy of the long model; a line for each other one."""
    with tempfile.TemporaryDirectory() as name:
        found, folder = dict[str, Peer](), Path(name)
        for peer, (module, package, more, begin) in PEERS.items() if wanted else ():
            if not find_spec(module):
                print(f"{peer}: not measured, since it is not installed (pip install {package} {more})")
                continue
            if not found:
                save(pair, folder)
            try:
                found[peer] = begin(folder, samples, pair.long.device)
            except Exception as error:  # whatever a tool raises whose own needs are not installed
                print(f"{peer}: not measured: {error}")
        yield found
        if "Data-Juicer" in found:
            importlib.import_module("data_juicer.utils.model_utils").MODEL_ZOO.clear()


def save(pair: Pair, folder: Path) -> None:
    """The long model and its tokenizer, which puts the start token before a text: peers rely on that."""
    pair.long.save_pretrained(folder)
    pair.tokenizer.save_pretrained(folder)
    file, start = folder / "tokenizer.json", pair.tokenizer.bos_token
    backend = type(pair.tokenizer.backend_tokenizer).from_file(str(file))
    special = [(start, pair.tokenizer.bos_token_id)]
    backend.post_processor = TemplateProcessing(single=f"{start} $A", special_tokens=special)
    backend.save(str(file))


def texts(tokenizer: Any, lengths: Sequence[int], response: int) -> list[Sample]:
    """Samples of random words, each one token, with the given lengths in tokens, start token included.

    The response begins with a space. ScoreError: the tokenizer does not read them so.
    """
    rng, found = np.random.default_rng(0), []
    ids = range(3, len(tokenizer))
    one = [text for text in tokenizer.batch_decode([[i] for i in ids]) if _single(tokenizer, text)]
    words = [text for text in one if text.startswith(" ") and text[1:].isalpha()]
    firsts = [text for text in one if text.isalpha()]
    if not words or not firsts:
        raise ScoreError("the tokenizer has no words of one token each; name no models to measure the peers")
    for i, length in enumerate(lengths):
        y = min(response, length // 4)
        drawn = rng.choice(words, length - 2)
        context = rng.choice(firsts) + "".join(drawn[: length - 2 - y])
        sample = Sample(f"b{i}", context, "", "".join(drawn[length - 2 - y :]))
        read = encoded(sample, tokenizer)
        if (len(read.ids), len(read.response)) != (length, y):
            raise ScoreError(
                "the tokenizer reads words together otherwise than alone; this cannot be measured"
            )
        found.append(sample)
    return found


def encoded(sample: Sample, tokenizer: Any) -> Encoded:
    """A sample of `texts` as we read it: no separator, the response right behind the context."""
    parts = encode(sample, tokenizer)
    return Encoded(sample.id, parts.start, parts.context, [], parts.response)


def _single(tokenizer: Any, text: str) -> bool:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
