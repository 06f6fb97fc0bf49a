"""Tiny random models, a byte-level tokenizer and encoded samples, shared by the tests."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings
from tiny import random_encoded, random_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from gateau_lib.data.samples import Encoded
from gateau_lib.models.rope import with_rope_theta
from gateau_lib.study import manifest
from gateau_lib.study.whole_files import atomic_write

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repository")
# Two threads that wait for each other on a core that another test holds are many times slower than one.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start
LISTED = Path(__file__).with_name("slow.txt").read_text(encoding="utf-8")
STARTED = pytest.StashKey[float]()
SLOW = re.findall(r"^\w+", LISTED, flags=re.MULTILINE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what slow.txt names, by file or by test; its files come first, then those with most such tests."""
    slow = Counter[Path]()  # a process takes a file at a time: no long one may be left for the end
    for item in items:
        if {item.path.stem, getattr(item, "originalname", item.name)} & set(SLOW):
            item.add_marker(pytest.mark.slow)
            slow[item.path] += 1
    places = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: (places.get(item.path.stem, len(SLOW)), -slow[item.path]))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[STARTED] = time.monotonic()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With ``$GATEAU_TESTS`` leave in that file what the tests took, if all passed; README tells it."""
    place, worker = os.environ.get("GATEAU_TESTS"), hasattr(session.config, "workerinput")
    if place and not worker and exitstatus == 0:
        took = round(time.monotonic() - session.config.stash[STARTED], 1)
        about = {"seconds": took, "machine": manifest.machine(), **manifest.commit()}
        atomic_write(Path(place), json.dumps(about, indent=1) + "\n")


@pytest.fixture(autouse=True)
def determinism() -> Iterator[None]:
    """A trainer that a test makes by itself switches the whole process; the next test finds it as it was."""
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


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
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def prefixing() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama-2's form: texts begin with a mark of their own, no padding,
    bytes as a last resort."""
    from gateau_lib.experiments.rehearsal import llama_tokenizer

    return llama_tokenizer()


@pytest.fixture(scope="session")
def encoded() -> list[Encoded]:
    """Contexts of multiples of 16 tokens and not, shorter than 16, or absent; responses of 1 to 9 tokens."""
    shapes = [
        (64, 5, 4),
        (70, 6, 9),
        (7, 3, 2),
        (48, 4, 1),
        (0, 8, 3),
        (90, 5, 5),
        (33, 2, 1),
        (66, 6, 7),
        (16, 4, 6),
    ]
    return [random_encoded(f"s{i}", *shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.fixture
def small_memory() -> Callable[[LlamaForCausalLM, int], AbstractContextManager[list[int]]]:
    """``with small_memory(model, tokens) as refused``: larger batches fail as with torch's CPU allocator."""

    @contextmanager
    def limited(model: LlamaForCausalLM, tokens: int) -> Iterator[list[int]]:
        refused, forward = [], model.forward

        def refusing(*args, **kwargs):
            if kwargs["input_ids"].numel() > tokens:
                refused.append(kwargs["input_ids"].numel())
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
                )
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
