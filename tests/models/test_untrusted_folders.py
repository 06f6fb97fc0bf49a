"""Nothing that lies in a model's folder is ever run, and what is not loaded is refused with the way out."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import logits

from gateau_lib import score
from gateau_lib.models import adapters, generate, loading, sizes
from gateau_lib.models.loading import load
from gateau_lib.models.prompts import prompt_ids
from gateau_lib.study.errors import DataError, ModelError

TURNS = [{"role": "user", "content": "A key.\n\nWhere?"}, {"role": "assistant", "content": "Here."}]
CPU = torch.device("cpu")


class Canary:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def folder(saved_pair, tmp_path, monkeypatch) -> Path:
    """A model's folder that may be changed, and a user who says yes to everything."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    return shutil.copytree(saved_pair[1], tmp_path / "own")


@pytest.fixture
def adapted(llama, saved_pair, tokenizer, tmp_path) -> Path:
    """A folder of adapters as peft writes it: no configuration of a model, no tokenizer."""
    import copy

    model = adapters.attach(copy.deepcopy(llama), saved_pair[0], 2, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapters", save_embedding_layers=False)
    assert not (tmp_path / "adapters" / "config.json").exists()
    return tmp_path / "adapters"


def changed(path: Path, **settings: Any) -> None:
    there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(there | settings), encoding="utf-8")


def refused(read: Any, *given: Any) -> str:
    with pytest.raises(ModelError) as error:
        read(*given)
    assert "\n" not in str(error.value)
    return str(error.value)


def command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What a scoring command with this model says when it refuses it, in one line."""
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "a", "messages": TURNS}) + "\n", encoding="utf-8")
    line = [str(tmp_path / "d.jsonl"), "--long", str(folder), "--methods", "perplexity", "--device", "cpu"]
    assert score.main([*line, "--out", str(tmp_path / "s.parquet"), *more]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and not (tmp_path / "s.parquet").exists()
    return said.err


# Code -------------------------------------------------------------------------------------------------------


def test_code_for_what_is_not_read_is_left_alone(folder, saved_pair, tmp_path, capsys):
    """Processors, ways to generate and their requirements, whatever a folder names."""
    mark = tmp_path / "ran"
    own = f"open({str(mark)!r}, 'w').close()\nclass Own: pass\ndef generate(model, **more): return Own()\n"
    (folder / "own_code.py").write_text(own)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(own)
    (folder / "custom_generate" / "requirements.txt").write_text("nowhere-to-be-found==1\n")
    for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        changed(folder / name, auto_map={"AutoProcessor": "own_code.Own"}, processor_class="Own")
    changed(folder / "generation_config.json", custom_generate=str(folder), trust_remote_code=True)
    changed(folder / "config.json", custom_pipelines={"text-generation": {"impl": "own_code.Own"}})
    (model, tokenizer), (plain, _) = load(folder, to=CPU), load(saved_pair[1], to=CPU)
    assert torch.equal(logits(model), logits(plain))
    prompt = tokenizer("A key.").input_ids
    assert generate.continue_greedily(model, [prompt], 3, []) == generate.continue_greedily(
        plain, [prompt], 3, []
    )
    loading.load_config(folder)
    sizes.of(str(folder))
    assert capsys.readouterr().out == "" and not mark.exists()


@pytest.mark.parametrize("place", ["attn_implementation", "_attn_implementation", "text_config"])
@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_kernel_of_the_hub_is_refused(place, how, folder, tmp_path, capsys):
    """Transformers would fetch compiled code by the name in a configuration."""
    inner = {"attn_implementation": "somebody/kernel"}
    changed(
        folder / "config.json", **({"text_config": inner} if place == "text_config" else {place: "some/body"})
    )
    said = command(folder, tmp_path, capsys, *how)
    assert "attn_implementation in its config.json asks for compiled code from the hub" in said


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch ' ~ mark) }}",
        "{{ messages.append(1) }}",
        "{% include 'own_code.py' %}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(template, folder, tmp_path, capsys):
    """A template is a program; transformers runs it where it reaches nothing but the messages."""
    (folder / "chat_template.jinja").write_text(template.replace("mark", repr(str(tmp_path / "ran"))))
    tokenizer = loading.load_tokenizer(folder)
    with pytest.raises(DataError, match="the chat template fails") as error:
        prompt_ids(tokenizer, ["Where?"], [], chat=True)
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_adapters_that_name_a_module_are_refused(adapted, tmp_path, monkeypatch):
    (tmp_path / "own_code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    changed(adapted / adapters.CONFIG, megatron_config={"a": 1}, megatron_core="own_code")
    assert "megatron_config in adapter_config.json asks for code of its own" in refused(load, adapted)
    changed(adapted / adapters.CONFIG, megatron_config=None, auto_mapping={"parent_library": "own_code"})
    load(adapted, to=CPU)
    assert not (tmp_path / "ran").exists()


# Pickles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_pickled_weights_are_refused_with_the_command(name, how, folder, tmp_path, capsys):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    said = command(folder, tmp_path, capsys, *how)
    assert f"{folder}: pickled weights ({name}) are not loaded; convert them once" in said
    assert 'python -c "from transformers import' in said and not (tmp_path / "ran").exists()


def test_the_command_converts_them(folder, saved_pair):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    line = refused(load, folder).partition(": python ")[2]
    done = subprocess.run(f"{sys.executable} {line}", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(logits(load(folder, to=CPU)[0]), logits(load(saved_pair[1], to=CPU)[0]))


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_pickled_adapters_are_refused_with_the_command(how, adapted, tmp_path, capsys):
    """Peft would read them."""
    (adapted / adapters.WEIGHTS).unlink()
    (adapted / "adapter_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    said = command(adapted, tmp_path, capsys, *how)
    assert "pickled adapters are not loaded; convert them once: python -c" in said
    assert not (tmp_path / "ran").exists()


def test_the_command_converts_adapters(adapted):
    before, _ = load(adapted, to=CPU)
    weights = load_file(adapted / adapters.WEIGHTS)
    (adapted / adapters.WEIGHTS).unlink()
    torch.save(weights, adapted / "adapter_model.bin")
    line = refused(load, adapted).partition("once: python ")[2]
    done = subprocess.run(f"{sys.executable} {line}", shell=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert torch.equal(logits(load(adapted, to=CPU)[0]), logits(before))


# Adapters ---------------------------------------------------------------------------------------------------


def test_adapters_as_peft_writes_them_are_read_with_their_base(adapted, llama, tokenizer):
    merged, read = load(adapted, to=CPU)
    assert not torch.allclose(logits(merged), logits(llama), atol=0.1)
    assert read.get_vocab() == tokenizer.get_vocab()
    assert loading.load_config(adapted).max_position_embeddings == llama.config.max_position_embeddings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_model_name_or_path": None}, "base_model_name_or_path in adapter_config.json names no model"),
        ({"base_model_name_or_path": "./gone"}, "gone: no config.json there"),
        ({"peft_type": "PREFIX_TUNING"}, "adapters of type 'PREFIX_TUNING'; LoRA is read here"),
    ],
)
def test_adapters_that_cannot_be_read_are_one_line(settings, said, adapted, tmp_path, capsys):
    changed(adapted / adapters.CONFIG, **settings)
    assert said in command(adapted, tmp_path, capsys)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_settings_of_adapters_that_are_none(text, adapted):
    (adapted / adapters.CONFIG).write_text(text)
    assert "adapter_config.json is not as peft writes it" in refused(load, adapted)


def test_adapters_of_adapters_are_refused(adapted, tmp_path):
    second = shutil.copytree(adapted, tmp_path / "second")
    changed(second / adapters.CONFIG, base_model_name_or_path=str(adapted))
    assert "holds adapters; merge them into a model first" in refused(load, second)


# Files that are not what their names say --------------------------------------------------------------------


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_pointer_in_place_of_weights_is_named(how, folder, tmp_path, capsys):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 13\n"
    (folder / "model.safetensors").write_text(pointer)
    said = command(folder, tmp_path, capsys, *how)
    assert "model.safetensors: a git-lfs pointer in place of weights; fetch them: git lfs pull" in said


@pytest.mark.parametrize(
    "settings",
    [
        {"num_hidden_layers": "two"},
        {"hidden_size": None},
        {"rope_parameters": [1]},
        {"num_attention_heads": 0},
        {"hidden_act": "two"},
        {"vocab_size": -3},
    ],
)
@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_configuration_that_makes_no_model_is_one_line(settings, how, folder, tmp_path, capsys):
    changed(folder / "config.json", **settings)
    assert f"error: {folder}: " in command(folder, tmp_path, capsys, *how)


@pytest.mark.parametrize("length", ["two", [1], {}])
def test_a_tokenizer_that_reads_no_text_is_one_line(length, folder, tmp_path, capsys):
    changed(folder / "tokenizer_config.json", model_max_length=length)
    assert f"error: {folder}: cannot load (TypeError: " in command(folder, tmp_path, capsys)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "[]", "<html>", "{", '"text"'])
def test_settings_that_are_none_are_one_line(name, text, folder, tmp_path, capsys):
    (folder / name).write_text(text)
    assert f"error: {folder}: " in command(folder, tmp_path, capsys)


@pytest.mark.parametrize("how", ["a shard is missing", "a shard is cut", "the index is none", "no weights"])
def test_weights_in_parts_that_are_not_whole_are_one_line(how, folder, llama, tmp_path, capsys):
    (folder / "model.safetensors").unlink()
    llama.save_pretrained(folder, max_shard_size="40KB")
    first, *others = sorted(folder.glob("model-*.safetensors"))
    assert others
    if how == "a shard is missing":
        first.unlink()
    elif how == "a shard is cut":
        first.write_bytes(first.read_bytes()[:500])
    elif how == "the index is none":
        (folder / "model.safetensors.index.json").write_text("[]")
    else:
        for path in (first, *others, folder / "model.safetensors.index.json"):
            path.unlink()
    assert f"error: {folder}: " in command(folder, tmp_path, capsys)
