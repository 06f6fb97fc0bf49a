"""Show that a run of scoring that is killed ends with the same bytes: ``make demo-kill``.

Planted samples are scored by the shipped pair, once undisturbed. Then the same command is killed at random
moments, SIGTERM and SIGKILL in turn, and given again, until it is done. Every fourth try runs in two
processes and, where Ray is installed, another on a new Ray cluster of two workers. The tables must have the
same bytes, or the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gateau_lib.data.corpus import candidate_pool
from gateau_lib.data.longalign import write_samples
from gateau_lib.models.loading import SHIPPED, load_tokenizer
from gateau_lib.study.profiles import resolve

TWO = ["--workers", "2"]
CLUSTER = ["--engine", "ray", *TWO]
HERE = os.environ | {"RAY_ADDRESS": "local"}
SHARD = 2  # records: many shards, so that a kill meets one in work


def command(data: Path, out: Path, more: list[str]) -> list[str]:
    """Score the data; one thread on every engine, since the number of threads decides the order of sums."""
    fixed = ["--shard-size", str(SHARD), "--threads", "1", "--device", "cpu", "--methods", "hmg,cam"]
    return [sys.executable, "-m", "gateau_lib.score", str(data), "--out", str(out), *fixed, *more]


def finished(out: Path) -> int:
    """Shards that are done."""
    return len(list(out.with_name(out.name + ".parts").glob("*.json")))


def killed(line: list[str], out: Path, how: signal.Signals, rng: random.Random) -> bool:
    """Give the command, kill it a moment after it has finished some more shards; whether that was in time."""
    before, more = finished(out), rng.randint(1, 3)
    # A session of its own, so that the workers of a cluster die with it.
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(line, env=HERE, start_new_session=True, **quiet) as run:
        while run.poll() is None and finished(out) < before + more:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        if run.poll() is not None:
            return False
        os.killpg(run.pid, how)
        run.wait()
    return True


def content(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def demonstrate(folder: Path, samples: int, kills: int, seed: int) -> bool:
    """Score twice, once undisturbed and once killed; whether the tables are the same, to the byte."""
    rng, start = random.Random(seed), time.monotonic()
    profile = resolve("cpu", pool_per_kind=1 + samples // 12)
    pool = candidate_pool(profile, load_tokenizer(str(SHIPPED / "long")), "independent", seed)
    data = write_samples(pool[:samples], folder / "data.jsonl")
    plain, out = folder / "plain.parquet", folder / "killed.parquet"
    subprocess.run(command(data, plain, []), check=True, stdout=subprocess.DEVNULL)
    shards = f"{len(pool[:samples])} samples in {finished(plain)} shards"
    print(f"undisturbed: {shards}, sha256 {content(plain)[:16]}", flush=True)
    with_ray, died = importlib.util.find_spec("ray") is not None, 0
    tries = [("one process", []), ("two processes", TWO), ("one process", []), ("one process", [])]
    if with_ray:
        tries[2] = "two Ray workers", CLUSTER
    for n in range(kills):
        how, (where, more) = (signal.SIGTERM, signal.SIGKILL)[n % 2], tries[n % 4]
        if not killed(command(data, out, more), out, how, rng):
            break
        died += 1
        print(f"{how.name} to {where}: {finished(out)} shards are done", flush=True)
    subprocess.run(command(data, out, []), check=True, stdout=subprocess.DEVNULL)
    same = content(plain) == content(out)
    says = "the same bytes" if same else "OTHER BYTES"
    engines = "" if with_ray else ", never on Ray, which is not installed"
    seconds = time.monotonic() - start
    print(f"killed {died} times{engines}: sha256 {content(out)[:16]}, {says}; {seconds:.0f} s in all")
    return same and died > 0


def main() -> int:
    """Demonstrate in a temporary folder."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parse.add_argument("--samples", type=int, default=48)
    parse.add_argument("--kills", type=int, default=6)
    parse.add_argument("--seed", type=int, default=0)
    given = parse.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if demonstrate(Path(folder), given.samples, given.kills, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
