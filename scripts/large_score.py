"""Whether scoring keeps its rate and its memory over many records: ``python scripts/large_score.py``.

Scores records of random words with the shipped pair; tells seconds, tokens and memory of each tenth of them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
from large_select import data_of, here

TENTHS = 10


def measured(folder: Path, records: int, words: int, more: list[str]) -> pd.DataFrame:
    """A row a tenth of the records: seconds of work, tokens forwarded, peak MiB of the process until then."""
    data, out = folder / "data.jsonl", folder / "scores.parquet"
    data_of(data, records, words)
    size = max(1, min(100, records // TENTHS))  # records of a shard
    line = [sys.executable, "-m", "gateau_lib.score", data, "--out", out, "--shard-size", size, *more]
    parts, peaks = folder / "scores.parquet.parts", Counter[int]()
    shards = -(-records // size)
    with subprocess.Popen([str(word) for word in line], stdout=subprocess.DEVNULL) as run:
        process = psutil.Process(run.pid)
        while run.poll() is None:
            tenth = min(TENTHS - 1, len(list(parts.glob("*.json"))) * TENTHS // shards)
            try:
                family = [process, *process.children(recursive=True)]
                peaks[tenth] = max(peaks[tenth], sum(each.memory_info().rss for each in family))
            except psutil.Error:  # one of them has just ended
                pass
            time.sleep(0.05)
    if run.returncode:
        raise SystemExit(run.returncode)
    rows = [Counter[str]() for _ in range(TENTHS)]
    for number, shard in enumerate(json.loads(out.with_suffix(".manifest.json").read_text())["shards"]):
        tokens = sum(count["tokens"] for count in shard["passes"].values())
        rows[number * TENTHS // shards].update(records=shard["rows"], seconds=shard["seconds"], tokens=tokens)
    found = pd.DataFrame({"tenth": range(1, TENTHS + 1), "options": " ".join(more)}).join(pd.DataFrame(rows))
    found["seconds"] = found["seconds"].round(2)
    found["tokens_a_second"] = (found["tokens"] / found["seconds"]).round()
    found["peak_mib"] = [round(max(peaks[n] for n in range(tenth)) / 2**20) for tenth in found["tenth"]]
    return found


def main() -> None:
    """Measure as the command line says."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--records", type=int, default=10_000)
    parse.add_argument("--words", type=int, default=20, help="words of a context (default: 20)")
    parse.add_argument("--folder", type=Path, help="where the data lie for the time")
    parse.add_argument("--csv", type=Path, help="a CSV file for the rows")
    parse.add_argument("score", nargs="*", help="options of score, after --")
    given = parse.parse_args()
    with TemporaryDirectory(dir=given.folder) as folder:
        found = measured(Path(folder), given.records, given.words, given.score).assign(**here())
    print(found.drop(columns=["commit", "machine", "versions"]).to_string(index=False))
    if given.csv:
        found.to_csv(given.csv, mode="a", header=not given.csv.exists(), index=False)


if __name__ == "__main__":
    main()
