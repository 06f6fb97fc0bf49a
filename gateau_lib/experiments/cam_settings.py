"""What CAM depends on that was set without a test: how long a segment is, and which layers are read (04)."""

from pathlib import Path

import pandas as pd

from gateau_lib.data.kinds import NEEDS_FAR, NOISE
from gateau_lib.experiments.explanations import read_pool
from gateau_lib.experiments.pool import layered
from gateau_lib.experiments.ranking import Rows, auc_rows
from gateau_lib.methods.cam import contextual_awareness
from gateau_lib.methods.model_passes import long_pass, segment_importance
from gateau_lib.study import labels
from gateau_lib.study.store import Study
from gateau_lib.study.workers import Build

TABLE = "table.parquet"
LENGTHS = {"cam_segments_half": 0.5, "cam_segments_double": 2}  # of the segments that the study scores
labels.LABELS.update(
    {"cam_segments_half": "CAM, segments half as long", "cam_segments_double": "CAM, segments twice as long"}
)


def write_lengths(pair: Path, texts: Path, size: int, longest: int, dtype: str, out: Path) -> None:
    """CAM of every honest sample of a pool with segments of other lengths than ``size`` tokens."""
    long, _, samples, encoded = read_pool(pair, "long", dtype, texts, longest)
    honest = [place for place, sample in enumerate(samples) if sample.kind not in NOISE]
    read = [encoded[place] for place in honest]
    table = pd.DataFrame(
        {"id": [samples[place].id for place in honest], "kind": [samples[place].kind for place in honest]}
    )
    for name, times in LENGTHS.items():
        other = round(times * size)
        attention = [each.attention for each in long_pass(long, read, other)]
        vectors = zip(segment_importance(long, read, other), attention, strict=True)
        table[name] = [contextual_awareness(*both) for both in vectors]
    table.to_parquet(out / TABLE)


def lengths(study: Study, data: Path, pair: Path) -> pd.DataFrame:
    """The first independent pool's honest samples: ``id``, ``kind``, a column for each of `LENGTHS`."""
    sizes, pool = study.profile, data / "pools" / "independent-0.jsonl"
    about = {"size": sizes.segment_length, "longest": sizes.max_length, "dtype": sizes.dtype}
    folder = Build("cam-lengths", write_lengths, {"pair": pair, "texts": pool} | about).folder(study)
    return pd.read_parquet(folder / TABLE)


def length_rows(table: pd.DataFrame) -> Rows:
    """AUC of CAM with other segments, of `lengths`."""
    about = {"pool": "clean", "seed": 0, "needs_far": table["kind"].isin(NEEDS_FAR)}
    return auc_rows(table.assign(**about), list(LENGTHS))


def layer_rows(clean: pd.DataFrame) -> Rows:
    """AUC of CAM with the attention of each layer alone, ``cam_layer_1`` the lowest.

    ``clean``: pools with ``segment_nll`` and ``attention`` of `pool.awareness`.
    """
    read = [(n, layered(a, n)) for n, a in zip(clean["segment_nll"], clean["attention"], strict=True)]
    columns = {
        f"cam_layer_{layer + 1}": [contextual_awareness(n, a[[layer]]) for n, a in read]
        for layer in range(len(read[0][1]))
    }
    labels.LABELS.update({name: f"CAM, layer {name.rsplit('_', 1)[1]} alone" for name in columns})
    return auc_rows(clean.assign(**columns), list(columns))
