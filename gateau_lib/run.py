"""Run the study's notebooks in order, each only if something it depends on changed.

Only a notebook whose every cell ran leaves an executed copy, a stamp and a manifest entry.
"""

import sys
import time
from functools import partial

from gateau_lib.study import manifest, notebooks
from gateau_lib.study.code_hash import all_keys
from gateau_lib.study.command import command, parser
from gateau_lib.study.execute import execute
from gateau_lib.study.profiles import PROFILES, REHEARSED
from gateau_lib.study.progress import say
from gateau_lib.study.staleness import RunError, Step, notebooks_folder, status, steps
from gateau_lib.study.store import Study, open_study
from gateau_lib.study.whole_files import locked


@command(kept="finished notebooks are kept")
def main(line: list[str] | None = None) -> int:
    """Do with a study what the command line says; 1 if its files are not those of the manifest."""
    parse = parser("run", __doc__)
    add = parse.add_argument
    add("profile", help=f"{', '.join(PROFILES)}, gpu+PAIR, {REHEARSED}gpu or {REHEARSED}paper")
    add("--seed", type=int, default=0)
    add("--notebook", metavar="NN", help="only this notebook and what it reads")
    add("--set", metavar="NAME=VALUE", action="append", default=[], help="a parameter of the notebooks")
    does = partial(parse.add_mutually_exclusive_group().add_argument, action="store_true")
    does("--status", help="say what is stale and why; run nothing")
    does("--plan", help="print models, data, tokens, cost and what is missing; run nothing")
    does("--keys", help="print the content keys of the code; run nothing")
    does("--verify", help="compare results and evidence with their manifests")
    options = parse.parse_args(line)
    if options.verify:
        return verify(open_study(options.profile, options.seed))
    notebooks_folder()  # before folders are made for their results
    study = open_study(options.profile, options.seed)
    # A slip in these must not show only when the plan fits, or after hours.
    todo = steps(study, options.set, options.notebook)
    whole = options.notebook is None and not any(step.parameters.get("only") for step in todo)
    if options.status:
        print(f"profile {study.profile.name}, seed {study.seed}\n{status(todo)}")
    elif options.keys:
        code = {step.name: notebooks.code(notebooks.read(step.path), step.path.name) for step in todo}
        print(*all_keys(code), sep="\n")
    elif options.plan:
        print(*plan(study, whole)[:2], sep="\n")
    else:
        prepare(study, whole)
        run(study, todo)
    return 0


def verify(study: Study) -> int:
    """Say what is wrong with the results of a study and with all evidence; 1 if anything is, else 0."""
    from gateau_lib.experiments import evidence_files  # slow: the ledger's statistics

    found = {study.root.name: manifest.verify(study)}
    found |= {folder.name: evidence_files.verify(folder) for folder in evidence_files.folders()}
    for name, wrong in found.items():
        print("\n".join(wrong) or f"{name}: every file is the one the manifest lists")
    return 1 if any(found.values()) else 0


def prepare(study: Study, whole: bool) -> None:
    """Give a rehearsal its models and data; RunError if this machine lacks what a large profile needs."""
    if study.profile.rehearsed:
        from gateau_lib.experiments import rehearsal  # slow: it brings torch

        rehearsal.enter(study.cache / "hub")
    elif study.profile.needs_gpu:
        *text, lacks = plan(study, whole)
        say("\n".join(text))
        if lacks:
            missing = f"{lacks} things are missing, listed above"
            raise RunError(f"profile {study.profile.name} cannot run here: {missing}", 2)


def run(study: Study, todo: list[Step]) -> None:
    """Run the stale notebooks in order, and say how many ran and where; RunError if one failed."""
    start, ran = time.monotonic(), 0
    # A second run of the same profile would write the same files. What a run that was killed in another
    # container or on another node left is no reason to wait.
    with locked(study.cache, machines=False):
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
    from gateau_lib.experiments import machine_check, plan  # slow: they bring torch

    lacks = machine_check.missing(study.profile, whole)
    return plan.describe(study.profile), machine_check.listed(lacks), len(lacks)


if __name__ == "__main__":
    sys.exit(main())
