"""Rows of Parquet and Arrow files as JSON, a few in memory at a time; what JSON cannot say becomes text."""

import base64
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateau_lib.study.errors import DataError, reason

SUFFIXES = (".parquet", ".arrow")
ROWS = 64  # of a batch: nested columns of a whole row group may hold more than Arrow reads at once (2 GB)


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """What readers of tables and of packed files raise, as a DataError of one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        import pyarrow as pa  # slow to load

        if not isinstance(error, (pa.ArrowException, OSError, ValueError, OverflowError)):
            raise
        if isinstance(error, OSError) and error.errno:  # the file system's own, which the command tells
            raise
        what = "not a Parquet file" if path.suffix.lower() == ".parquet" else "cannot be read"
        raise DataError(f"{path}: {what} ({reason(error)}); fetch or write the file again") from None


def schema_of(path: Path) -> Any:
    """The file's Arrow schema; DataError: none, or one that has two columns of a name."""
    import pyarrow.parquet as pq  # slow to load

    with one_line(path):
        if path.suffix.lower() == ".parquet":
            schema = pq.read_schema(path)
        else:
            with _arrow(path) as (schema, _):
                pass
    if twice := [name for name in schema.names if schema.names.count(name) > 1]:
        raise DataError(f"{path}: column {twice[0]!r} stands twice; give one another name")
    return schema


def told_as_text(path: Path) -> list[str]:
    """Columns that hold what JSON has no word for, and so become text, each with its type."""
    return [f"{field.name} ({field.type})" for field in schema_of(path) if _foreign(field.type)]


def _foreign(kind: Any) -> bool:
    """Whether a type, or one nested in it, is none of JSON's: times, bytes, decimals."""
    import pyarrow as pa  # slow to load

    is_a = pa.types
    if is_a.is_dictionary(kind):
        return _foreign(kind.value_type)
    if is_a.is_nested(kind):
        return any(_foreign(kind.field(i).type) for i in range(kind.num_fields))
    plain = (is_a.is_integer, is_a.is_floating, is_a.is_boolean, is_a.is_null)
    texts = (is_a.is_string, is_a.is_large_string, is_a.is_string_view)
    return not any(test(kind) for test in (*plain, *texts))


def rows(path: Path, begin: int) -> Iterator[tuple[int, bytes]]:
    """Rows from ``begin`` on with their numbers, counted from 0, each as JSON."""
    batches = _parquet(path, begin) if path.suffix.lower() == ".parquet" else _slices(path)
    for first, batch in batches:
        if first + len(batch) > begin:
            skipped = max(0, begin - first)
            for number, record in enumerate(batch.slice(skipped).to_pylist(), first + skipped):
                yield number, to_json(record)


def _parquet(path: Path, begin: int) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq  # slow to load

    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            after = first + file.metadata.row_group(group).num_rows
            if after > begin:
                for batch in file.iter_batches(ROWS, row_groups=[group]):
                    yield first, batch
                    first += len(batch)
            first = after


def _slices(path: Path) -> Iterator[tuple[int, Any]]:
    first = 0
    with _arrow(path) as (_, batches):
        for batch in batches:
            for at in range(0, len(batch), ROWS):
                yield first + at, batch.slice(at, ROWS)
            first += len(batch)


@contextmanager
def _arrow(path: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """Schema and batches of an Arrow file of either kind: a stream, as ``datasets`` writes it, or a file."""
    import pyarrow as pa  # slow to load

    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            yield file.schema, map(file.get_batch, range(file.num_record_batches))
        else:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield stream.schema, iter(stream)


def to_json(record: Mapping[str, Any]) -> bytes:
    """A row as JSON: times in ISO's form, bytes as UTF-8 or base64, no number and infinity as null."""
    how: dict[str, Any] = {"ensure_ascii": False, "default": _as_text, "allow_nan": False}
    try:
        text = json.dumps(record, **how)
    except ValueError:
        text = json.dumps(_finite(record), **how)
    return text.encode("utf-8", "surrogatepass")


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
