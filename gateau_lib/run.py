"""Run the study's notebooks in order, each only if something it depends on changed; say what is stale and why.

Only a notebook whose every cell ran leaves an executed copy, a stamp and a manifest entry.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateau_lib import manifest, notebooks, plan
from gateau_lib.profiles import PROFILES, REHEARSED
from gateau_lib.steps import RunError, Step, finish, say, status, steps
from gateau_lib.store import Study, atomic_write, open_study


def bring_up_to_date(todo: Sequence[Step]) -> int:
    """Run the stale notebooks in order; returns how many ran.

    Raises:
        RunError: a notebook failed; those before it are done and stay.
    """
    from gateau_lib.execute import execute  # brings papermill with it, which a warm run must not wait for

    ran = 0
    for place, step in enumerate(todo, 1):
        if reasons := step.stale():
            say(f"[{place}/{len(todo)}] {step.name}: {reasons[0]}{f' (and {len(reasons) - 1} more)' if reasons[1:] else ''}")
            execute(step)
            ran += 1
        else:
            refresh_prose(step)
    return ran


def refresh_prose(step: Step) -> None:
    """Bring the executed copy's text up to date when only prose or comments changed: no code ran differently."""
    last, original = step.last(), notebooks.read(step.path)
    if last["text"] != notebooks.text_hash(original):
        copy = notebooks.with_outputs(original, notebooks.read(step.executed))
        atomic_write(step.executed, notebooks.write_text(copy))
        say(f"      {step.name}: text updated, nothing to compute")
        entry = manifest.read(step.study)["notebooks"].get(step.name, {})
        finish(step, last["parts"], last["artefacts"], entry)


@contextmanager
def only_run(study: Study) -> Iterator[None]:
    """Hold the study's folder; a second run of the same profile would write the same files."""
    with (study.cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"another run of profile {study.profile.name} is going on; wait for it or stop it") from None
        yield


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
        from gateau_lib import keys

        code = {step.name: notebooks.code(notebooks.read(step.path), step.path.name) for step in todo}
        print(*keys.keys(code), sep="\n")
        return 0
    if options.plan:
        print(plan.describe(study.profile), plan.listed(plan.missing(study.profile, whole)), sep="\n")
        return 0
    if options.verify:
        wrong = manifest.verify(study)
        print("\n".join(wrong) or f"{study.profile.name}: every file is the one the manifest lists")
        return 1 if wrong else 0
    if study.profile.name.startswith(REHEARSED):
        from gateau_lib import rehearsal

        rehearsal.enter(study.cache / "hub")
    elif plan.needs_gpu(study.profile) and not options.status:
        say(plan.describe(study.profile))
        lacks = plan.missing(study.profile, whole)
        say(plan.listed(lacks))
        if lacks:
            raise plan.PlanError(f"profile {study.profile.name} cannot run here: {len(lacks)} things are missing, listed above")
    if options.status:
        print(f"profile {study.profile.name}, seed {study.seed}\n{status(todo)}")
        return 0
    with only_run(study):
        ran = bring_up_to_date(todo)
    spent = time.monotonic() - start
    say(f"{study.profile.name}: {ran} of {len(todo)} notebooks ran in {spent:.1f} s; see {study.root}/notebooks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
