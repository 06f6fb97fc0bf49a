"""What the explorer shows: some samples with every number behind their scores, and a pool to rank anew.

`collect` gathers it from a pair's kept scores and a few short passes, as plain data; `page` puts the data
into ``explorer.html``, which needs no other file and no network.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gateau_lib.data.corpus import read_documents
from gateau_lib.data.kinds import NOISE
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Encoded, Sample, encode, segments
from gateau_lib.experiments import explanations, pool, score_rows
from gateau_lib.methods import prolong
from gateau_lib.methods.model_passes import cut_losses, response_losses
from gateau_lib.methods.skipalign import sample_turns
from gateau_lib.models import loading, rope
from gateau_lib.scoring.explorer_page import few, filled
from gateau_lib.study import evidence
from gateau_lib.study.store import Study
from gateau_lib.study.style import label
from gateau_lib.study.whole_files import atomic_write

Data = dict[str, Any]
HERE = Path(__file__).parent
FILE = "06_explorer"
EACH = 2  # samples of each kind that are shown whole
SHOWN = (
    "hmg_minmax_ntk", "hmg_log_truncate", "contrast_log", "cam_default", "segment_contrast", "gateau_rank",
    "prolong", "perplexity_guidance", "ifd", "zlib_contrast", "longest",
)  # fmt: skip


def collect(study: Study, data: Path, pair: Path) -> Data:
    """All of it, of the first independent pool; numbers are rounded to what can be seen."""
    table = score_rows.composition(score_rows.whole(study, data, pair), "independent")
    table = table[table["seed"] == 0].reset_index(drop=True)
    readings = explanations.table(study, data, pair, "readings")
    drawn = {sample.id: sample for sample in read_samples(data / "pools" / "independent-0.jsonl")}
    sizes, tokenizer = study.profile, loading.load_tokenizer(pair / "long")
    few = table.sort_values("id").groupby("kind", sort=False).head(EACH)["id"]
    encoded = {name: encode(drawn[name], tokenizer, sizes.max_length) for name in few}
    short = read_samples(data / "short" / "0.jsonl")
    example = encode(next(sample for sample in short if sample.context), tokenizer)
    return {
        "window": sizes.short_window,
        "length": sizes.segment_length,
        "target": sizes.long_window,
        "alpha": sizes.alpha,
        "share": sizes.fraction,
        "pool": ranked(table, readings),
        "shown": shown(study, pair, table, [drawn[name] for name in few], list(encoded.values()), tokenizer),
        "pairs": pairs(study, data, pair, tokenizer),
        "turns": sample_turns(example, [tokenizer.eos_token_id], document_turn=True),
    }


def ranked(table: pd.DataFrame, readings: pd.DataFrame) -> list[Data]:
    """A row a sample of the pool: what HMP and CAM are made of, under several readers."""
    cuts = {name.removeprefix("cut_"): name for name in readings if name.startswith("cut_")}
    held = table.merge(readings[["id", *cuts.values()]], on="id", validate="one_to_one")
    rows = []
    for row in held.to_dict("records"):
        attention = pool.layered(row["attention"], row["segment_nll"]).mean(axis=0)
        readers = {"stretched": row["nll_short_ntk"], "window": row["nll_long_truncate"]}
        readers |= {f"last {cut} tokens": row[name] for cut, name in cuts.items()}
        rows.append(
            {
                "id": row["id"],
                "kind": row["kind"],
                "far": bool(row["needs_far"]),
                "noise": row["kind"] in NOISE,
                "long": few(row["nll_long"]),
                "readers": {name: few(value) for name, value in readers.items()},
                "nll": few(row["segment_nll"]),
                "attention": few(attention / attention.sum()),
            }
        )
    return rows


def shown(
    study: Study,
    pair: Path,
    table: pd.DataFrame,
    samples: list[Sample],
    encoded: list[Encoded],
    tokenizer: Any,
) -> dict[str, Data]:
    """Samples with text by segment, the losses of each response token, scores and places in the pool."""
    sizes = study.profile
    (short, _), (long, _) = (loading.load(pair / name, sizes.dtype) for name in ("short", "long"))
    losses = {
        "long model": response_losses(long, encoded),
        "long model, last window only": cut_losses(long, encoded, sizes.short_window),
        "short model, stretched": response_losses(rope.extend_window(short, sizes.max_length), encoded),
    }
    known, places = table.set_index("id"), table.set_index("id")[list(SHOWN)].rank(ascending=False)
    found = {}
    for n, (sample, each) in enumerate(zip(samples, encoded, strict=True)):
        parts = segments(each.context, sizes.segment_length)
        found[sample.id] = {
            "question": sample.instruction,
            "segments": [tokenizer.decode(part) for part in parts],
            "evidence": pool.evidence_segments(sample, each, tokenizer, sizes.segment_length),
            "tokens": [tokenizer.decode([token]) for token in each.response],
            "losses": {name: few(passed[n].nll) for name, passed in losses.items()},
            "scores": {
                label(name): [few(known.loc[sample.id, name]), int(places.loc[sample.id, name])]
                for name in SHOWN
                if np.isfinite(known.loc[sample.id, name])  # else it may not be chosen by that score
            },
        }
    return found


def pairs(study: Study, data: Path, pair: Path, tokenizer: Any) -> Data:
    """ProLong's pairs of segments of one document with planted links: texts, and a row a pair."""
    terms = explanations.table(study, data, pair, "links")
    name = terms["id"].iloc[0]
    text = next(d["text"] for d in read_documents(data / "documents" / "0.jsonl") if d["id"] == name)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    size = study.profile.segment_length
    parts = prolong.document_segments(ids, size, len(ids))
    rows = terms[terms["id"] == name]
    numbers = rows[["i", "j", "strength", "distance", "specificity"]].to_numpy()
    return {
        "id": name,
        "threshold": prolong.THRESHOLD,
        "segments": [tokenizer.decode(part) for part in parts],
        "rows": [[int(i), int(j), *few(rest)] for i, j, *rest in numbers],
        "planted": [[int(r.i), int(r.j)] for r in rows[rows["planted"]].itertuples()],
    }


def leave(study: Study, data: Path, pair: Path) -> Path:
    """Write the data as evidence of notebook 06, from which the site makes the page."""
    path = evidence.place(study, "tables", FILE, "json")
    return atomic_write(path, text(collect(study, data, pair)))


def text(collected: Data) -> str:
    """The data as JSON, a sample a line."""
    parts = {name: value for name, value in collected.items() if name not in ("pool", "shown")}
    lines = [f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in parts.items()]
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in collected["pool"])
    samples = ",\n  ".join(
        f"{json.dumps(name)}: {json.dumps(sample, ensure_ascii=False)}"
        for name, sample in collected["shown"].items()
    )
    lines += [f' "pool": [\n  {rows}\n ]', f' "shown": {{\n  {samples}\n }}']
    return "{\n" + ",\n".join(lines) + "\n}\n"


def page(data: str, home: str = "") -> str:
    """The page with the data (JSON) in it; ``home``: the address that its heading leads to."""
    return filled(HERE / "explorer.html", data, home=home)
