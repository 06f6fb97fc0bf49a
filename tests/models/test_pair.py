"""Two models that score are of one family, in the right order, and can be read; said before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from scoring_command import command, write_data
from tokenizers import normalizers
from transformers import ByT5Tokenizer

from gateau_lib import score
from gateau_lib.models import loading, pair
from gateau_lib.study.errors import ModelError, ScoreError


def copied(folder: Path, to: Path, **settings: object) -> Path:
    """A copy of a model's folder, with settings in config.json changed, or taken out where they are None."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text(encoding="utf-8")) | settings
    kept = {name: value for name, value in config.items() if value is not None}
    (to / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return to


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data.jsonl")


def refusal(line: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command ends with, before it leaves anything."""
    assert score.main(line) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("error: ")
    assert not list(Path(line[0]).parent.glob("*.parquet*"))
    return said.err


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_pair_in_the_wrong_order_is_refused(how, data, saved_pair, tmp_path, capsys):
    said = refusal(command(data, saved_pair[::-1], tmp_path / "s.parquet", *how), capsys)
    assert "--short has a window of 1,024 tokens, --long one of 128; give" in said


def test_one_model_as_both_is_in_order(saved_pair):
    assert pair.windows(str(saved_pair[0]), str(saved_pair[0]), None) == (128, 128)
    assert pair.windows(None, str(saved_pair[1]), None) == (1024, 1024)


def test_a_configuration_without_a_window_asks_for_a_length(saved_pair, monkeypatch):
    """As of Bloom and Mamba."""
    monkeypatch.setattr(pair.rope, "window_of", lambda config: None)
    short, long = map(str, saved_pair)
    with pytest.raises(ScoreError, match="long: its configuration names no window .* give --max-length"):
        pair.windows(short, long, None)
    assert pair.windows(short, long, 500) == (500, 500) and pair.windows(None, long, 70) == (70, 70)


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_template_that_is_not_there_is_refused(how, data, saved_pair, tmp_path, capsys):
    said = refusal(command(data, saved_pair, tmp_path / "s.parquet", "--chat-template", *how), capsys)
    assert "--chat-template: the tokenizer of" in said and "has no chat template; leave it out" in said


@pytest.mark.parametrize("how", [(), ("--plan",)], ids=["score", "plan"])
def test_a_tokenizer_that_strips_is_another_one(how, data, saved_pair, tmp_path, tokenizer, capsys):
    long = copied(saved_pair[1], tmp_path / "strips")
    other = loading.load_tokenizer(long)
    other.backend_tokenizer.normalizer = normalizers.Strip()
    other.save_pretrained(long)
    assert other("a b").input_ids == tokenizer("a b").input_ids
    said = refusal(command(data, (saved_pair[0], long), tmp_path / "s.parquet", *how), capsys)
    assert "not homologous: their tokenizers split the same text differently" in said


def test_more_tokens_than_embeddings_are_refused(saved_pair, tmp_path):
    long = copied(saved_pair[1], tmp_path / "more")
    other = loading.load_tokenizer(long)
    other.add_tokens(["more", "than", "there", "are"])
    other.save_pretrained(long)
    with pytest.raises(ScoreError, match="the long model has 259 embeddings for 263 tokens"):
        pair.load_pair(None, str(long), False, "float32", torch.device("cpu"))


def test_a_tokenizer_without_a_fast_form_is_refused(saved_pair, tmp_path):
    folder = copied(saved_pair[1], tmp_path / "bytes")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    ByT5Tokenizer().save_pretrained(folder)
    with pytest.raises(ModelError, match=r"its tokenizer \(ByT5Tokenizer\) has no fast form") as error:
        loading.load_tokenizer(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", [None, "</s>"])
def test_a_response_alone_needs_a_token_before_it(end, data, saved_pair, tmp_path, capsys):
    """IFD; other methods need neither a start nor an end token."""
    long, out = copied(saved_pair[1], tmp_path / "bare"), tmp_path / "s.parquet"
    other = loading.load_tokenizer(long)
    other.bos_token, other.eos_token = None, end
    other.save_pretrained(long)
    assert loading.load_tokenizer(long).bos_token_id is None
    models = ["--long", str(long), "--device", "cpu", "--out", str(out)]
    assert score.main([str(data), *models, "--methods", "perplexity"]) == 0
    assert score.main([str(data), *models, "--methods", "ifd"]) == (0 if end else 2)
    said = capsys.readouterr().err
    assert end or "neither a start nor an end token to put before a response alone; leave out ifd" in said
