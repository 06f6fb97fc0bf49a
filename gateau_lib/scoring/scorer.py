"""One record in, one row out: every method's scores, each model reading a sample as seldom as possible."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from gateau_lib.data.samples import Encoded, Sample, encode
from gateau_lib.data.sharded import Item
from gateau_lib.methods.base import Method, Options
from gateau_lib.methods.reader import Reader
from gateau_lib.models.nll import SequenceError
from gateau_lib.models.pair import Pair
from gateau_lib.scoring.score_table import LENGTHS
from gateau_lib.study.errors import DataError

Ready = tuple[Sample, Encoded, dict[str, Any]]  # as it stands in its record, as tokens, the row to fill
Fill = Callable[[Sequence[Ready]], None]


def passes_of(methods: Sequence[Method]) -> set[str]:
    """What some methods together read of a `Reader`."""
    return {name for method in methods for name in method.passes}


def score_items(
    items: Sequence[Item],
    pair: Pair,
    options: Options,
    methods: Sequence[Method],
    counts: dict[str, Counter[str]] | None = None,
) -> list[dict[str, Any]]:
    """Rows with ``id``, ``error``, `score_table.LENGTHS` and the methods' columns, one an item in its order.

    A value is None where nothing was computed. A sample whose loss is not finite, or that does not fit into
    memory alone, is an error row and does not touch the others. ``pair`` is from `reader.extended`, and
    ``methods`` are those that the options name; ``counts`` is `Reader`'s.
    """
    columns = [column for method in methods for column in (*method.columns, *method.details)]
    rows = [{"id": item.id, "error": item.error} | dict.fromkeys((*LENGTHS, *columns)) for item in items]
    ready: list[Ready] = []
    for item, row in zip(items, rows, strict=True):
        if item.sample is None:
            continue
        try:
            encoded = encode(item.sample, pair.tokenizer, options.max_length, chat=options.chat)
        except DataError as error:
            row["error"] = str(error)
            continue
        sizes = len(encoded.context), len(encoded.instruction), len(encoded.response), encoded.dropped
        row |= dict(zip(LENGTHS, sizes, strict=True))
        ready.append((item.sample, encoded, row))

    def fill(some: Sequence[Ready]) -> None:
        samples, encoded, rows = zip(*some, strict=True)
        passes = passes_of(methods)
        reader = Reader(samples, encoded, pair, options, passes, {} if counts is None else counts)
        for method in methods:
            of = cast(Callable[[Reader], Mapping[str, Any]], method.fill)  # of a method that is scored
            for name, values in of(reader).items():
                for row, value in zip(rows, values, strict=True):
                    row[name] = _plain(value)

    if ready:
        _fill_or_mark(ready, fill)
    return rows


def _fill_or_mark(ready: Sequence[Ready], fill: Fill) -> None:
    """Fill the rows; a sample that cannot be scored is found by halving, and marked."""
    try:
        fill(ready)
    except SequenceError as error:
        if len(ready) > 1:
            half = len(ready) // 2
            _fill_or_mark(ready[:half], fill)
            _fill_or_mark(ready[half:], fill)
            return
        row, segment = ready[0][-1], "" if error.segment is None else f", segment {error.segment}"
        filled = row.keys() - {"id", *LENGTHS}
        row.update(dict.fromkeys(filled), error=f"sample {row['id']!r}{segment}: {error.reason}")


def _plain(value: Any) -> Any:
    """A number or a list of numbers as JSON knows them."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return float(value) if isinstance(value, float | np.floating) else value
