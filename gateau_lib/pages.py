"""Write the generated parts of README.md, docs/cluster.md and docs/scale.md: ``python -m gateau_lib.pages``."""

from __future__ import annotations

import sys

from gateau_lib.experiments.pages import (
    CLUSTER,
    MARKS,
    PROFILE,
    README,
    SCALE,
    ReadmeError,
    example,
    fill,
    filled,
    parts,
)
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.command import command
from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write


@command()
def main() -> None:
    """Write what has changed."""
    if not README.exists():
        raise ReadmeError(f"{README}: not there; the pages are the repository's, clone it and give the command there")
    old = README.read_text(encoding="utf-8")
    new = fill(old, parts(results_root() / PROFILE, PACKAGE.parent / "notebooks"))
    if new != old:
        atomic_write(README, new)
    print(f"README.md: {'as it was' if new == old else 'written'}")
    head, _, rest = CLUSTER.read_text(encoding="utf-8").partition(MARKS[0])
    atomic_write(CLUSTER, f"{head}{MARKS[0]}\n{example()}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    atomic_write(SCALE, filled(SCALE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
