"""Run the study's notebooks in order, each only if something it depends on changed.

It says what is stale and why. Only a notebook whose every cell ran leaves an executed copy, a stamp and a
manifest entry.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from gateau_lib.study import keys, manifest, notebooks
from gateau_lib.study.command import command, parser
from gateau_lib.study.execute import execute
from gateau_lib.study.profiles import PROFILES, REHEARSED
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import RunError, Step, notebooks_folder, status, steps
from gateau_lib.study.store import Study, open_study
from gateau_lib.study.whole_files import locked


def words_of(line: Sequence[str] | None) -> argparse.Namespace:
    """The options that a command line gives."""
    parse = parser("run", __doc__)
    add = parse.add_argument
    add("profile", help=f"{', '.join(PROFILES)}, gpu+PAIR, {REHEARSED}gpu or {REHEARSED}paper")
    add("--seed", type=int, default=0)
    add("--notebook", metavar="NN", help="only this notebook and what it reads")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the notebooks")
    does = parse.add_mutually_exclusive_group()
    for name, what in {
        "--status": "say what is stale and why; run nothing",
        "--plan": "print models, data, tokens, cost and what is missing; run nothing",
        "--keys": "print the content keys of the code; run nothing",
        "--verify": "compare the results with the manifest's checksums",
    }.items():
        does.add_argument(name, action="store_true", help=what)
    return parse.parse_args(line)


@command(kept="finished notebooks are kept")
def main(line: Sequence[str] | None = None) -> int:
    """Do with a study what the command line says; 1 if its files are not those of the manifest."""
    options = words_of(line)
    if options.verify:
        study = open_study(options.profile, options.seed)
        wrong = manifest.verify(study)
        print("\n".join(wrong) or f"{study.root.name}: every file is the one the manifest lists")
        return 1 if wrong else 0
    notebooks_folder()  # before folders are made for their results
    study = open_study(options.profile, options.seed)
    # A slip in these must not show only when the plan fits, or after hours.
    todo = steps(study, options.set, options.notebook)
    whole = options.notebook is None and not any(step.parameters.get("only") for step in todo)
    if options.status:
        print(f"profile {study.profile.name}, seed {study.seed}\n{status(todo)}")
    elif options.keys:
        code = {step.name: notebooks.code(notebooks.read(step.path), step.path.name) for step in todo}
        print(*keys.keys(code), sep="\n")
    elif options.plan:
        print(*plan(study, whole)[:2], sep="\n")
    else:
        prepare(study, whole)
        run(study, todo)
    return 0


def prepare(study: Study, whole: bool) -> None:
    """Give a rehearsal its models and data; see that this machine has what a large profile needs.

    Raises:
        RunError: something is missing; the plan, printed before, lists it.
    """
    if study.profile.rehearsed:
        # Slow: it brings torch, which other runs must not wait for.
        from gateau_lib.experiments import rehearsal

        rehearsal.enter(study.cache / "hub")
    elif study.profile.needs_gpu:
        *text, lacks = plan(study, whole)
        say("\n".join(text))
        if lacks:
            missing = f"{lacks} things are missing, listed above"
            raise RunError(f"profile {study.profile.name} cannot run here: {missing}", 2)


def run(study: Study, todo: Sequence[Step]) -> None:
    """Run the stale notebooks in order, and say how many ran and where they are.

    Raises:
        RunError: a notebook failed; those before it are done and stay.
    """
    start, ran = time.monotonic(), 0
    with locked(study.cache):  # a second run of the same profile would write the same files
        for place, step in enumerate(todo, 1):
            parts = step.parts()
            if reasons := step.stale(parts):
                more = f" (and {len(reasons) - 1} more)" if reasons[1:] else ""
                say(f"[{place}/{len(todo)}] {step.name}: {reasons[0]}{more}")
                execute(step, parts)
                ran += 1
            else:
                manifest.refresh_prose(step)
    done = f"{ran} of {len(todo)} notebooks ran in {time.monotonic() - start:.1f} s"
    say(f"{study.profile.name}: {done}; see {study.root}/notebooks")


def plan(study: Study, whole: bool) -> tuple[str, str, int]:
    """The plan of a study, what this machine lacks for it, and how many things those are."""
    # Slow: they bring torch, which a warm run must not wait for.
    from gateau_lib.experiments import machine_check, plan

    lacks = machine_check.missing(study.profile, whole)
    return plan.describe(study.profile), machine_check.listed(lacks), len(lacks)


if __name__ == "__main__":
    sys.exit(main())
