"""No command writes over what it reads, whatever the file is called, and none works for hours to find a folder in its way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_server import serve
from test_select import make_rows
from test_select import write as write_scored

from gateau_lib import inputs, score, select, synthesis
from gateau_lib.samples import Sample, to_record


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the same two records as d.parquet, as d.jsonl, and in places that outputs are named after."""
    monkeypatch.chdir(tmp_path)
    records = [to_record(Sample(name, "A key lies under the mill.", "Where is it?", "Under the mill.")) for name in "ab"]
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
    ],
)
def test_scores_never_replace_data_or_wait_for_a_folder(here, capsys, monkeypatch, data, out, says):
    def read(*_):
        raise AssertionError("worked before it checked")

    Path("x").mkdir()
    monkeypatch.setattr(inputs, "index", read)
    assert says in refused(score.main, [data, "--out", out], here, capsys)


def test_a_link_that_leads_nowhere_is_no_input(here, capsys):
    """What stands there is replaced, as any older file of that name is."""
    assert score.main(["d.jsonl", "--out", "loop.parquet", "--methods", "perplexity", "--max-length", "64"]) == 0
    assert len(pq.read_table("loop.parquet")) == 2 and not Path("loop.parquet").is_symlink()


@pytest.mark.parametrize(
    ("out", "more", "says"),
    [
        ("data.jsonl", [], "this is an input"),
        ("scores.parquet", [], "this is an input"),
        ("link.jsonl", [], "this is an input"),
        ("hard.jsonl", [], "this is an input"),
        ("data", ["--data", "data.dropped.jsonl", "--dedup", "0.8"], "data.dropped.jsonl beside it is an input"),
        ("folder.jsonl", [], "--out folder.jsonl: this is a folder; give the name of a file"),
        ("r.jsonl", [], "r.report.html beside it is a folder"),
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
    assert says in refused(select.main, ["scores.parquet", "--data", "data.jsonl", "--out", out, *more], tmp_path, capsys)


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
        assert says in refused(synthesis.main, [documents, "--model", server.spec, "--out", out], tmp_path, capsys)
        assert not server.bodies
