"""Records as selecting reads them: what is kept of each, and which are read again."""

from __future__ import annotations

import json

from gateau_lib.data import sharded
from gateau_lib.scoring.score_table import Table, text_hash
from gateau_lib.scoring.scored_records import CODED, records_of, samples_of, shards_of
from gateau_lib.scoring.spill import Spill


def test_texts_are_left_on_disk_and_read_again_by_id(tmp_path):
    data = tmp_path / "data.jsonl"
    records = [
        {"id": f"s{i}", "context": f"a long text {i}", "instruction": "q", "response": "r", "source": "wiki"}
        for i in range(7)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    shards = sharded.index(data, 2)
    table = Table(
        tmp_path / "scores.parquet", [{"id": record["id"], "error": None} for record in records], {}
    )
    with Spill(tmp_path / "out.jsonl") as contexts:
        found = records_of(table, data, shards, contexts)
        assert contexts["s5"].decode(*CODED) == "a long text 5"
    assert [found["s5"].shard, found["s5"].source, found["s5"].error] == [2, "wiki", None]
    assert not any("a long text" in str(value) for record in found.values() for value in record)
    assert [shard.number for shard in shards_of(shards, ["s6", "s0", "s1"], found)] == [0, 3]
    samples = samples_of(data, shards, ["s6", "s0"], found)
    assert {name: text_hash(sample) for name, sample in samples.items()} == {
        name: found[name].text_hash for name in ("s0", "s6")
    }
