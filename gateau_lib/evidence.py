"""The study for many pairs of models: what the verdicts rest on. Run it as ``make evidence``."""

import sys
from collections.abc import Sequence

import pandas as pd

from gateau_lib.experiments import evidence_files, evidence_run
from gateau_lib.experiments.findings import summary
from gateau_lib.study.command import command, parser
from gateau_lib.study.errors import UserError


@command("finished pairs are kept")
def main(words: Sequence[str] | None = None) -> int:
    """Measure the pairs, judge again what they gave, or compare two such runs."""
    line = parser("evidence", __doc__)
    add = line.add_argument
    add("--pairs", type=int, default=8, help="how many pairs of models (default: 8; an interval needs 3)")
    add("--seed", type=int, default=0, help="number of the first pair; another has a folder of its own")
    add("--profile", default=evidence_files.PUBLISHED, help="sizes of the study (default: %(default)s)")
    add("--processes", type=int, default=evidence_run.PROCESSES, help="pairs side by side; 0: in this one")
    only = line.add_mutually_exclusive_group()
    only.add_argument("--judge", action="store_true", help="verdicts again, from the metrics that are there")
    compares = "how the verdicts agree with those of the run of another seed (default: 50)"
    only.add_argument("--compare", type=int, metavar="SEED", nargs="?", const=50, help=compares)
    given = line.parse_args(words)
    if given.pairs < 1 or given.seed < 0 or given.processes < 0:
        raise UserError("--pairs must be at least 1, --seed and --processes at least 0")
    folder = evidence_files.place(given.profile, given.seed)
    if given.compare is not None:
        _compare(given.profile, given.seed, given.compare)
    elif given.judge:
        _told(evidence_files.judge(folder))
    else:
        _told(evidence_run.run(given.profile, given.seed, given.pairs, given.processes))
        print(f"written: {folder}")
    return 0


def _told(verdicts: pd.DataFrame) -> None:
    for row in verdicts.itertuples():
        print(f"{row.verdict:20} {row.id}: {row.reason}")
    print(summary(verdicts))


def _compare(profile: str, seed: int, other: int) -> None:
    found = evidence_files.compare(*(evidence_files.place(profile, each) for each in (seed, other)))
    for row in found.table[~found.table["same"]].itertuples():
        print(f"{row.id}: {row.first or 'no verdict'} | {row.second or 'no verdict'}")
    same, all_of = int(found.table["same"].sum()), len(found.table)
    print(f"{same} of {all_of} verdicts are the same ({found.of_all:.0%})")
    print(f"of those that hold or fail in at least one of the two: {found.of_decisive:.0%}")


if __name__ == "__main__":
    sys.exit(main())
