"""The records of cards as tables for people: what was measured, and which goals are met."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateau_lib.study.style import label

Row = Mapping[str, Any]
NOT_YET = "**Not yet run.** No record of a card is in `results/cards`."
REHEARSED = "`gpu` and `paper` have been rehearsed on fabricated tiny models and data only."
GOALS = (  # what -> the least or most it should be
    ("share of the matrix rate, plain pass of 32,768 tokens", 0.65, "least"),
    ("share of the matrix rate, plain pass of 65,536 tokens", 0.50, "least"),
    ("GB at the peak, plain pass of 65,536 tokens", 80.0, "most"),
    ("pass with attention over plain pass, the worst length", 1.10, "most"),
    ("rank correlation of bfloat16 with float32, the worst score of the shipped pair", 0.99, "least"),
)
FORMS = {  # what rows hold -> its column, form and unit
    "length": ("tokens long", "{:,.0f}", 1),
    "samples": ("samples", "{:,.0f}", 1),
    "claims": ("claims", "{:,.0f}", 1),
    "changed": ("changed", "{:,.0f}", 1),
    "first_seconds": ("s, first time", "{:,.3f}", 1),
    "seconds": ("s", "{:,.3f}", 1),
    "tokens_a_second": ("tokens/s", "{:,.0f}", 1),
    "bytes_a_second": ("TB/s", "{:.2f}", 1e12),
    "rate": ("TFLOP/s", "{:,.0f}", 1e12),
    "share": ("of the matrix rate, causal", "{:.0%}", 1),
    "share_full": ("in full", "{:.0%}", 1),
    "peak_bytes": ("GB at the peak", "{:.1f}", 1e9),
    "planned_bytes": ("GB planned", "{:.1f}", 1e9),
    "largest_difference": ("largest difference", "{:.2g}", 1),
    "spread": ("spread", "{:.2g}", 1),
    "rank_correlation": ("rank correlation", "{:.4f}", 1),
}


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The generated part of ``docs/gpu.md``, Markdown: every card's record, the newest first."""
    return "\n\n".join(map(_record, records)) or NOT_YET


def headline(records: Sequence[Mapping[str, Any]]) -> str:
    """A sentence for README's limits: on which card this was measured, and how many goals were met."""
    if not records:
        return f"Nothing has been run on a GPU yet: [the program](docs/gpu.md) waits for one. {REHEARSED}"
    about, judged = records[0], goals(rates(records[0]["rows"]))
    met = f"{sum(goal['met'] for goal in judged)} of {len(judged)} goals that could be judged are met"
    where = f"one GPU ({about['card']}, {about['date'][:10]})"
    return f"Measured on {where}: [passes, agreement, training steps](docs/gpu.md); {met}. {REHEARSED}"


def rates(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with what a second gives, and its share of the card's own matrix product."""
    products = (row for row in rows if row["what"] == "matrix product" and row["seconds"])
    best = next((row["operations"] / row["seconds"] for row in products), None)
    found = []
    for row in rows:
        more = {}
        if row.get("seconds"):
            names = {"tokens": "tokens_a_second", "bytes": "bytes_a_second", "operations": "rate"}
            more = {name: row[of] / row["seconds"] for of, name in names.items() if of in row}
            if best and row["part"] == "passes" and "operations" in row:
                more["share"] = more["rate"] / best
            if best and "operations_full" in row:
                more["share_full"] = row["operations_full"] / row["seconds"] / best
        found.append({**row, **more})
    return found


def goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each of `GOALS` that the rows of `rates` decide: ``goal``, ``value``, ``bound``, ``met``."""

    def passes(what: str) -> dict[int, Row]:
        return {row["length"]: row for row in rows if row["what"] == what and row["seconds"]}

    plain, tapped = passes("plain pass"), passes("pass with attention")
    half = (row for row in rows if row["what"] == "shipped pair" and "against" in row)
    like = [row["rank_correlation"] for row in half if row["against"].startswith("bfloat16")]
    peak = plain.get(65536, {}).get("peak_bytes")
    slower = [tapped[n]["seconds"] / plain[n]["seconds"] for n in plain.keys() & tapped.keys()]
    values = [plain.get(length, {}).get("share") for length in (32768, 65536)]
    values += [peak and peak / 1e9, max(slower, default=None)]
    values += [min((each for each in like if each is not None), default=None)]
    return [
        {
            "goal": goal,
            "value": value,
            "bound": f"at {side} {bound:g}",
            "met": value >= bound if side == "least" else value <= bound,
        }
        for (goal, bound, side), value in zip(GOALS, values, strict=True)
        if value is not None
    ]


def _record(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    head = f"### {about['card']}\n\n{about['date'][:10]}, {_commit(about)}; `{about['command']}`; {versions}."
    rows = rates(about["rows"])
    judged = []
    for goal in goals(rows):
        met = "yes" if goal["met"] else "no"
        judged.append(goal | {"value": f"{goal['value']:.3g}", "met": met})
    tables = [_table("Goals that could be judged", judged)] if judged else []
    for part in about["parts"]:
        ended = "" if part["outcome"] == "done" else f" {part['outcome']}."
        # A part may be older than the last one measured.
        title = f"{part['part'].capitalize()}, {part['seconds']:.0f} s, {_commit(part)}.{ended}"
        own = [row for row in rows if row["part"] == part["part"]]
        # Scores of the text alone, and those of an untrained model that are the same for all samples.
        told = [row for row in own if row.get("largest_difference", 1) > 0 and row.get("spread", 1) > 0]
        tables.append(_table(title, list(map(_shown, told))))
    return "\n\n".join([head, *tables])


def _commit(of: Mapping[str, Any]) -> str:
    """The state of the code that was measured."""
    return f"commit {(of['commit'] or 'unknown')[:7]}{', with changes' if of['dirty'] else ''}"


def _shown(row: Row) -> dict[str, str]:
    """One measurement in words and units."""
    told = {**row, "score": label(row["score"])} if "score" in row else row
    words = {"measured": ", ".join(str(told[key]) for key in ("what", "score", "against") if key in told)}
    for key, (name, form, unit) in FORMS.items():
        if row.get(key) is not None:
            words[name] = form.format(row[key] / unit)
    return words | ({"note": row["note"]} if row.get("note") else {})


def _table(title: str, rows: Iterable[Mapping[str, str]]) -> str:
    """A Markdown table; a column that no row fills is left out, notes stand last."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "note"))
    names += ["note"] if any("note" in row for row in rows) else []
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    lines += [f"| {' | '.join(row.get(name, '').replace('|', '/') for name in names)} |" for row in rows]
    return "\n\n".join([f"**{title}**", *(["\n".join(lines)] if rows else [])])
