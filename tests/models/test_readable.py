"""Models that look ahead, or that cannot read a plain text, are refused before any work."""

from __future__ import annotations

import pytest
import torch
from every_family import build
from families import FAMILIES
from families import build as build_causal

from gateau_lib.models import pair
from gateau_lib.models.nll import batch_nll
from gateau_lib.models.readable import check_readable
from gateau_lib.study.errors import ModelError


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_models_are_readable(family):
    check_readable(build_causal(family))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["roformer", "big_bird", "bert"])
def test_an_encoder_is_refused(family, dtype):
    """RoFormer and BigBird load and run as causal language models; as decoders they are."""
    encoder, decoder = build(family).to(dtype), build(f"{family}, decoder").to(dtype)
    with pytest.raises(ModelError, match="view ahead|depends on later tokens, as in an encoder") as error:
        check_readable(encoder)
    assert "\n" not in str(error.value)
    check_readable(decoder)


def test_a_model_that_stumbles_is_refused_in_one_line(llama, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise IndexError("pictures are missing\nand more")

    monkeypatch.setattr(llama, "forward", fails)
    with pytest.raises(
        ModelError, match=r"llama: cannot read a plain text \(IndexError: pictures are missing\)"
    ):
        check_readable(llama)
    monkeypatch.setattr(
        llama, "forward", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room"))
    )
    with pytest.raises(torch.OutOfMemoryError):
        check_readable(llama)


def test_weights_that_are_not_numbers_are_for_the_rows_to_say(llama, monkeypatch):
    def broken(*call: object, **more: object) -> list[torch.Tensor]:
        return [torch.full_like(each, torch.nan) for each in batch_nll(*call, **more)]

    monkeypatch.setattr("gateau_lib.models.readable.batch_nll", broken)
    check_readable(llama)


def test_it_is_asked_of_both_models_of_a_pair(saved_pair, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pair, "check_readable", lambda model: asked.append(model.config.max_position_embeddings)
    )
    pair.load_pair(*map(str, saved_pair), True, "float32", torch.device("cpu"))
    assert asked == [1024, 128]
