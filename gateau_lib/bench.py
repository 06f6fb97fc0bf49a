"""What scoring costs, against the published procedures in the same run: ``python -m gateau_lib.bench``.

HMG, CAM and ProLong by the library and as released, which have to agree; response losses beside plain loops
and, where they are installed, lm-evaluation-harness and Data-Juicer; attention's cost by length, and its peak
memory; what a call of the scoring command costs beside a bare script; what the adaptive estimate does to a
ranking. Writes ``results/bench/<machine>.json``.
"""

import sys
import time

from gateau_lib.scoring import speed, speed_goals
from gateau_lib.study.command import command, parser


@command()
def main(line: list[str] | None = None) -> None:
    """Measure, print the tables and write them to a file of this machine's."""
    parse = parser("bench", __doc__)
    own = "without --short and --long: random weights, the cpu profile's sizes"
    parse.add_argument("--short", help=f"short-window model ({own})")
    parse.add_argument("--long", help="long-window model of the same family")
    parse.add_argument("--samples", type=int, default=8, help="samples for both procedures (default: 8)")
    given, begin = parse.parse_args(line), time.perf_counter()
    about = speed.measure(given.short, given.long, max(1, given.samples))
    path = speed_goals.write(about)
    print(*(frame.to_string(index=False) for frame in speed_goals.readable(about)), sep="\n\n")
    print(f"{time.perf_counter() - begin:.0f} s, written: {path}")


if __name__ == "__main__":
    sys.exit(main())
