"""Copy the pair that the cpu profile trained into the package, with its provenance:
``python scripts/ship_pair.py``.

Run it after ``make cpu``. The smoke study and ``make select`` without models use the copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil

from gateau_lib.experiments import study_corpus
from gateau_lib.models import loading
from gateau_lib.study import store
from gateau_lib.training import pretrain


def main() -> None:
    """Replace ``gateau_lib/models/tiny_pair`` by the cached pair of ``results/cpu``."""
    study = store.open_study("cpu")
    folder = pretrain.pair(study, study_corpus.prepared(study))
    made = json.loads((study.root / "manifest.json").read_text(encoding="utf-8"))["notebooks"][
        "02_homologous_models"
    ]
    about = {
        "made_by": "make cpu, notebook 02",
        "profile": "cpu",
        "seed": study.seed,
        "run": made,
        "sha256": {},
    }
    shutil.rmtree(loading.SHIPPED, ignore_errors=True)
    for name in ("short", "long"):
        shutil.copytree(folder / name, loading.SHIPPED / name)
        weights = (loading.SHIPPED / name / "model.safetensors").read_bytes()
        about["sha256"][name] = hashlib.sha256(weights).hexdigest()
    (loading.SHIPPED / "provenance.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"shipped {folder.name}")


if __name__ == "__main__":
    main()
