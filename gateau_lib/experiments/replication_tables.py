"""GATEAU's tables, reported and measured side by side, and what of them was run, where, and why not (notebook 09)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.evaluation import longbench
from gateau_lib.evaluation.suite import NotRun
from gateau_lib.experiments import findings, replication
from gateau_lib.experiments.replication import NOT_REBUILT, Run
from gateau_lib.study import intervals
from gateau_lib.study.manifest import commit
from gateau_lib.study.profiles import PROFILES
from gateau_lib.study.store import Study, profile_folders
from gateau_lib.study.style import BLACK, CYCLE, GREY, MARKERS, styled, text_table

KEYS = ["table", "setting", "row", "share"]
MEASURED = [*KEYS, "measured", "low", "high", "items", "over_full", "over_low", "over_high"]
LINES = ("GATEAU", "Cherry", "CaR", "Perplexity Guidance", "Random")  # rows at every share
ACROSS: dict[str, dict[str, str]] = {
    "Full": {"color": BLACK, "linestyle": "--", "marker": "D"},
    "without long SFT": {"color": GREY, "linestyle": "--", "marker": "x"},
    "without SFT": {"color": GREY, "linestyle": ":", "marker": "+"},
}
TABLES = {"longbench-chat": "LongBench-Chat", "mt-bench": "MT-Bench"}
TABLES |= {"needle": "Needle", "ruler": "RULER", "short-tasks": "Short tasks"}  # the paper has none of these


def measured(rows: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """Rows of `judged` as numbers of the paper's tables.

    Returns:
        Columns ``table, setting, row, share`` (per cent), ``measured`` (0 to 100), ``low, high`` (95 %, over items), ``items``;
        ``over_full, over_low, over_high``: minus the setting's "Full", on the same items.
    """
    found = []
    for table, part in _by_table(rows):
        scores = {name: each.set_index(["task", "id"])["score"] for name, each in part.groupby("run")}
        full = {run.setting: scores.get(run.name) for run in runs if run.row == "Full"}
        for run in runs:
            if run.name not in scores:
                continue
            mine, other = scores[run.name], full.get(run.setting)
            gap = mine - other if other is not None and run.row != "Full" else mine * np.nan
            place = {"table": table, "setting": run.setting, "row": run.row, "share": 100 * run.share if run.share else np.nan}
            values = dict(zip(("measured", "low", "high"), _mean(mine), strict=True))
            over = dict(zip(("over_full", "over_low", "over_high"), _mean(gap), strict=True))
            found.append({**place, **values, "items": int(mine.notna().sum()), **over})
    return pd.DataFrame(found, columns=MEASURED)


def _by_table(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The rows that each table is about."""
    tables = []
    for benchmark, part in rows.groupby("benchmark", sort=False):
        if benchmark != "longbench":
            tables.append((TABLES[benchmark], part))
            continue
        tables += [(f"LongBench {group}", part[part["task"].isin(tasks)]) for group, tasks in longbench.GROUPS.items()]
        tables += [(f"LongBench {task}", each) for task, each in part.groupby("task", sort=False)]
    return [(name, part) for name, part in tables if len(part)]


def _mean(scores: pd.Series) -> tuple[float, float, float]:
    """Mean over tasks of the means over items, with its 95 % interval over items."""
    parts = [each for _, each in scores.dropna().groupby(level="task")]
    mean, low, high = intervals.mean_of_tasks(parts) if parts else (np.nan, np.nan, np.nan)
    # Scores that are all equal say nothing about how far other items would be.
    return (mean, low, high) if high > low else (mean, np.nan, np.nan)


def beside(numbers: pd.DataFrame) -> pd.DataFrame:
    """Every reported number of GATEAU's tables beside ours; a number that only one side has stays, the other is missing.

    Args:
        numbers: of `measured`.
    """
    reported = findings.reported().rename(columns={"value": "reported"})
    both = reported.merge(numbers, on=KEYS, how="outer", sort=False)
    order = {name: dict.fromkeys([*reported[name], *numbers[name]]) for name in ("table", "setting", "row")}
    ranks = both.assign(**{name: both[name].map(list(seen).index) for name, seen in order.items()})
    return both.loc[ranks.sort_values(KEYS).index].reset_index(drop=True)


def last_measured() -> pd.DataFrame:
    """What recorded runs measured, for profiles that measure nothing themselves; empty if there was none.

    Each profile's settings have names of their own (`replication.runs`), so rows of several do not meet.
    """
    empty = pd.DataFrame(columns=MEASURED).astype(dict.fromkeys(MEASURED[3:], float))
    paths = [folder / "tables" / "09_measured.csv" for folder in profile_folders()]
    found = [pd.read_csv(path) for path in paths if path.exists()]
    return pd.concat(found, ignore_index=True) if found else empty


def shown(tables: pd.DataFrame, names: Sequence[str]) -> Any:
    """Some of the tables for a reader: a row each, a column a setting and share, cells "reported / measured [95 %]"."""
    part = tables[tables["table"].isin(names)]
    place = part["setting"] + part["share"].map(lambda share: "" if np.isnan(share) else f", {share:.0f} %")
    cells = [f"{_point(r.reported)} / {_interval(r.measured, r.low, r.high)}" for r in part.itertuples()]
    wide = part.assign(place=place, cell=cells).pivot(index=["table", "row"], columns="place", values="cell")
    order = part.drop_duplicates(["table", "row"]).set_index(["table", "row"]).index
    settings = dict.fromkeys([*findings.SETTINGS, *part["setting"]])
    columns = [f"{s}{share}" for s in settings for share in ("", ", 10 %", ", 30 %", ", 50 %")]
    wide = wide.loc[order, [name for name in columns if name in wide]].fillna("")
    return text_table(wide.rename_axis(None, axis=1).reset_index())


def gains(tables: pd.DataFrame) -> pd.DataFrame:
    """Differences to the setting's "Full", in points: reported, and measured with its 95 % interval over the same items."""
    full = tables[tables["row"] == "Full"].set_index(["table", "setting"])["reported"]
    known = np.array([place in full.index for place in zip(tables["table"], tables["setting"], strict=True)], dtype=bool)
    rows = tables[(tables["row"] != "Full") & known]
    reported = [r.reported - full[r.table, r.setting] for r in rows.itertuples()]
    return rows.assign(reported=reported)[[*KEYS, "reported", "over_full", "over_low", "over_high"]]


def gains_shown(tables: pd.DataFrame, names: Sequence[str]) -> Any:
    """`gains` of some tables for a reader, at the largest share."""
    part = gains(tables[tables["table"].isin(names)])
    part = part[part["share"].isna() | (part["share"] == part["share"].max())]
    own = [_interval(r.over_full, r.over_low, r.over_high, "+.1f") for r in part.itertuples()]
    share = part["share"].map(lambda value: "" if np.isnan(value) else f"{value:.0f} %")
    signed = part["reported"].map(lambda value: _point(value, "+.1f"))
    return text_table(part.assign(share=share, reported=signed, measured=own)[[*KEYS, "reported", "measured"]])


def _point(value: float, form: str = ".1f") -> str:
    return "–" if np.isnan(value) else format(value, form)


def _interval(value: float, low: float, high: float, form: str = ".1f") -> str:
    return _point(value, form) + ("" if np.isnan(low) else f" [{low:{form}}, {high:{form}}]")


@styled
def drawing(tables: pd.DataFrame) -> Figure:
    """Reported lines over the share of long samples, and measured marks with intervals: a row a table, a column a setting."""
    names = list(dict.fromkeys(tables["table"]))
    # Rows at every share are coloured lines, rows at one share marks in grey, rows without a choice lines across.
    choices = [row for row in LINES if row in set(tables["row"])]
    single = [row for row in dict.fromkeys(tables.loc[tables["share"].notna(), "row"]) if row not in choices]
    looks = {row: {"color": CYCLE[place], "marker": MARKERS[place]} for place, row in enumerate(choices)}
    looks |= {row: {"color": GREY, "marker": "v^<>dpH"[place % 7], "linestyle": ""} for place, row in enumerate(single)}
    looks |= ACROSS
    settings = list(dict.fromkeys([*findings.SETTINGS, *tables["setting"]]))
    fig = Figure(figsize=(4.75 * len(settings), 3.4 * len(names)), layout="constrained")
    axes = fig.subplots(len(names), len(settings), squeeze=False, sharey="row")
    for name, line in zip(names, axes, strict=True):
        for setting, axis in zip(settings, line, strict=True):
            part = tables[(tables["table"] == name) & (tables["setting"] == setting)]
            for row, look in looks.items():
                _draw_row(axis, part[part["row"] == row], row, look)
            axis.set(title=f"{name}, {setting}", xlabel="long samples selected, %", xticks=[10, 30, 50])
        line[0].set_ylabel("points of 100")
    handles, labels = axes[0][0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4)
    return fig


def _draw_row(axis: Any, part: pd.DataFrame, row: str, look: dict[str, str]) -> None:
    reported = part.dropna(subset=["reported"])
    if row in ACROSS:
        for value in reported["reported"]:
            axis.axhline(value, linewidth=1, color=look["color"], linestyle=look["linestyle"], label=row)
    elif len(reported):
        axis.plot(reported["share"], reported["reported"], label=row, markerfacecolor="white", **look)
    for r in part.dropna(subset=["measured"]).itertuples():
        half = [[r.measured - r.low], [r.high - r.measured]] if np.isfinite(r.low) else None
        mark = {"color": look["color"], "marker": look["marker"], "linestyle": ""}
        axis.errorbar([55 if row in ACROSS else r.share], [r.measured], yerr=half, markersize=7, capsize=2, **mark)


def by_length(items: pd.DataFrame) -> pd.DataFrame:
    """Mean score of every run on needle and RULER items by task and length: runs by tasks."""
    part = items[items["benchmark"].isin(["needle", "ruler"])]
    return part.pivot_table(index="run", columns="task", values="score", sort=False).reset_index().rename_axis(None, axis=1)


def not_run(study: Study, runs: Sequence[Run], lacking: Sequence[NotRun]) -> pd.DataFrame:
    """What of the published part has no number in this study, and why: columns ``what, why``."""
    if not runs:
        here = f"profile {study.profile.name} has no published data; make paper, or make gpu PAIR=..., runs it"
        return pd.DataFrame([("every table of GATEAU", here)], columns=["what", "why"])
    rows = [(f"row {row!r}", why) for row, why in NOT_REBUILT.items()]
    rows += [(each.benchmark, each.why) for each in lacking] + replication.shortfalls(study)
    absent = [each for each in PROFILES["paper"].benchmarks if each not in study.profile.benchmarks]
    return pd.DataFrame([*rows, *((each, "not among the profile's benchmarks") for each in absent)], columns=["what", "why"])


def recorded(study: Study) -> pd.DataFrame:
    """Which profiles left results, and on which machine: columns ``profile, notebooks, device, commit``; no rehearsals.

    The line of the profile of ``study`` is about the study itself, whatever its seed; the other lines are about seed 0. Notebook
    09 of ``study`` counts as run, for it is the one that asks: its entry is written when it has ended.
    """
    folders = {folder.name: folder for folder in profile_folders()}
    if not study.profile.rehearsed:
        folders[study.profile.name] = study.root
    paths = {name: folder / "manifest.json" for name, folder in folders.items()}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    names = [*PROFILES, *sorted(set(found) - set(PROFILES))]
    rows = []
    for name in (name for name in names if name != "smoke"):
        ran = found.get(name, {}).get("notebooks", {})
        if name == study.profile.name and ran:
            ran |= {"09": {"commit": commit()["commit"]}}
        commits = " ".join(sorted({str(each.get("commit"))[:9] for each in ran.values()}))
        device = found[name]["machine"]["device"] if ran else "–"
        rows.append((name, " ".join(sorted(each[:2] for each in ran)) or "not run", device, commits or "–"))
    return pd.DataFrame(rows, columns=["profile", "notebooks", "device", "commit"])
