"""A hub's cache that is made here: tiny models and small data, in the places and forms of the published ones.

The shipped pair stands for most pairs. Llama-2's has random weights and a tokenizer of Llama-2's form, which
differs from ours in what breaks things: every text begins with a mark, there is no padding token, and the
long model has more rows than tokens. With them every stage of the large profiles runs for real, offline and
in minutes: the same loading, files and conversions. The numbers that come out mean nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from transformers import PreTrainedModel

from gateau_lib.data import world
from gateau_lib.experiments.rehearsal_data import DATA_SETS, WINDOW
from gateau_lib.models import loading, rope, tiny
from gateau_lib.study import registry
from gateau_lib.study.code_hash import digest, path_hash, source_hash
from gateau_lib.study.whole_files import atomic_write

STAMP = "rehearsal.json"  # in the cache's folder: what it was made by


def enter(cache: Path) -> None:
    """Let this process and those that it starts read models and data from a fabricated cache alone."""
    entries = [*registry.models().values(), *registry.data_sets().values()]
    made_by = digest(f"{source_hash([fabricate])} {path_hash(loading.SHIPPED)} {entries}")
    stamp = cache / STAMP
    if not stamp.is_file() or json.loads(stamp.read_text()) != made_by:
        fabricate(cache)
        atomic_write(stamp, json.dumps(made_by))
    os.environ |= {"HF_HUB_CACHE": str(cache.absolute()), "HF_HUB_OFFLINE": "1"}
    os.environ.pop("GATEAU_DATA", None)  # real data would take hours
    # These were read when the package was imported.
    constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = str(cache.absolute()), True


def fabricate(hub: Path) -> None:
    """Fill a folder with a hub's cache: each model and data set of the registry, always the same."""
    for pair in registry.pairs().values():
        for name, entry in (("short", pair.short), ("long", pair.long)):
            files = _llama_2(name) if pair.name == "llama-2-7b" else _files(loading.SHIPPED / name)
            _snapshot(hub, "model", entry.repo, entry.revision, files)
    tokenizer = loading.load_tokenizer(loading.SHIPPED / "short")
    for key, data in registry.data_sets().items():
        _snapshot(hub, "dataset", data.repo, data.revision, DATA_SETS[key](tokenizer))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _llama_2(name: str) -> dict[str, bytes]:
    """Files of the short or long model of the pair that stands for Llama-2's."""
    tokenizer, long = llama_tokenizer(), name == "long"
    shape = {"hidden_size": 64, "layers": 2, "heads": 4, "window": WINDOW, "seed": 1}
    rows = len(tokenizer) + (32 if long else 0)
    model: PreTrainedModel = tiny.build_llama(rows, **shape, rope_theta=10_000.0)
    if long:
        model = rope.with_rope_theta(model, 2_000_000.0, 8 * WINDOW)
    model.config.pad_token_id = model.generation_config.pad_token_id = None
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return _files(Path(folder))


def llama_tokenizer() -> Any:
    """A tokenizer of Llama-2's form for planted text: a mark first, bytes as a last resort, no padding."""
    from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    marks = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    texts = [" ".join(part) for part in (world.NAMES, world.VALUES, world.ATTRIBUTES)] * 50
    texts += [world.filler(rng) for _ in range(4000)]
    words.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=3000, special_tokens=marks, show_progress=False)
    )
    words.pre_tokenizer = None
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    words.decoder = decoders.Sequence(parts)
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _snapshot(hub: Path, kind: str, repo: str, revision: str | None, files: Mapping[str, bytes]) -> None:
    """A repository as the hub's client keeps it: a folder named after the commit or a hash, and a branch."""
    folder = hub / repo_folder_name(repo_id=repo, repo_type=kind)
    revision = revision or digest(b"".join(files.values()))[:40]
    for name, content in files.items():
        atomic_write(folder / "snapshots" / revision / name, content)
    atomic_write(folder / "refs" / "main", revision)
