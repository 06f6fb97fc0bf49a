"""Scores of the command line against a slow reference, and runs that are stopped, restarted or changed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import eager
from scipy.special import softmax
from torch.nn import functional

from gateau_lib import engine, models, samples, score
from gateau_lib.nll import NonFiniteLoss

WORDS = "the old mill by the river keeps a blue lantern and a copper key under the third stair".split()
SEGMENT, LENGTH = 16, 256


def write_data(path, n=7, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        context = " ".join(rng.choice(WORDS, 12 + 7 * i)) if i != 2 else ""  # one sample without context, some cut to LENGTH
        made.append(samples.Sample(f"s{i}", context, "Where is the key?", " ".join(rng.choice(WORDS, 1 + i % 3))))
    return samples.write_samples(made, path)


@pytest.fixture()
def data(tmp_path):
    return write_data(tmp_path / "data.jsonl")


def command(data, pair, out, *more):
    short, long = pair
    fixed = ["--segment-length", str(SEGMENT), "--max-length", str(LENGTH), "--shard-size", "3", "--device", "cpu"]
    return [str(data), "--short", str(short), "--long", str(long), "--out", str(out), *fixed, *more]


def rows_of(path):
    return pq.read_table(path).to_pylist()


def slow_nll(model, prefix, target):
    """One sequence, no padding, eager attention, all logits."""
    ids = torch.tensor([[*prefix, *target]])
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].double()
    rows = logits[len(prefix) - 1 : -1]
    return float(functional.cross_entropy(rows, torch.tensor(target)))


def slow_row(sample, short, long, tokenizer):
    e = samples.encode(sample, tokenizer, LENGTH)
    row = {"nll_short": slow_nll(short, e.prompt, e.response), "nll_long": slow_nll(long, e.prompt, e.response)}
    row["ifd"] = row["nll_long"] / slow_nll(long, e.start, e.response)
    cut = (e.context + e.instruction)[-(128 - 1 - len(e.response)) :]
    row["contrast"] = slow_nll(long, e.start + cut, e.response) - row["nll_long"]
    row["hmg"] = row["nll_short"] - row["nll_long"]
    row["cam"] = None
    if parts := samples.segments(e.context, SEGMENT):
        importance = softmax([-slow_nll(long, e.start + s + e.instruction, e.response) for s in parts])
        with torch.inference_mode():
            ids = torch.tensor([e.ids])
            maps = long(input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True).attentions
        mass = torch.stack(maps)[:, 0, :, len(e.prompt) :, 1 : 1 + len(e.context)].mean((0, 1, 2)).numpy()
        attention = np.array([mass[i : i + SEGMENT].mean() for i in range(0, len(mass), SEGMENT)])
        row["cam"] = 1 - importance @ attention / np.linalg.norm(importance) / np.linalg.norm(attention)
    return row


def test_rows_equal_a_slow_reference(data, saved_pair, tmp_path, capsys):
    out = tmp_path / "scores.parquet"
    assert score.main(command(data, saved_pair, out, "--methods", "hmg,cam,ifd,contrast,prolong")) == 0
    assert "7 rows, 0 with an error, 1 cut to 256 tokens, 1 without context" in capsys.readouterr().out
    (short, tokenizer), (long, _) = (models.load(path, to=torch.device("cpu")) for path in saved_pair)
    short, long = eager(models.extend_window(short, LENGTH)), eager(long)
    found = rows_of(out)
    assert list(found[0]) == list(engine.COLUMNS) and [row["id"] for row in found] == [f"s{i}" for i in range(7)]
    for sample, row in zip(samples.read_samples(data), found, strict=True):
        encoded = samples.encode(sample, tokenizer, LENGTH)
        assert row["n_context"] == len(encoded.context) and row["n_dropped"] == encoded.dropped and row["error"] is None
        for name, want in slow_row(sample, short, long, tokenizer).items():
            assert row[name] == (None if want is None else pytest.approx(want, abs=2e-4)), (sample.id, name)
        assert (row["prolong"] is None) == (len(encoded.context + encoded.instruction + encoded.response) < 2 * SEGMENT)


def test_stopped_and_restarted_ends_with_the_same_bytes(data, saved_pair, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    assert score.main(command(data, saved_pair, whole)) == 0
    real, calls = engine.score_items, []

    def dies_at_second(items, pair, options):
        calls.append(len(items))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(items, pair, options)

    monkeypatch.setattr(engine, "score_items", dies_at_second)
    monkeypatch.setattr(engine, "source_hash", lambda code: "fixed")
    assert score.main(command(data, saved_pair, broken)) == 130 and not broken.exists()
    assert "give the same command to go on" in capsys.readouterr().err
    assert score.main(command(data, saved_pair, broken)) == 0
    assert calls == [3, 3, 3, 1]  # the first shard was not scored again
    assert broken.read_bytes() == whole.read_bytes()


def test_a_changed_option_or_record_never_meets_old_parts(data, saved_pair, tmp_path):
    used, fresh = tmp_path / "used.parquet", tmp_path / "fresh.parquet"
    assert score.main(command(data, saved_pair, used)) == 0
    before = rows_of(used)
    change = ["--segment-length", "8"]
    assert score.main(command(data, saved_pair, used, *change)) == 0
    assert score.main(command(data, saved_pair, fresh, *change)) == 0
    assert used.read_bytes() == fresh.read_bytes() and rows_of(used)[0]["cam"] != before[0]["cam"]
    lines = data.read_text().splitlines()
    data.write_text("\n".join([lines[0].replace("Where is", "Who has"), *lines[1:]]) + "\n")
    assert score.main(command(data, saved_pair, used)) == 0
    after = rows_of(used)
    assert after[0]["nll_long"] != before[0]["nll_long"] and after[3:] == before[3:]


def test_keys_follow_weights_options_and_code(saved_pair, monkeypatch):
    pair = score.load_pair(*map(str, saved_pair), ("hmg",), "float32", torch.device("cpu"))
    options = engine.Options(("hmg",), "ntk", 16, 512, 128)
    items = [engine.Item("a", samples.Sample("a", "c", "x", "y"))]
    (first,) = engine.shard_keys(items, 4, pair, options)
    assert engine.shard_keys(items, 4, pair, options) == [first]
    with torch.no_grad():
        pair.short.model.norm.weight[0] += 1e-3
    (weights,) = engine.shard_keys(items, 4, pair, options)
    monkeypatch.setattr(engine, "source_hash", lambda code: "edited")
    (code,) = engine.shard_keys(items, 4, pair, options)
    assert len({first, weights, code}) == 3


def test_one_bad_loss_is_one_error_row(data, saved_pair, tmp_path, monkeypatch):
    real = engine.response_nll

    def nan_for_s4(model, encoded, **more):
        for index, sample in enumerate(encoded):
            if sample.id == "s4":
                raise NonFiniteLoss(index, "sample 's4'")
        return real(model, encoded, **more)

    monkeypatch.setattr(engine, "response_nll", nan_for_s4)
    monkeypatch.setattr(engine, "source_hash", lambda code: "fixed")
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", "--methods", "hmg")) == 0
    rows = rows_of(tmp_path / "s.parquet")
    assert "NaN or infinite" in rows[4]["error"] and rows[4]["nll_short"] is None
    assert all(row["error"] is None and np.isfinite(row["hmg"]) for row in rows if row["id"] != "s4")


def test_a_single_model_is_enough_for_its_methods(data, saved_pair, tmp_path):
    out = tmp_path / "s.parquet"
    plain = [str(data), "--long", str(saved_pair[1]), "--out", str(out), "--device", "cpu", "--max-length", str(LENGTH)]
    assert score.main([*plain, "--methods", "perplexity"]) == 0
    assert all(np.isfinite(row["nll_long"]) and row["nll_short"] is None for row in rows_of(out))
    assert score.main([*plain, "--methods", "hmg"]) == 2


def test_readings_differ_only_in_the_short_model(data, saved_pair, tmp_path):
    found = {}
    for reading in ("ntk", "truncate", "raw"):
        out = tmp_path / f"{reading}.parquet"
        assert score.main(command(data, saved_pair, out, "--methods", "hmg", "--reading", reading)) == 0
        found[reading] = rows_of(out)
    assert len({rows[6]["nll_short"] for rows in found.values()}) == 3
    assert len({rows[6]["nll_long"] for rows in found.values()}) == 1


def test_options_are_kept_in_the_table(data, saved_pair, tmp_path):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    about = json.loads(pq.read_schema(out).metadata[b"gateau"])
    assert about["segment_length"] == SEGMENT and about["methods"] == ["hmg", "cam"] and about["short_window"] == 128


def test_segment_length_follows_the_short_window(saved_pair):
    pair = score.load_pair(*map(str, saved_pair), ("hmg",), "float32", torch.device("cpu"))
    given = score.parser().parse_args(["d.jsonl", "--long", "l", "--out", "s.parquet"])
    options = score.options_of(given, pair)
    assert (options.segment_length, options.max_length, options.short_window, options.reading) == (16, 1024, 128, "ntk")


def test_long_model_is_stretched_beyond_its_window(tmp_path, saved_pair):
    """A sample longer than the long window is scored by the stretched long model, not refused and not cut."""
    pair = score.load_pair(*map(str, saved_pair), ("hmg",), "float32", torch.device("cpu"))
    window = pair.long.config.max_position_embeddings
    data = tmp_path / "long.jsonl"
    text = "word " * (window // 4)
    turns = [{"role": "user", "content": f"{text}\n\nWhy?"}, {"role": "assistant", "content": "Because."}]
    data.write_text(json.dumps({"id": "a", "messages": turns}) + "\n")
    out = tmp_path / "s.parquet"
    names = ["--short", str(saved_pair[0]), "--long", str(saved_pair[1]), "--out", str(out), "--device", "cpu"]
    assert score.main([str(data), *names, "--max-length", str(2 * window)]) == 0
    row = pq.read_table(out).to_pylist()[0]
    assert row["n_context"] > window and row["n_dropped"] == 0 and row["error"] is None
    sample = score.engine.encode(score.engine.read_items(data)[0].sample, pair.tokenizer, 2 * window)
    stretched = score.models.extend_window(pair.long, 2 * window)
    assert row["nll_long"] == pytest.approx(score.engine.response_nll(stretched, [sample])[0], rel=1e-5)
