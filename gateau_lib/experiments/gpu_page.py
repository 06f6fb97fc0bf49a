"""The records of cards as tables for people: what was measured, and which goals are met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
NOT_YET = "**Not yet run.** No record of a card is in `results/gpu`."
REHEARSED = "`gpu` and `paper` have been rehearsed on fabricated tiny models and data only."
GOALS = (  # what -> the least or most it should be
    ("share of the matrix rate, plain pass of 32,768 tokens", 0.65, "least"),
    ("share of the matrix rate, plain pass of 65,536 tokens", 0.50, "least"),
    ("GB at the peak, plain pass of 65,536 tokens", 80.0, "most"),
    ("pass with attention over plain pass, at most over all lengths", 1.10, "most"),
    ("rank correlation of bfloat16 with float32, least of the shipped pair's scores", 0.99, "least"),
)


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The generated part of ``docs/gpu.md``, Markdown: every card's record, the newest first."""
    return "\n\n".join(map(_record, records)) if records else NOT_YET


def headline(records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for README's limits: on which card this was measured, and how many goals were met."""
    if not records:
        return f"Nothing has been run on a GPU yet: [the program](docs/gpu.md) waits for one. {REHEARSED}"
    about = records[0]
    judged = goals(about["rows"])
    met = sum(each["met"] for each in judged)
    return (
        f"Measured on one GPU ({about['card']}, {about['date'][:10]}): [passes, agreement, training steps]"
        f"(docs/gpu.md); {met} of {len(judged)} goals that could be judged are met. {REHEARSED}"
    )


def goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each of `GOALS` that the rows decide: ``goal``, ``value``, ``bound``, whether it is ``met``."""
    plain = {row["length"]: row for row in rows if row["what"] == "plain pass" and row["seconds"]}
    with_attention = {
        row["length"]: row for row in rows if row["what"] == "pass with attention" and row["seconds"]
    }
    both = plain.keys() & with_attention.keys()
    peak = plain.get(65536, {}).get("peak_bytes")
    like = [
        row["rank_correlation"]
        for row in rows
        if row["what"] == "shipped pair" and row["against"].startswith("bfloat16") and row["rank_correlation"]
    ]
    values = (
        plain.get(32768, {}).get("share"),
        plain.get(65536, {}).get("share"),
        peak and peak / 1e9,
        max((with_attention[n]["seconds"] / plain[n]["seconds"] for n in both), default=None),
        min(like, default=None),
    )
    found = []
    for (goal, bound, side), value in zip(GOALS, values, strict=True):
        if value is not None:
            met = value >= bound if side == "least" else value <= bound
            found.append({"goal": goal, "value": value, "bound": bound, "side": side, "met": met})
    return found


def _record(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    dirty = ", with uncommitted changes" if about["dirty"] else ""
    commit = (about["commit"] or "no commit")[:7]
    made = f"{about['date'][:10]}, commit {commit}{dirty}; `{about['command']}`; {versions}."
    head = f"### {about['card']}\n\n{made}"
    by_part: dict[str, list[Row]] = {}
    for row in about["rows"]:
        by_part.setdefault(row["part"], []).append(row)
    tables = [
        _table(f"Goals ({len(found)} that could be judged)", found) for found in [_goal_rows(about)] if found
    ]
    for part in about["parts"]:
        ended = "" if part["outcome"] == "done" else f" {part['outcome']}."
        title = f"{part['part'].capitalize()}, {part['seconds']:.0f} s.{ended}"
        tables.append(_table(title, [_shown(row) for row in by_part.get(part["part"], [])]))
    return "\n\n".join([head, *tables])


def _goal_rows(about: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "goal": each["goal"],
            "measured": f"{each['value']:.3g}",
            "bound": f"at {each['side']} {each['bound']:g}",
            "met": "yes" if each["met"] else "no",
        }
        for each in goals(about["rows"])
    ]


def _shown(row: Row) -> dict[str, str]:
    """One measurement in words and units."""
    words = {"measured": ", ".join(str(row[key]) for key in ("what", "score", "against") if key in row)}
    forms = {
        "length": ("tokens long", "{:,.0f}", 1),
        "samples": ("samples", "{:,.0f}", 1),
        "claims": ("claims", "{:,.0f}", 1),
        "changed": ("changed", "{:,.0f}", 1),
        "first_seconds": ("s, first time", "{:,.3f}", 1),
        "seconds": ("s", "{:,.3f}", 1),
        "rate": ("TFLOP/s", "{:,.0f}", 1e12),
        "bytes_a_second": ("TB/s", "{:.2f}", 1e12),
        "share": ("of the matrix rate, causal", "{:.0%}", 1),
        "share_full": ("in full", "{:.0%}", 1),
        "peak_bytes": ("GB at the peak", "{:.1f}", 1e9),
        "planned_bytes": ("GB planned", "{:.1f}", 1e9),
        "largest_difference": ("largest difference", "{:.2g}", 1),
        "spread": ("spread", "{:.2g}", 1),
        "rank_correlation": ("rank correlation", "{:.4f}", 1),
    }
    for key, (name, form, unit) in forms.items():
        if row.get(key) is not None:
            words[name] = form.format(row[key] / unit)
        if key == "seconds" and row.get("tokens") and row.get("seconds"):
            words["tokens/s"] = f"{row['tokens'] / row['seconds']:,.0f}"
    return words | ({"note": row["note"]} if row.get("note") else {})


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table; a column that no row fills is left out."""
    if not rows:
        return f"**{title}**"
    names = list(dict.fromkeys(name for row in rows for name in row))
    if "note" in names:  # last
        names.append(names.pop(names.index("note")))
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    lines += [f"| {' | '.join(row.get(name, '').replace('|', '/') for name in names)} |" for row in rows]
    return f"**{title}**\n\n" + "\n".join(lines)
