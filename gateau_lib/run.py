"""Run the study's notebooks in order, each only if something it depends on changed; say what is stale and why.

Only a notebook whose every cell ran leaves an executed copy, a stamp and a manifest entry.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.execute import bring_up_to_date, only_run
from gateau_lib.study.profiles import PROFILES, REHEARSED
from gateau_lib.study.staleness import RunError, say, status, steps
from gateau_lib.study.store import Study, open_study


def main(words: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gateau_lib.run", description=__doc__.splitlines()[0])
    parser.add_argument("profile", help=f"{', '.join(PROFILES)}, gpu+PAIR, {REHEARSED}gpu or {REHEARSED}paper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--notebook", metavar="NN", help="only this notebook and what it reads")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the notebooks")
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--status", action="store_true", help="say what is stale and why; run nothing")
    does.add_argument("--plan", action="store_true", help="print models, data, tokens, cost and what is missing; run nothing")
    does.add_argument("--keys", action="store_true", help="print the content keys of the code; run nothing")
    does.add_argument("--verify", action="store_true", help="compare the results with the manifest's checksums")
    options = parser.parse_args(words)
    try:
        return _do(options)
    except RunError as error:
        say(f"error: {error}")
        return error.status
    except ValueError as error:  # profiles, plans and notebooks explain themselves in one line
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("stopped: what was finished stays, the same command goes on")
        return 130


def _do(options: argparse.Namespace) -> int:
    start = time.monotonic()
    study = open_study(options.profile, options.seed)
    # A slip in these must not show only when the plan fits, or after hours.
    todo = steps(study, options.set, options.notebook) if not options.verify else []
    whole = options.notebook is None and not any(each.startswith("only=") for each in options.set)
    if options.keys:
        from gateau_lib.study import keys

        code = {step.name: notebooks.code(notebooks.read(step.path), step.path.name) for step in todo}
        print(*keys.keys(code), sep="\n")
        return 0
    if options.plan:
        print(*_plan(study, whole)[:2], sep="\n")
        return 0
    if options.verify:
        wrong = manifest.verify(study)
        print("\n".join(wrong) or f"{study.root.name}: every file is the one the manifest lists")
        return 1 if wrong else 0
    if study.profile.rehearsed:
        from gateau_lib.experiments import rehearsal

        rehearsal.enter(study.cache / "hub")
    elif study.profile.needs_gpu and not options.status:
        *text, lacks = _plan(study, whole)
        say("\n".join(text))
        if lacks:
            raise RunError(f"profile {study.profile.name} cannot run here: {lacks} things are missing, listed above", 2)
    if options.status:
        print(f"profile {study.profile.name}, seed {study.seed}\n{status(todo)}")
        return 0
    with only_run(study):
        ran = bring_up_to_date(todo)
    spent = time.monotonic() - start
    say(f"{study.profile.name}: {ran} of {len(todo)} notebooks ran in {spent:.1f} s; see {study.root}/notebooks")
    return 0


def _plan(study: Study, whole: bool) -> tuple[str, str, int]:
    """The plan of a study, what this machine lacks for it, and how many things those are."""
    from gateau_lib.experiments import (  # slow: they bring torch, which a warm run must not wait for
        machine_check,
        plan,
    )

    lacks = machine_check.missing(study.profile, whole)
    return plan.describe(study.profile), machine_check.listed(lacks), len(lacks)


if __name__ == "__main__":
    sys.exit(main())
