"""Write a selection for a trainer: ``python -m gateau_lib.export selected.jsonl --to trl --out train.jsonl``.

The data may be any file that `gateau_lib.score` reads. Nothing but turns is written: no field of a record
can meet another type in another record, which `datasets` would refuse.
"""

import sys
from pathlib import Path

from gateau_lib.bridges.trainers import FORMS, export
from gateau_lib.study.command import command, parser, tell


@command()
def main(line: list[str] | None = None) -> None:
    """Export as the command line says."""
    parse = parser("export", __doc__)
    add = parse.add_argument
    add("selected", type=Path, help="selected.jsonl, written by python -m gateau_lib.select")
    add("--to", choices=FORMS, required=True, help="sharegpt for LLaMA-Factory, messages for TRL")
    add("--out", type=Path, required=True, help="TRL: a file .jsonl; LLaMA-Factory: its dataset_dir")
    add("--name", help="LLaMA-Factory: name in dataset_info.json (default: the selection's file name)")
    given = parse.parse_args(line)
    tell(f"written: {', '.join(map(str, export(given.selected, given.to, given.out, given.name)))}")


if __name__ == "__main__":
    sys.exit(main())
