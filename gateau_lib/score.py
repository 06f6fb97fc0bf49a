"""Score the long samples of a data set: ``python -m gateau_lib.score DATA.jsonl --out scores.parquet``.

One row a sample, in input order. A killed run goes on at the next shard when the command is given again.
"""

import sys
import time
from pathlib import Path
from typing import get_args

from gateau_lib.data.formats import AUTO, ReadAs, add_options
from gateau_lib.methods import SCORED
from gateau_lib.methods.base import READINGS
from gateau_lib.scoring import data_set, pass_costs, settings
from gateau_lib.study.command import LIBRARY, command, parser, tell


@command(kept="finished shards are kept")
def main(line: list[str] | None = None) -> int:
    """Score the samples that the command line names, or say what that costs."""
    parse = parser("score", __doc__)
    add = parse.add_argument
    add("data", type=Path, help="file or folder of records, JSON or Parquet (docs/formats.md); - for stdin")
    add("--short", help="short model: folder or hub id (without --short and --long: the shipped tiny pair)")
    add("--long", help="long-window model of the same family: folder or hub id")
    add("--out", type=Path, help="scores.parquet; finished shards lie in OUT.parts, a manifest beside it")
    add("--methods", default="hmg,cam", help=f"comma-separated, of {', '.join(SCORED)} (default: hmg,cam)")
    add("--reading", choices=READINGS, default="ntk", help="how the short model reads beyond its window")
    add("--segment-length", type=int, help="tokens a segment (default: 128, at most 1/8 of the short window)")
    longest = "tokens a sample, cut on the left (default: the long window; of the shipped pair, stretched)"
    add("--max-length", type=int, help=longest)
    add("--prolong-pairs", type=int, default=500, help="pairs a sample (default: 500; the paper's 5000)")
    add("--chat-template", action="store_true", help="the tokenizer's chat template, not the plain prompt")
    add("--adaptive", action="store_true", help="read a third of the segments, estimate the rest")
    part = "exact HMG of all, CAM only of who can enter the best FRACTION by gateau (docs/cluster.md)"
    add("--cascade", type=float, metavar="FRACTION", help=part)
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    add("--shard-size", type=int, default=16, help="samples a shard (default: 16)")
    engines = get_args(settings.Engine)
    add("--engine", choices=engines, default="local", help="this machine, or a Ray cluster")
    workers = "processes, at most one a GPU (default: one; of a cluster one a GPU, or a machine without GPUs)"
    add("--workers", type=int, metavar="N", help=workers)
    add("--threads", type=int, help="CPU threads a worker (default: all cores, shared by the workers)")
    add_options(parse, "auto, by its fields")
    cost = "only print tokens, FLOPs and GPU-hours, for as many records as DATA has, or for N like them"
    add("--plan", type=int, nargs="?", const=0, metavar="N", help=cost)
    start, given = time.monotonic(), vars(parse.parse_args(line))
    records, methods = given.pop("plan"), given.pop("methods").split(",")
    given["read_as"] = ReadAs.asked(given) or AUTO
    asked = settings.resolve(**given, methods=methods, only_plan=records is not None)
    if records is not None:
        tell(pass_costs.plan(asked, records))
        return 0
    text, scored = data_set.summary(asked, data_set.score(asked), time.monotonic() - start)
    tell(text)
    if not scored:
        LIBRARY.error("error: %s: no record could be scored; mend what stands above", asked.data)
    return 0 if scored else 1


if __name__ == "__main__":
    sys.exit(main())
