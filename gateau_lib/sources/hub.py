"""Models and data by name: from the hub's cache, from the hub, or from folders of one's own below ``$GATEAU_DATA``.

What is used is pinned: the commit that a study first met stands in its revisions.json and is required from then on; a commit that
the registry knows is required at once. Of a model's repository only safetensors, configuration and tokenizer are fetched. What
the hub's client had fetched when something went wrong is kept, and the next run goes on from there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from gateau_lib.sources import conversion
from gateau_lib.study import registry
from gateau_lib.study.errors import DataError, UserError, reason
from gateau_lib.study.registry import DataEntry
from gateau_lib.study.store import PINS, Study, artefact
from gateau_lib.study.whole_files import atomic_write

CHANGES_NO_RESULT = True  # what is fetched enters keys by its revision
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt")


class HubError(UserError):
    """Something that cannot be had; the message is one line: what to fetch, how, and where it may lie instead."""


def revisions(study: Study) -> dict[str, str]:
    """What the study has pinned: ``models/owner/name`` or ``datasets/owner/name`` -> commit."""
    path = study.root / PINS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def model(study: Study, name: str) -> Path:
    """The folder of a model: a local folder as it is, a hub id's snapshot (named after its commit).

    Raises:
        HubError: no model there; see `snapshot`.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise HubError(f"{name}: no config.json there; give a folder with a saved model or a hub id owner/name")
    return snapshot(study, name)


def identity(study: Study, name: str) -> str:
    """What tells a model from another of the same name: a hub id's commit; of a local folder its small files and the sizes and
    times of the large ones, since hashing weights takes minutes.
    """
    folder = model(study, name)
    if folder.name in revisions(study).values():
        return folder.name
    files = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    small = 1_000_000  # bytes
    parts = [(p.name, _sha256(p) if s.st_size < small else [s.st_size, s.st_mtime_ns]) for p, s in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def snapshot(study: Study, repo: str, kind: str = "model") -> Path:
    """The folder of a repository's snapshot in the hub's cache, at the pinned commit; fetched if it is not there.

    Args:
        kind: "model" or "dataset".

    Raises:
        HubError: out of reach, gated, incomplete, without weights that can be loaded, or another commit than the pinned one.
    """
    key = f"{kind}s/{repo}"
    revision = _agreed(study, repo, kind)
    folder = _fetched(study, repo, kind, revision)
    if lacking := _lacking(folder, repo, kind):
        raise HubError(f"{repo} at {folder.name} {lacking}")
    if revisions(study).get(key) != folder.name:
        pins = revisions(study) | {key: folder.name}
        atomic_write(study.root / PINS, json.dumps(dict(sorted(pins.items())), indent=1) + "\n")
    return folder


def required(study: Study, repo: str, kind: str = "model") -> str | None:
    """The commit that must be used: what the study has pinned, else what the registry knows; None if any will do."""
    entry = _entry(repo, kind)
    return revisions(study).get(f"{kind}s/{repo}") or (entry.revision if entry else None)


def snapshots(repo: str, kind: str = "model") -> Path:
    """Where the hub's cache keeps what it has of a repository, one folder a commit."""
    return cache() / repo_folder_name(repo_id=repo, repo_type=kind) / "snapshots"


def cache() -> Path:
    """The folder of the hub's cache."""
    return Path(constants.HF_HUB_CACHE)


def remedy(repo: str, kind: str = "model", revision: str | None = None) -> str:
    """How to get a repository, as part of a sentence: the command, what may be needed for it, and where else it may lie."""
    entry = _entry(repo, kind)
    if isinstance(entry, DataEntry) and entry.host == "github":
        return f"fetch it from https://github.com/{repo} ({', '.join(entry.files)}) and {_own(entry)}"
    words = f"hf download {repo}" + (f" --revision {revision}" if revision else "") + " --repo-type dataset" * (kind == "dataset")
    gate = f" (accept its licence on https://huggingface.co/{repo} first, then hf auth login)" if entry and entry.gated else ""
    other = _own(entry) if isinstance(entry, DataEntry) else "give a folder that holds the model in place of its name"
    return f"where there is a network: {words}{gate}, its cache is {cache()}; or {other}"


def long_samples(study: Study) -> Path:
    """A folder with the long data set's ``samples.jsonl`` (LongAlign records) and ``card.json``, made once.

    The card: repository, revision, licence, SHA-256 of every file; records read, kept, cut to the first exchange of a
    conversation, and dropped by reason.

    Raises:
        HubError: out of reach. DataError: files that cannot be read.
    """
    return _samples(study, study.profile.long_data, "long")


def short_samples(study: Study) -> Path:
    """The same for the short instructions, the first question and answer of each conversation."""
    return _samples(study, study.profile.short_data, "short")








def _samples(study: Study, key: str, kind: str) -> Path:
    entry = registry.data_sets().get(key)
    if entry is None or entry.kind != kind:
        known = ", ".join(name for name, each in registry.data_sets().items() if each.kind == kind)
        raise HubError(f"{key!r} is no {kind} data set of the registry; it has {known}")
    files, about = _found(study, key)

    def build(out: Path) -> None:
        counts = conversion.convert(files, kind, key, out / "samples.jsonl")
        if not counts["kept"]:
            reasons = f"{counts['read']} records can be used: {counts['dropped']}"
            raise DataError(f"{key}: none of {reasons}; fetch the files of {entry.repo} again")
        _write_card(out, about | counts)

    return artefact(study, key, build, code=[conversion.convert], kind=kind, about=about)


def _write_card(out: Path, card: dict[str, Any]) -> None:
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# Where things lie --------------------------------------------------------------------------------------------------------


def _found(study: Study, key: str) -> tuple[list[Path], dict[str, Any]]:
    """Files of a data set in the order they are read, and the beginning of its card."""
    entry = registry.data_sets()[key]
    own = Path(os.environ["GATEAU_DATA"]).expanduser() / key if os.environ.get("GATEAU_DATA") else None
    if own is not None and own.is_dir():
        root, revision = own, None
        files = _matching(own, entry.files) or _matching(own, [pattern.rpartition("/")[2] for pattern in entry.files])
        files = files or [path for pattern in entry.own for path in sorted(own.rglob(pattern))]
        if not files:
            raise HubError(f"{own} holds none of {', '.join(entry.files + entry.own)}; put the files of {entry.repo} there")
    else:
        root = snapshot(study, entry.repo, "dataset")
        files, revision = _matching(root, entry.files), root.name
    hashes = {path.relative_to(root).as_posix(): _sha256(path) for path in files}
    about = {"name": key, "repo": entry.repo, "revision": revision, "folder": None if revision else f"$GATEAU_DATA/{key}"}
    return files, about | {"licence": entry.licence, "source": entry.source, "sha256": hashes}


def _matching(root: Path, patterns: Any) -> list[Path]:
    """Files that fit the patterns, in their order; none unless each pattern fits one."""
    found = [sorted(root.glob(pattern)) for pattern in patterns]
    return [path for each in found for path in each] if all(found) else []


def _sha256(path: Path) -> str:
    """Of a file's bytes; a file of the same size and time is not read again."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


@lru_cache
def _digest(path: Path, size: int, time: int) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _own(entry: DataEntry) -> str:
    return f"put the files into $GATEAU_DATA/{entry.name}/"


def _entry(repo: str, kind: str) -> Any:
    """The registry's entry of a repository, None if it has none."""
    if kind == "model":
        return registry.models().get(repo)
    return next((entry for entry in registry.data_sets().values() if entry.repo == repo), None)


# Fetching ----------------------------------------------------------------------------------------------------------------


def _agreed(study: Study, repo: str, kind: str) -> str | None:
    """The required commit, on which the study's pins and the registry agree."""
    entry, revision = _entry(repo, kind), required(study, repo, kind)
    if entry and entry.revision and entry.revision != revision:
        raise HubError(
            f"{repo}: {study.root / PINS} records commit {revision}, the registry now requires {entry.revision}; "
            "to go on with that one, delete its line there (results made with the old one are made again)"
        )
    return revision


def _fetched(study: Study, repo: str, kind: str, revision: str | None) -> Path:
    """The snapshot's folder; a pinned one that is in the cache is taken without asking the hub."""
    from huggingface_hub import errors, snapshot_download

    entry = _entry(repo, kind)
    what: dict[str, Any] = {"repo_id": repo, "repo_type": kind, "revision": revision, "cache_dir": cache()}
    what["allow_patterns"] = list(MODEL_FILES if kind == "model" else entry.files) if entry or kind == "model" else None
    away = isinstance(entry, DataEntry) and entry.host != "hub"  # only a rehearsal has put it into the cache
    if revision or away:
        try:
            folder = Path(snapshot_download(**what, local_files_only=True))
            if away or not _lacking(folder, repo, kind):
                return folder
        except (OSError, ValueError):  # not there, or not whole
            if away:
                raise HubError(f"{repo} is not on the hub; {remedy(repo, kind)}") from None
    try:
        return Path(snapshot_download(**what))
    except errors.GatedRepoError as error:
        page = f"https://huggingface.co/{'datasets/' * (kind == 'dataset')}{repo}"
        fault, cause = f"access is restricted; accept its licence on {page}, then hf auth login", error
    except errors.RepositoryNotFoundError as error:
        fault, cause = "no such repository on the hub, or a private one (hf auth login)", error
    except errors.RevisionNotFoundError as error:
        fault, cause = f"the hub has no commit {revision}", error
    except Exception as error:  # the client's errors, the HTTP library's (no network, time-out), the disk's
        cause = error
        if getattr(error, "errno", None) == errno.ENOSPC:
            fault = f"the disk of {cache()} is full; free some or set HF_HOME to a larger one, what was fetched is kept"
        elif others := _others(repo, kind, revision):
            recorded = f"{kind}s/{repo}" in revisions(study)
            fault = f"{study.root / PINS if recorded else 'the registry'} requires commit {revision}, the cache has {others}"
            fault += "; to go on with another, delete the line there" if recorded else ""
        else:
            off = constants.HF_HUB_OFFLINE
            why = "HF_HUB_OFFLINE is set" if off else f"the hub does not answer ({reason(error)})"
            fault = f"not in the cache, or not whole, and {why}"
    raise HubError(f"{repo}: {fault}; {remedy(repo, kind, revision)}") from cause


def _others(repo: str, kind: str, revision: str | None) -> str:
    """The commits that the cache has of a repository, if the one that is required is not among them."""
    folder = snapshots(repo, kind)
    present = sorted(each.name for each in folder.iterdir()) if revision and folder.is_dir() else []
    return "" if revision in present else ", ".join(present)


def _lacking(folder: Path, repo: str, kind: str) -> str:
    """What a snapshot lacks to be used, with the way to get it; empty if it is whole."""
    entry = _entry(repo, kind)
    again = f"; {remedy(repo, kind, folder.name)}"
    if kind == "dataset":
        return "" if entry is None or _matching(folder, entry.files) else f"lacks one of {', '.join(entry.files)}{again}"
    if not (folder / "config.json").is_file():
        return f"has no config.json{again}"
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    if missing := sorted(name for name in shards if not (folder / name).is_file()):
        return f"lacks {len(missing)} of {len(shards)} files of weights ({missing[0]}){again}"
    if not any(folder.glob("*.safetensors")):
        return (
            f"has no safetensors, the only weights that are loaded; convert the others once: {conversion_command(folder, repo)}"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return f"has no tokenizer{again}"
    return ""


def conversion_command(folder: Path, repo: str) -> str:
    """The command that writes a repository's ``pytorch_model.bin`` as safetensors into its snapshot; it reads tensors only."""
    source = f"hf_hub_download('{repo}', 'pytorch_model.bin', revision='{folder.name}')"
    load = f"torch.load({source}, weights_only=True, mmap=True)"
    imports = "import torch; from huggingface_hub import hf_hub_download; from safetensors.torch import save_file"
    return f"python -c \"{imports}; save_file({load}, '{folder}/model.safetensors', {{'format': 'pt'}})\""
