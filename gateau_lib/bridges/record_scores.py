"""Records that another tool holds, scored as `gateau_lib.score` scores those of a file.

Pool-wide parts (min-max, softmax, ranks) need all records, so what is left are the columns of the score
table; a tool that ranks by one of them gets the same order as ``--score`` with that column's method.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gateau_lib.data.sharded import item_of
from gateau_lib.methods.base import Method
from gateau_lib.models.pair import Pair
from gateau_lib.scoring import part_files
from gateau_lib.scoring.score_table import LENGTHS
from gateau_lib.scoring.settings import asked_methods, resolve


class RecordScores:
    """Methods and models, loaded at the first batch; can be sent to other processes.

    ``options``: those of `settings.resolve`: ``short``, ``long``, ``max_length``, ``dtype``, ``device`` ...;
    without models the shipped tiny pair. Raises ScoreError, ModelError: options that cannot be meant.
    """

    def __init__(self, methods: Sequence[str] = ("hmg", "cam"), **options: Any) -> None:
        self.run = resolve(Path(), None, methods=methods, only_plan=True, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {"run": self.run}  # every process loads its own models

    @property
    def methods(self) -> list[Method]:
        """The methods, in the library's order."""
        return asked_methods(self.run.options.methods)

    @property
    def columns(self) -> list[str]:
        """What a row holds beside ``error``, all of it numbers."""
        return [*LENGTHS, *dict.fromkeys(column for each in self.methods for column in each.columns)]

    @cached_property
    def _pair(self) -> Pair:
        return part_files.begin(self.run)[1]

    def rows(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """A row a record: `columns`, None where there is none, and ``error``, the reason or None."""
        named = [(dict(record), str(record.get("id")), f"record {n}") for n, record in enumerate(records, 1)]
        items = [item_of(*each) for each in named]
        rows = part_files.score_items(items, self._pair, self.run.options, self.methods)
        return [{name: row[name] for name in ("error", *self.columns)} for row in rows]
