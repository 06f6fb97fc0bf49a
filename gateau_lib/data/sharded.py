"""A data set as immutable shards: runs of consecutive records that any worker can read by itself.

One pass over the data finds every record's place, its id and form, and the hash of every shard. Whoever
reads a shard reads it again, so the data may be larger than memory, and a file that changes is noticed.
Scoring and selecting both read here, so what is a sample for one is one for the other.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from gateau_lib.data.conversation import RecordError
from gateau_lib.data.formats import AUTO, ReadAs, form_of, given_id, renamed, sample_of, unknown
from gateau_lib.data.inputs import files_of
from gateau_lib.data.records import RawRecord, line_of, parsed, raw_records, trimmed, unit_of
from gateau_lib.data.samples import Sample
from gateau_lib.data.unread import check, doubled
from gateau_lib.study.errors import DataError

LOOKED_AT = 20  # records of no known form before the data are given up


@dataclass(frozen=True)
class Item:
    """One record of the data: a usable sample, or the reason why there is none."""

    id: str | None
    sample: Sample | None
    error: str | None = None
    where: str = ""  # file of a folder, and line


@dataclass(frozen=True)
class Shard:
    """``rows`` consecutive records of a file; ``begin`` and ``end`` are those of `records.RawRecord`."""

    number: int
    begin: int
    end: int
    first_line: int  # of the file, counted from 1
    rows: int
    sha256: str
    twice: tuple[tuple[int, str], ...] = ()  # lines of records whose id stands earlier, and that place
    file: str = ""  # in the folder of the data; "" where the data are one file
    read_as: ReadAs = AUTO
    forms: tuple[tuple[str, int], ...] = ()  # records of each form

    @property
    def content(self) -> list[Any]:
        """What its rows depend on, beside models and options; the place is part of a bad record's message."""
        return [self.sha256, self.file, self.first_line, self.twice, asdict(self.read_as)]


def index(path: str | Path, size: int, read_as: ReadAs = AUTO) -> list[Shard]:
    """The shards of a data set, ``size`` records of one file each, the last of a file maybe fewer.

    Raises DataError: a line is no JSON, the first records are of no form that is known, none has an id.
    """
    shards: list[Shard] = []
    for file, records in groupby(_met(Path(path), read_as), lambda each: each[0]):
        while group := list(islice(records, size)):
            raws = [raw for _, raw, _, _ in group]
            digest = hashlib.sha256(b"".join(map(_content, raws))).hexdigest()
            about = raws[0].begin, raws[-1].end, raws[0].number, len(raws), digest
            twice = tuple((raw.number, first_use) for _, raw, _, first_use in group if first_use)
            forms = tuple(sorted(Counter(form for _, _, form, _ in group).items()))
            shards.append(Shard(len(shards), *about, twice, file, read_as, forms))
    return shards


def _met(path: Path, read_as: ReadAs) -> Iterator[tuple[str, RawRecord, str, str | None]]:
    """All records: file, place, form, and where the id was used before; DataError as of `index`."""
    seen: dict[str, str] = {}
    met, odd = Counter[str](), ""
    for file in files_of(path):
        name, unit = file.relative_to(path).as_posix() if path.is_dir() else "", unit_of(file)
        for raw in raw_records(file):
            record = renamed(parsed(file, raw), read_as)
            place, form = _place(name, unit, raw), form_of(record, read_as.format) or ""
            met[form] += 1
            if not form:
                odd = (
                    odd or f"{path}: {place}: {_wrapped(record) or ''.join(unknown(record, read_as.format))}"
                )
                if met[""] == met.total() == LOOKED_AT:
                    raise DataError(odd)
            given = _name(record, raw, name, read_as)
            first_use = place if given is None else seen.setdefault(given, place)
            yield name, raw, form, first_use if first_use != place else None
    if not met:
        raise DataError(f"{path}: holds no records")
    if met[""] == met.total():
        raise DataError(odd)
    if not seen:
        fix = "--ids line takes line numbers as ids, or name the field with --rename THEIRS=id"
        raise DataError(f"{path}: no record has an 'id'; {fix}")


def _wrapped(record: Any) -> str:
    """What to do about a record that is a whole data set, its records in a list; "" about any other."""
    for name, value in record.items() if isinstance(record, dict) else ():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and not {"role", "from"} & first.keys() and form_of(first):
            return f"the records stand in the list {name[:20]!r}; write that list alone to a file"
    return ""


def _content(raw: RawRecord) -> bytes:
    """What counts of a record's bytes: the end of the file may lack its newline."""
    return trimmed(raw.text) + b"\n"


def _place(name: str, unit: str, raw: RawRecord) -> str:
    """Where a record stands, without the path: the same data elsewhere give the same bytes."""
    return f"{name}{', ' if name else ''}{unit} {raw.number}"


def _name(record: Any, raw: RawRecord, file: str, read_as: ReadAs) -> str | None:
    """The id as text, or None; half a surrogate pair (escaped in JSON) is replaced: no table can hold it."""
    if read_as.ids == "line":
        return f"{file}:{raw.number}" if file else str(raw.number)
    given = given_id(record)
    if given is None or isinstance(given, list | dict):
        return None
    return str(given).encode("utf-8", "replace").decode()


def read(path: str | Path, shard: Shard) -> list[Item]:
    """The records of a shard, one that cannot be scored in its place; DataError if the file has changed."""
    return [item for _, item in _records(Path(path), shard)]


def originals(path: str | Path, shards: Iterable[Shard], ids: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Id and line of some samples in the order of the data, byte for byte as they stand there (`line_of`)."""
    for shard in shards:
        for raw, item in _records(Path(path), shard):
            if item.sample is not None and item.sample.id in ids:
                yield item.sample.id, line_of(raw)


def _records(path: Path, shard: Shard) -> Iterator[tuple[RawRecord, Item]]:
    file = path / shard.file if shard.file else files_of(path)[0]
    digest, first_use, unit = hashlib.sha256(), dict(shard.twice), unit_of(file)
    for raw in raw_records(file, shard.begin, shard.end, shard.first_line):
        digest.update(_content(raw))
        try:
            record = renamed(parsed(file, raw), shard.read_as)
        except DataError:  # what was JSON when the shards were made is none now
            break
        place = _place(shard.file, unit, raw)
        name = _name(record, raw, shard.file, shard.read_as)
        item = item_of(record, name, place, first_use.get(raw.number), shard.read_as)
        if unit != "row" and (field := doubled(trimmed(raw.text))):
            why = f"{field!r} stands twice in one object, and the last would count; leave one out"
            item = Item(name, None, f"{place}: {why}", place)
        yield raw, item
    if digest.hexdigest() != shard.sha256:
        lines = f"{unit}s from {shard.first_line} on"
        raise DataError(f"{file}: {lines} changed since the run began; give the command again")


def item_of(
    record: Any, name: str | None, where: str, used: str | None = None, read_as: ReadAs = AUTO
) -> Item:
    """A record by its id as a sample, or with the reason; ``used``: where the id was used before."""
    try:
        if name is None:
            if not isinstance(record, dict):
                raise RecordError(where, *unknown(record))
            odd = "" if given_id(record) is None else " that is a text or number"
            raise RecordError(where, f"no 'id'{odd}", "; give every record a unique id, or take --ids line")
        check(record, where, read_as)
        sample = sample_of(record, where, name, read_as)
        texts = (sample.id, sample.context, sample.instruction, sample.response, sample.system)
        "".join(texts).encode()
    except UnicodeEncodeError:
        fix = "write the record as valid Unicode"
        return Item(name, None, f"{where}: the text holds half of a surrogate pair; {fix}", where)
    except RecursionError:
        return Item(name, None, f"{where}: nested too deeply to be read; leave out the record", where)
    except DataError as error:
        return Item(name, None, str(error), where)
    if used is not None:
        why = f"id {name!r} was already used at {used}; ids must be unique"
        return Item(name, None, f"{where}: {why}", where)
    return Item(name, sample, where=where)


def forms_of(shards: Sequence[Shard]) -> dict[str, int]:
    """Records of each form, the commonest first; of no known form under ""."""
    forms = Counter[str]()
    for shard in shards:
        forms.update(dict(shard.forms))
    return dict(forms.most_common())


def spread(shards: Sequence[Shard], path: str | Path, at_most: int) -> list[Item]:
    """About ``at_most`` records at most, of whole shards evenly spread over the data: for estimates."""
    step = max(1, sum(shard.rows for shard in shards) // at_most)
    return [item for shard in shards[::step] for item in read(path, shard)]
