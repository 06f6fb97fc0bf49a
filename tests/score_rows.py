"""Rows of a score table, and the table beside its data."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gateau_lib.scoring import score_table

N = 20


def make_rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        row = dict.fromkeys(score_table.COLUMNS) | {
            "id": f"r{i:02d}",
            "n_context": 100 + 7 * i,
            "n_instruction": 5,
            "n_response": 4,
        }
        row |= {
            "n_dropped": 0,
            "nll_short": rng.uniform(1, 3),
            "nll_long": rng.uniform(0.5, 2),
            "cam": rng.uniform(0, 0.3),
        }
        row |= {"ifd": rng.uniform(0.5, 0.99), "contrast": rng.normal(), "prolong": rng.uniform(0, 9)}
        rows.append(row | {"hmg": row["nll_short"] - row["nll_long"]})
    return rows


def write(folder, rows, records=None, about=None):
    scores, data = folder / "scores.parquet", folder / "data.jsonl"
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.replace_schema_metadata({"gateau": json.dumps(about)} if about else None), scores)
    if records is None:
        records = [
            {"id": row["id"], "extra": {"b": [1, None]}, "messages": messages(row["id"])}
            for row in rows
            if row["id"] is not None
        ]
    data.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return scores, data


def messages(name):
    return [
        {"role": "user", "content": f"Text <b>{name}</b>.\n\nWhy?"},
        {"role": "assistant", "content": "Because é."},
    ]
