"""Models and data sets that the study knows by name (registry.yml); what no source was read for is None."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHANGES_NO_RESULT = True  # what is used of an entry enters keys by its values


@dataclass(frozen=True)
class ModelEntry:
    """One model on the hub, Llama-like; facts but its sizes may be unknown (None)."""

    repo: str
    revision: str | None  # the commit that must be used; None: recorded at first use
    window: int  # tokens
    rope_theta: float | None
    rope_type: str | None
    parameters: int
    bytes_per_parameter: int | None  # as the weights are stored
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int  # rows of the embedding
    tied: bool  # the output head is the embedding
    licence: str | None
    gated: bool | None  # whether a licence must be accepted on its page first
    weights: str  # "safetensors" or "pickle", which is not loaded
    source: str  # where the facts were read


@dataclass(frozen=True)
class PairEntry:
    """Two homologous models, and what to know about them."""

    name: str
    short: ModelEntry
    long: ModelEntry
    note: str


@dataclass(frozen=True)
class DataEntry:
    """One published data set: what is read of it, and where its form was read."""

    name: str
    repo: str
    revision: str | None
    files: tuple[str, ...]  # patterns of paths in the repository
    kind: str  # long, short, longbench, longbench-chat, mt-bench or haystack
    licence: str | None
    gated: bool | None
    source: str
    own: tuple[str, ...] = ()  # patterns of other files that a folder of one's own may hold instead
    host: str = "hub"  # "github": not on the hub


def _content() -> Any:
    return yaml.safe_load(Path(__file__).with_name("registry.yml").read_text(encoding="utf-8"))


@cache
def pairs() -> dict[str, PairEntry]:
    """Homologous pairs by name."""
    found = {}
    for name, fields in _content()["pairs"].items():
        short, long = (ModelEntry(**fields[which]) for which in ("short", "long"))
        found[name] = PairEntry(name, short, long, fields["note"])
    return found


@cache
def data_sets() -> dict[str, DataEntry]:
    """Data sets by name."""
    found = {}
    for name, fields in _content()["data_sets"].items():
        patterns = {key: tuple(fields.get(key, ())) for key in ("files", "own")}
        found[name] = DataEntry(name=name, **fields | patterns)
    return found


def models() -> dict[str, ModelEntry]:
    """The models of all pairs by repository."""
    return {entry.repo: entry for pair in pairs().values() for entry in (pair.short, pair.long)}
