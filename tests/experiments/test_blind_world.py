"""What needs no model cannot tell which samples need far context: else the study would measure copying."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gateau_lib.data import corpus, kinds
from gateau_lib.data.samples import encode
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.experiments.compositions import composed
from gateau_lib.experiments.ranking import auc
from gateau_lib.methods import METHODS
from gateau_lib.methods.base import Options, RankOptions
from gateau_lib.methods.reader import Reader
from gateau_lib.models.pair import Pair
from gateau_lib.study.profiles import PROFILES

DRAWS = (700_001, 700_002, 700_003, 700_004)  # of no study: theirs are 100 times a pair's number, and 99,000
BLIND = ("zlib_contrast", "gzip_ratio", "gzip_band", "word_overlap", "question_distance")
PLAIN = ("facts", "longest", "random")
# Furthest that a mean AUC over `DRAWS` may lie from chance.
LIMITS = {"independent": 0.1, "clean": 0.12}


def scored(draw: int) -> pd.DataFrame:
    """A pool of the cpu profile with its model-free scores, high = select."""
    sizes, words = PROFILES["cpu"], build_tokenizer()
    drawn = corpus.candidate_pool(sizes, words, "independent", draw)
    encoded = [encode(sample, words, sizes.max_length) for sample in drawn]
    options = Options(BLIND, "ntk", sizes.segment_length, sizes.max_length, sizes.short_window)
    reader = Reader(drawn, encoded, Pair(None, None, words), options)  # without models
    known = {"id": [s.id for s in drawn], "kind": [s.kind for s in drawn]}
    known |= {"needs_far": list(map(kinds.needs_far, drawn)), "tokens": [len(e.ids) for e in encoded]}
    table = pd.DataFrame(known | {"facts": [float(len(s.evidence)) for s in drawn]})
    for name in BLIND:
        fill = METHODS[name].fill
        table = table.assign(**(fill(reader) if fill else {}))
    return table.assign(n_tokens=table["tokens"], random=np.random.default_rng(draw).random(len(table)))


def ranked(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[name] if name in ("facts", "random") else METHODS[name].rank(table, RankOptions())


@pytest.fixture(scope="module")
def pools() -> list[pd.DataFrame]:
    return [scored(draw) for draw in DRAWS]


@pytest.mark.parametrize("composition", LIMITS)
@pytest.mark.parametrize("name", (*BLIND, *PLAIN))
def test_what_needs_no_model_is_blind(pools, name, composition):
    parts = [composed(table, composition, 0) for table in pools]
    found = [auc(part["needs_far"], ranked(part, name)) for part in parts]
    assert abs(np.mean(found) - 0.5) <= LIMITS[composition], (name, composition, found)


def test_what_asks_no_model_is_all_tested():
    free = {name for name, method in METHODS.items() if not method.passes and not method.details}
    assert free - set(BLIND) - set(PLAIN) <= {"gateau"}


def test_a_verbatim_copy_would_be_found(pools):
    """The measure itself: among far and near samples, told in the words of the question, zlib sees which."""
    parts = [table[table["kind"].isin(["far", "near"])] for table in pools]
    assert np.mean([auc(part["needs_far"], part["zlib_contrast"]) for part in parts]) > 0.8
