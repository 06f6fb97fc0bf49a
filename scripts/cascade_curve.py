"""What a cascade loses: tokens against recall, computed from exact scores that are there; asks no model.

    python scripts/cascade_curve.py                            # draws docs/_static/cascade.svg
    python scripts/cascade_curve.py --measure scores.parquet   # measures anew, then draws

Measured are the planted pools of results/evidence*/scores, scored by as many pairs of models, and an exact
score table of real samples. The record is results/bench/cascade.csv.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.methods import cascade, selection
from gateau_lib.methods.gateau import combine
from gateau_lib.methods.hmg import homologous_models_perplexity
from gateau_lib.study import looks
from gateau_lib.study.style import WIDTH, styled, svg

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "results" / "bench" / "cascade.csv"
PICTURE = ROOT / "docs" / "_static" / "cascade.svg"
FRACTION, ALPHA, SEEDS = 0.1, cascade.ALPHA, 20
DRAWS = (8, 16, 32, 64, 128, 256, 512, 1024)
WIDTHS = (0.1, 0.12, 0.15, 0.2, 0.25, 0.35)
# Tokens of CAM's segments, in multiples of a planted pool's (docs/project/cost.md: 2.7 with the long pass).
SEGMENTS = 1.7
FREE = ("zlib_contrast", "gzip_ratio", "gzip_band", "word_overlap", "question_distance", "n_tokens", "random")
WANTED = 0.98  # recall


def pools(table: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name -> exact scores: ``id, nll_short, nll_long, cam, whole, segments`` (tokens), those of `FREE`."""
    frames = []
    for path in sorted((ROOT / "results").glob("evidence*/scores/pair-*.csv")):
        frame = pd.read_csv(path)
        frame["nll_long"] = frame["perplexity_guidance"]
        frame["nll_short"] = frame["hmg_log_ntk"] + frame["nll_long"]
        frame = frame.assign(cam=frame["cam_default"], whole=frame["n_tokens"])
        frame["segments"] = SEGMENTS * frame["whole"]
        frame["hmp"] = cascade.hmp_ranks(frame["nll_short"], frame["nll_long"])
        frame["id"] = path.stem + "-" + frame["id"]
        frames.append(frame)
        yield path.stem, frame
    yield "all planted", pd.concat(frames, ignore_index=True)
    frame = pd.read_parquet(table)
    frame = frame[frame["error"].isna() & frame["cam"].notna()].reset_index(drop=True)
    asked = 1 + frame["n_instruction"] + frame["n_response"]
    frame["whole"] = asked + frame["n_context"]
    frame["segments"] = frame["n_context"] + frame["segment_nll"].map(len) * asked
    frame["hmp"] = cascade.hmp_ranks(frame["nll_short"], frame["nll_long"])
    yield "real", frame.assign(n_tokens=frame["whole"])


def exact(pool: pd.DataFrame) -> set[str]:
    """The ids that the exact run selects."""
    hmp = pool["hmp"].to_numpy()
    score = combine(homologous_models_perplexity(hmp, np.zeros_like(hmp)), pool["cam"], "rank", ALPHA)
    return set(selection.top_fraction(pool["id"].tolist(), score, FRACTION))


def run(pool: pd.DataFrame, seed: int, draws: int, width: float | None) -> tuple[float, ...]:
    """Shares of candidates, samples read, tokens; recall. ``width``: that share are candidates, no bound."""
    ids, hmp, cam = pool["id"].tolist(), pool["hmp"].to_numpy(), pool["cam"].to_numpy()
    count = selection.size(len(ids), FRACTION)
    candidate, drawn = cascade.first(ids, hmp, count, seed, draws)
    if width is not None:
        candidate = hmp >= np.sort(hmp)[-selection.size(len(ids), width)]
        drawn = cascade.draw(ids, candidate, seed, draws)
    while True:
        known = np.where(candidate | drawn, cam, np.nan)
        more = candidate if width is not None else cascade.grown(hmp, known, candidate, count, ALPHA)
        if (more == candidate).all():
            break
        candidate = more
    score = cascade.scores(hmp, cascade.cam_ranks(known, candidate), ALPHA)
    found = set(selection.top_fraction(ids, score, FRACTION)) & exact(pool)
    read, whole, segments = candidate | drawn, pool["whole"].sum(), pool["segments"].to_numpy()
    tokens = (2 * whole + segments[read].sum()) / (2 * whole + segments.sum())
    return candidate.mean(), read.mean(), tokens, len(found) / count


def kept(pool: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Share of a pool that a score, high or low first, must keep for a recall of `WANTED`; what it is."""
    best = pool["id"].isin(exact(pool)).to_numpy()
    needed = int(np.ceil(WANTED * best.sum())) - 1
    values = {
        f"{sign}{name}": float(f"{sign}1") * pool[name]
        for name in FREE
        if name in pool and pool[name].notna().all()
        for sign in "+-"
    }
    for name, value in values.items():
        places = value.rank(ascending=False, method="max").to_numpy() / len(pool)
        yield name, float(np.sort(places[best])[needed])
    # The short model first: who may be among the best 22 % by HMP, whatever the long model says.
    short, long = (np.exp(pool[name] - pool[name].max()) for name in ("nll_short", "nll_long"))
    one, other = ((x - x.min()) / (x.max() - x.min()) for x in (short, long))
    last = np.sort(one - other)[-selection.size(len(pool), cascade.expected_share(FRACTION))]
    yield "short model first", float((one >= last).mean())


def measured(table: Path) -> pd.DataFrame:
    """A row a pool and setting: ``pool, samples, kind, setting``, means over seeds and the worst."""
    rows = []
    for name, pool in pools(table):
        settings = [("draws", draws, (draws, None)) for draws in DRAWS]
        settings += [("width", width, (cascade.DRAWN, width)) for width in WIDTHS]
        for kind, setting, how in settings:
            found = np.array([run(pool, seed, *how) for seed in range(SEEDS)])
            rows.append((name, len(pool), kind, setting, *found.mean(0), found[:, 3].min()))
        if name != "all planted":
            rows += [
                (name, len(pool), "prune", what, np.nan, share, np.nan, WANTED, np.nan)
                for what, share in kept(pool)
            ]
    return pd.DataFrame(
        rows,
        columns=["pool", "samples", "kind", "setting", "candidates", "read", "tokens", "recall", "worst"],
    )


def told(table: pd.DataFrame) -> str:
    """Means and worst over the pairs of models, and the other pools, as text."""
    curves = table[table["kind"] != "prune"]
    pairs = curves[curves["pool"].str.startswith("pair")].groupby(["kind", "setting"], sort=False)
    means = pairs[["candidates", "read", "tokens", "recall"]].mean().assign(worst_pair=pairs["recall"].min())
    prunes = table[table["kind"] == "prune"]
    kept = prunes[prunes["pool"].str.startswith("pair")].groupby("setting", sort=False)["read"]
    parts = [means, *(curves[curves["pool"] == name] for name in ("all planted", "real"))]
    parts += [kept.agg(["mean", "max"]), prunes.loc[prunes["pool"] == "real", ["setting", "read"]]]
    return "\n\n".join(part.round(4).to_string() for part in parts)


@styled
def figure(table: pd.DataFrame) -> Figure:
    """Tokens against recall: pools of each pair, all of them as one pool, real samples."""
    says = "Share of tokens against recall of the best tenth, for a cascade"
    fig = Figure(figsize=(WIDTH, 3.2), layout="constrained", label=says)
    axes = fig.subplots(1, 2, sharey=True)
    table = table[table["kind"] != "prune"].assign(tokens=100 * table["tokens"])
    pairs = table[table["pool"].str.startswith("pair")]
    for kind, colour, mark, what in (
        ("draws", looks.GATEAU, "o", "by the bound"),
        ("width", looks.HMG, "s", "fixed share"),
    ):
        line = pairs[pairs["kind"] == kind].groupby("setting", sort=False)
        mean = line[["tokens", "recall"]].mean()
        axes[0].plot(
            mean["tokens"], mean["recall"], color=colour, marker=mark, markersize=4, label=f"{what}, mean"
        )
        low = line["recall"].min()
        axes[0].plot(mean["tokens"], low, color=colour, linestyle=":", label=f"{what}, worst pair")
    for name, colour, mark in (("all planted", looks.GATEAU, "o"), ("real", looks.CAM, "D")):
        line = table[(table["pool"] == name) & (table["kind"] == "draws")]
        if len(line):
            what = f"{'the pools as one' if name != 'real' else 'real samples'} ({line['samples'].iloc[0]:,})"
            axes[1].plot(line["tokens"], line["recall"], color=colour, marker=mark, markersize=4, label=what)
    for axis, title in zip(axes, ("24 planted pools of 192", "Other pools, by the bound"), strict=True):
        axis.axhline(WANTED, color=looks.GREY, linewidth=0.8)
        axis.set(xlabel="tokens, % of the exact run", title=title)
        axis.legend(loc="lower left" if axis is axes[0] else "lower right", fontsize=7)
    axes[0].set_ylabel("recall of the best tenth")
    return fig


def main() -> None:
    """Measure and record if asked to; tell and draw the record."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--measure", type=Path, metavar="TABLE", help="exact score table of real samples")
    if table := parse.parse_args().measure:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        about = f"# commit {commit.stdout.strip()}, seeds 0 to {SEEDS - 1}, "
        about += f"fraction {FRACTION:g}, alpha {ALPHA:g}\n"
        RECORD.write_text(about + measured(table).round(5).to_csv(index=False), encoding="utf-8")
    found = pd.read_csv(RECORD, comment="#")
    PICTURE.write_text(svg(figure(found)), encoding="utf-8")
    print(told(found))


if __name__ == "__main__":
    main()
