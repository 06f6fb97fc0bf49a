"""What scoring costs, against the published procedures in the same run: ``python -m gateau_lib.bench``.

Five measurements on the same models: HMG and CAM by the library, exact and adaptive, and as released; ProLong both ways; the
pass that also takes attention against a plain one, by length; peak memory against attention matrices written out; and what
the adaptive estimate does to a ranking. The procedures must agree on the losses. Prints tables and writes
``results/bench/<machine>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import torch

from gateau_lib.models.pair import load_pair
from gateau_lib.scoring import speed_goals
from gateau_lib.scoring.speed import (
    SEGMENT,
    adaptive_fidelity,
    compare_memory,
    compare_passes,
    compare_procedures,
    compare_prolong,
    random_pair,
)
from gateau_lib.study import devices, manifest
from gateau_lib.study.command import command
from gateau_lib.study.store import results_root, versions
from gateau_lib.study.whole_files import atomic_write


def machine_name(device: torch.device) -> str:
    """Architecture and size of the machine, no host name: the file may be published."""
    name = f"{platform.machine()}-{os.cpu_count()}cpu-{torch.get_num_threads()}threads"
    return f"{name}-{torch.cuda.get_device_name(device).replace(' ', '_')}" if device.type == "cuda" else name


@command()
def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write them to a file of this machine's."""
    line = argparse.ArgumentParser(prog="python -m gateau_lib.bench", description=__doc__.split("\n")[0])
    line.add_argument("--short", help="short-window model (without --short and --long: random weights, the cpu profile's sizes)")
    line.add_argument("--long", help="long-window model of the same family")
    line.add_argument("--samples", type=int, default=8, help="samples of the comparison of procedures (default: 8)")
    given = line.parse_args(words)
    device = devices.device()
    begin = time.perf_counter()
    named = given.short or given.long
    pair = load_pair(given.short, given.long, ("hmg",), "float32", device) if named else random_pair(device)
    window = min(pair.long.config.max_position_embeddings, 65_536) // SEGMENT * SEGMENT
    rows = compare_memory(given.long) + compare_passes(pair) + compare_prolong(pair)
    rows += compare_procedures(pair, max(1, given.samples), window, SEGMENT)
    fidelity = adaptive_fidelity()
    name = machine_name(device)
    about = {"machine": name, "date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
    about |= {"model": {"parameters": sum(p.numel() for p in pair.long.parameters()), "window": window, "named": bool(named)}}
    about |= manifest.commit() | {"rows": rows, "fidelity": fidelity, "goals": speed_goals.reached(rows, fidelity)}
    path = atomic_write(results_root() / "bench" / f"{name}.json", json.dumps(about, indent=1) + "\n")
    print(*(frame.to_string(index=False) for frame in speed_goals.readable(about)), sep="\n\n")
    print(f"{time.perf_counter() - begin:.0f} s, written: {path}")


if __name__ == "__main__":
    sys.exit(main())
