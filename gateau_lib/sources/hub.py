"""Repositories of models and data by name: from the hub's cache, or from the hub.

What is used is pinned: the commit that a study first met stands in its revisions.json and is required from
then on; a commit that the registry knows is required at once. Of a model only safetensors, configuration and
tokenizer are fetched. What was fetched before something went wrong is kept, and the next run goes on there.
"""

import errno
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
from huggingface_hub import constants, errors

from gateau_lib.study import registry
from gateau_lib.study.code_hash import path_hash
from gateau_lib.study.errors import UserError, reason
from gateau_lib.study.registry import DataEntry, ModelEntry
from gateau_lib.study.store import PINS, Study
from gateau_lib.study.whole_files import atomic_write

CHANGES_NO_RESULT = True  # what is fetched enters keys by its revision
Kind = Literal["model", "dataset"]
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer*", "merges.txt")


class HubError(UserError):
    """Something that cannot be had; the message is one line: what to fetch, how, where else it may lie."""


def revisions(study: Study) -> dict[str, str]:
    """What the study has pinned: ``models/owner/name`` or ``datasets/owner/name`` -> commit."""
    path = study.root / PINS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def model(study: Study, name: str) -> Path:
    """The folder of a model: a local folder as it is, a hub id's snapshot (named after its commit)."""
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        fix = "give a folder with a saved model or a hub id owner/name"
        raise HubError(f"{name}: no config.json there; {fix}")
    return snapshot(study, name)


def identity(study: Study, name: str) -> str:
    """What tells a model from its namesakes: a commit, or a hash (of large files: of size and time)."""
    folder = model(study, name)
    if folder.name in revisions(study).values():
        return folder.name
    files = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    # Hashing weights takes minutes.
    parts = [(p.name, sha256(p) if s.st_size < 1_000_000 else [s.st_size, s.st_mtime_ns]) for p, s in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def snapshot(study: Study, repo: str, kind: Kind = "model") -> Path:
    """The folder of a repository's snapshot in the hub's cache, at the pinned commit; fetched if need be.

    Raises HubError: out of reach, gated, not whole, not to be loaded, or another commit than the pinned one.
    """
    entry, revision = _entry(repo, kind), required(study, repo, kind)
    if entry and entry.revision and entry.revision != revision:
        pins = f"{study.root / PINS} records commit {revision}, the registry now requires {entry.revision}"
        how = "to go on with that one, delete its line there (results made with the old one are made again)"
        raise HubError(f"{repo}: {pins}; {how}")
    folder = _fetched(study, repo, kind, revision)
    if fault := lacking(folder, repo, kind):
        raise HubError(f"{repo} at {folder.name} {fault}")
    key, pinned = f"{kind}s/{repo}", revisions(study)
    if pinned.get(key) != folder.name:
        pinned[key] = folder.name
        atomic_write(study.root / PINS, json.dumps(dict(sorted(pinned.items())), indent=1) + "\n")
    return folder


def remedy(repo: str, kind: Kind = "model", revision: str | None = None) -> str:
    """How to get a repository, as part of a sentence: the command, what it needs, where else it may lie."""
    entry, other = _entry(repo, kind), "give a folder that holds the model in place of its name"
    if isinstance(entry, DataEntry):
        other = f"put the files into $GATEAU_DATA/{entry.name}/"
        if entry.host == "github":
            return f"fetch it from https://github.com/{repo} ({', '.join(entry.files)}) and {other}"
    words = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    words += " --repo-type dataset" if kind == "dataset" else ""
    if entry and entry.gated:
        words += f" (accept its licence on https://huggingface.co/{repo} first, then hf auth login)"
    return f"where there is a network: {words}, its cache is {cache()}; or {other}"


def matching(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Files that fit the patterns, in their order; none unless each pattern fits one."""
    each = [sorted(root.glob(pattern)) for pattern in patterns]
    return [path for paths in each for path in paths] if all(each) else []


def sha256(path: Path) -> str:
    """Of a file's bytes; a file of the same size and time is not read again."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


@lru_cache
def _digest(path: Path, size: int, time: int) -> str:
    return path_hash(path)


def cache() -> Path:
    """The folder of the hub's cache."""
    return Path(constants.HF_HUB_CACHE)


def snapshots(repo: str, kind: Kind = "model") -> Path:
    """Where the cache keeps what it has of a repository, one folder a commit; it may not exist."""
    return cache() / f"{kind}s--{repo.replace('/', '--')}" / "snapshots"


def required(study: Study, repo: str, kind: Kind = "model") -> str | None:
    """The commit that must be used: what the study has pinned, else the registry's; None if any will do."""
    entry = _entry(repo, kind)
    return revisions(study).get(f"{kind}s/{repo}") or (entry.revision if entry else None)


def _entry(repo: str, kind: Kind) -> ModelEntry | DataEntry | None:
    if kind == "model":
        return registry.models().get(repo)
    return next((entry for entry in registry.data_sets().values() if entry.repo == repo), None)


def lacking(folder: Path, repo: str, kind: Kind = "model") -> str:
    """What a snapshot lacks to be used, with the way to get it; empty if it is whole."""
    again = f"; {remedy(repo, kind, folder.name)}"
    if kind == "dataset":
        files = getattr(_entry(repo, kind), "files", ())
        return f"lacks one of {', '.join(files)}{again}" if files and not matching(folder, files) else ""
    if not (folder / "config.json").is_file():
        return f"has no config.json{again}"
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    if missing := sorted(name for name in shards if not (folder / name).is_file()):
        return f"lacks {len(missing)} of {len(shards)} files of weights ({missing[0]}){again}"
    if not any(folder.glob("*.safetensors")):
        what = "has no safetensors, the only weights that are loaded; convert the others once"
        return f"{what}: {conversion_command(folder, repo)}"
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        return f"has no tokenizer{again}"
    return ""


def conversion_command(folder: Path, repo: str) -> str:
    """The command that writes a repository's ``pytorch_model.bin`` as safetensors; it reads tensors only."""
    source = f"hf_hub_download('{repo}', 'pytorch_model.bin', revision='{folder.name}')"
    load = f"torch.load({source}, weights_only=True, mmap=True)"
    names = "torch; from huggingface_hub import hf_hub_download; from safetensors.torch import save_file"
    save = f"save_file({load}, '{folder}/model.safetensors', {{'format': 'pt'}})"
    return f'python -c "import {names}; {save}"'


def _fetched(study: Study, repo: str, kind: Kind, revision: str | None) -> Path:
    """The snapshot's folder; a pinned one that is in the cache is taken without asking the hub."""
    entry = _entry(repo, kind)
    patterns = MODEL_FILES if kind == "model" else getattr(entry, "files", None)
    what: dict[str, Any] = {"repo_id": repo, "repo_type": kind, "revision": revision, "cache_dir": cache()}
    what["allow_patterns"] = patterns and list(patterns)
    away = getattr(entry, "host", "hub") != "hub"  # only a rehearsal has put it into the cache
    if revision or away:
        try:
            folder = Path(huggingface_hub.snapshot_download(**what, local_files_only=True))
            if away or not lacking(folder, repo, kind):
                return folder
        except (OSError, ValueError):  # not there, or not whole
            if away:
                raise HubError(f"{repo} is not on the hub; {remedy(repo, kind)}") from None
    try:
        return Path(huggingface_hub.snapshot_download(**what))
    except Exception as error:  # the client's errors, the HTTP library's (no network, time-out), the disk's
        fault = _fault(study, repo, kind, revision, error)
        raise HubError(f"{repo}: {fault}; {remedy(repo, kind, revision)}") from error


def _fault(study: Study, repo: str, kind: Kind, revision: str | None, error: Exception) -> str:
    """What went wrong with a download, in words."""
    if isinstance(error, errors.GatedRepoError):
        page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{repo}"
        return f"access is restricted; accept its licence on {page}, then hf auth login"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository on the hub, or a private one (hf auth login)"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has no commit {revision}"
    if getattr(error, "errno", None) == errno.ENOSPC:
        fix = "free some or set HF_HOME to a larger one, what was fetched is kept"
        return f"the disk of {cache()} is full; {fix}"
    others = sorted(folder.name for folder in snapshots(repo, kind).glob("*"))
    if revision and others and revision not in others:
        who, more = "the registry", ""
        if f"{kind}s/{repo}" in revisions(study):
            who, more = str(study.root / PINS), "; to go on with another, delete the line there"
        return f"{who} requires commit {revision}, the cache has {', '.join(others)}{more}"
    why = (
        "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the hub does not answer ({reason(error)})"
    )
    return f"not in the cache, or not whole, and {why}"
