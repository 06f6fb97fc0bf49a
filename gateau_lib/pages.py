"""Write the generated parts of README.md, docs/cluster.md and docs/scale.md again."""

from __future__ import annotations

import sys

from gateau_lib.experiments.claims import LedgerError
from gateau_lib.experiments.pages import PROFILE, PageError, fill, generated
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write


def main() -> int:
    """Exit status: 0 done, 1 nothing to write from."""
    root = PACKAGE.parent
    try:
        made = generated(results_root() / PROFILE, root / "notebooks")
        texts = {page: fill(root / page, parts) for page, parts in made.items()}
    except (PageError, LedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for page, text in texts.items():
        same = text == (root / page).read_text(encoding="utf-8")
        if not same:
            atomic_write(root / page, text)
        print(f"{page}: {'as it was' if same else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
