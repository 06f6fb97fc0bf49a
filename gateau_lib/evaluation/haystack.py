"""A fact hidden in real text: the needle test, with length and depth in the tokens that the model reads.

The text before and after a needle, which stands between two sentences, is cut at words to as many tokens as
the depth asks for, whatever the tokenizer. (GATEAU's released test looks for a full stop by a token id of
another tokenizer, finds none, and puts every needle at the first character.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from gateau_lib.data import world
from gateau_lib.data.samples import Sample, encode, evidence_tokens
from gateau_lib.evaluation import benchmark_item
from gateau_lib.evaluation.answers import exact_match
from gateau_lib.evaluation.benchmark_item import Benchmark, Item, longest_prompt, made_to_length, scored
from gateau_lib.models import loading
from gateau_lib.models.prompts import SEPARATOR
from gateau_lib.sources import conversion, published
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study

TASK = "needle"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
REPEATS = 3  # items of a length and depth, each with another needle in another place of the haystack
MAX_NEW_TOKENS = 64
TOLERANCE = 32  # tokens that length and depth may be off, where words end; or 2 % of the length if more
CELL = 0.08  # how far an item may be from its cell of a map: of the nominal length, and of the depth
_WORD = 24  # characters at most that a cut moves to spare a word
# White space after the end of a sentence, with what begins another; the place after a Chinese full stop; an
# empty line.
_BORDER = re.compile(
    r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z\d])|(?<=[。！？])[”’」』]*\s*(?=.)|\n\s*\n", re.DOTALL
)


def items(
    texts: Sequence[str], tokenizer: Any, lengths: Sequence[int], depths: Sequence[float], seed: int
) -> list[Item]:
    """Needle items of every length and depth, `REPEATS` of each.

    ``texts``: the haystack; read in their order, in a circle if they are too short for a length.
    ``lengths``: tokens of the whole prompt (see `benchmark_item.prompt_tokens`).
    ``depths``: tokens before the needle over all that are not it, 0 to 1.
    Items have in ``extra``: ``length`` and ``depth`` as asked for, ``tokens`` and ``realised_depth`` as they
        are, ``needle``, and ``copies`` of the haystack (above 1 where it is too short).
    Raises DataError: texts without two sentences; an item that cannot be as long or as deep as asked.
    """
    stack = SEPARATOR.join(text.strip() for text in texts) + SEPARATOR
    borders = [found.end() for found in _BORDER.finditer(stack)]
    if len(borders) < 2:
        raise DataError("the haystack has no two sentences; give real text")
    found = []
    for length, (place, depth), repeat in product(lengths, enumerate(depths), range(REPEATS)):
        rng = np.random.default_rng([seed, length, place, repeat])
        at, name = borders[int(rng.integers(len(borders)))], f"{TASK}-{length}-{depth:g}-{seed}-{repeat}"
        fact = cast(world.Fact, world.Cast(rng).fact())  # a new cast has someone without a fact
        found.append(_item(name, stack, at, fact, tokenizer, length, depth))
    return found


def _item(
    name: str, stack: str, at: int, fact: world.Fact, tokenizer: Any, length: int, depth: float
) -> Item:
    left = _side(stack, at, tokenizer, round(depth * length), before=True)
    right = _side(stack, at, tokenizer, length - round(depth * length), before=False)

    def context(tokens: int) -> tuple[str, int]:
        """The haystack with that many tokens of filling, and the character that the needle begins at."""
        before, after = left(round(depth * tokens)), right(tokens - round(depth * tokens))
        lead = before if not before or before[-1].isspace() else before + " "
        return f"{lead}{fact.sentence} {after}".rstrip(), len(lead)

    asked = SEPARATOR + world.question([fact])[0]
    tokens, read = longest_prompt(lambda tokens: context(tokens)[0] + asked, tokenizer, length, name)
    text, begin = context(tokens)
    sample = Sample(name, text, asked, fact.sentence, evidence=((begin, begin + len(fact.sentence)),))
    realised = realised_depth(sample, tokenizer)
    allowed = max(TOLERANCE, length // 50)
    if length - read > allowed or abs(realised - depth) * read > allowed:
        found = f"{read} tokens, the needle at depth {realised:.3f}"
        raise DataError(f"{name}: {found}; give a haystack with shorter words")
    copies = -(-(len(text) - len(fact.sentence)) // len(stack))
    extra: dict[str, Any] = {"length": length, "depth": depth, "tokens": read, "realised_depth": realised}
    extra |= {"needle": fact.sentence, "copies": copies}
    return Item(name, TASK, (text + asked,), fact.value, MAX_NEW_TOKENS, extra=extra)


def _side(stack: str, at: int, tokenizer: Any, most: int, before: bool) -> Callable[[int], str]:
    """What cuts the text before or after a place of the haystack to as many tokens, counted from there."""
    offsets: list[tuple[int, int]] = []
    size = 6 * most + 1
    while len(offsets) <= most:  # more characters, until there are more than enough tokens
        laps = size // len(stack) + 1
        end = at + laps * len(stack) if before else at + size
        text = (stack * (laps + 1))[end - size : end]
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets, size = read["offset_mapping"], 2 * size

    def cut(tokens: int) -> str:
        """That many tokens or a few less, for it ends (or, before the place, begins) with a whole word."""
        tokens = min(tokens, len(offsets))
        if tokens == 0:
            return ""
        place, step = (offsets[-tokens][0], 1) if before else (offsets[tokens - 1][1], -1)
        for _ in range(_WORD):
            # Chinese and the like, from this character on, have no words to part.
            inside = all(c.isalnum() and c < "\u2e80" for c in text[place - 1 : place + 1])
            place += step * (0 < place < len(text) and inside)
        return text[place:] if before else text[:place]

    return cut


def score(items: Sequence[Item], answers: pd.DataFrame) -> pd.DataFrame:
    """`scored` by the share of the needle's key words that are in the answer."""
    return scored(items, answers, lambda said, word: exact_match(said, [word]))


def realised_depth(sample: Sample, tokenizer: Any) -> float:
    """Where a sample's one evidence span lies: tokens before it over tokens that are not it, 0 to 1."""
    spans = evidence_tokens(sample, tokenizer)
    if len(spans) != 1:
        raise DataError(f"sample {sample.id!r}: a needle item has one evidence span, this has {len(spans)}")
    begin, end = spans[0]
    total = len(tokenizer(sample.context, add_special_tokens=False, verbose=False)["input_ids"])
    return begin / max(1, total - (end - begin))


def needle_cells(
    samples: Sequence[Sample], tokenizer: Any, lengths: Sequence[int], depths: Sequence[float]
) -> pd.DataFrame:
    """The cell of the needle map each item lies in, measured in tokens, not taken from how it was made.

    Returns a row an item, ``id, length, depth``: of ``lengths`` (tokens of a whole item) and ``depths`` (0 to
        1), both nominal. Raises DataError: an item farther than `CELL` from every cell.
    """
    rows = []
    for sample in samples:
        tokens, at = len(encode(sample, tokenizer).ids), realised_depth(sample, tokenizer)
        length, depth = min(lengths, key=lambda n: abs(n - tokens)), min(depths, key=lambda d: abs(d - at))
        if abs(tokens - length) > CELL * length or abs(at - depth) > CELL:
            found = f"{tokens} tokens, needle at depth {at:.3f} lies in no cell of lengths {list(lengths)}"
            limits = f"depths {list(depths)} (tolerance {CELL})"
            raise DataError(f"sample {sample.id!r}: {found} and {limits}; make the item again")
        rows.append({"id": sample.id, "length": length, "depth": depth})
    return pd.DataFrame(rows)


def needle_map(rows: pd.DataFrame, cells: pd.DataFrame, measure: str = "token_accuracy") -> pd.DataFrame:
    """Mean of a measure in rows of `planted` by depth (rows) and length (columns) of `needle_cells`."""
    joined = cells.merge(rows, on="id", how="left", validate="one_to_one")
    if joined[measure].isna().any():
        lost = joined.loc[joined[measure].isna(), "id"].iloc[0]
        raise DataError(f"item {lost!r} of the needle map was not evaluated")
    return joined.astype({measure: float}).pivot_table(measure, "depth", "length")


def haystack(study: Study) -> list[str]:
    """The texts that needles are hidden in."""
    return conversion.texts(published.files_of(study, "haystack")[0])


def _of_study(study: Study, tokenizer: Any) -> list[Item]:
    texts = haystack(study)
    return made_to_length(study.profile, lambda n: items(texts, tokenizer, [n], DEPTHS, study.seed))


BENCHMARK = Benchmark(
    name="needle",
    title="Needle",
    source="Kamradt 2023, github.com/gkamradt/LLMTest_NeedleInAHaystack; GATEAU; places counted in tokens",
    items=_of_study,
    score=score,
    cost=lambda profile: benchmark_item.cost_by_length(profile, len(DEPTHS) * REPEATS, MAX_NEW_TOKENS),
    data="haystack",
    read_whole=True,
)


def needle_maps(
    study: Study, scores: pd.DataFrame, folders: Mapping[str, Path], count: int = 3
) -> dict[str, pd.DataFrame]:
    """Share of needles found in `suite.scores`, depth by length, for ``count`` runs that have all answers."""
    found = scores[scores["benchmark"] == BENCHMARK.name]
    if found.empty:
        return {}
    asked = BENCHMARK.items(study, loading.load_tokenizer(next(iter(folders.values()))))
    cells = pd.DataFrame([{"id": item.id, **item.extra} for item in asked])[["id", "length", "depth"]]
    complete = [(run, rows) for run, rows in found.groupby("run", sort=False) if rows["score"].notna().all()]
    shares = [(run, rows[["id"]].assign(score=rows["score"] / 100)) for run, rows in complete[:count]]
    return {run: needle_map(rows, cells, "score") for run, rows in shares}
