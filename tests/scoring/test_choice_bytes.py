"""The bytes of selections of 402 records, recorded when every row was still a dictionary."""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from score_rows import make_rows, write

from gateau_lib import select
from gateau_lib.data import sharded
from gateau_lib.methods import selection
from gateau_lib.scoring import score_table
from gateau_lib.study import whole_files
from gateau_lib.study.errors import ScoreError

N = 400
EMPTY = dict.fromkeys((*score_table.LENGTHS, *score_table.SCORES, "cam_mode"))
RECORDED = {
    "": "11b4fe51cf30aa4c",
    "--combine softmax_both --alpha 0.3": "3cd059e1426471d2",
    "--score prolong --fraction 0.5": "0cd012c39aae8091",
    "--score ifd": "403f38d06dad805e",
    "--score random --seed 3 --top 50": "c7083685dd84017f",
    "--score longest --fraction 1": "af71cf9b52c133c8",
    "--per-source": "ba12d00e378adae8",
    "--quota web=3 --quota =2": "19e8a9c9975a5d0f",
    "--per-source --top 4 --quota é=1": "f7b0551ff3a72a02",
    "--dedup 0.8 --fraction 0.3": "2b1d8850b0cf6172",
    "--dedup 0.5 --score prolong --per-source": "93c96095874d7418",
}


def words(seed: int, n: int = 80) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(3000)}" for _ in range(n)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path]:
    """Ties, missing values, errors, an id twice, a record without one, near-identical contexts, four sources.

    The table stands in another order than its data.
    """
    folder, rows, records = tmp_path_factory.mktemp("many"), make_rows(N, 5), []
    for i, row in enumerate(rows):
        row |= {"nll_short": round(row["nll_short"], 1), "prolong": round(row["prolong"])}
        row |= {"hmg": row["nll_short"] - row["nll_long"], "n_dropped": 10 if i % 7 == 0 else 0}
        row |= {"n_earlier": i % 3, "n_system": i % 2}
        row |= {"cam": None} if i % 17 == 3 else {"cam": round(row["cam"], 2), "cam_mode": "exact"}
        row |= ({"n_context": 0} if i % 29 == 4 else {}) | ({"ifd": 1.4} if i % 31 == 4 else {})
        row |= EMPTY | {"error": f"line {i + 1}: broken {i}; fix"} if i in (9, 60, 61) else {}
        text = words(i // 3 if i % 2 else 1000 + i)
        text[3] = "zzz" if i % 5 == 0 else text[3]
        turns = [" ".join(text) + "\n\nWhy?", f"R {i}"]
        said = [
            {"role": role, "content": turn} for role, turn in zip(("user", "assistant"), turns, strict=True)
        ]
        records.append({"id": row["id"], "source": ["web", "books", "", "é"][i % 4], "messages": said})
    random.Random(1).shuffle(rows)
    _, data = write(folder, rows, records)
    items = [item for shard in sharded.index(data, 64) for item in sharded.read(data, shard)]
    hashes = {item.id: score_table.text_hash(item.sample) for item in items if item.sample}
    rows = [row | {"text_hash": hashes[row["id"]]} for row in rows]
    twice = "line 401: id 'r50' was already used at line 51"
    rows += [{"id": "r50", "error": twice}, {"id": None, "error": "line 402: no 'id'"}]
    rows = [dict.fromkeys(score_table.COLUMNS) | row for row in rows]
    return write(folder, rows, [*records, records[50], {"messages": []}])


def selected(inputs: tuple[Path, Path], options: str) -> Path:
    scores, data = inputs
    out = data.with_name("selected.jsonl")
    assert select.main([str(scores), "--data", str(data), "--out", str(out), *options.split()]) == 0
    return out


@pytest.mark.parametrize("options", RECORDED)
def test_selections_have_the_bytes_that_they_had(inputs, options, capsys):
    out = selected(inputs, options)
    told = capsys.readouterr().out.replace(str(out.parent), "").encode()
    dropped = out.with_suffix(".dropped.jsonl")
    parts = [told, out.read_bytes(), dropped.read_bytes() if dropped.exists() else b""]
    assert hashlib.sha256(b"\n".join(parts)).hexdigest()[:16] == RECORDED[options]


def test_quotas_are_those_of_the_library(inputs):
    everybody = [json.loads(line) for line in selected(inputs, "--fraction 1").read_text().splitlines()]
    sources = {each["id"]: each["source"] for each in everybody}
    quotas = {"web": 7, "": 0, "é": 90}
    found = selected(inputs, "--top 60 --quota web=7 --quota =0 --quota é=90").read_text().splitlines()
    wanted = selection.within_quotas(list(sources), sources, quotas, 60)
    assert [json.loads(line)["id"] for line in found] == wanted


def test_a_second_selection_into_the_same_file_refuses_and_names_the_first(inputs, capsys):
    out = selected(inputs, "")
    before = out.read_bytes()
    notes = out.with_suffix(".lock") / "notes.txt"  # of the user's
    notes.parent.mkdir()
    notes.write_text("mine")
    with whole_files.locked_for(out):
        line = [str(inputs[0]), "--data", str(inputs[1]), "--out", str(out), "--top", "1"]
        assert select.main(line) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"another run writes here (process {os.getpid()} on {socket.gethostname()}" in said
    assert out.read_bytes() == before and not list(out.parent.glob(".*.lock"))
    selected(inputs, "--top 1")
    assert not list(out.parent.glob(".*.lock"))
    assert notes.read_text() == "mine"


def test_a_lock_that_is_deleted_while_others_try_holds_one_at_a_time(tmp_path):
    inside, met, out = [], [], tmp_path / "o.jsonl"

    def often() -> None:
        for _ in range(300):
            with suppress(ScoreError), whole_files.locked_for(out):
                inside.append(1)
                met.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=often) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert set(met) == {1} and not list(tmp_path.iterdir())
