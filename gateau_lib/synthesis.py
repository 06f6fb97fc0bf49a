"""Make long instruction samples from documents.

``python -m gateau_lib.synthesis DOCUMENTS --model SPEC --out long.jsonl`` works as LongAlign does: a kind of
task, five questions that a model proposes, one of them drawn, the model's answer. What cannot be used is kept
with its reason. A killed run goes on when the same command is given again, and asks nothing twice.
"""

import sys
from pathlib import Path

from gateau_lib.sources.synthesis import SUFFIXES, Order, run
from gateau_lib.study.command import command, parser, tell


@command(kept="answers are kept")
def main(line: list[str] | None = None) -> None:
    """Make the samples that the command line asks for."""
    parse = parser("synthesis", __doc__)
    add = parse.add_argument
    add("documents", type=Path, help=f"folder (or one file) of {', '.join(SUFFIXES)} (with a field text)")
    add("--model", required=True, help="http://host:8000/v1#name (key in GATEAU_CHAT_KEY), folder or hub id")
    add("--out", type=Path, required=True, help="long.jsonl; transcript and rejections lie in OUT.parts")
    add("--per-document", type=int, default=1, help="samples a document, of four kinds in turn (default: 1)")
    add("--limit", type=int, help="documents at most, the first ones")
    add("--max-length", type=int, help="characters of a sample at most; longer ones are rejected")
    add("--max-new-tokens", type=int, default=1024, help="tokens of an answer at most (default: 1024)")
    add("--parallel", type=int, help="requests at once to an endpoint (default: 4)")
    add("--seed", type=int, default=0, help="decides kinds and drawn questions, and goes with each request")
    tell(run(Order(**vars(parse.parse_args(line)))))


if __name__ == "__main__":
    sys.exit(main())
