"""What a selection method is here: one entry that scoring, selecting, the plan and the figures read.

Nothing here needs torch, so that formulas can be read, ranked by and tested without a model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

Reading = Literal["ntk", "truncate", "raw", "ntk_each"]  # how the short model reads beyond its window
READINGS: tuple[Reading, ...] = get_args(Reading)
Columns = Mapping[str, Sequence[Any] | np.ndarray]  # of a score table, a value a sample
Kind = Literal["text", "numbers", "integers"]  # of a column that holds no single number


@dataclass(frozen=True)
class Options:
    """What decides a sample's scores, beside data and models; lengths in tokens."""

    methods: tuple[str, ...]
    reading: Reading
    segment_length: int
    max_length: int
    short_window: int
    prolong_pairs: int = 500  # the released scripts' value
    seed: int = 0
    chat: bool = False  # the tokenizer's chat template instead of the papers' plain prompt
    adaptive: bool = False  # estimated segment importance, see `cam_adaptive.adaptive_importance`

    @property
    def cam_mode(self) -> str:
        """How segment importance is found."""
        return "adaptive" if self.adaptive else "exact"


@dataclass(frozen=True)
class RankOptions:
    """What a ranking depends on, beside the scores."""

    combine: str = "rank"  # how GATEAU adds HMP and CAM, one of `gateau.VARIANTS`
    alpha: float = 0.8  # weight of HMP against CAM
    seed: int = 0  # of a random order


def without_context(row: Mapping[str, Any]) -> str | None:
    """Why a row says nothing of far context: none was read. The study's own pools may not count it."""
    return "no context" if row.get("n_context") == 0 else None


Ranking = Callable[[pd.DataFrame, RankOptions], np.ndarray]  # rows of a pool -> numbers, high = select


def ranks_of(values: np.ndarray) -> np.ndarray:
    """Ranks of a pool's values, (n,), the lowest 1; equal ones share their mean."""
    # As scipy.stats has them, which takes a third of a second to load, for every command.
    return np.asarray(pd.Series(values).rank())


def by(column: str) -> Ranking:
    """The ranking by a column of the score table as it stands."""
    return lambda pool, options: pool[column].to_numpy(dtype=float)


@dataclass(frozen=True)
class Method:
    """One selector. Without ``fill`` it asks the models nothing: it ranks by lengths or what others leave."""

    name: str  # as --methods and --score take it
    title: str  # as a reader sees it
    source: str  # paper, section, arXiv id, file of the released code
    rank: Ranking
    needs: tuple[str, ...] = ()  # columns of the table that ``rank`` reads; a row without one is left out
    # A shard as both models read it, a `reader.Reader` -> its columns, a value a sample.
    fill: Callable[[Any], Columns] | None = None
    passes: tuple[str, ...] = ()  # what ``fill`` reads of the `reader.Reader`, which tells what it costs
    documents: bool = False  # whether ``fill`` also reads plain documents, which have no response
    needs_window: bool = False  # whether ``fill`` asks where the short model's window begins, beside passes
    columns: tuple[str, ...] = ()  # numbers that ``fill`` leaves in the score table
    details: Mapping[str, Kind] = field(default_factory=dict)  # what else it leaves: column -> what it holds
    # Why a row is never selected, None if it may be.
    unfit: Callable[[Mapping[str, Any]], str | None] = lambda row: None
    look: tuple[str, str] = ("#8A8A8A", "o")  # colour and marker of its line
