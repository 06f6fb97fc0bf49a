"""Tiny random models, tokenizers and encoded samples, shared by the tests."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from gateau_lib.data.samples import Encoded
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.models.loading import SHIPPED
from gateau_lib.models.tiny import build_llama

VOCABULARY = 259  # <pad>, <s>, </s> and 256 bytes
IDS = torch.arange(3, 103).unsqueeze(0)  # (1, 100)


def random_llama(kv_heads: int | None = None, seed: int = 0) -> LlamaForCausalLM:
    """A Llama of 2 layers and 4 heads whose weights are large enough that attention and losses
    are far from uniform."""
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


@torch.inference_mode()
def logits(model: LlamaForCausalLM, ids: torch.Tensor = IDS) -> torch.Tensor:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits


def built(theta: float, seed: int = 0) -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "window": 128}
    return build_llama(VOCABULARY, **sizes, rope_theta=theta, seed=seed).eval()


def random_encoded(name: str, context: int, instruction: int, response: int, seed: int) -> Encoded:
    """A sample of random tokens with parts of the given lengths."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(3, VOCABULARY, size=n).tolist() for n in (context, instruction, response)]
    return Encoded(name, [1], *parts)


def _shipped() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(SHIPPED / "long")


@functools.cache
def _across_words() -> PreTrainedTokenizerFast:
    """Byte pairs learned without regard to words, so that a token can end one sentence and begin the next;
    every text is read with a space before it."""
    core = Tokenizer(BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    core.train_from_iterator(real_paragraphs()[:200], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def other_tokenizers() -> dict[str, Callable[[], PreTrainedTokenizerFast]]:
    """Makers of tokenizers that cut text in other ways than `tokenizer` does."""
    return {"shipped": _shipped, "across words": _across_words}
