"""What selecting from a large score table takes: ``python scripts/large_select.py --records 1000000``.

Makes records of random words with random scores, selects the best tenth, prints seconds and peak memory.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import datasketch
import numpy as np
import pandas as pd
import pyarrow as pa

from gateau_lib.data import sharded
from gateau_lib.data.formats import AUTO
from gateau_lib.scoring.score_table import COLUMNS, Part, text_hash, write_table

VOCABULARY = np.array([f"w{i}" for i in range(5000)])
SHARD = 256


def data_of(path: Path, records: int, words: int) -> None:
    """Records of five sources whose contexts are random words."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for i in range(records):
            context = " ".join(VOCABULARY[rng.integers(0, len(VOCABULARY), words)])
            record = {"id": f"s{i}", "context": context, "instruction": "why?", "response": "so"}
            file.write(json.dumps(record | {"source": f"src{i % 5}"}) + "\n")


def scored(data: Path, words: int) -> Iterator[Part]:
    """Shards with random scores, as HMG and CAM leave them."""
    rng = np.random.default_rng(1)
    for shard in sharded.index(data, SHARD):
        rows = []
        for item in sharded.read(data, shard):
            if item.sample is None:
                raise ValueError(item.error)
            short, long, cam = rng.normal(size=3).tolist()
            lengths = {"n_context": words, "n_instruction": 2, "n_response": 2, "n_dropped": 0}
            scores = {"nll_short": short, "nll_long": long, "hmg": short - long, "cam": cam}
            about = {"id": item.id, "n_earlier": 0, "n_system": 0, "text_hash": text_hash(item.sample)}
            rows.append(dict.fromkeys(COLUMNS) | lengths | scores | about)
        yield Part(rows, {}, 0.0)


def measured(folder: Path, records: int, words: int, more: list[str]) -> dict[str, object]:
    """What selecting took; memory is the peak of that process, in MiB."""
    data, scores, out = folder / "data.jsonl", folder / "scores.parquet", folder / "selected.jsonl"
    data_of(data, records, words)
    write_table(scored(data, words), {"methods": ["hmg", "cam"], "read_as": asdict(AUTO)}, scores)
    line = [sys.executable, "-m", "gateau_lib.select", scores, "--data", data, "--out", out, *more]
    begun = time.perf_counter()
    subprocess.run([str(word) for word in line], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    found = {
        "records": records,
        "characters": round(data.stat().st_size / records),
        "options": " ".join(more),
    }
    found |= {"seconds": round(seconds, 1), "milliseconds_a_record": round(1000 * seconds / records, 3)}
    # Of all children so far: making the data started none.
    found |= {"peak_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)}
    sizes = {"table": scores, "report": out.with_suffix(".report.html")}
    return found | {f"{name}_mib": round(path.stat().st_size / 2**20, 1) for name, path in sizes.items()}


def here() -> dict[str, str]:
    """Commit, machine and versions."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    packages = {"pandas": pd, "pyarrow": pa, "numpy": np, "datasketch": datasketch}
    versions = [f"{name} {package.__version__}" for name, package in packages.items()]
    versions.insert(0, f"Python {platform.python_version()}")
    return {"commit": commit.strip(), "machine": platform.machine(), "versions": "; ".join(versions)}


def main() -> None:
    """Measure as the command line says."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--records", type=int, default=200_000)
    parse.add_argument("--words", type=int, default=20, help="words of a context (default: 20)")
    parse.add_argument(
        "--folder", type=Path, help="where the data lie for the time (default: the system's temporary folder)"
    )
    parse.add_argument("--csv", type=Path, help="a CSV file that gets a line of it")
    parse.add_argument("select", nargs="*", help="options of select, after --")
    given = parse.parse_args()
    with TemporaryDirectory(dir=given.folder) as folder:
        found = measured(Path(folder), given.records, given.words, given.select) | here()
    print(json.dumps(found))
    if given.csv:
        new = not given.csv.exists()
        pd.DataFrame([found]).to_csv(given.csv, mode="a", header=new, index=False)


if __name__ == "__main__":
    main()
