"""Other tools read the same texts as the library, and what differs is said."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gateau_lib.scoring import speed, speed_peers
from gateau_lib.study.errors import ScoreError


@pytest.fixture(scope="module")
def pair():
    return speed.random_pair(torch.device("cpu"), hidden_size=32, layers=1, heads=2)


def fake(factor):
    """A tool that reads the folder as told, and is off by a factor."""

    def begin(folder, samples, device):
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

        def losses():
            found = []
            for one in samples:
                ids = tokenizer(one.context + one.response, return_tensors="pt")["input_ids"]
                labels, y = ids.clone(), len(tokenizer.tokenize(one.response))
                labels[:, :-y] = -100
                with torch.inference_mode():
                    found.append(factor * model(input_ids=ids, labels=labels).loss.item())
            return found

        peer = speed_peers.Peer(losses, exact=True)
        model.register_forward_pre_hook(peer.watch, with_kwargs=True)
        return peer

    return begin


def test_texts_have_the_lengths_that_are_asked_for(pair):
    texts = speed_peers.texts(pair.tokenizer, [64, 200], 24)
    read = [speed_peers.encoded(one, pair.tokenizer) for one in texts]
    assert [len(one.ids) for one in read] == [64, 200] and [len(one.response) for one in read] == [16, 24]


def test_a_tool_is_measured_beside_the_library(pair, monkeypatch):
    monkeypatch.setattr(speed_peers, "PEERS", {"fake": ("torch", "torch", "", fake(1.0))})
    rows = speed.compare_losses(pair, n=3, window=256, repeats=1)
    row = {row["what"]: row for row in rows}["fake"]
    assert row["same_tokens"] and row["apart"] < 1e-4 and row["forwards"] == 3 and row["times"] > 0
    assert (
        row["scored"] == sum(len(s.response) for s in encoded(pair)) and row["section"] == "response losses"
    )


def encoded(pair):
    texts = speed_peers.texts(pair.tokenizer, speed.log_uniform(3, 256), speed.RESPONSE)
    return [speed_peers.encoded(text, pair.tokenizer) for text in texts]


def test_other_losses_are_an_error_of_a_tool_that_counts_the_same_tokens(pair, monkeypatch):
    monkeypatch.setattr(speed_peers, "PEERS", {"fake": ("torch", "torch", "", fake(1.01))})
    with pytest.raises(ScoreError, match="by the library and by fake differ"):
        speed.compare_losses(pair, n=2, window=256, repeats=1)


def test_other_tokens_are_said(pair):
    peer = speed_peers.Peer(list, exact=False)
    peer.watch(None, (), {"input_ids": torch.tensor([[1, 5, 9]]), "labels": torch.tensor([[-100, 5, 9]])})
    samples = encoded(pair)
    assert peer.about(samples) == {"same_tokens": False, "scored": 2}
    peer.read = [one.ids for one in samples]
    assert peer.about(samples)["same_tokens"]


def test_what_is_not_there_or_cannot_run_is_one_line(pair, monkeypatch, capsys):
    def broken(*_):
        raise ImportError("no accelerate")

    peers = {
        "absent": ("no_such_module", "nothing", "more", fake(1)),
        "broken": ("torch", "torch", "", broken),
    }
    monkeypatch.setattr(speed_peers, "PEERS", peers)
    with speed_peers.ready(pair, []) as found:
        assert found == {}
    first, second = capsys.readouterr().out.splitlines()
    assert first == "absent: not measured, since it is not installed (pip install nothing more)"
    assert second == "broken: not measured: no accelerate"
    assert speed_peers.versions() == {"absent": None, "broken": torch.__version__}


@pytest.mark.parametrize(
    ("name", "module"), [("lm-evaluation-harness", "lm_eval"), ("Data-Juicer", "data_juicer")]
)
def test_the_real_one(name, module, pair, monkeypatch):
    pytest.importorskip(module)
    monkeypatch.setattr(speed_peers, "PEERS", {name: speed_peers.PEERS[name]})
    found = {row["what"]: row for row in speed.compare_losses(pair, n=3, window=256, repeats=1)}
    if name not in found:
        pytest.skip("it is installed, but not what it needs")
    assert found[name]["same_tokens"] and found[name]["times"] > 0
