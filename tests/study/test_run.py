"""The runner, on small notebooks made here: what runs again and why, what a failure leaves, what is saved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from gateau_lib import run
from gateau_lib.study import code_hash, devices, manifest, notebooks, staleness
from gateau_lib.study.store import open_study
from gateau_lib.study.whole_files import locked

PARAMETERS = 'profile: str = "cpu"\nseed: int = 0\nscale: float = 1.0'
FIRST = """
import sys
from gateau_lib.study import evidence, store
study = store.open_study(profile, seed)
{work}
rows = [dict(metric="m", method="a", condition="", seed=seed, value=value, n=1)]
evidence.write_metrics(study, "01_m", rows)
print("to the log", file=sys.stderr)
print(object(), study.root)
"""
SECOND = """
from gateau_lib.study import evidence, store
study = store.open_study(profile, seed)
frame = evidence.read_metrics(study)
evidence.write_table(study, "02_t", frame[["value"]] * scale)
print(len(frame))
"""


def write(folder: Path, name: str, *cells: str, prose: str = "# Title", parameters: str = PARAMETERS) -> Path:
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    declared = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": spec}, cells=[nbformat.v4.new_markdown_cell(prose), declared]
    )
    notebook.cells += [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"c{number}"
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def point_at(place: Path, monkeypatch) -> Path:
    monkeypatch.setenv("GATEAU_RESULTS", str(place / "results"))
    monkeypatch.setenv("GATEAU_NOTEBOOKS", str(place / "notebooks"))
    monkeypatch.setenv("GATEAU_DEVICE", "cpu")
    return place / "notebooks"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two notebooks, the second reading what the first left, and a results root of their own."""
    (tmp_path / "notebooks").mkdir()
    write(tmp_path / "notebooks", "01_one", FIRST.format(work="value = 1.0"))
    write(tmp_path / "notebooks", "02_two", SECOND)
    return point_at(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """The two notebooks, run once."""
    place = tmp_path_factory.mktemp("once")
    (place / "notebooks").mkdir()
    write(place / "notebooks", "01_one", FIRST.format(work="value = 1.0"))
    write(place / "notebooks", "02_two", SECOND)
    with pytest.MonkeyPatch.context() as patch:
        point_at(place, patch)
        assert run.main(["smoke"]) == 0
    return place


@pytest.fixture
def done(one_run, tmp_path, monkeypatch):
    """A copy of the finished run; returns its notebooks folder."""
    shutil.copytree(one_run, tmp_path / "copy")
    return point_at(tmp_path / "copy", monkeypatch)


def go(capsys, *words: str) -> tuple[int, str]:
    code = run.main(["smoke", *words])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def root(folder: Path) -> Path:
    return folder.parent / "results" / "smoke"


def test_cold_warm_edit_and_early_cut_off(folder, capsys):
    code, said = go(capsys, "--status")
    assert code == 0 and said.count("has not run here") == 2
    code, said = go(capsys)
    assert code == 0 and "2 of 2 notebooks ran" in said and "to the log" in said
    first = {p.name: p.read_bytes() for p in (root(folder) / "notebooks").iterdir()}
    assert sorted(first) == ["01_one.ipynb", "02_two.ipynb"]

    code, said = go(capsys)
    assert "0 of 2 notebooks ran" in said
    assert go(capsys, "--status")[1].count("fresh") == 2

    # Other code, same result: the second notebook does not run.
    write(folder, "01_one", FIRST.format(work="value = 0.5 + 0.5"))
    said = go(capsys, "--status")[1]
    assert (
        "stale  the notebook's code changed" in said
        and "waits  runs only if 01_one leaves something else" in said
    )
    assert "1 of 2 notebooks ran" in go(capsys)[1]

    # Another result: it does, and says why.
    write(folder, "01_one", FIRST.format(work="value = 2.0"))
    said = go(capsys)[1]
    assert "2 of 2" in said and "02_two: what 01_one left changed" in said

    # Back again: the same bytes as the first time.
    write(folder, "01_one", FIRST.format(work="value = 1.0"))
    go(capsys)
    assert {p.name: p.read_bytes() for p in (root(folder) / "notebooks").iterdir()} == first


def test_saved_copy_is_clean(done, capsys):
    text = (root(done) / "notebooks" / "01_one.ipynb").read_text()
    copy = json.loads(text)
    nbformat.validate(nbformat.from_dict(copy))
    for private in (str(done.parent), f"{Path.home()}/", "papermill", 'stderr"', "duration", "gateau-"):
        assert private not in text, private
    printed = "".join(copy["cells"][-1]["outputs"][0]["text"])
    assert printed == "<object object at 0x0> results/smoke\n"
    assert [c["id"] for c in copy["cells"]] == ["c0", "c1", "injected-parameters", "c2"]
    assert notebooks.text_hash({"cells": notebooks.code_cells(copy)}) == notebooks.text_hash(
        {"cells": notebooks.code_cells(notebooks.read(done / "01_one.ipynb"))}
    )


def test_prose_and_comments_are_refreshed_without_running(done, capsys):
    before = notebooks.read(root(done) / "notebooks" / "01_one.ipynb")
    write(done, "01_one", "# why\n" + FIRST.format(work="value = 1.0").strip(), prose="# Another title")
    code, said = go(capsys)
    assert "01_one: text updated" in said and "0 of 2" in said
    after = notebooks.read(root(done) / "notebooks" / "01_one.ipynb")
    assert notebooks.source(after["cells"][0]) == "# Another title"
    assert after["cells"][-1]["outputs"] == before["cells"][-1]["outputs"]
    assert "0 of 2" in go(capsys)[1] and go(capsys, "--verify")[0] == 0


def test_what_makes_a_notebook_stale(done, capsys):
    said = go(capsys, "--status", "--set", "scale=2")[1]
    assert "parameter scale is new" in said
    (root(done) / "metrics" / "01_m.json").write_text("[]")
    assert "metrics/01_m.json was changed" in go(capsys, "--status")[1]
    code, said = go(capsys, "--verify")
    assert code == 1 and "metrics/01_m.json: not the file the manifest lists" in said
    (root(done) / "metrics" / "01_m.json").unlink()
    assert "metrics/01_m.json is missing" in go(capsys, "--status")[1]


def test_a_new_measurement_makes_its_notebook_stale(done, capsys, monkeypatch):
    monkeypatch.setitem(staleness.READS, "02", ("bench",))
    assert "stale" not in go(capsys, "--status")[1]
    folder = root(done).parent / "bench"
    folder.mkdir()
    (folder / "machine.json").write_text("{}")
    said = go(capsys, "--status")[1].splitlines()
    assert said[1].endswith("fresh") and said[2].endswith("stale  results/bench is new")


def library_of(place: Path, monkeypatch) -> Path:
    """A copy of the library without the shipped pair, which the notebooks' keys are made of from here on."""
    copied = place / code_hash.PACKAGE.name
    shutil.copytree(code_hash.PACKAGE, copied, ignore=shutil.ignore_patterns("tiny_pair", "__pycache__"))
    monkeypatch.setattr(staleness, "text_parts", lambda text: code_hash.text_parts(text, copied))
    return copied


def test_editing_a_library_function_touches_only_its_users(done, capsys, monkeypatch, tmp_path):
    store_file = library_of(tmp_path, monkeypatch) / "study" / "evidence.py"
    text = store_file.read_text()
    store_file.write_text(text.replace("to_csv(index=named", "to_csv(index=bool(named)"))
    said = go(capsys, "--status")[1].splitlines()
    assert said[1].endswith("fresh") and said[2].endswith(
        "stale  gateau_lib study.evidence.write_table changed"
    )


def test_a_moved_library_function_makes_nothing_stale(done, capsys, monkeypatch, tmp_path):
    package = library_of(tmp_path, monkeypatch)
    text = (package / "study" / "evidence.py").read_text()
    start, end = text.index("def write_table("), text.index("def write_ids(")
    ours = ["evidence import place", "store import Study", "whole_files import atomic_write"]
    imports = "\n".join(
        [
            "from pathlib import Path",
            "import pandas as pd",
            *(f"from gateau_lib.study.{each}" for each in ours),
        ]
    )
    moved = imports + "\n" + text[start:end]
    (package / "room").mkdir()
    (package / "room" / "evidence.py").write_text(moved)
    passed_on = "from gateau_lib.room.evidence import write_table\n"
    (package / "study" / "evidence.py").write_text(text[:start] + passed_on + text[end:])
    assert go(capsys, "--status")[1].count("fresh") == 2
    (package / "room" / "evidence.py").write_text(moved.replace("index=named", "index=bool(named)"))
    said = go(capsys, "--status")[1].splitlines()
    assert said[1].endswith("fresh")
    assert said[2].endswith("stale  gateau_lib room.evidence.write_table changed")


def test_a_stamp_of_an_earlier_form_is_stale(done, capsys):
    stamp = root(done) / "cache" / "stamps" / "01_one.json"
    content = json.loads(stamp.read_text())
    content["parts"] = {"the notebook's code": "0" * 64, "gateau_lib study.evidence.write_table": "0" * 64}
    stamp.write_text(json.dumps(content))
    code, said = go(capsys, "--status")
    assert code == 0 and f"{'01_one':26} stale  " in said
    assert "1 of 2 notebooks ran" in go(capsys)[1]


@pytest.mark.parametrize(
    ("before", "now", "reasons"),
    [
        ({"a.f": "1"}, {"a.f": "2"}, ["gateau_lib a.f changed"]),
        ({"a.f": "1"}, {"b.f": "2"}, ["gateau_lib b.f changed"]),  # moved and edited
        ({"a.f": "1"}, {"b.f": "1", "b.g": "2"}, ["gateau_lib b.g is new"]),  # moved
        ({"a.f": "1", "a.g": "2"}, {"b.f": "1"}, ["gateau_lib a.g is no longer used"]),
        (
            {"a.f": "1"},
            {"a.f": "1"},
            ["names in the code stand for other definitions"],
        ),  # two have changed roles
    ],
)
def test_a_change_of_code_is_explained_by_names(before, now, reasons):
    before, now = ({f"gateau_lib {name}": each for name, each in parts.items()} for parts in (before, now))
    assert staleness.differences(before | {"code": "1"}, now | {"code": "2"}) == reasons
    assert staleness.differences(before | {"code": "1"}, now | {"code": "1"}) == []
    assert staleness.differences(before | {"code": "1"}, now | {"code": "1", "torch": "2"}) == [
        "torch is new"
    ]


def test_keys_of_code_are_listed(folder, capsys, monkeypatch):
    code, said = go(capsys, "--keys")
    lines = [line.split("\t") for line in said.splitlines()]
    assert code == 0 and lines == sorted(lines) and all(len(key) == 64 for _, key in lines)
    assert {"01_one", "02_two", "trained_once", "score_items", "fine_tune"} <= {name for name, _ in lines}


def test_one_notebook_with_what_it_reads(done, capsys):
    write(done, "01_one", FIRST.format(work="value = 2.0"))
    write(done, "03_three", "print(1)")
    assert "1 of 1 notebooks ran" in go(capsys, "--notebook", "01")[1]
    assert "1 of 2 notebooks ran" in go(capsys, "--notebook", "02")[1]
    code, said = go(capsys, "--notebook", "04")
    assert code == 2 and said == "error: no notebook '04': choose one of 01, 02, 03\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "scal=2"], "error: unknown parameter 'scal': these notebooks take scale"),
        (["--set", "scale=two"], "error: parameter 'scale' of 01_one.ipynb takes float, got 'two'"),
        (["--set", "seed=2"], "write name=value; the profile is the first argument, the seed is --seed"),
        (["--set", "scale"], "write name=value"),
    ],
)
def test_bad_settings_are_one_line(folder, capsys, words, message):
    code, said = go(capsys, *words)
    assert code == 2 and message in said and said.count("\n") == 1


def test_setting_reaches_the_notebooks_as_a_number(folder, capsys):
    assert go(capsys, "--set", "scale=1e-3")[0] == 0
    assert (root(folder) / "tables" / "02_t.csv").read_text() == "value\n0.001\n"


def test_unknown_profile_and_missing_parameters(folder, capsys):
    assert run.main(["smok"]) == 2
    assert "unknown profile 'smok': choose one of smoke, cpu, gpu, paper" in capsys.readouterr().err
    write(folder, "01_one", "print(1)", parameters='profile: str = "cpu"')
    code, said = go(capsys)
    assert code == 2 and "its parameters lack profile or seed" in said.splitlines()[-1]


def test_failure_keeps_the_copy_and_stops(folder, capsys):
    write(folder, "01_one", FIRST.format(work="value = 1.0"), "1 / 0\n", "print('later')")
    code, said = go(capsys)
    last = said.splitlines()[-1]
    assert code == 1 and last.startswith(
        "error: 01_one.ipynb, cell 4 (1 / 0): ZeroDivisionError: division by zero; the copy is"
    )
    kept = root(folder) / "notebooks"
    assert sorted(p.name for p in kept.iterdir()) == ["01_one.failed.ipynb"]
    assert str(folder.parent) not in (kept / "01_one.failed.ipynb").read_text()
    assert "failed last time" in go(capsys, "--status")[1]
    write(folder, "01_one", FIRST.format(work="value = 1.0"))
    assert go(capsys, "--notebook", "01")[0] == 0
    assert [p.name for p in kept.iterdir()] == ["01_one.ipynb"]


def test_failure_after_success_is_stale_and_not_in_the_manifest(done, capsys):
    write(done, "02_two", "1 / 0")
    assert go(capsys)[0] == 1
    assert list(manifest.read(open_study("smoke"))["notebooks"]) == ["01_one"]
    write(done, "02_two", SECOND)
    assert "failed last time" in go(capsys, "--status")[1]
    assert "1 of 2" in go(capsys)[1] and go(capsys, "--verify")[0] == 0


def test_dead_kernel_says_so(folder, capsys):
    write(folder, "01_one", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    code, said = go(capsys)
    last = said.splitlines()[-1]
    assert code == 138 and "cell 3 (import os, signal): the kernel died, likely out of memory" in last


def test_invalid_python_is_named(folder, capsys):
    write(folder, "01_one", "x = 1", "%matplotlib inline\nx = = 2")
    assert go(capsys)[1] == "error: 01_one.ipynb: cell 4, line 2: invalid syntax\n"


def test_files_of_an_earlier_version_are_removed(done, capsys):
    (root(done) / "selected" / "01_ids.json").write_text("[]")
    write(done, "01_one", FIRST.format(work="value = 0.5 + 0.5"))
    go(capsys)
    assert not (root(done) / "selected" / "01_ids.json").exists() and go(capsys, "--verify")[0] == 0


def test_used_artefacts_are_known_and_missed(folder, capsys):
    work = 'folder = store.artefact(study, "pool", lambda f: None, code=[store], seed=seed); value = 1.0'
    write(folder, "01_one", FIRST.format(work=work))
    go(capsys)
    (built,) = (p for p in (root(folder) / "cache").iterdir() if p.name.startswith("pool-"))
    shutil.rmtree(built)
    assert f"artefact {built.name} is gone" in go(capsys, "--status")[1]
    assert "1 of 2" in go(capsys)[1] and built.exists()


def test_a_notebook_that_finds_artefacts_ready_still_tells_its_whole_cost(folder, capsys):
    """The time that building took counts for the first notebook that uses what was built,
    however often it runs again."""
    use = 'import time; built = store.artefact(study, "slow", lambda f: time.sleep(2), code=[store]); '
    write(
        folder,
        "02_two",
        f"from gateau_lib.study import store\nstudy = store.open_study(profile, seed)\n{use}",
    )
    write(folder, "01_one", FIRST.format(work=use + "value = 1.0"))
    go(capsys)
    first, second = manifest.read(open_study("smoke"))["notebooks"].values()
    assert first["reused_seconds"] == 0 and first["seconds"] >= 2 and second["reused_seconds"] == 0

    recorded = json.loads((root(folder) / "manifest.json").read_text())
    recorded["notebooks"]["01_one"]["peak_memory_mb"] = (
        10**6
    )  # building took more memory than reading what was built
    (root(folder) / "manifest.json").write_text(json.dumps(recorded))
    write(folder, "01_one", FIRST.format(work=use + "value = 2.0"))
    assert "2 of 2" in go(capsys)[1]
    first, second = manifest.read(open_study("smoke"))["notebooks"].values()
    assert first["seconds"] > first["reused_seconds"] >= 2 and second["reused_seconds"] == 0
    assert first["peak_memory_mb"] == 10**6 > second["peak_memory_mb"]


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0),
        ([(1, 4)], 3),
        ([(1, 4), (10, 11)], 4),
        ([(2, 6), (1, 4)], 5),
        ([(1, 9), (2, 3)], 8),
        ([(1, 4), (1, 4)], 3),
    ],
)
def test_what_was_built_side_by_side_counts_once(spans, seconds):
    assert manifest.covered(spans) == seconds


def test_another_seed_has_a_folder_of_its_own(done, capsys):
    before = {p: p.read_bytes() for p in root(done).rglob("*") if p.is_file()}
    assert go(capsys, "--status", "--seed", "1")[1].count("has not run here") == 2
    said = go(capsys, "--verify", "--seed", "1")[1]
    assert said == "smoke-seed1: no manifest.json; run make smoke SEED=1 first\n"
    assert "2 of 2 notebooks ran" in go(capsys, "--seed", "1")[1]
    assert go(capsys, "--verify", "--seed", "1") == (
        0,
        "smoke-seed1: every file is the one the manifest lists\n",
    )
    assert "0 of 2 notebooks ran" in go(capsys, "--seed", "1")[1]
    assert {p: p.read_bytes() for p in root(done).rglob("*") if p.is_file()} == before
    assert "0 of 2 notebooks ran" in go(capsys)[1] and go(capsys, "--verify")[0] == 0

    copy = (root(done).with_name("smoke-seed1") / "notebooks" / "01_one.ipynb").read_text()
    assert "results/smoke-seed1" in copy and '"profile = \\"smoke\\"' in copy
    write(done, "02_two", "1 / 0")
    assert "the copy is results/smoke-seed1/notebooks/02_two.failed.ipynb" in go(capsys, "--seed", "1")[1]


def test_another_seed_of_a_large_profile_does_not_make_what_reads_it_stale(done, capsys, monkeypatch):
    monkeypatch.setitem(staleness.READS, "02", ("gpu*/manifest.json",))
    for name in ("gpu-seed3", "gpu-custom-0a1b2c"):
        (root(done).parent / name).mkdir()
        (root(done).parent / name / "manifest.json").write_text("{}")
    assert "stale" not in go(capsys, "--status")[1]
    (root(done).parent / "gpu").mkdir()
    (root(done).parent / "gpu" / "manifest.json").write_text("{}")
    assert "results/gpu/manifest.json is new" in go(capsys, "--status")[1]


def test_new_evidence_makes_what_shows_it_stale_and_that_of_other_seeds_does_not(done, capsys, monkeypatch):
    monkeypatch.setitem(staleness.READS, "02", staleness.PAIRS)
    for name in ("evidence-seed50", "evidence-smoke", "evidence"):
        assert "stale" not in go(capsys, "--status")[1]
        (root(done).parent / name).mkdir()
        (root(done).parent / name / "metrics.csv").write_text("metric\n")
    assert "results/evidence/metrics.csv is new" in go(capsys, "--status")[1]


def test_manifest_tells_what_made_the_files(folder, capsys):
    go(capsys, "--seed", "4")
    content = json.loads((root(folder).with_name("smoke-seed4") / "manifest.json").read_text())
    assert content["seeds"] == [4] and content["machine"]["device"] == "cpu" and content["versions"]["torch"]
    assert content["kernels"] == devices.kernels() and content["kernels"]["cudnn"] is None
    entry = content["notebooks"]["01_one"]
    assert (
        entry["seconds"] > 0
        and entry["peak_memory_mb"] > 20
        and entry["parameters"] == {"profile": "smoke", "seed": 4}
    )
    assert sorted(entry["files"]) == ["metrics/01_m.json", "notebooks/01_one.ipynb"]
    assert {"commit", "dirty"} <= set(entry)


def test_two_runs_at_once_are_refused(folder, capsys):
    with locked(open_study("smoke").cache):
        code, said = go(capsys)
    assert code == 2 and "results/smoke/cache: another run writes here (process" in said


def test_a_run_that_was_killed_on_another_machine_does_not_stop_this_one(folder, capsys):
    """A container's name changes with each start, and a scheduler takes another node."""
    cache = open_study("smoke").cache
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "lock").write_text(json.dumps({"process": 1, "host": "elsewhere", "since": "2026-01-01"}))
    assert go(capsys)[0] == 0


def test_warm_run_is_fast_and_imports_nothing_heavy(done, capsys):
    code = "import sys; from gateau_lib import run; run.main(['smoke']); "
    code += "print({'torch', 'papermill'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=10, check=True
    )
    assert "0 of 2 notebooks ran" in done.stderr and done.stdout == "set()\n"


@pytest.mark.parametrize("moment", ["[1/2] 01_one", "the cell runs"])
def test_ctrl_c_is_one_line(folder, moment):
    """As a terminal sends it, to all processes of the run: while the kernel starts, and while a cell runs."""
    write(
        folder,
        "01_one",
        "import sys, time\nprint('the cell runs', file=sys.stderr, flush=True)\ntime.sleep(60)",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "gateau_lib.run", "smoke"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore the signal, and pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as running:
        before = next(line for line in running.stderr if moment in line)
        os.killpg(running.pid, signal.SIGINT)
        said = running.stderr.read()
    assert before and said == "stopped; finished notebooks are kept, give the same command to go on\n"
    assert running.returncode == 130
    kept = [path.name for path in (root(folder) / "notebooks").iterdir()]
    assert kept == [] and not list((root(folder) / "cache" / "stamps").glob("*"))
