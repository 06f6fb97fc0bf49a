"""Published data sets: from the hub, or from folders of one's own below ``$GATEAU_DATA``."""

import json
import os
from pathlib import Path
from typing import Any, Literal

from gateau_lib.sources import conversion
from gateau_lib.sources.hub import HubError, matching, sha256, snapshot
from gateau_lib.study import registry
from gateau_lib.study.errors import DataError
from gateau_lib.study.store import Study, artefact

CHANGES_NO_RESULT = True  # what is read enters keys by its content


def long_samples(study: Study) -> Path:
    """A folder with the long data set's ``samples.jsonl`` (LongAlign records) and ``card.json``, made once.

    The card: repository, revision, licence, SHA-256 of every file; the numbers of `conversion.convert`.
    Raises HubError: out of reach; DataError: files that cannot be read.
    """
    return _samples(study, study.profile.long_data, "long")


def short_samples(study: Study) -> Path:
    """The same for the short instructions, the first question and answer of each conversation."""
    return _samples(study, study.profile.short_data, "short")


def _samples(study: Study, key: str, kind: Literal["long", "short"]) -> Path:
    known = [name for name, each in registry.data_sets().items() if each.kind == kind]
    if key not in known:
        raise HubError(f"{key!r} is no {kind} data set of the registry; it has {', '.join(known)}")
    files, about = files_of(study, key)

    def build(out: Path) -> None:
        counts = conversion.convert(files, kind, key, out / "samples.jsonl")
        if not counts["kept"]:
            reasons = f"{counts['read']} records can be used: {counts['dropped']}"
            raise DataError(f"{key}: none of {reasons}; fetch the files of {about['repo']} again")
        write_card(out, about | counts)

    return artefact(study, key, build, code=[conversion.convert], kind=kind, about=about)


def files_of(study: Study, key: str) -> tuple[list[Path], dict[str, Any]]:
    """Files of a data set in the order they are read, and the beginning of its card.

    They lie in ``$GATEAU_DATA/<key>`` if there is such a folder; HubError if they can be had nowhere.
    """
    entry, own = registry.data_sets()[key], os.environ.get("GATEAU_DATA")
    root, revision = Path(own or "").expanduser() / key, None
    if own and root.is_dir():
        files = matching(root, entry.files) or matching(root, [Path(each).name for each in entry.files])
        files = files or [path for pattern in entry.own for path in sorted(root.rglob(pattern))]
        if not files:
            names = ", ".join(entry.files + entry.own)
            raise HubError(f"{root} holds none of {names}; put the files of {entry.repo} there")
    else:
        root = snapshot(study, entry.repo, "dataset")
        files, revision = matching(root, entry.files), root.name
    about = {"name": key, "repo": entry.repo, "revision": revision}
    about |= {"folder": None if revision else f"$GATEAU_DATA/{key}", "licence": entry.licence}
    hashes = {path.relative_to(root).as_posix(): sha256(path) for path in files}
    return files, about | {"source": entry.source, "sha256": hashes}


def write_card(out: Path, card: dict[str, Any]) -> None:
    """What a folder's data were made from, beside them."""
    (out / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
