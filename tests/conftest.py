"""Tiny random models, a byte-level tokenizer and encoded samples, shared by the tests."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from gateau_lib.data.samples import Encoded
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.models.loading import SHIPPED
from gateau_lib.models.rope import with_rope_theta
from gateau_lib.models.tiny import build_llama

VOCABULARY = 259  # <pad>, <s>, </s> and 256 bytes

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repository")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def determinism() -> Iterator[None]:
    """A trainer that a test makes by itself switches the whole process; the next test finds it as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def random_llama(kv_heads: int | None = None, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 2 layers and 4 heads whose weights are large enough that attention and losses are far from uniform."""
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "window": 128, "rope_theta": 1000.0}
    model = build_llama(VOCABULARY, **sizes, seed=seed, kv_heads=kv_heads)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model.eval()


def eager(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """A copy of the model that computes attention the plain way, for references."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    return twin


def random_encoded(name: str, context: int, instruction: int, response: int, seed: int) -> Encoded:
    """A sample of random tokens with parts of the given lengths."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(3, VOCABULARY, size=n).tolist() for n in (context, instruction, response)]
    return Encoded(name, [1], *parts)


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    return random_llama()


@pytest.fixture(scope="session")
def llama_gqa() -> LlamaForCausalLM:
    """Two key-value heads for four query heads."""
    return random_llama(kv_heads=2, seed=1)


@pytest.fixture(scope="session", params=["llama", "llama_gqa"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    """Each of the two models in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer, one token a byte."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 3)}
    plain = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def prefixing() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama-2's form: every text begins with a mark of its own, no padding token, bytes as a last resort."""
    from gateau_lib.experiments.rehearsal import llama_tokenizer

    return llama_tokenizer()


@pytest.fixture(scope="session")
def encoded() -> list[Encoded]:
    """Contexts that are and are not multiples of 16 tokens, shorter than 16, or absent; responses of 1 to 9 tokens."""
    shapes = [(64, 5, 4), (70, 6, 9), (7, 3, 2), (48, 4, 1), (0, 8, 3), (90, 5, 5), (33, 2, 1), (66, 6, 7), (16, 4, 6)]
    return [random_encoded(f"s{i}", *shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.fixture
def small_memory() -> Callable[[LlamaForCausalLM, int], AbstractContextManager[list[int]]]:
    """``with small_memory(model, tokens) as refused``: the model fails like torch's CPU allocator on larger batches."""

    @contextmanager
    def limited(model: LlamaForCausalLM, tokens: int) -> Iterator[list[int]]:
        refused, forward = [], model.forward

        def refusing(*args, **kwargs):
            if kwargs["input_ids"].numel() > tokens:
                refused.append(kwargs["input_ids"].numel())
                raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
            return forward(*args, **kwargs)

        with mock.patch.object(model, "forward", refusing):
            yield refused

    return limited


@pytest.fixture(scope="session")
def saved_pair(
    tmp_path_factory: pytest.TempPathFactory, llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> tuple[Path, Path]:
    """Folders of a short-window and a long-window model, with their tokenizer."""
    root = tmp_path_factory.mktemp("pair")
    long = with_rope_theta(llama, 20_000.0, window=1024)
    for name, each in (("short", llama), ("long", long)):
        each.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root / "short", root / "long"


def _shipped() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(SHIPPED / "long")


@functools.cache
def _across_words() -> PreTrainedTokenizerFast:
    """Byte pairs learned without regard to words, so that a token can end one sentence and begin the next; every text is read
    with a space before it."""
    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    core.train_from_iterator(real_paragraphs()[:200], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def other_tokenizers() -> dict[str, Callable[[], PreTrainedTokenizerFast]]:
    """Makers of tokenizers that cut text in other ways than `tokenizer` does."""
    return {"shipped": _shipped, "across words": _across_words}
