"""Write the generated parts of README.md and of the pages in docs again, and the course's exercises."""

import sys

from gateau_lib.experiments import course
from gateau_lib.experiments.pages import PROFILE, PageError, fill, generated
from gateau_lib.study.code_hash import PACKAGE
from gateau_lib.study.command import command
from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write


@command()
def main() -> None:
    """Write what has changed."""
    root = PACKAGE.parent
    if not (root / "README.md").exists():
        raise PageError(f"{root}: no README.md there; clone the repository and give the command there")
    made = generated(results_root() / PROFILE, root / "notebooks")
    texts = {page: fill(root / page, parts) for page, parts in made.items()}
    exercises = course.written(root / "notebooks" / "course" / "solutions")
    texts |= {path.relative_to(root).as_posix(): text for path, text in exercises.items()}
    for page, text in texts.items():
        there = root / page
        same = there.exists() and text == there.read_text(encoding="utf-8")
        if not same:
            atomic_write(root / page, text)
        print(f"{page}: {'as it was' if same else 'written'}")


if __name__ == "__main__":
    sys.exit(main())
