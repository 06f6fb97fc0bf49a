"""No command writes over what it reads, whatever the file is called,
and none works for hours to find a folder in its way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from score_rows import make_rows
from score_rows import write as write_scored
from servers.chat_server import serve

from gateau_lib import jobs, score, select, synthesis, train
from gateau_lib.data import sharded
from gateau_lib.data.longalign import to_record, write_samples
from gateau_lib.data.samples import Sample
from gateau_lib.study.errors import DataError
from gateau_lib.study.outputs import check_out
from gateau_lib.training import recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the same two records as d.parquet, as d.jsonl,
    and in places that outputs are named after."""
    monkeypatch.chdir(tmp_path)
    records = [
        to_record(Sample(name, "A key lies under the mill.", "Where is it?", "Under the mill."))
        for name in "ab"
    ]
    pq.write_table(pa.Table.from_pylist(records), "d.parquet")
    Path("d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    shutil.copy("d.jsonl", "s.manifest.json")
    Path("t.parquet.parts").mkdir()
    shutil.copy("d.jsonl", "t.parquet.parts/d.jsonl")
    Path("folder.parquet").mkdir()
    Path("link.parquet").symlink_to("d.parquet")
    os.link("d.parquet", "hard.parquet")
    Path("again").symlink_to(tmp_path)
    Path("loop.parquet").symlink_to("loop.parquet")
    Path("f.manifest.json").mkdir()
    Path("g.parquet.parts").write_text("not a folder")
    return tmp_path


def content(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder, with the bytes of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(command, words, folder, capsys) -> str:
    before = content(folder)
    assert command(words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.out == ""
    assert content(folder) == before
    return said.err


@pytest.mark.parametrize(
    ("data", "out", "says"),
    [
        ("d.parquet", "d.parquet", "--out d.parquet: this is an input; give another name"),
        ("d.parquet", "./x/../d.parquet", "this is an input"),
        ("d.parquet", "again/d.parquet", "this is an input"),
        ("d.parquet", "link.parquet", "this is an input"),
        ("link.parquet", "d.parquet", "this is an input"),
        ("d.parquet", "hard.parquet", "this is an input"),
        ("s.manifest.json", "s.parquet", "s.manifest.json beside it is an input"),
        ("t.parquet.parts/d.jsonl", "t.parquet", "the input t.parquet.parts/d.jsonl lies in t.parquet.parts"),
        ("again/t.parquet.parts/d.jsonl", "t.parquet", "lies in t.parquet.parts"),
        ("d.jsonl", "folder.parquet", "--out folder.parquet: this is a folder; give the name of a file"),
        ("d.jsonl", "f.parquet", "f.manifest.json beside it is a folder"),
        ("d.jsonl", "g.parquet", "g.parquet.parts beside it is a file where a folder is needed"),
        ("d.jsonl", "d.jsonl/s.parquet", "d.jsonl is a file where a folder is needed"),
        ("d.jsonl", "/proc/self/s.parquet", "/proc/self takes no file of that name"),
        ("d.jsonl", "s.txt", "--out s.txt: give a name that ends in .parquet"),
        ("d.jsonl", "s\udcff.parquet", "its name is no valid Unicode; give another name"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--plan"]])
def test_scores_never_replace_data_or_wait_for_a_folder(here, capsys, monkeypatch, more, data, out, says):
    def read(*_):
        raise AssertionError("worked before it checked")

    Path("x").mkdir()
    monkeypatch.setattr(sharded, "index", read)
    assert says in refused(score.main, [data, "--out", out, *more], here, capsys)


def test_a_plan_leaves_nothing(here, capsys):
    before = content(here)
    for more in (["--out", "new/deep/s.parquet"], []):
        assert score.main(["d.jsonl", "--plan", *more]) == 0 and content(here) == before
    capsys.readouterr()
    assert "--plan -5: give a number of records" in refused(
        score.main, ["d.jsonl", "--plan", "-5"], here, capsys
    )


def test_make_select_makes_no_folder_for_a_plan():
    recipe_of = Path(__file__).parents[2].joinpath("Makefile").read_text().partition("\nselect:")[2]
    assert "mkdir" not in recipe_of.partition("\n\n")[0]


def test_nothing_is_written_among_the_data(tmp_path):
    (tmp_path / "shards").mkdir()
    with pytest.raises(DataError, match="this lies in the input .*shards; give another folder"):
        check_out(tmp_path / "shards" / "s.parquet", [tmp_path / "shards"], [])
    check_out(tmp_path / "shards.parquet", [tmp_path / "shards"], [])


def test_a_link_that_leads_nowhere_is_no_input(here, capsys):
    """What stands there is replaced, as any older file of that name is."""
    assert (
        score.main(["d.jsonl", "--out", "loop.parquet", "--methods", "perplexity", "--max-length", "64"]) == 0
    )
    assert len(pq.read_table("loop.parquet")) == 2 and not Path("loop.parquet").is_symlink()


@pytest.mark.parametrize(
    ("out", "more", "says"),
    [
        ("data.jsonl", [], "this is an input"),
        ("scores.parquet", [], "end the name in .jsonl"),
        ("link.jsonl", [], "this is an input"),
        ("hard.jsonl", [], "this is an input"),
        (
            "data.jsonl",
            ["--data", "data.dropped.jsonl", "--dedup", "0.8"],
            "data.dropped.jsonl beside it is an input",
        ),
        ("data.jsonl", ["--data", "data.dropped.jsonl"], "data.dropped.jsonl beside it is an input"),
        ("x.parquet", [], "records are written line by line; end the name in .jsonl"),
        ("x", [], "end the name in .jsonl"),
        ("pipe.jsonl", [], "--out pipe.jsonl: this is a device or a pipe; give the name of a file"),
        ("null.jsonl", [], "this is a device or a pipe"),
        ("data.jsonl/x.jsonl", [], "data.jsonl is a file where a folder is needed"),
        ("data.jsonl/deep/x.jsonl", [], "data.jsonl is a file where a folder is needed"),
        ("proc/x.jsonl", [], "proc takes no file of that name"),
        (f"{'x' * 240}.jsonl", [], "File name too long"),
        ("folder.jsonl", [], "--out folder.jsonl: this is a folder; give the name of a file"),
        ("r.jsonl", [], "r.report.html beside it is a folder"),
        ("b\udcff/o.jsonl", [], "its name is no valid Unicode; give another name"),
    ],
)
def test_a_selection_never_replaces_what_it_is_made_from(tmp_path, capsys, monkeypatch, out, more, says):
    monkeypatch.chdir(tmp_path)
    write_scored(tmp_path, make_rows())
    shutil.copy("data.jsonl", "data.dropped.jsonl")
    Path("link.jsonl").symlink_to("data.jsonl")
    os.link("data.jsonl", "hard.jsonl")
    for name in ("folder.jsonl", "r.report.html"):
        Path(name).mkdir()
    os.mkfifo("pipe.jsonl")
    Path("null.jsonl").symlink_to(os.devnull)
    Path("proc").symlink_to("/proc/self")  # where nobody can write, root neither
    assert says in refused(
        select.main, ["scores.parquet", "--data", "data.jsonl", "--out", out, *more], tmp_path, capsys
    )


@pytest.mark.parametrize(
    ("documents", "out", "says"),
    [
        ("documents/more.jsonl", "documents/more.jsonl", "this is an input"),
        ("documents/more.jsonl", "link.jsonl", "this is an input"),
        ("documents", "linked.jsonl", "this is an input"),
        ("documents", "inside/long.jsonl", "lies among the documents"),
        ("documents", "documents/away.jsonl", "lies among the documents"),
        ("long.jsonl.parts/a.txt", "long.jsonl", "the input long.jsonl.parts/a.txt lies in long.jsonl.parts"),
        ("documents", "folder.jsonl", "--out folder.jsonl: this is a folder; give the name of a file"),
    ],
)
def test_made_samples_never_replace_documents(tmp_path, capsys, monkeypatch, documents, out, says):
    monkeypatch.chdir(tmp_path)
    for name in ("documents", "long.jsonl.parts", "folder.jsonl"):
        Path(name).mkdir()
    Path("documents/more.jsonl").write_text('{"text": "The mill stands by the river."}\n')
    Path("long.jsonl.parts/a.txt").write_text("The mill stands by the river.")
    Path("link.jsonl").symlink_to("documents/more.jsonl")
    Path("linked.jsonl").write_text('{"text": "The key lies under the stair."}\n')
    Path("documents/linked.jsonl").symlink_to("../linked.jsonl")
    Path("documents/away.jsonl").symlink_to("../elsewhere.jsonl")
    Path("inside").symlink_to("documents")
    with serve(lambda body: "1: What stands by the river?") as server:
        assert says in refused(
            synthesis.main, [documents, "--model", server.spec, "--out", out], tmp_path, capsys
        )
        assert not server.bodies


@pytest.fixture
def run_of_saved(saved_pair, tmp_path) -> Path:
    """A training run as JSON, of a copy of the long model."""
    shutil.copytree(saved_pair[1], tmp_path / "base")
    data = write_samples(
        [Sample("a", "A key lies under the mill.", "Where is it?", "Under the mill.")], tmp_path / "d.jsonl"
    )
    job = recipe.FineTune("run", tmp_path / "base", (data,), 256, 1e-3, seed=0, length=recipe.ByEpochs(1, 1))
    (tmp_path / "job.json").write_text(recipe.to_json(job))
    (tmp_path / "link").symlink_to("base")
    return tmp_path / "job.json"


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("base", "is the model that run run begins with; give another folder"),
        ("link", "is the model that run run begins with"),
        ("job.json", "job.json: is a file; give a folder"),
    ],
)
def test_training_never_replaces_the_model_it_begins_with(run_of_saved, tmp_path, capsys, out, says):
    before = content(tmp_path)
    with pytest.raises(SystemExit) as end:
        train.main([str(run_of_saved), str(tmp_path / out)])
    assert end.value.code == 2 and says in capsys.readouterr().err and content(tmp_path) == before


def test_a_run_is_not_looked_for_where_it_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GATEAU_RESULTS", str(tmp_path / "results"))
    assert jobs.main(["smoke", "skip-pose-0", "--write", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"error: --write {tmp_path}: this is a folder; give the name of a file\n"
