"""What scoring costs, against the published procedures in the same run: ``python -m gateau_lib.bench``.

Five measurements on the same models: HMG and CAM by the library, exact and adaptive, and as released; ProLong
both ways; the pass that also takes attention against a plain one, by length; peak memory against attention
matrices written out; and what the adaptive estimate does to a ranking. The procedures have to agree. It prints
tables and writes ``results/bench/<machine>.json``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from gateau_lib.scoring import speed, speed_goals
from gateau_lib.study import errors
from gateau_lib.study.errors import ScoreError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.bench", description=__doc__.split("\n")[0])
    own = "without --short and --long: random weights, the cpu profile's sizes"
    line.add_argument("--short", help=f"short-window model ({own})")
    line.add_argument("--long", help="long-window model of the same family")
    line.add_argument("--samples", type=int, default=8, help="samples for both procedures (default: 8)")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input (one line on stderr)."""
    given = parser().parse_args(arguments)
    begin = time.perf_counter()
    try:
        about = speed.measure(given.short, given.long, max(1, given.samples))
    except (ScoreError, errors.ModelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    path = speed_goals.write(about)
    print(*(frame.to_string(index=False) for frame in speed_goals.readable(about)), sep="\n\n")
    print(f"{time.perf_counter() - begin:.0f} s, written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
