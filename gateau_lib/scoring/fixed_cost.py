"""What one call of the scoring command costs beside a bare script that loads the same models."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateau_lib.models import loading
from gateau_lib.study import devices
from gateau_lib.study.code_hash import PACKAGE

BARE = """
import sys
import torch
from transformers import AutoModelForCausalLM

for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).to(sys.argv[1])
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 64, dtype=torch.long, device=model.device))
"""
RECORD = {
    "context": "The code of Mira is 4711. " * 4,
    "instruction": "What is it?",
    "response": "It is 4711.",
}


def measure(repeats: int = 3) -> dict[str, float]:
    """Best wall seconds of "command" (two small records, the shipped pair) and of the "bare script"."""
    folders = [str(loading.SHIPPED / name) for name in ("short", "long")]
    seconds: dict[str, list[float]] = {"command": [], "bare script": []}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "two.jsonl"
        data.write_text("".join(json.dumps({"id": str(n), **RECORD}) + "\n" for n in range(2)))
        for n in range(repeats):
            out = data.with_name(f"{n}.parquet")  # a new one, or finished shards would be reused
            works = {
                "command": ["-m", "gateau_lib.score", str(data), "--out", str(out)],
                "bare script": ["-c", BARE, str(devices.device()), *folders],
            }
            for what, line in works.items():
                seconds[what].append(_wall(line))
    return {what: min(found) for what, found in seconds.items()}


def _wall(line: Sequence[str]) -> float:
    """Wall seconds of a process of this Python."""
    paths = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    how: dict[str, Any] = {"env": os.environ | {"PYTHONPATH": paths}, "check": True, "capture_output": True}
    start = time.perf_counter()
    subprocess.run([sys.executable, *line], **how)
    return time.perf_counter() - start
