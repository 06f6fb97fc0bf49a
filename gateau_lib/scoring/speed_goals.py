"""The file that `bench` leaves: which goals were met, and tables of it for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gateau_lib.study.store import results_root
from gateau_lib.study.whole_files import atomic_write

SHOWN = {"padded": "with padding", "peak_mib": "peak MiB", "times": "times ours", "apart": "nats apart"}


def reached(rows: Sequence[Mapping[str, Any]], fidelity: Mapping[str, float]) -> list[dict[str, Any]]:
    """Each goal with the measured ``value``, its ``bound`` (least or most), and whether it is ``met``."""
    measured = {(row["section"], row["what"], row.get("length")): row for row in rows}

    def ratio(section: str, above: str, below: str, column: str, length: int | None = None) -> float:
        return measured[section, above, length][column] / measured[section, below, length][column]

    lengths = sorted({row["length"] for row in rows if row["section"] == "passes"})
    overhead = [ratio("passes", "pass with attention", "plain pass", "seconds", n) for n in lengths]
    memory = next(row["length"] for row in rows if row["section"] == "memory")
    exact = measured["HMG + CAM", "exact", None]
    losses = ratio("response losses", "library", "by hand", "seconds")
    loop = ratio("response losses", "library", "loop, all logits", "seconds")
    limit = ratio("HMG + CAM", "exact", "by hand", "seconds")
    adaptive = ratio("HMG + CAM", "adaptive", "two whole passes", "seconds")
    faster = ratio("HMG + CAM", "released", "exact", "seconds")
    bound = ratio("ProLong", "bound", "exact", "seconds")
    prolong = ratio("ProLong", "released", "exact", "seconds")
    at_8192, growth = overhead[lengths.index(8192) if 8192 in lengths else -1], overhead[-1] / overhead[0]
    within = ratio("memory", "pass with attention", "attention matrices", "peak_mib", memory)
    goals: list[tuple[str, float, float, str]] = [
        ("response losses: times the tightest pass by hand", losses, 1.05, "most"),
        ("response losses: times a loop with all logits", loop, 1.0, "most"),
        ("exact: times the tightest passes by hand", limit, 1.15, "most"),
        ("exact: times faster than released", faster, 3.0, "least"),
        ("exact: tokens over the fewest", exact["tokens"] / exact["fewest_tokens"], 1.15, "most"),
        ("adaptive: times two passes over whole samples by hand", adaptive, 1.3, "most"),
        ("adaptive: rank correlation of CAM", fidelity["rank_correlation"], 0.98, "least"),
        ("adaptive: overlap of the top tenth", fidelity["top_overlap"], 0.9, "least"),
        ("ProLong: share of its bound's rate", bound, 0.9, "least"),
        ("ProLong: times faster than released", prolong, 1.8, "least"),
        ("attention in the pass: times a plain pass at 8,192 tokens", at_8192, 1.10, "most"),
        ("attention in the pass: its overhead at the longest over the shortest", growth, 1.0, "most"),
        ("attention in the pass: memory over attention matrices", within, 0.1, "most"),
    ]
    # Not in older files: a larger model, keys that are read, and what a call of the command costs.
    for section in dict.fromkeys(row["section"] for row in rows):
        if section.startswith("response losses,"):
            loop = ratio(section, "library", "loop, all logits", "seconds")
            goals.append((f"{section}: times a loop with all logits", loop, 1.0, "most"))
    if ("ProLong", "bound, keys read", None) in measured:
        rate = ratio("ProLong", "bound, keys read", "exact", "seconds")
        goals.append(
            (
                "ProLong: share of the rate of its bound that reads the other segment's keys",
                rate,
                0.9,
                "least",
            )
        )
    if call := measured.get(("fixed cost", "command", None)):
        more = call["seconds"] - measured["fixed cost", "bare script", None]["seconds"]
        goals.append(("fixed cost of the command over a bare script, seconds", more, 1.0, "most"))
    return [
        {"goal": goal, "value": value, "bound": bound, "side": side}
        | {"met": value >= bound if side == "least" else value <= bound}
        for goal, value, bound, side in goals
    ]


def write(about: Mapping[str, Any]) -> Path:
    """Leave what `speed.measure` found in ``results/bench``, one file a machine."""
    path = results_root() / "bench" / f"{about['machine']}.json"
    return atomic_write(path, json.dumps(about, indent=1) + "\n")


def read(folder: Path | None = None) -> dict[str, Any] | None:
    """The newest measurement in ``results/bench``; None if there is none."""
    files = (folder or results_root() / "bench").glob("*.json")
    found = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return max(found, key=lambda about: about["date"], default=None)


def readable(about: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measurements and goals as tables of text."""
    count = "{:,.0f}"
    forms = {"seconds": "{:,.3f}", "forwards": count, "tokens": count, "padded": count, "peak_mib": "{:,.1f}"}
    forms |= {"times": "{:.2f}", "apart": "{:.1e}", "scored": count}
    rows = pd.DataFrame(about["rows"])
    lengths = rows["length"].map(lambda n: "" if pd.isna(n) else f", {n:,.0f} tokens")
    shown = pd.DataFrame({"measured": rows["section"] + ", " + rows["what"] + lengths})
    for name, form in forms.items():
        if name not in rows:  # an older file
            continue
        shown[name] = rows[name].map(lambda value, form=form: "" if pd.isna(value) else form.format(value))
    goals = pd.DataFrame(about["goals"])
    verdicts = pd.DataFrame({"goal": goals["goal"], "measured": goals["value"].map("{:.3f}".format)})
    verdicts["wanted"] = "at " + goals["side"] + " " + goals["bound"].map("{:g}".format)
    verdicts["met"] = goals["met"].map({True: "yes", False: "no"})
    return shown.rename(columns=SHOWN), verdicts
