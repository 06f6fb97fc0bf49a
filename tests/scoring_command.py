"""The scoring command on a small data set."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from gateau_lib.data import longalign, samples

WORDS = "the old mill by the river keeps a blue lantern and a copper key under the third stair".split()
SEGMENT, LENGTH = 16, 256


def write_data(path, n=7, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        context = (
            " ".join(rng.choice(WORDS, 12 + 7 * i)) if i != 2 else ""
        )  # one sample without context, some cut to LENGTH
        made.append(
            samples.Sample(f"s{i}", context, "Where is the key?", " ".join(rng.choice(WORDS, 1 + i % 3)))
        )
    return longalign.write_samples(made, path)


def command(data, pair, out, *more):
    short, long = pair
    fixed = [
        "--segment-length",
        str(SEGMENT),
        "--max-length",
        str(LENGTH),
        "--shard-size",
        "3",
        "--device",
        "cpu",
    ]
    return [str(data), "--short", str(short), "--long", str(long), "--out", str(out), *fixed, *more]


def rows_of(path):
    return pq.read_table(path).to_pylist()
