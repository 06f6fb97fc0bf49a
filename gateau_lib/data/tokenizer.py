"""One tokenizer for planted and real text: a unigram model with one entry per planted word.

Every word of the planted world is a single token, which is what lets half a million parameters learn to
recall. Real text is covered by frequent fragments, single characters and, below them, bytes, so that no text
is unreadable and decoding gives it back.
"""

import functools
import math
import re
from typing import Any

from gateau_lib.data.world import WORDS

MARK = "\u2581"  # stands for a space inside a token
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
FRAGMENTS = 480  # entries learned from real text; more would cost the tiny models classes they rarely use


@functools.cache
def real_paragraphs() -> tuple[str, ...]:
    """Paragraphs of the documentation that ships with Python (`pydoc_data.topics`), one line each."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    paragraphs = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text))
    return tuple(p.replace(MARK, " ") for p in paragraphs if 80 <= len(p) <= 600 and p[0].isalpha())


def frequent_fragments(paragraphs: tuple[str, ...], count: int) -> list[str]:
    """``count`` frequent fragments of words with their leading space, commonest merges first (byte pairs)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never", split=True)
    alphabet = {c for p in paragraphs for c in p.replace(" ", MARK)}
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + count, show_progress=False)
    learner.train_from_iterator(paragraphs, trainer)
    ranks = learner.get_vocab()
    return sorted((f for f in ranks if len(f) > 1), key=ranks.__getitem__)


def build_tokenizer(fragments: int = FRAGMENTS) -> Any:
    """A lossless `PreTrainedTokenizerFast` of planted words, fragments of real text, characters and bytes."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import Unigram
    from transformers import PreTrainedTokenizerFast

    vocab: dict[str, float] = dict.fromkeys(SPECIAL, 0.0)
    # So low that a literal "<0x41>" in a text is never read as the byte token of that name.
    vocab |= {f"<0x{byte:02X}>": -1000.0 for byte in range(256)}
    for word in WORDS:  # they outscore any split of them
        vocab[MARK + word] = -2.0
        if word[0].isupper():  # sentences that open a paragraph have no space before them
            vocab[word] = -2.0
    vocab |= {"\n\n": -2.0, "\n": -3.0, ".": -3.0, ",": -3.0, "?": -3.0}
    # Zipf: the r-th commonest has about 1/r of the mass.
    for rank, fragment in enumerate(frequent_fragments(real_paragraphs(), fragments), 1):
        vocab.setdefault(fragment, -4.0 - math.log(rank))
    for code in range(0x20, 0x7F):
        vocab.setdefault(chr(code).replace(" ", MARK), -12.0)
    core = Tokenizer(Unigram(list(vocab.items()), unk_id=SPECIAL.index("<unk>"), byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="never", split=True)
    spaces = decoders.Metaspace(replacement=MARK, prepend_scheme="never")
    core.decoder = decoders.Sequence([decoders.ByteFallback(), spaces, decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    named = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **named)
