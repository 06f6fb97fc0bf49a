"""Families with something of their own are read right, or refused for a reason; `make families` tries all."""

from __future__ import annotations

import pytest
from every_family import FAMILIES, PASSES, Verdict, page, verdicts

ALL = dict.fromkeys(PASSES, "right")
SLIDING = ALL | {"as released": "layers of sliding_attention, which the released code, written for Llama"}
NO_ATTENTION = ALL | dict.fromkeys(["CAM", "LongAttn"], "attention of this family cannot be read")
NO_ATTENTION |= {"as released": "positions that are not rotary, which the released code"}
TRUNCATE = "use --reading truncate"
# How each pass goes: "right", or what the refusal says.
EXPECTED: dict[str, dict[str, str]] = {
    "llama": ALL,
    "qwen3": ALL,
    # Sinks are read as one more key without a value.
    "gpt_oss": SLIDING | {"NTK": f"RoPE of type 'yarn' cannot be stretched here; {TRUNCATE}"},
    "gpt_oss, default RoPE": SLIDING,
    "granite_swa": SLIDING | {"NTK": "RoPE bases of their own"},
    # A mask that is added, not only what is hidden.
    "doge": ALL | {"as released": "masks that are added"},
    # Masks are sliced; heads differ from layer to layer.
    "gemma4_text, shared keys": SLIDING | {"NTK": "'proportional' cannot be stretched"},
    # Layers of chunks; the fourth sees all.
    "llama4_text": ALL | {"NTK": "do not reach beyond a chunk", "as released": "layers of chunked_attention"},
    # Their rotary positions lie elsewhere.
    "modernbert-decoder": SLIDING,
    # No cache, learned positions, attention that cannot be exchanged.
    "openai-gpt": NO_ATTENTION | {"NTK": f"no rotary positions to stretch; {TRUNCATE}"},
    # No window in the configuration.
    "bloom": NO_ATTENTION,
    "mamba": NO_ATTENTION | {"CAM": "", "LongAttn": ""},
    # No positions in layers that see all.
    "beam": ALL | {"NTK": TRUNCATE, "as released": ""},
    "gpt2": ALL | {"NTK": TRUNCATE, "as released": "positions that are not rotary"},
    "mistral, sliding": ALL | {"LongAttn": "no layer sees the whole", "as released": "layers of a sliding"},
    "deepseek_v32": dict.fromkeys(PASSES, "attention with indices is not read here"),
    "roformer": dict.fromkeys(PASSES, "depends on later tokens, as in an encoder"),
    "jamba": NO_ATTENTION
    | {"CAM": "2 of 4 layers have softmax attention", "LongAttn": "right", "NTK": TRUNCATE},
}


@pytest.mark.parametrize("family", EXPECTED)
def test_a_family_is_read_right_or_refused(family):
    if family not in FAMILIES:
        pytest.skip("this version of transformers does not know it")
    found = verdicts(family)
    assert found.keys() == EXPECTED[family].keys(), found
    for name, wanted in EXPECTED[family].items():
        got = found[name]
        if wanted == "right":
            assert got.word == "right", f"{name}: {got}"
        else:
            assert got.word == "refused" and wanted in got.said, f"{name}: {got}"


def test_the_page_has_a_row_a_family_and_a_note_a_reason():
    bad = Verdict("refused", "no positions")
    text = page({"one": dict.fromkeys(PASSES, Verdict("right", "3e-08")), "two": dict.fromkeys(PASSES, bad)})
    assert "| one | 3e-08 |" in text and "| two | refused [1] | refused [1] |" in text
    assert text.endswith("\n1. no positions\n") and "of 2 families are right: losses 1;" in text.casefold()


def test_all_that_transformers_knows_are_tried():
    assert len(FAMILIES) > 100 and {"llama", "gpt_oss", "gpt2"} <= set(FAMILIES)
