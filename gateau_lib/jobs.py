"""Training runs that are started by hand: ``python -m gateau_lib.jobs PROFILE RUN --write JOB.json``.

It writes the run as `gateau_lib.train` takes it. ``--trained FOLDER`` then takes the model into the study,
where the notebooks find it as if they had trained it.
"""

import shutil
import sys
from pathlib import Path

from gateau_lib.experiments import (
    rehearsal,
    replication,
    replication_rows,
    selection_runs,
    skip_runs,
    study_corpus,
)
from gateau_lib.models.loading import load_tokenizer
from gateau_lib.study.command import command, parser
from gateau_lib.study.errors import UserError
from gateau_lib.study.outputs import check_out
from gateau_lib.study.store import Study, open_study
from gateau_lib.study.whole_files import atomic_write
from gateau_lib.training import fine_tuning, pretrain, sft
from gateau_lib.training.recipe import FineTune, to_json


def find_run(study: Study, name: str) -> FineTune:
    """The run of that name among those of notebooks 07 and 11; scores it needs are computed if missing."""
    rows = (row for row in replication_rows.runs(study.profile) if row.row != replication_rows.UNTUNED)
    published = {row.name: row for row in rows}
    skipping = skip_runs.run_names(study.profile)
    known = [*published, *skipping, *selection_runs.run_names(study.profile)]
    if name not in known:
        no = f"no run {name!r} in profile {study.profile.name}"
        raise UserError(f"{no}: choose one of {', '.join(known)}")
    data = study_corpus.prepared(study)
    pair = pretrain.pair(study, data)
    if name in published:
        run = published[name]
        chosen = replication_rows.selected(run, replication.scored(study, pair), study.seed)
        return replication.training_job(study, pair, run, chosen)
    if name in skipping:
        jobs = skip_runs.all_jobs(study, data, pair)
    else:
        jobs = selection_runs.selection_jobs(study, data, pair, selection_runs.selected(study))
    return next(job for job in jobs if job.name == name)


def adopt(study: Study, job: FineTune, trained: Path) -> Path:
    """The artefact of a run, with the model of a folder in it; UserError if that is of another run."""
    if not (trained / sft.LOG).is_file():
        raise UserError(f"{trained}: holds no {sft.LOG}, so training has not ended there; start it again")
    wanted = sft.identity(job, sft.steps_of(job, load_tokenizer(job.base)))
    found = sft.training_log(trained).get("identity", "unknown")
    if found.rpartition("-")[2] != wanted.rpartition("-")[2]:  # what follows the name
        raise UserError(f"{trained}: holds run {found}, not {wanted}; train the run that --write gives now")
    return fine_tuning.build(job).folder(study, lambda out: shutil.copytree(trained, out, dirs_exist_ok=True))


@command()
def main(line: list[str] | None = None) -> None:
    """Write a run for another machine, or take its model into the study, as the command line says."""
    parse = parser("jobs", __doc__)
    parse.add_argument("profile")
    parse.add_argument("run", help="name of the run, as notebook 07 or 11 shows it")
    parse.add_argument("--seed", type=int, default=0)
    add = parse.add_mutually_exclusive_group(required=True).add_argument
    add("--write", type=Path, metavar="JOB.json", help="write the run for gateau_lib.train")
    add("--trained", type=Path, metavar="FOLDER", help="take the model trained there into the study")
    options = parse.parse_args(line)
    if options.write:  # finding a run may take hours
        check_out(options.write, [], [], option="--write")
    study = open_study(options.profile, options.seed)
    if study.profile.rehearsed:
        rehearsal.enter(study.cache / "hub")
    job = find_run(study, options.run)
    print(atomic_write(options.write, to_json(job)) if options.write else adopt(study, job, options.trained))


if __name__ == "__main__":
    sys.exit(main())
