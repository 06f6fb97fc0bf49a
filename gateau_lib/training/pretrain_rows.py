"""Rows of tokens that the pair is pretrained on, with the weight of each token."""

from functools import cache
from typing import Any

import numpy as np
import torch

from gateau_lib.data import world
from gateau_lib.data.tokenizer import real_paragraphs
from gateau_lib.data.world import Cast, Fact, Piece

BACKGROUND_WEIGHT = 0.05  # mean loss weight of a token that nothing before it determines
BACKGROUND_SAMPLE = 0.2  # share of those tokens that get a loss at all: output logits are 40 % of a step

NEAR_COPY_SHARE, FAR_COPY_SHARE = 0.25, 0.15  # rows that are copy practice, see RowMaker.copying
# Loss weight of a word copied from far: at 1.0 these rows would outweigh all recalls of the documents.
FAR_COPY_WEIGHT = 0.3
NEAR_RATES = 0.40, 0.45  # chances that a sentence tells a fact, or recalls one
# Recalling less than is told lets facts grow old: at the near rates half of them are 80 tokens away.
FAR_RATES = 0.40, 0.20
RECALLED_ONCE = 0.75  # chance that a fact is not recalled again
REAL_SHARE = 0.10  # rows whose filler is real documentation


class RowMaker:
    """Endless seeded rows of planted text: ids and loss weights; ``far``: to copy over long distances."""

    def __init__(self, tokenizer: Any, seed: int, question_share: float, far: bool = False):
        self.rng, self.tokenizer = np.random.default_rng(seed), tokenizer
        self.question_share, self.far = question_share, far
        self.mixed = True  # whether sentences are in either tongue; the first is learned before the second
        # An answer ends its text: fine-tuning is too short to teach that.
        self.end: Piece = (tokenizer.eos_token, True)
        self._ids = cache(lambda text: tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))

    def _encode(self, pieces: list[Piece]) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for text, predictable in pieces:
            # Word by word, so that the cache stays as small as the vocabulary: tokens end at spaces.
            words = text.split(" ")
            for i, word in enumerate(words):
                tokens = self._ids(" " + word if i else word) if word else ()
                ids += tokens
                weights += [1.0 if predictable else BACKGROUND_WEIGHT] * len(tokens)
        return ids, weights

    def _recall(self, known: list[list[Fact]]) -> list[Piece]:
        """Earlier facts again: restated in prose, or asked for and answered."""
        rng = self.rng
        place = int(rng.random() * len(known))
        facts, others = known[place], known[:place] + known[place + 1 :]
        # Mostly a fact is recalled once: else the nearest mention restates it, and nothing far is needed.
        if others and rng.random() < RECALLED_ONCE:
            known[:] = others
        if rng.random() >= self.question_share:
            fact = facts[int(rng.random() * len(facts))]
            told = f" Again, the {fact.attribute} of {fact.key} is"
            return self._told([(told, False), (f" {fact.answer}", True), (".", False)])
        shape = rng.random()
        if shape < 0.15:
            asked, answer, _ = world.chatter(rng)
            return [(f"\n\n{asked}", False), ("\n\n", False), (answer, True), self.end]
        if len(facts) == 1 and shape < 0.4:  # a list of people of the same attribute
            same = [k[-1] for k in [facts, *others] if k[-1].attribute == facts[0].attribute]
            chosen = [same[i] for i in rng.permutation(len(same))[:3]]
        else:
            chosen = facts if shape < 0.7 else facts[-1:]
        asked, answer_pieces = world.question(chosen, world.pick(rng, world.LEADS))
        return self._told([(f"\n\n{asked}", False), ("\n\n", False), *answer_pieces, self.end])

    def _told(self, pieces: list[Piece]) -> list[Piece]:
        """The pieces in one of the two tongues."""
        tongue = world.tongue(self.rng) if self.mixed else str
        return [(tongue(text), predictable) for text, predictable in pieces]

    def document(self, window: int) -> tuple[list[int], list[float]]:
        """``window`` + 1 tokens of a document: news, filler and recalls of what it said before."""
        rng, cast = self.rng, Cast(self.rng)
        p_fact, p_recall = FAR_RATES if self.far else NEAR_RATES
        real = rng.random() < REAL_SHARE
        known: list[list[Fact]] = []
        ids, weights = [self.tokenizer.bos_token_id], [0.0]
        while len(ids) < window + 1:
            draw = rng.random()
            fact = cast.fact() if draw < p_fact or not known else None
            if fact is not None:
                hop = cast.keeper(fact.key) if rng.random() < 0.3 else None
                known.append([hop, fact] if hop else [fact])
                pieces = [piece for f in known[-1] for piece in self._told([(f" {f.sentence}", False)])]
            elif draw < p_fact + p_recall:
                pieces = self._recall(known)
            else:
                paragraphs = real_paragraphs()
                text = paragraphs[int(rng.random() * len(paragraphs))] if real else self._filler(known)
                pieces = [(("\n" if rng.random() < 0.15 else " ") + text, False)]
            new_ids, new_weights = self._encode(pieces)
            ids += new_ids
            weights += new_weights
        return ids[: window + 1], weights[: window + 1]

    def _filler(self, known: list[list[Fact]]) -> str:
        """A sentence that tells nothing; some name what a fact is about, or hold words of none."""
        rng, draw = self.rng, self.rng.random()
        if draw < 0.1 and known:
            fact = known[int(rng.random() * len(known))][-1]
            return self._told([(world.mention(rng, fact.key, fact.attribute), False)])[0][0]
        if draw < 0.2:
            return self._told([(world.lure(rng, " ".join(world.new_value(rng))), False)])[0][0]
        return world.filler(rng)

    def copying(self, window: int) -> tuple[list[int], list[float]]:
        """Words repeated with a random period: a fixed one would be learned by position, not by content.

        Near: at most 30 words, all different, from which copying is learned at all. Far: periods of up to
        half the window, whose words occur more than once: only a match of several words tells where to go on.
        """
        rng, values = self.rng, tuple(world.VALUES)
        longest = np.log(window / 2)
        period = int(np.exp(rng.uniform(np.log(2), longest))) if self.far else int(rng.integers(2, 31))
        lead = [world.pick(rng, values) for _ in range(int(rng.integers(0, 8)))]
        if self.far:
            block = [world.pick(rng, values) for _ in range(period)]
        else:
            block = [values[i] for i in rng.permutation(len(values))[:period]]
        words = list(lead)
        for _ in range(window // period + 2):  # each time in one of the two tongues
            tongue = world.tongue(rng) if self.mixed else str
            words += [tongue(word) for word in block]
        ids = [self.tokenizer.bos_token_id] + [self._ids(" " + w)[0] for w in words]
        unknown = len(lead) + period
        known = FAR_COPY_WEIGHT if self.far else 1.0
        weights = [0.0] + [BACKGROUND_WEIGHT] * unknown + [known] * (len(words) - unknown)
        return ids[: window + 1], weights[: window + 1]

    def batch(self, window: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of a step, about ``tokens`` in all: ids ``(rows, window + 1)`` int64; weights, float32."""
        copies = FAR_COPY_SHARE if self.far else NEAR_COPY_SHARE
        count = range(max(1, tokens // window))
        rows = [(self.copying if self.rng.random() < copies else self.document)(window) for _ in count]
        ids, weights = torch.tensor([r[0] for r in rows]), np.array([r[1] for r in rows], np.float32)
        sampled = self.rng.random(weights.shape) < BACKGROUND_SAMPLE
        background = weights == np.float32(BACKGROUND_WEIGHT)
        weights = np.where(background, weights * sampled / BACKGROUND_SAMPLE, weights).astype(np.float32)
        return ids, torch.from_numpy(weights)
