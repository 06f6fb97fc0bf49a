"""GATEAU's tables, reported and measured side by side; what was run, where, and why not (notebook 11)."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.evaluation import longbench, suite
from gateau_lib.evaluation.suite import NotRun
from gateau_lib.experiments import findings, replication
from gateau_lib.experiments.replication_rows import (
    CAR,
    CHERRY,
    FULL,
    GATEAU,
    LINES,
    NOT_REBUILT,
    PERPLEXITY,
    RANDOM,
    UNTUNED,
    WITHOUT_LONG,
    Run,
)
from gateau_lib.study import intervals
from gateau_lib.study.looks import look
from gateau_lib.study.manifest import commit
from gateau_lib.study.profiles import PROFILES
from gateau_lib.study.store import Study, profile_folders
from gateau_lib.study.style import WIDTH, styled, text_table

KEYS = ["table", "setting", "row", "share"]
MEASURED = [*KEYS, "measured", "low", "high", "items", "over_full", "over_low", "over_high"]
ACROSS = {FULL: "--", WITHOUT_LONG: "-.", UNTUNED: ":"}  # rows without a share, and their lines
# Rows of the paper's tables that are methods or models of this study; Cherry selects by IFD.
LIKE = {
    FULL: "full", WITHOUT_LONG: "short_only", UNTUNED: "theta_b", GATEAU: "gateau", CHERRY: "ifd",
    PERPLEXITY: "perplexity", RANDOM: "random", "HMG only": "hmg", "CAM only": "cam",
    "without extended window": "hmg_minmax_raw", "without Norm": "gateau_as_released",
}  # fmt: skip
OWN = {CAR: ("#5D4037", "p"), "non-homologous guide": ("#9A4400", "X"), "GATEAU by ranks": ("#0072B2", "s")}


def measured(items: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Items of `suite.scores` as numbers of the paper's tables, columns `MEASURED`.

    ``share``: per cent; ``measured``: 0 to 100; ``low, high``: 95 % over items; ``over_...``: minus "Full".
    """
    found = []
    for table, part in _by_table(items):
        scores = {name: each.set_index(["task", "id"])["score"] for name, each in part.groupby("run")}
        full = {run.setting: scores.get(run.name) for run in runs if run.row == FULL}
        for run in runs:
            if run.name not in scores:
                continue
            mine, reference = scores[run.name], full.get(run.setting)
            gap = mine - reference if reference is not None and run.row != FULL else mine * np.nan
            share = 100 * run.share if run.share else np.nan
            counted = int(mine.notna().sum())
            found.append((table, run.setting, run.row, share, *_mean(mine), counted, *_mean(gap)))
    return pd.DataFrame(found, columns=MEASURED)


def _by_table(items: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The items that each table is about; LongBench has one for each group of tasks and each task."""
    for benchmark, part in items.groupby("benchmark", sort=False):
        if benchmark != longbench.BENCHMARK.name:
            yield suite.BENCHMARKS[benchmark].title, part
            continue
        for name, tasks in (longbench.GROUPS | {task: [task] for task in part["task"].unique()}).items():
            if len(found := part[part["task"].isin(tasks)]):
                yield f"LongBench {name}", found


def _mean(scores: pd.Series) -> tuple[float, float, float]:
    """Mean over tasks of the means over items, with its 95 % interval over items."""
    parts = [each for _, each in scores.dropna().groupby(level="task")]
    mean, low, high = intervals.mean_of_tasks(parts) if parts else (np.nan, np.nan, np.nan)
    # Scores that are all equal say nothing about how far other items would be.
    return (mean, low, high) if high > low else (mean, np.nan, np.nan)


def beside(numbers: pd.DataFrame) -> pd.DataFrame:
    """Every reported number of GATEAU's tables beside those of `measured`, missing where there is none."""
    reported = findings.reported().rename(columns={"value": "reported"})
    both = reported.merge(numbers, on=KEYS, how="outer")

    def place(column: pd.Series) -> pd.Series:  # the paper's order, then what only we have
        seen = [*reported[column.name], *numbers[column.name]]
        return column if column.name == "share" else column.map(list(dict.fromkeys(seen)).index)

    return both.sort_values(KEYS, key=place, ignore_index=True)


def last_measured() -> pd.DataFrame:
    """What recorded runs measured, for profiles that measure nothing; settings' names tell them apart."""
    paths = [folder / "tables" / "11_measured.csv" for folder in profile_folders()]
    if found := [pd.read_csv(path) for path in paths if path.exists()]:
        return pd.concat(found, ignore_index=True)
    return pd.DataFrame(columns=MEASURED).astype(dict.fromkeys(MEASURED[3:], float))


def shown(tables: pd.DataFrame, names: Sequence[str]) -> Any:
    """Some tables for a reader: a column a setting and share, cells "reported / measured [95 %]"."""
    part = tables[tables["table"].isin(names)]
    cells = [f"{_number(r.reported)} / {_number(r.measured, r.low, r.high)}" for r in part.itertuples()]
    part = part.assign(cell=cells, share=part["share"].fillna(0))
    wide = part.pivot(index=["table", "row"], columns=["setting", "share"], values="cell").fillna("")
    settings = list(dict.fromkeys([*findings.SETTINGS, *part["setting"]]))
    wide = wide.loc[list(dict.fromkeys(zip(part["table"], part["row"], strict=True)))]
    wide = wide[sorted(wide, key=lambda place: (settings.index(place[0]), place[1]))]
    wide.columns = [f"{setting}{f', {share:.0f} %' if share else ''}" for setting, share in wide]
    return text_table(wide.reset_index())


def if_measured(
    tables: pd.DataFrame, names: Sequence[str], show: Callable[[pd.DataFrame, Sequence[str]], Any] = shown
) -> Any:
    """Some tables by `shown` or `gains_shown` if a number of theirs is measured, else how many there are."""
    from IPython.display import Markdown

    part = tables[tables["table"].isin(names)]
    if part["measured"].notna().any():
        return show(tables, names)
    count = part["reported"].notna().sum()
    where = f"their {count} reported numbers stand in `tables/11_tables.csv`"
    text = f"Nothing is measured of {len(names)} tables; {where}."
    return Markdown(text)


def gains(tables: pd.DataFrame) -> pd.DataFrame:
    """Differences to the setting's row "Full", in points: reported, and measured with its 95 % interval."""
    full = tables.loc[tables["row"] == FULL, ["table", "setting", "reported"]]
    rows = tables[tables["row"] != FULL].merge(full, on=["table", "setting"], suffixes=("", "_full"))
    rows["reported"] -= rows["reported_full"]
    return rows[[*KEYS, "reported", "over_full", "over_low", "over_high"]]


def gains_shown(tables: pd.DataFrame, names: Sequence[str]) -> Any:
    """`gains` of some tables for a reader, at the largest share."""
    part = gains(tables[tables["table"].isin(names)])
    part = part[part["share"].isna() | (part["share"] == part["share"].max())]
    share = ["" if np.isnan(value) else f"{value:.0f} %" for value in part["share"]]
    reported = [_number(value, form="+.1f") for value in part["reported"]]
    own = [_number(r.over_full, r.over_low, r.over_high, "+.1f") for r in part.itertuples()]
    return text_table(part[KEYS].assign(share=share, reported=reported, measured=own))


def _number(value: float, low: float = np.nan, high: float = np.nan, form: str = ".1f") -> str:
    text = "–" if np.isnan(value) else format(value, form)
    return text + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


@styled
def drawing(tables: pd.DataFrame) -> Figure:
    """Reported lines over the share of long samples, marks with intervals for measured numbers.

    A row of axes is a table, a column a setting. Rows at every share are lines, rows at one marks
    alone, rows without a share lines across.
    """
    names = list(dict.fromkeys(tables["table"]))
    settings = list(dict.fromkeys([*findings.SETTINGS, *tables["setting"]]))
    fig = Figure(figsize=(WIDTH, 3 * len(names)), layout="constrained")
    axes = fig.subplots(len(names), len(settings), squeeze=False, sharey="row")
    at_every = [row for row in LINES if row in set(tables["row"])]
    at_one = [row for row in tables.loc[tables["share"].notna(), "row"].unique() if row not in at_every]
    looks = {row: row_look(row) | {"linestyle": "-"} for row in at_every}
    looks |= {row: row_look(row) | {"linestyle": ""} for row in at_one}
    looks |= {row: row_look(row) | {"linestyle": line} for row, line in ACROSS.items()}
    for name, line in zip(names, axes, strict=True):
        for setting, axis in zip(settings, line, strict=True):
            part = tables[(tables["table"] == name) & (tables["setting"] == setting)]
            for row, drawn in looks.items():
                _draw_row(axis, part[part["row"] == row], row, drawn)
            axis.set(title=f"{name}, {setting}", xlabel="long samples selected, %", xticks=[10, 30, 50])
        line[0].set_ylabel("points of 100")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    fig.set_label(
        f"Drawn are {tables['reported'].count()} reported points and {tables['measured'].count()} of ours."
    )
    return fig


def row_look(row: str) -> dict[str, str]:
    """Colour and marker of a row of the paper's tables, those of the method or model that it is."""
    colour, marker = OWN[row] if row in OWN else look(LIKE.get(row, row))
    return {"color": colour, "marker": marker}


def _draw_row(axis: Any, part: pd.DataFrame, row: str, drawn: dict[str, str]) -> None:
    reported = part.dropna(subset=["reported"])
    if row in ACROSS:
        for value in reported["reported"]:
            axis.axhline(value, linewidth=1, color=drawn["color"], linestyle=drawn["linestyle"], label=row)
    elif len(reported):
        axis.plot(reported["share"], reported["reported"], label=row, markerfacecolor="white", **drawn)
    for r in part.dropna(subset=["measured"]).itertuples():
        half = [[r.measured - r.low], [r.high - r.measured]] if np.isfinite(r.low) else None
        place = 55 if row in ACROSS else r.share
        mark = {"color": drawn["color"], "marker": drawn["marker"], "linestyle": "", "markersize": 7}
        axis.errorbar([place], [r.measured], yerr=half, capsize=2, **mark)


def by_length(items: pd.DataFrame) -> pd.DataFrame:
    """Mean score of every run on needle and RULER items by task and length: runs by tasks."""
    part = items[items["benchmark"].isin(["needle", "ruler"])]
    wide = part.pivot_table(index="run", columns="task", values="score", sort=False)
    return wide.reset_index().rename_axis(None, axis=1)


def not_run(study: Study, runs: Sequence[Run], lacking: Sequence[NotRun]) -> pd.DataFrame:
    """What of the published part has no number in this study, and why: columns ``what, why``."""
    name, own = study.profile.name, study.profile.benchmarks
    why = f"profile {name} has no published data; make paper, or make gpu PAIR=..., runs it"
    rows = [("every table of GATEAU", why)]
    if runs:
        rows = [(f"row {row!r}", why) for row, why in NOT_REBUILT.items()]
        rows += [(each.benchmark, each.why) for each in lacking] + replication.shortfalls(study)
        absent = [each for each in PROFILES["paper"].benchmarks if each not in own]
        rows += [(each, "not among the profile's benchmarks") for each in absent]
    return pd.DataFrame(rows, columns=["what", "why"])


def recorded(study: Study) -> pd.DataFrame:
    """Which profiles left results, on which machine; no rehearsals.

    The line of the profile of ``study`` is about the study itself, whatever its seed, others about seed 0.
    Notebook 11 of ``study`` counts as run: it is the one that asks, its entry is written when it ends.
    """
    own = study.profile.name
    folders = {folder.name: folder for folder in profile_folders()}
    folders |= {} if study.profile.rehearsed else {own: study.root}
    paths = {name: folder / "manifest.json" for name, folder in folders.items()}
    made = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}
    rows = []
    for name in dict.fromkeys([*PROFILES, *sorted(made)]):
        if name == "smoke":
            continue
        ran = made.get(name, {}).get("notebooks", {})
        if name == own and ran:
            ran |= {"11": {"commit": commit()["commit"]}}
        commits = " ".join(sorted({str(each.get("commit"))[:9] for each in ran.values()}))
        device = made[name]["machine"]["device"] if ran else "–"
        rows.append((name, " ".join(sorted(each[:2] for each in ran)) or "not run", device, commits or "–"))
    return pd.DataFrame(rows, columns=["profile", "notebooks", "device", "commit"])
