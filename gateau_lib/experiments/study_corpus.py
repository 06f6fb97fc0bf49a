"""The study's planted corpus as an artefact, and the tokenizer that reads it."""

from pathlib import Path
from typing import Any

from gateau_lib.data.corpus import write_corpus
from gateau_lib.data.tokenizer import build_tokenizer
from gateau_lib.models import loading
from gateau_lib.models.loading import SHIPPED
from gateau_lib.sources import hub
from gateau_lib.study.store import Study, artefact


def load_tokenizer(study: Study) -> Any:
    """The study's tokenizer: built from scratch, the shipped one, or that of the given short model."""
    name = study.profile.short_model
    if name == "scratch":
        return build_tokenizer()
    return loading.load_tokenizer(SHIPPED / "short" if name == "shipped" else hub.model(study, name))


def prepared(study: Study) -> Path:
    """The study's corpus folder (see `corpus.write_corpus`), made once for its profile and seed."""
    # Fields of a profile that decide what the corpus holds; others may change without making it anew.
    names = "short_model short_window pool_per_kind pool_tokens pool_seeds short_pool eval_items eval_lengths"
    names += " short_plenty noise_per_kind eval_needles"
    inputs = {name: getattr(study.profile, name) for name in names.split()}
    if study.profile.short_model == "shipped":
        inputs["shipped"] = SHIPPED
    elif study.profile.short_model != "scratch":
        inputs["revision"] = hub.identity(study, study.profile.short_model)

    def build(out: Path) -> None:
        write_corpus(out, study.profile, study.seed, load_tokenizer(study))

    return artefact(study, "corpus", build, code=[write_corpus, load_tokenizer], seed=study.seed, **inputs)
