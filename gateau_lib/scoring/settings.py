"""A scoring run with everything decided: data, models, options, where it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateau_lib.data.formats import AUTO, ReadAs
from gateau_lib.data.inputs import stored
from gateau_lib.methods import METHODS, SCORED
from gateau_lib.methods.base import Method, Options, Reading
from gateau_lib.methods.reader import named_passes
from gateau_lib.models import loading
from gateau_lib.models.pair import check_folders, names, windows
from gateau_lib.study.errors import ScoreError
from gateau_lib.study.outputs import check_out

SEGMENT_LENGTH = 128  # GATEAU select/cam
Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class ScoringRun:
    """What a scoring run is told, checked and complete; any worker can begin with it."""

    data: Path
    out: Path  # the table; empty where only the cost is asked for
    options: Options
    short: str | None  # folder or hub id; None where no method reads with it
    long: str
    shipped: bool = False  # the shipped tiny pair
    dtype: str = "float32"
    device: str | None = None  # the best there is, on each worker
    shard_size: int = 16  # records
    engine: Engine = "local"
    workers: int | None = None  # local: this process alone; of a cluster: as many as it has GPUs or machines
    threads: int | None = None  # of a processor, a worker
    read_as: ReadAs = AUTO  # what the records are
    # The largest fraction that will be selected; CAM is then read only of who can enter it.
    cascade: float | None = None

    @property
    def parts(self) -> Path:
        """The folder of finished shards."""
        return self.out.with_name(self.out.name + ".parts")

    @property
    def manifest(self) -> Path:
        """The file that says what made the table."""
        return self.out.with_suffix(".manifest.json")


def resolve(
    data: Path,
    out: Path | None,
    *,
    methods: Sequence[str],
    short: str | None = None,
    long: str | None = None,
    reading: Reading = "ntk",
    segment_length: int | None = None,
    max_length: int | None = None,
    prolong_pairs: int = 500,
    chat_template: bool = False,
    adaptive: bool = False,
    only_plan: bool = False,
    **where: Any,
) -> ScoringRun:
    """The run that these words ask for; what is not given comes from the models' windows, see `lengths`.

    Reads no weights, leaves nothing. With ``only_plan`` ``out`` may be missing; ``where``: fields from
    ``dtype`` on.
    Raises ScoreError, DataError, ModelError: words that cannot be meant, no model there.
    """
    counted = {"segment-length": segment_length, "max-length": max_length, "prolong-pairs": prolong_pairs}
    counted |= {name: where.get(name.replace("-", "_")) for name in ("shard-size", "workers", "threads")}
    for name, value in counted.items():
        if value is not None and value < 1:
            raise ScoreError(f"--{name} must be at least 1, got {value}")
    asked = asked_methods(methods)
    named = tuple(method.name for method in asked)
    if (out is None and not only_plan) or (out and out.suffix != ".parquet"):
        raise ScoreError(f"--out {out or 'is missing'}: give a name that ends in .parquet")
    if (part := where.get("cascade")) is not None:
        if not 0 < part < 1:
            raise ScoreError(f"--cascade {part:g}: the fraction that will be selected, above 0 and below 1")
        if set(named) != {"hmg", "cam"} or adaptive:
            raise ScoreError("--cascade is for --methods hmg,cam, without --adaptive")
    if adaptive and "cam" not in named:
        raise ScoreError("--adaptive is about segment importance; ask for --methods cam among others")
    shipped = short is None and long is None
    short, long = names(short, long, needs_short(asked))
    check_folders(short, long, chat_template)
    segment, longest, window = lengths(short, long, shipped, segment_length, max_length)
    if segment < 2 and "prolong" in named:
        raise ScoreError(
            "--segment-length must be at least 2 for prolong: a segment's first token has no loss"
        )
    read = segment, longest, window, prolong_pairs
    options = Options(named, reading, *read, chat=chat_template, adaptive=adaptive)
    data = stored(data, out)
    run = ScoringRun(data, out or Path(), options, short, long, shipped, **where)
    if out:
        check_out(run.out, [data], [run.manifest], run.parts)
    return run


def asked_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names, in the library's order; ScoreError: an unknown name, or none."""
    asked = {name.strip() for name in names if name.strip()}
    if unknown := sorted(asked - set(SCORED)):
        raise ScoreError(f"--methods: unknown method {unknown[0]!r}; choose from {', '.join(SCORED)}")
    if not asked:
        raise ScoreError(f"--methods: none given; choose from {', '.join(SCORED)}")
    return [METHODS[name] for name in SCORED if name in asked]


def needs_short(methods: Sequence[Method]) -> bool:
    """Whether one of the methods reads with the short model or needs its window."""
    asked = [each.needs_short for method in methods for each in named_passes(method.passes)]
    return any(asked) or any(method.needs_window for method in methods)


def lengths(
    short: str | None, long: str, shipped: bool, segment_length: int | None, max_length: int | None
) -> tuple[int, int, int]:
    """Tokens of a segment, of a sample at most, and of the short window.

    A segment has 128 tokens, at most an eighth of the short window; a sample at most the long window, or
    twice that for the shipped pair: its window is short for real text, and stretched it holds long ones.
    """
    if shipped:  # lengths must not depend on whether a method reads with its short model
        short = str(loading.SHIPPED / "short")
    short_window, long_window = windows(short, long, max_length)
    segment = segment_length or min(SEGMENT_LENGTH, max(1, short_window // 8))
    return segment, max_length or long_window * (2 if shipped else 1), short_window
