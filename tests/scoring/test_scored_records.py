"""Records as selecting reads them: what is kept of each, and which are read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from gateau_lib.data import sharded
from gateau_lib.scoring import scored_records
from gateau_lib.scoring.score_table import Table, text_hash
from gateau_lib.scoring.scored_records import CODED, Rows, records_of, samples_of, shards_of
from gateau_lib.scoring.spill import Spill


def test_texts_are_left_on_disk_and_read_again_by_id(tmp_path):
    data = tmp_path / "data.jsonl"
    records = [
        {"id": f"s{i}", "context": f"a long text {i}", "instruction": "q", "response": "r", "source": "wiki"}
        for i in range(7)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    shards = sharded.index(data, 2)
    ids = [f"s{i}" for i in (5, 0, 1, 2, 3, 4, 6)]  # a table in another order than its data
    hashes = {item.id: text_hash(item.sample) for shard in shards for item in sharded.read(data, shard)}
    rows = [{"id": name, "error": None, "text_hash": hashes[name]} for name in ids]
    table = Table(tmp_path / "scores.parquet", pa.Table.from_pylist(rows), {})
    with Spill(tmp_path / "out.jsonl", len(ids)) as contexts:
        found = records_of(table, data, shards, contexts)
        assert contexts[0].decode(*CODED) == "a long text 5"
    assert [found.shard[0], found.source[0], found.changed.any()] == [2, "wiki", False]
    some = pd.DataFrame({"id": ["s6", "s0", "s1"], "row": [6, 1, 2]})
    assert [shard.number for shard in shards_of(shards, some, found)] == [0, 3]
    samples = samples_of(data, shards, some.head(2), found)
    assert {name: text_hash(sample) for name, sample in samples.items()} == {
        name: hashes[name] for name in ("s0", "s6")
    }


def test_of_an_id_in_several_rows_the_scored_one_is_met_and_equal_hashes_are_told_apart(monkeypatch):
    rows = [("a", "used"), ("b", None), (None, "no id"), ("a", None), ("c", "bad"), ("a", "used")]
    table = Table(Path("t"), pa.table(dict(zip(("id", "error"), zip(*rows, strict=True), strict=True))), {})
    for same in (False, True):
        if same:
            monkeypatch.setattr(scored_records, "hash", lambda name: 7, raising=False)
        found = Rows(table)
        assert [found[name] for name in ("a", "b", "c", "d")] == [3, 1, 4, -1]
        assert found.lost(np.array([False, True, False, True, False, False])) == {"c"}
        assert found.lost(np.array([False, True, False, False, True, False])) == {"a"}
