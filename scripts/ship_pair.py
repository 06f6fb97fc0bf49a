"""Copy the pair of the cpu profile into the package, with its provenance: ``python scripts/ship_pair.py``.

Run it from a clean tree; the pair is trained if it is not in the cache. The smoke study and ``make select``
without models use the copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil

from gateau_lib.experiments import study_corpus
from gateau_lib.models import loading
from gateau_lib.study import manifest, store
from gateau_lib.training import pretrain


def main() -> None:
    """Replace ``gateau_lib/models/tiny_pair`` by the cached pair of ``results/cpu``."""
    study = store.open_study("cpu")
    folder = pretrain.pair(study, study_corpus.prepared(study))
    about = {"made_by": "scripts/ship_pair.py", "profile": "cpu", "seed": study.seed, "artefact": folder.name}
    about |= manifest.commit() | {"sha256": {}}
    shutil.rmtree(loading.SHIPPED, ignore_errors=True)
    for name in ("short", "long"):
        shutil.copytree(folder / name, loading.SHIPPED / name)
        weights = (loading.SHIPPED / name / "model.safetensors").read_bytes()
        about["sha256"][name] = hashlib.sha256(weights).hexdigest()
    (loading.SHIPPED / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"shipped {folder.name}")


if __name__ == "__main__":
    main()
