"""Models load whole or not at all, and code that a model brings along is never run."""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import logits
from transformers import CLIPTextConfig, LlamaForCausalLM

from gateau_lib import score
from gateau_lib.models import adapters, loading, sizes
from gateau_lib.models import sizes as sizes_module
from gateau_lib.models.loading import load
from gateau_lib.models.pair import choose_device
from gateau_lib.study.devices import device
from gateau_lib.study.errors import ModelError, ScoreError

# Loading ----------------------------------------------------------------------------------------------------


def test_load_gives_model_in_eval_mode_and_tokenizer(saved_pair):
    model, tokenizer = load(str(saved_pair[0]))
    assert not model.training and model.device.type == device().type and tokenizer.is_fast
    assert load(saved_pair[0], to=torch.device("cpu"))[0].device.type == "cpu"


@pytest.mark.parametrize("name", ["./gone", "/no/such/folder", "gone", "a/b/c"])
def test_missing_folder_is_one_line(name):
    with pytest.raises(
        ModelError, match="no config.json there; give a folder with a saved model or a hub id"
    ) as error:
        load(name)
    assert "\n" not in str(error.value)


def test_unreachable_hub_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ModelError, match="nobody/nothing: cannot load .* download it first, or give a local folder"
    ) as error:
        load("nobody/nothing")
    assert "\n" not in str(error.value)


def test_folder_without_weights_is_one_line(saved_pair, tmp_path):
    for path in saved_pair[0].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="cannot load .* give a local folder"):
        load(tmp_path)


@pytest.mark.parametrize(("text", "said"), [("", "RuntimeError"), ("\n the reason\nmore", "the reason")])
def test_an_error_without_text_is_one_line_too(text, said, saved_pair, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fails)
    with pytest.raises(ModelError, match=rf"short: cannot load \({said}\); download it first"):
        load(saved_pair[0])
    monkeypatch.setattr(torch, "empty", fails)
    with pytest.raises(ScoreError, match=rf"--device cuda: cannot be used here \({said}\); leave it out"):
        choose_device("cuda")


# Code in a model's folder -----------------------------------------------------------------------------------

OWN_MODEL = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
OWN_TOKENIZER = ["own_code.OwnConfig", None]
ASKING = {  # folders that only their own code can read, by file
    "a type that transformers does not know": {"config.json": {"model_type": "own", "auto_map": OWN_MODEL}},
    "a type that it does not know as a language model": {
        "config.json": {"model_type": "clip_text_model", "auto_map": OWN_MODEL}
    },
    "a tokenizer, its model of no known type": {
        "config.json": {"model_type": "own"},
        "tokenizer_config.json": {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": OWN_TOKENIZER}},
    },
    "a tokenizer, its model of a known type": {
        "tokenizer_config.json": {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": OWN_TOKENIZER}}
    },
    "a tokenizer, in the old form": {
        "tokenizer_config.json": {"tokenizer_class": "Own", "auto_map": OWN_TOKENIZER}
    },
    "a tokenizer without a class": {
        "tokenizer_config.json": {"tokenizer_class": None, "auto_map": OWN_TOKENIZER}
    },
}
NAMING = {  # folders that name code and can be read without it
    "a model": {"config.json": {"auto_map": OWN_MODEL}},
    "a tokenizer": {"tokenizer_config.json": {"auto_map": {"AutoTokenizer": OWN_TOKENIZER}}},
    "a tokenizer, in the old form": {"tokenizer_config.json": {"auto_map": OWN_TOKENIZER}},
    "code for what is not used here": {
        "config.json": {"auto_map": {"AutoModelForTokenClassification": "own_code.Own"}}
    },
}
TURNS = [{"role": "user", "content": "A key.\n\nWhere?"}, {"role": "assistant", "content": "Here."}]
RECORD = {"id": "a", "messages": TURNS}
READERS: dict[str, Callable[[Path], Any]] = {
    "load": load,
    "tokenizer": loading.load_tokenizer,
    "configuration": loading.load_config,
    "size": lambda folder: sizes.of(str(folder)),
}


def changed(folder: Path, file: str, **settings: Any) -> None:
    """Change settings in a JSON file of a saved model."""
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")


@pytest.fixture(params=ASKING)
def asking(request, saved_pair, tmp_path, monkeypatch) -> Path:
    """A folder whose code leaves a mark as soon as it is imported, and a user who says yes to everything."""
    return with_code(saved_pair[1], tmp_path, ASKING[request.param], monkeypatch)


def with_code(
    model: Path, tmp_path: Path, files: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path / "own"
    shutil.copytree(model, folder)
    for file, settings in files.items():
        changed(folder, file, **settings)
    (folder / "own_code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass OwnConfig: pass\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    return folder


@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_folder_is_refused_and_never_run(asking, reader, capsys):
    with pytest.raises(
        ValueError, match=r"auto_map in its (tokenizer_)?config.json asks for code of its own"
    ) as error:
        READERS[reader](asking)
    assert isinstance(error.value, ModelError) and "\n" not in str(error.value)
    assert capsys.readouterr().out == "" and not (asking.parent / "ran").exists()


@pytest.mark.parametrize("what", NAMING)
def test_code_that_is_not_needed_is_no_reason_to_refuse(what, saved_pair, tmp_path, monkeypatch, capsys):
    """Transformers knows the type by itself (Phi-3's repositories, for one, still name code):
    its own class is loaded."""
    folder = with_code(saved_pair[1], tmp_path, NAMING[what], monkeypatch)
    (model, tokenizer), (plain, plain_tokenizer) = load(folder), load(saved_pair[1])
    assert type(model) is LlamaForCausalLM and torch.equal(logits(model), logits(plain))
    assert tokenizer("a b").input_ids == plain_tokenizer("a b").input_ids
    for reader in READERS.values():
        reader(folder)
    assert capsys.readouterr().out == "" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_command_with_such_a_folder_ends_in_one_line(asking, how, saved_pair, tmp_path, capsys):
    data = tmp_path / "d.jsonl"
    data.write_text(json.dumps(RECORD) + "\n", encoding="utf-8")
    pair = ["--short", str(saved_pair[0]), "--long", str(asking)]
    assert score.main([str(data), *pair, "--out", str(tmp_path / "s.parquet"), "--device", "cpu", *how]) == 2
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.count("\n") == 1
        and "asks for code of its own, which is never run" in said.err
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("asking", list(ASKING)[:1], indirect=True)
def test_no_code_is_run_to_count_weights(asking, capsys):
    """The shape of a model is counted on a model built from its configuration,
    which can name code as well."""
    config = CLIPTextConfig(auto_map=OWN_MODEL, name_or_path=str(asking))
    with pytest.raises(ModelError, match="not a decoder's configuration"):
        sizes_module.of_config(config)
    assert capsys.readouterr().out == "" and not (asking.parent / "ran").exists()


def test_a_folder_of_a_tokenizer_alone_is_enough_for_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert loading.load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ModelError, match="no config.json there"):
        load(tmp_path)


# Weights that are not those of the configuration ------------------------------------------------------------

Weights = dict[str, torch.Tensor]
SPOILT: dict[
    str, tuple[dict[str, Any], Callable[[Weights], Weights], str]
] = {  # settings, weights, what is said
    "a layer is missing": (
        {},
        lambda weights: {name: w for name, w in weights.items() if ".layers.1." not in name},
        r"weights missing for model\.layers\.1\.\S+, model\.layers\.1\.\S+ and \d+ more",
    ),
    "another prefix": (
        {},
        lambda weights: {f"transformer.{name}": w for name, w in weights.items()},
        r"weights missing for lm_head\.weight, .*; no place for transformer\.model\.embed_tokens\.weight, ",
    ),
    "one layer more": ({"num_hidden_layers": 3}, dict, r"weights missing for model\.layers\.2\."),
    "one layer fewer": ({"num_hidden_layers": 1}, dict, r"no place for model\.layers\.1\."),
    "other sizes": (
        {"intermediate_size": 64},
        dict,
        r"of another size model\.layers\.0\.mlp\.down_proj\.weight \(32 x 96, not 32 x 64\)",
    ),
    "an output head that is not tied": (
        {"tie_word_embeddings": False},
        dict,
        r"weights missing for lm_head\.weight;",
    ),
}


def rewrite(path: Path, change: Callable[[Weights], Weights]) -> None:
    """Change a file of weights."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize("how", SPOILT)
def test_weights_that_are_not_those_of_the_model_are_refused(
    how, saved_pair, tmp_path, capsys, caplog, monkeypatch
):
    """Nothing is scored with weights that transformers makes up,
    and its own table is not printed beside the reason."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # to caplog
    settings, change, said = SPOILT[how]
    folder, data = tmp_path / "spoilt", tmp_path / "d.jsonl"
    shutil.copytree(saved_pair[1], folder)
    changed(folder, "config.json", **settings)
    rewrite(folder / "model.safetensors", change)
    data.write_text(json.dumps(RECORD) + "\n", encoding="utf-8")
    pair = ["--short", str(saved_pair[0]), "--long", str(folder)]
    assert score.main([str(data), *pair, "--out", str(tmp_path / "s.parquet"), "--device", "cpu"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and not (tmp_path / "s.parquet").exists()
    assert caplog.text == ""
    assert re.search(f"error: {re.escape(str(folder))}: {said}", printed.err)


def test_weights_that_change_nothing_are_no_reason_to_refuse(saved_pair, llama, tmp_path):
    """A tied output head that was saved all the same, and frequencies that old checkpoints keep
    in every layer."""
    shutil.copytree(saved_pair[0], tmp_path / "old")
    more = {"lm_head.weight": llama.lm_head.weight.detach().clone()}
    more |= {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    rewrite(tmp_path / "old" / "model.safetensors", lambda weights: weights | more)
    assert torch.equal(logits(load(tmp_path / "old")[0]), logits(llama))


@pytest.mark.parametrize("kept", [20_000, 100, 0])
def test_a_file_of_weights_that_is_cut_short_is_one_line(kept, saved_pair, tmp_path):
    shutil.copytree(saved_pair[0], tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as weights:
        weights.truncate(kept)
    with pytest.raises(ModelError, match="cut: cannot load .*download it first") as error:
        load(tmp_path / "cut")
    assert "\n" not in str(error.value)


# Adapters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(llama, saved_pair, tokenizer, tmp_path) -> Path:
    """A folder of adapters that change something, of the short model."""
    folder = tmp_path / "adapters"
    model = adapters.attach(copy.deepcopy(llama), saved_pair[0], 2, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder, save_embedding_layers=False)
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_adapters_are_merged_into_their_base(adapted, llama):
    merged, _ = load(adapted)
    assert not torch.allclose(logits(merged), logits(llama), atol=0.1)
    assert merged.state_dict().keys() == llama.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda weights: {n: w for n, w in weights.items() if "layers.1" not in n},
            r"nothing for \S+layers\.1\.\S+ and 13 more",
        ),
        (
            lambda weights: (
                weights | {n.replace("layers.1", "layers.2"): w.clone() for n, w in weights.items()}
            ),
            r"no place for \S+layers\.2",
        ),
        (lambda weights: {n: w[:, :1].clone() for n, w in weights.items()}, "size mismatch"),
    ],
    ids=["missing", "too many", "other sizes"],
)
def test_adapters_of_another_model_are_refused(adapted, change, said):
    """Where adapters are missing peft only warns, and it says nothing about adapters that have no layer."""
    rewrite(adapted / "adapter_model.safetensors", change)
    with pytest.raises(ModelError, match=f"adapters do not belong to this base.*{said}") as error:
        load(adapted)
    assert "\n" not in str(error.value)


def test_a_file_of_adapters_that_is_cut_short_is_one_line(adapted):
    with (adapted / "adapter_model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    with pytest.raises(ModelError, match="adapters: cannot load .*download it first") as error:
        load(adapted)
    assert "\n" not in str(error.value)


def test_adapters_of_a_base_with_missing_weights_are_refused(adapted, saved_pair, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(saved_pair[0], base)
    rewrite(
        base / "model.safetensors",
        lambda weights: {name: w for name, w in weights.items() if ".layers.1." not in name},
    )
    changed(adapted, adapters.CONFIG, base_model_name_or_path=str(base))
    with pytest.raises(ModelError, match=r"base: weights missing for model\.layers\.1\."):
        load(adapted)
