"""How well a gap finds far evidence by where the short reader is cut; the labels' window is one (03)."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gateau_lib.data.kinds import NOISE
from gateau_lib.experiments import captions, explanations
from gateau_lib.experiments.figures import DASHED, blank
from gateau_lib.experiments.ranking import auc
from gateau_lib.methods.model_passes import short_reader_nll
from gateau_lib.study.store import Study
from gateau_lib.study.style import GREY, look, styled
from gateau_lib.study.workers import Build

QUARTERS = (1, 3, 5, 12)  # of the short window, beside the cuts of `explanations.write_readings`


def write_cuts(pair: Path, texts: Path, window: int, longest: int, dtype: str, out: Path) -> None:
    """Losses of the long model cut at `QUARTERS` of the window, of the honest samples."""
    long, _, samples, encoded = explanations.read_pool(pair, "long", dtype, texts, longest)
    honest = [n for n, sample in enumerate(samples) if sample.kind not in NOISE]
    read, table = [encoded[n] for n in honest], pd.DataFrame({"id": [samples[n].id for n in honest]})
    for cut in (window * by // 4 for by in QUARTERS):
        table[f"cut_{cut}"] = short_reader_nll(long, read, "truncate", window=cut)
    table.to_parquet(out / explanations.TABLE)


def measured(study: Study, data: Path, pair: Path, scores: pd.DataFrame) -> pd.DataFrame:
    """AUC of the one-model contrast among honest samples, columns ``cut`` (tokens the reader sees), ``auc``.

    ``scores``: the first independent pool with ``needs_far`` and the losses of `pool.homologous`.
    """
    sizes, texts = study.profile, data / "pools" / "independent-0.jsonl"
    inputs = {"pair": pair, "texts": texts, "longest": sizes.max_length, "dtype": sizes.dtype}
    build = Build("cuts", write_cuts, inputs | {"window": sizes.short_window})
    readings = explanations.table(study, data, pair, "readings")
    others = readings[["id", *(name for name in readings if name.startswith("cut_"))]]
    held = scores.merge(
        pd.read_parquet(build.folder(study) / explanations.TABLE), on="id", validate="one_to_one"
    )
    held = held.merge(others, on="id", validate="one_to_one")
    held[f"cut_{sizes.short_window}"] = held["nll_long_truncate"]
    by_cut = {int(name.removeprefix("cut_")): held[name] for name in held if name.startswith("cut_")}
    found = [(cut, auc(held["needs_far"], by_cut[cut] - held["nll_long"])) for cut in sorted(by_cut)]
    return pd.DataFrame(found, columns=["cut", "auc"])


@styled
def drawing(curve: pd.DataFrame, window: int) -> Figure:
    """The curve of `measured`; ``window``: tokens beyond which evidence counts as far in the labels."""
    fig, (axis,) = blank(6.5, 2.8)
    axis.axvline(window, **DASHED)
    axis.axhline(0.5, **DASHED)
    axis.annotate("the labels' window", (window, 0.52), (4, 0), textcoords="offset points", color=GREY)
    axis.plot(curve["cut"], curve["auc"], **look("contrast_log", 0))
    axis.set(xscale="log", xlabel="tokens that the short reader sees", ylabel="AUC, clean", ylim=(None, 1.03))
    axis.set_xticks(list(curve["cut"]), [f"{cut:,}" for cut in curve["cut"]])
    axis.minorticks_off()
    fig.set_label(captions.cut_curve(curve, window))
    return fig
