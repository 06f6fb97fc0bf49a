"""Make long instruction samples from documents.

``python -m gateau_lib.synthesis DOCUMENTS --model SPEC --out long.jsonl`` works as LongAlign does: for each
sample a kind of task (general, summary, reasoning, extraction), five questions that a model proposes on the
document, one of them drawn, and the model's answer. What cannot be used is kept with its reason. A killed run
goes on when the same command is given again, and asks nothing twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gateau_lib.sources.documents import SUFFIXES
from gateau_lib.sources.synthesis import Order, run
from gateau_lib.study.command import command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.synthesis", description=__doc__.split("\n")[0])
    line.add_argument(
        "documents", type=Path, help=f"folder (or one file) of {', '.join(SUFFIXES)} (with a field text)"
    )
    line.add_argument(
        "--model",
        required=True,
        help="http://host:8000/v1#name (key in GATEAU_CHAT_KEY), a folder or a hub id",
    )
    line.add_argument(
        "--out", type=Path, required=True, help="long.jsonl; transcript and rejections lie in OUT.parts"
    )
    line.add_argument(
        "--per-document",
        type=int,
        default=1,
        help="samples a document, the first four of four kinds (default: 1)",
    )
    line.add_argument("--limit", type=int, help="documents at most, the first ones")
    line.add_argument(
        "--max-length", type=int, help="characters of a sample at most; longer ones are rejected"
    )
    line.add_argument(
        "--max-new-tokens", type=int, default=1024, help="tokens of an answer at most (default: 1024)"
    )
    line.add_argument("--parallel", type=int, help="requests at once to an endpoint (default: 4)")
    line.add_argument(
        "--seed", type=int, default=0, help="decides kinds and drawn questions, and goes with each request"
    )
    return line


@command(kept="answers are kept")
def main(words: Sequence[str] | None = None) -> None:
    """Make the samples that the command line asks for."""
    print(run(Order(**vars(parser().parse_args(words)))))


if __name__ == "__main__":
    sys.exit(main())
