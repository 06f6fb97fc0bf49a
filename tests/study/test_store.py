"""Artefacts are built once for each content; evidence files are whole, sorted and finite; progress."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateau_lib.data import samples
from gateau_lib.sources import hub
from gateau_lib.study import code_hash, command, evidence, progress, store, whole_files


@pytest.fixture
def study(tmp_path, monkeypatch) -> store.Study:
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    return store.open_study("smoke", seed=3)


def test_study_lies_below_the_results_root(study, tmp_path):
    assert study.root == tmp_path / "results" / "smoke-seed3"
    assert study.cache.is_dir() and (study.root / "metrics").is_dir()
    with pytest.raises(ValueError, match="unknown profile 'smok'"):
        store.open_study("smok")


def test_only_seed_0_at_the_profiles_sizes_writes_into_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    own = store.open_study("cpu")
    assert (own.root, own.cache) == (tmp_path / "cpu", tmp_path / "cpu" / "cache")
    same = store.open_study("cpu", 0, alpha=own.profile.alpha, pool_tokens=own.profile.pool_tokens)
    assert (same.root, same.cache) == (own.root, own.cache)
    seed = store.open_study("cpu", 50)
    assert (seed.root, seed.cache) == (tmp_path / "cpu-seed50", tmp_path / "cpu-seed50" / "cache")

    shorter, other = (store.open_study("cpu", 0, pool_tokens=(300, n)) for n in (600, 700))
    assert re.fullmatch(r"cpu-custom-[0-9a-f]{6}", shorter.root.name) and shorter.root != other.root
    assert shorter.root == store.open_study("cpu", 0, pool_tokens=(300, 600), alpha=own.profile.alpha).root
    assert shorter.cache == own.cache, "artefacts carry what they were made from in their names"
    both = store.open_study("cpu", 50, pool_tokens=(300, 600))
    assert re.fullmatch(r"cpu-seed50-custom-[0-9a-f]{6}", both.root.name) and both.cache == seed.cache
    assert {each.profile.name for each in (own, seed, shorter, both)} == {"cpu"}
    assert store.profile_folders() == [own.root]

    before = sorted(own.root.rglob("*"))
    for each in (seed, shorter, both):
        evidence.write_metrics(each, "03_scores", [row()])
        evidence.write_ids(each, "05_gateau", ["a"])
    assert sorted(own.root.rglob("*")) == before


def test_another_seed_takes_the_commits_that_the_profile_has_pinned(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path))
    pins = store.open_study("paper").root / store.PINS
    pins.write_text('{"models/a/b": "1"}')
    assert hub.revisions(store.open_study("paper", 4)) == {"models/a/b": "1"}
    pins.write_text('{"models/a/b": "2"}')
    assert hub.revisions(store.open_study("paper", 4)) == {"models/a/b": "1"}, "what a study has met stays"
    assert hub.revisions(store.open_study("paper", 0, alpha=0.5)) == {"models/a/b": "2"}
    pins.write_text('{"models/a/b": "2", "data/c": "5"}')
    assert hub.revisions(store.open_study("paper", 4)) == {"models/a/b": "1", "data/c": "5"}, (
        "what the profile met later"
    )
    assert hub.revisions(store.open_study("paper", 4, alpha=0.5)) == {"models/a/b": "1", "data/c": "5"}, (
        "as its seed"
    )


def test_git_ignores_the_folders_of_other_seeds_and_sizes():
    if not (code_hash.PACKAGE.parent / ".git").exists():
        pytest.skip("not a git checkout")
    names = [
        "cpu-seed50",
        "cpu-custom-0a1b2c",
        "cpu-seed50-custom-0a1b2c",
        "gpu+PAIR-seed1",
        "cpu",
        "gpu+PAIR",
        "paper",
    ]
    asked = [f"results/{name}/metrics/01_new.json" for name in names]
    command = ["git", "check-ignore", *asked]
    done = subprocess.run(command, cwd=code_hash.PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.stdout.split() == asked[:4]


def test_artefact_is_built_once_for_each_content(study, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setenv("GATEAU_ARTEFACT_LOG", str(tmp_path / "log"))

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "x").write_text("1")

    first = store.artefact(study, "demo", build, code=[samples], size=1, stages=((1, 2), (3, 4)))
    assert (
        store.artefact(study, "demo", build, code=[samples], stages=[[1, 2], [3, 4]], size=np.int64(1))
        == first
    )
    assert len(calls) == 1 and (first / "x").read_text() == "1"
    assert store.artefact(study, "demo", build, code=[samples], size=2, stages=()) != first
    assert (tmp_path / "log").read_text().splitlines()[:2] == [first.name, first.name]


def test_artefact_tells_when_it_was_built(study):
    before = time.time()
    folder = store.artefact(study, "demo", lambda f: time.sleep(0.05), code=[samples])
    first = begin, end = store.built(folder)
    assert before <= begin <= end - 0.05 and end <= time.time()
    assert store.built(store.artefact(study, "demo", lambda f: None, code=[samples])) == first


def test_artefact_of_another_artefact_or_file(study, tmp_path):
    build = lambda folder: (folder / "x").write_text("1")  # noqa: E731
    one = store.artefact(study, "one", build, code=[samples], a=1)
    outside = tmp_path / "data.txt"
    outside.write_text("abc")
    with_file = store.artefact(study, "two", build, code=[samples], first=one / "x", file=outside)
    outside.write_text("abd")
    assert store.artefact(study, "two", build, code=[samples], first=one / "x", file=outside) != with_file
    with pytest.raises(TypeError, match="no stable content"):
        store.artefact(study, "two", build, code=[samples], first=object())


def test_profile_as_input_counts_by_value(study):
    build = lambda folder: None  # noqa: E731
    folder = store.artefact(study, "p", build, code=[samples], profile=study.profile)
    assert folder == store.artefact(study, "p", build, code=[samples], profile=replace(study.profile))
    assert folder != store.artefact(
        study, "p", build, code=[samples], profile=replace(study.profile, layers=9)
    )


def test_a_crash_leaves_nothing_that_looks_finished(study):
    def build(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        store.artefact(study, "demo", build, code=[samples])
    assert list(study.cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed(study):
    folder = store.artefact(study, "demo", lambda f: None, code=[samples])
    shutil.rmtree(folder)
    dead, alive = (study.cache / f".{folder.name}.{pid}.part" for pid in (2**22 + 1, os.getppid()))
    dead.mkdir(), alive.mkdir()
    store.artefact(study, "demo", lambda f: None, code=[samples])
    assert not dead.exists() and alive.exists()


def test_two_builders_of_the_same_content(study):
    def overtaken(folder: Path) -> None:
        finished = folder.parent / folder.name[1:].rsplit(".", 2)[0]
        finished.mkdir()
        (finished / "x").write_text("theirs")

    folder = store.artefact(study, "race", overtaken, code=[samples])
    assert (folder / "x").read_text() == "theirs" and not list(study.cache.glob(".*part"))


def row(**changes):
    return {"metric": "auc", "method": "hmg", "condition": "", "seed": 0, "value": 0.5, "n": 9} | changes


def test_metrics_are_sorted_finite_and_unique(study):
    rows = [row(method=m, seed=s, value=np.float32(0.25)) for m in ("b", "a") for s in (1, 0)]
    path = evidence.write_metrics(study, "03_scores", rows)
    before = path.read_bytes()
    evidence.write_metrics(study, "03_scores", rows[::-1])
    assert path.read_bytes() == before
    frame = evidence.read_metrics(study)
    assert (
        list(frame.method) == ["a", "a", "b", "b"]
        and set(frame.notebook) == {"03_scores"}
        and frame.value.eq(0.25).all()
    )
    for bad, message in (
        ([row(value=float("nan"))], "is nan"),
        ([row(value=float("inf"))], "is inf"),
        ([row(), row()], "given twice"),
        ([row(extra=1)], "exactly the keys"),
    ):
        with pytest.raises(ValueError, match=message):
            evidence.write_metrics(study, "03_scores", bad)
    with pytest.raises(ValueError, match="must begin with its notebook's number"):
        evidence.write_metrics(study, "scores", [row()])
    assert path.read_bytes() == before


def test_tables_and_ids(study):
    table = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="kind"))
    assert evidence.write_table(study, "03_t", table).read_text() == "kind,a\nx,1\ny,2\n"
    assert evidence.write_table(study, "03_t", table.reset_index(drop=True)).read_text() == "a\n1\n2\n"
    assert json.loads(evidence.write_ids(study, "05_gateau", ["b", "a"]).read_text()) == ["b", "a"]


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_atomic_write_replaces(tmp_path_factory, one, two):
    path = tmp_path_factory.mktemp("w") / "deep" / "file"
    assert whole_files.atomic_write(path, one).read_bytes() == one
    assert whole_files.atomic_write(path, two).read_bytes() == two
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_files_appear_together_or_not_at_all(tmp_path):
    one, two, old = (tmp_path / "deep" / name for name in ("one", "two", "old"))
    assert whole_files.write_together({one: [b"a", b"b"], two: [b"c"]}) == [one, two]
    assert (one.read_bytes(), two.read_bytes()) == (b"ab", b"c")
    old.write_text("x")

    def breaks():
        yield b"new"
        raise OSError("disk full")

    for files in ({one: [b"new"], two: breaks()}, {one: breaks(), two: [b"new"]}):
        with pytest.raises(OSError, match="disk full"):
            whole_files.write_together(files, gone=[old])
        assert (one.read_bytes(), two.read_bytes()) == (b"ab", b"c") and old.exists()
    whole_files.write_together({two: [b"d"]}, gone=[old, tmp_path / "never"])
    assert sorted(path.name for path in one.parent.iterdir()) == ["one", "two"] and two.read_bytes() == b"d"


def test_a_kill_between_two_files_leaves_no_old_one_beside_a_new_one(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    whole_files.write_together({one: [b"a"], two: [b"b"]})
    real, done = Path.replace, []

    def killed(path, target):
        if done:
            raise KeyboardInterrupt
        done.append(real(path, target))

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        whole_files.write_together({one: [b"c"], two: [b"d"]})
    assert one.read_bytes() == b"c" and not two.exists()


# Progress ---------------------------------------------------------------------------------------------------


def test_progress_is_silent_when_short_and_sparse_when_long(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with command.messages_shown():
        assert list(progress.track(iter("abc"), "short")) == ["a", "b", "c"]
        assert capsys.readouterr().err == ""
        for _ in progress.track(range(100), "long"):
            clock[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "long: 4/100, 4 s gone, about 1 min 36 s left"
    assert lines[-1] == "long: 100 done in 1 min 40 s" and 10 <= len(lines) <= 12
