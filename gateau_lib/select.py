"""Select by scores: ``python -m gateau_lib.select scores.parquet --data DATA.jsonl --out selected.jsonl``.

Scores and data are joined by id. What needs the whole pool (min-max, softmax, ranks) is made here, over the
usable rows; then near-identical contexts are dropped if asked for, and the best taken, within quotas if any.
"""

import sys
from pathlib import Path

from gateau_lib.data.formats import ReadAs, add_options
from gateau_lib.data.inputs import stored
from gateau_lib.methods import METHODS, gateau
from gateau_lib.methods.base import RankOptions
from gateau_lib.scoring.choice import Selection, run
from gateau_lib.study.command import command, parser, tell


@command()
def main(line: list[str] | None = None) -> None:
    """Select as the command line says."""
    parse = parser("select", __doc__)
    add = parse.add_argument
    add("scores", type=Path, help="scores.parquet, written by python -m gateau_lib.score")
    add("--data", type=Path, required=True, help="the data that was scored: a file or a folder, - for stdin")
    add_options(parse, "as it was scored")
    add("--out", type=Path, required=True, help="selected.jsonl; a report is written next to it")
    add("--score", choices=list(METHODS), default="gateau")
    add(
        "--combine",
        choices=gateau.VARIANTS,
        default="rank",
        help="how gateau adds HMP and CAM (default: rank)",
    )
    add("--alpha", type=float, default=0.8, help="weight of HMP against CAM (default: 0.8)")
    many = parse.add_mutually_exclusive_group()
    many.add_argument("--fraction", type=float, default=0.1, help="share of usable samples (default: 0.1)")
    many.add_argument("--top", type=int, help="number of samples")
    add("--per-source", action="store_true", help="that share, or that number, of every source")
    add("--quota", action="append", default=[], metavar="SOURCE=N", help="at most N of SOURCE; repeatable")
    alike = "keep the best of contexts whose word 5-shingles have a Jaccard index of J or more, e.g. 0.8"
    add("--dedup", type=float, metavar="J", help=alike)
    add("--seed", type=int, default=0, help="of --score random")
    given = vars(parse.parse_args(line))
    data = stored(given["data"], given["out"], given["scores"])
    given |= {"read_as": ReadAs.asked(given), "data": data}
    ranking = RankOptions(given.pop("combine"), given.pop("alpha"), given.pop("seed"))
    tell(run(Selection(**given | {"quota": tuple(given["quota"])}, ranking=ranking)))


if __name__ == "__main__":
    sys.exit(main())
