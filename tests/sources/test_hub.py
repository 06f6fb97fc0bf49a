"""Models and data by name: the real client on a fabricated cache, on a small hub of our own,
and on folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from servers import hub_server

from gateau_lib.data.longalign import read_samples
from gateau_lib.evaluation import haystack, judging, longbench
from gateau_lib.experiments import rehearsal
from gateau_lib.models import loading, rope
from gateau_lib.models.pair import check_homologous
from gateau_lib.sources import hub, published
from gateau_lib.sources.hub import HubError
from gateau_lib.study import errors, registry
from gateau_lib.study.code_hash import path_hash
from gateau_lib.study.errors import DataError
from gateau_lib.study.profiles import resolve
from gateau_lib.study.store import Study

LLAMA = registry.pairs()["llama-2-7b"]


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    rehearsal.fabricate(folder)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(resolve("rehearse-paper"), 0, tmp_path / "results")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's client, which is offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("GATEAU_DATA", raising=False)
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.fixture
def filled(cache: Path, fabricated: Path) -> Path:
    """The same with everything that a rehearsal has."""
    shutil.copytree(fabricated, cache, symlinks=True, dirs_exist_ok=True)
    return cache


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub_server.Hub]:
    """A hub of our own that the client speaks to, with an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub_server.running() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            running.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield running


def refused(call: Any, *args: Any) -> str:
    """The one line that a call ends with."""
    with pytest.raises(HubError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# A rehearsal's cache ----------------------------------------------------------------------------------------


def test_fabricated_cache_is_the_same_every_time(fabricated, tmp_path):
    rehearsal.fabricate(tmp_path)
    assert path_hash(tmp_path) == path_hash(fabricated)


def test_every_pair_loads_from_the_cache_and_is_homologous(filled, study):
    for pair in registry.pairs().values():
        short, short_tokenizer = loading.load(hub.snapshot(study, pair.short.repo))
        long, tokenizer = loading.load(hub.snapshot(study, pair.long.repo))
        check_homologous(short, short_tokenizer, long, tokenizer)
        assert rope.window(short) < rope.window(long)
        assert rope.window(rope.extend_window(short, 1024)) == 1024


def test_plain_hub_ids_load_from_the_cache(filled):
    assert rope.window(loading.load(LLAMA.short.repo)[0]) == 256
    assert rope.window(loading.load(LLAMA.long.repo)[0]) == 2048


def test_a_hub_id_that_asks_for_code_of_its_own_is_refused(filled, study):
    config = hub.snapshot(study, LLAMA.long.repo) / "config.json"
    own = {"auto_map": {"AutoModelForCausalLM": "own_code.OwnForCausalLM"}, "model_type": "own"}
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | own), encoding="utf-8")
    for read in (loading.load, loading.load_tokenizer, loading.load_config):
        with pytest.raises(
            errors.ModelError,
            match=f"^{LLAMA.long.repo}: auto_map in its config.json asks for code of its own",
        ):
            read(LLAMA.long.repo)


def test_a_rehearsal_reads_nothing_else_and_is_made_once(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "0")
        monkeypatch.setattr(constants, name, "0")
    monkeypatch.setenv("GATEAU_DATA", str(tmp_path))
    made = []
    monkeypatch.setattr(rehearsal, "fabricate", lambda folder: made.append(folder))
    monkeypatch.setattr(rehearsal, "source_hash", lambda code: "this code")
    rehearsal.enter(tmp_path / "hub")
    rehearsal.enter(tmp_path / "hub")
    assert made == [tmp_path / "hub"]
    assert str(tmp_path / "hub") == constants.HF_HUB_CACHE and constants.HF_HUB_OFFLINE is True
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / "hub") and os.environ["HF_HUB_OFFLINE"] == "1"
    assert "GATEAU_DATA" not in os.environ
    monkeypatch.setattr(rehearsal, "source_hash", lambda code: "other code")
    rehearsal.enter(tmp_path / "hub")
    assert len(made) == 2


def test_samples_of_both_kinds_with_their_cards(filled, study):
    tokenizer = loading.load_tokenizer(loading.SHIPPED / "short")
    folder = published.long_samples(study)
    samples, card = read_samples(folder / "samples.jsonl"), json.loads((folder / "card.json").read_text())
    assert len(samples) == card["kept"] == rehearsal.LONG and card["read"] == rehearsal.LONG + 3
    assert (
        len(card["dropped"]) == 3
        and set(card["dropped"].values()) == {1}
        and card["cut to first exchange"] == 0
    )
    entry = registry.data_sets()["longalign-10k"]
    assert (card["repo"], card["revision"], card["licence"]) == (entry.repo, entry.revision, entry.licence)
    original = filled / f"datasets--THUDM--LongAlign-10k/snapshots/{entry.revision}/long.jsonl"
    assert card["sha256"] == {"long.jsonl": path_hash(original)}
    lengths = [len(tokenizer(s.context)["input_ids"]) for s in samples]
    assert min(lengths) > 256 and max(lengths) < 1024 and all(s.instruction and s.response for s in samples)

    folder = published.short_samples(study)
    samples, card = read_samples(folder / "samples.jsonl"), json.loads((folder / "card.json").read_text())
    assert len(samples) == rehearsal.SHORT and sum(card["dropped"].values()) == 4 and len(card["sha256"]) == 2
    assert card["cut to first exchange"] == sum(n % 3 > 0 for n in range(rehearsal.SHORT))
    assert max(len(tokenizer(s.instruction + s.response)["input_ids"]) for s in samples) < 256


def test_conversion_is_made_once_and_again_for_other_files(filled, study, tmp_path, monkeypatch):
    first = published.long_samples(study)
    made = path_hash(first)
    assert (
        published.long_samples(study) == first and path_hash(first) == made
    )  # it holds the time at which it was made
    monkeypatch.setenv("GATEAU_DATA", str(tmp_path / "own"))
    (tmp_path / "own" / "longalign-10k").mkdir(parents=True)
    shutil.copy(first / "samples.jsonl", tmp_path / "own" / "longalign-10k" / "long.jsonl")
    assert published.long_samples(study) != first


def test_benchmarks_are_read_by_their_modules(filled, study):
    items = longbench.items(longbench.longbench(study))
    assert {item.task for item in items} == set(longbench.TASKS) and len(items) == len(
        longbench.TASKS
    ) * rehearsal.PER_TASK
    chinese = [item for item in items if longbench.TASKS[item.task].language == "zh"]
    assert len({item.task for item in chinese}) == 3 and all(
        "一" <= item.references[0][0] <= "鿿" for item in chinese
    )
    assert all(item.references[0] in item.turns[0] for item in items if item.task == "qasper")
    tokenizer = loading.load_tokenizer(loading.SHIPPED / "short")
    lengths = [len(tokenizer(item.turns[0])["input_ids"]) for item in items]
    assert min(lengths) < study.profile.benchmark_window < max(lengths)  # some are cut, some are not
    for benchmark in ("longbench-chat", "mt-bench"):
        asked = judging.items(judging.questions(study, benchmark), benchmark)
        assert len(asked) == rehearsal.QUESTIONS
        assert all(len(item.turns) == (1 if benchmark == "longbench-chat" else 2) for item in asked)
    assert len(haystack.haystack(study)) == 4


# Revisions --------------------------------------------------------------------------------------------------


def test_first_use_records_the_commit(filled, study):
    folder = hub.model(study, LLAMA.short.repo)
    assert hub.revisions(study) == {f"models/{LLAMA.short.repo}": folder.name}
    assert hub.model(study, LLAMA.long.repo).name == LLAMA.long.revision
    assert hub.revisions(study)[f"models/{LLAMA.long.repo}"] == LLAMA.long.revision
    assert json.loads((study.root / "revisions.json").read_text()) == hub.revisions(study)


def test_the_recorded_commit_stays_though_the_branch_moves_on(server, study, tmp_path):
    first = server.add_folder("models/some/model", loading.SHIPPED / "short")
    assert hub.snapshot(study, "some/model").name == first
    second = server.add_folder("models/some/model", loading.SHIPPED / "long")
    asked = len(server.asked)
    assert hub.snapshot(study, "some/model").name == first and len(server.asked) == asked
    other = replace(study, root=tmp_path / "other")
    assert hub.snapshot(other, "some/model").name == second
    assert hub.snapshot(study, "some/model").name == first


def test_another_commit_in_the_cache_than_the_recorded_is_refused(filled, study):
    folder = hub.snapshot(study, LLAMA.short.repo)
    folder.rename(folder.with_name("f" * 40))
    (folder.parents[1] / "refs" / "main").write_text("f" * 40)
    said = refused(hub.snapshot, study, LLAMA.short.repo)
    assert (
        f"revisions.json requires commit {folder.name}, the cache has {'f' * 40}; to go on with another"
        in said
    )
    assert (
        f"hf download {LLAMA.short.repo} --revision {folder.name}" in said and "delete the line there" in said
    )


def test_a_commit_of_the_registry_is_required_at_once(filled, study):
    folder = filled / "models--THUDM--LongAlign-7B-64k-base" / "snapshots"
    (folder / LLAMA.long.revision).rename(folder / ("0" * 40))
    said = refused(hub.snapshot, study, LLAMA.long.repo)
    assert (
        f"the registry requires commit {LLAMA.long.revision}, the cache has {'0' * 40}" in said
        and "delete" not in said
    )
    assert hub.revisions(study) == {}


def test_a_registry_that_now_requires_another_commit_is_told(filled, study):
    study.root.mkdir()
    (study.root / "revisions.json").write_text(json.dumps({f"models/{LLAMA.long.repo}": "1" * 40}))
    said = refused(hub.snapshot, study, LLAMA.long.repo)
    assert (
        f"records commit {'1' * 40}, the registry now requires {LLAMA.long.revision}" in said
        and "delete its line" in said
    )


@given(
    st.lists(st.sampled_from([entry.repo for entry in registry.models().values()]), min_size=1, max_size=6)
)
def test_pins_do_not_depend_on_the_order_of_use(fabricated_study, order):
    study = fabricated_study()
    for repo in order:
        hub.snapshot(study, repo)
    expected = {f"models/{repo}": hub.snapshot(study, repo).name for repo in order}
    assert hub.revisions(study) == expected and list(hub.revisions(study)) == sorted(expected)


@pytest.fixture(scope="module")
def fabricated_study(fabricated, tmp_path_factory):
    """A new study each time, on the fabricated cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(fabricated))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield lambda: Study(resolve("rehearse-paper"), 0, tmp_path_factory.mktemp("study"))


# Fetching ---------------------------------------------------------------------------------------------------


def test_only_what_is_loaded_is_fetched(server, study):
    files = {p.name: p.read_bytes() for p in (loading.SHIPPED / "short").iterdir()}
    server.add(
        "models/some/model",
        files | {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "README.md": b"words"},
    )
    folder = hub.snapshot(study, "some/model")
    assert {path.name for path in folder.iterdir()} == set(files)
    assert rope.window(loading.load(folder)[0]) == 256


def test_of_a_data_set_its_files_are_fetched(server, study, fabricated):
    source = fabricated / "datasets--lighteval--mt-bench" / "snapshots"
    files = {"data/train-0.parquet": next(source.rglob("*.parquet")).read_bytes(), "README.md": b"words"}
    commit = server.add("datasets/lighteval/mt-bench", files)
    assert len(judging.items(judging.questions(study, "mt-bench"), "mt-bench")) == rehearsal.QUESTIONS
    assert hub.revisions(study) == {"datasets/lighteval/mt-bench": commit}
    assert not any(path.endswith("README.md") for path in server.asked)


def test_what_was_fetched_is_kept_and_the_rest_follows(server, study, cache):
    files = {p.name: p.read_bytes() for p in (loading.SHIPPED / "short").iterdir()}
    commit = server.add("models/some/model", files)
    folder = hub.snapshot(study, "some/model")
    (folder / "model.safetensors").unlink()  # as if the download had broken off there
    server.asked.clear()
    assert hub.snapshot(study, "some/model").name == commit
    fetched = {path.rpartition("/")[2] for path in server.asked if "/resolve/" in path}
    assert (folder / "model.safetensors").exists() and fetched <= {"model.safetensors"}


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (
            403,
            "GatedRepo",
            "access is restricted; "
            "accept its licence on https://huggingface.co/some/model, then hf auth login",
        ),
        (401, "GatedRepo", "access is restricted"),
        (404, "RepoNotFound", "no such repository on the hub, or a private one"),
        (500, "", "not in the cache, or not whole, and the hub does not answer"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_command(server, study, status, code, says):
    server.refuse = (status, code)
    said = refused(hub.snapshot, study, "some/model")
    assert said.startswith("some/model: ") and says in said
    assert "where there is a network: hf download some/model, its cache is" in said
    assert hub.revisions(study) == {}


def test_a_commit_that_is_gone_is_told(server, study):
    server.add("models/some/model", {"config.json": b"{}"})
    study.root.mkdir()
    (study.root / "revisions.json").write_text(json.dumps({"models/some/model": "2" * 40}))
    assert f"the hub has no commit {'2' * 40}" in refused(hub.snapshot, study, "some/model")


def test_no_network_is_one_line(server, study):
    server.shutdown()
    server.server_close()
    said = refused(published.short_samples, study)
    assert "not in the cache, or not whole, and the hub does not answer" in said
    assert "hf download anon8231489123/ShareGPT_Vicuna_unfiltered --repo-type dataset, its cache is" in said
    assert "put the files into $GATEAU_DATA/sharegpt/" in said


def test_offline_a_pinned_data_set_is_named_with_its_commit(cache, study):
    said, commit = refused(published.long_samples, study), registry.data_sets()["longalign-10k"].revision
    assert f"hf download THUDM/LongAlign-10k --revision {commit} --repo-type dataset" in said


def test_a_download_that_broke_off_is_told_apart_from_none(server, study, monkeypatch):
    commit = server.add_folder("models/some/model", loading.SHIPPED / "short")
    folder = hub.snapshot(study, "some/model")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(hub.snapshot, study, "some/model")
    assert "not whole" in said and f"hf download some/model --revision {commit}" in said


def test_offline_a_gated_model_says_what_is_needed(cache, study):
    said = refused(hub.snapshot, study, "meta-llama/Meta-Llama-3-8B-Instruct")
    assert (
        "(accept its licence on https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct first, "
        "then hf auth login)" in said
    )
    assert "give a folder that holds the model in place of its name" in said


def test_what_is_not_on_the_hub_says_where_it_is(server, study):
    said = refused(judging.questions, study, "longbench-chat")
    assert "fetch it from https://github.com/THUDM/LongAlign (LongBench_Chat/test_cases.json" in said
    assert "put the files into $GATEAU_DATA/longbench-chat/" in said and server.asked == []


def test_a_full_disk_is_told_apart(server, study, monkeypatch):
    def full(**kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    said = refused(hub.snapshot, study, "some/model")
    assert "is full; free some or set HF_HOME to a larger one, what was fetched is kept" in said


def test_half_a_model_in_the_cache_is_told(filled, study):
    folder = hub.snapshot(study, LLAMA.short.repo)
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer; where there is a network: hf download" in refused(
        hub.snapshot, study, LLAMA.short.repo
    )
    shards = {
        "weight_map": {"a": "model-1.safetensors", "b": "model.safetensors", "c": "model-2.safetensors"}
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "lacks 2 of 3 files of weights (model-1.safetensors)" in refused(
        hub.snapshot, study, LLAMA.short.repo
    )
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(hub.snapshot, study, LLAMA.short.repo)


def test_pickled_weights_are_converted_by_the_command_that_is_named(filled, study, fabricated):
    folder = filled / "models--THUDM--LongAlign-7B-64k-base" / "snapshots" / LLAMA.long.revision
    model, _ = loading.load(folder, to=torch.device("cpu"))
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    said = refused(hub.snapshot, study, LLAMA.long.repo)
    command = said.partition("convert the others once: ")[2]
    assert "weights_only=True" in command and LLAMA.long.revision in command
    shell = f'cd /; HF_HUB_CACHE="{filled}" HF_HUB_OFFLINE=1 {command.replace("python", sys.executable, 1)}'
    subprocess.run(["bash", "-c", shell], check=True, capture_output=True)
    again, _ = loading.load(hub.snapshot(study, LLAMA.long.repo), to=torch.device("cpu"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


# Folders of one's own ---------------------------------------------------------------------------------------


@pytest.fixture
def own(cache, tmp_path, monkeypatch):
    """``$GATEAU_DATA``, beside an empty cache."""
    monkeypatch.setenv("GATEAU_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("flat", [False, True], ids=["as in the repository", "without its folders"])
def test_every_data_set_is_read_from_a_folder(own, study, fabricated, flat):
    for entry in registry.data_sets().values():
        snapshot = next((fabricated / f"datasets--{entry.repo.replace('/', '--')}" / "snapshots").iterdir())
        for path in snapshot.rglob("*.*"):
            target = own / entry.name / (path.name if flat else path.relative_to(snapshot))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert len(read_samples(published.long_samples(study) / "samples.jsonl")) == rehearsal.LONG
    card = json.loads((published.short_samples(study) / "card.json").read_text())
    assert (
        card["kept"] == rehearsal.SHORT
        and card["revision"] is None
        and card["folder"] == "$GATEAU_DATA/sharegpt"
    )
    assert len(longbench.items(longbench.longbench(study))) == len(longbench.TASKS) * rehearsal.PER_TASK
    assert (
        len(judging.items(judging.questions(study, "longbench-chat"), "longbench-chat"))
        == rehearsal.QUESTIONS
    )
    assert len(judging.items(judging.questions(study, "mt-bench"), "mt-bench")) == rehearsal.QUESTIONS
    assert len(haystack.haystack(study)) == 4
    assert hub.revisions(study) == {}


def test_other_files_that_are_known_are_read_too(own, study):
    for name, file, text in (("haystack", "sub/b.txt", "Two."), ("haystack", "a.txt", "One.")):
        (own / name / file).parent.mkdir(parents=True, exist_ok=True)
        (own / name / file).write_text(text)
    assert haystack.haystack(study) == ["One.", "Two."]
    question = {"question_id": 81, "category": "writing", "turns": ["Q?", "R?"]}
    (own / "mt-bench").mkdir()
    (own / "mt-bench" / "question.jsonl").write_text(json.dumps(question) + "\n")
    assert judging.questions(study, "mt-bench") == own / "mt-bench" / "question.jsonl"


def test_a_folder_without_the_files_names_them(own, study):
    (own / "longalign-10k").mkdir(parents=True)
    said = refused(published.long_samples, study)
    assert (
        "longalign-10k holds none of long.jsonl, *.jsonl; put the files of THUDM/LongAlign-10k there" in said
    )


def test_files_without_a_usable_record_are_an_error(own, study):
    (own / "longalign-10k").mkdir(parents=True)
    (own / "longalign-10k" / "long.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match="none of 1 records can be used.*no usable 'messages'"):
        published.long_samples(study)


def test_a_data_set_of_another_kind_is_refused(cache, study):
    study = replace(study, profile=replace(study.profile, long_data="sharegpt"))
    assert "'sharegpt' is no long data set of the registry; it has longalign-10k" in refused(
        published.long_samples, study
    )


def test_a_model_may_be_a_folder(cache, study):
    assert hub.model(study, str(loading.SHIPPED / "short")) == loading.SHIPPED / "short"
    for name in ("./gone", "gone", "a/b/c", str(loading.SHIPPED)):
        assert "no config.json there; give a folder with a saved model or a hub id" in refused(
            hub.model, study, name
        )
    assert hub.revisions(study) == {}
