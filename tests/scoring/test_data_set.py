"""Scores of the command line against a slow reference, what its table says about itself,
and what a run is said to cost."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from reference.rows import slow_row
from scoring_command import LENGTH, SEGMENT, command, rows_of, write_data
from tiny import eager
from torch.utils.flop_counter import FlopCounterMode

from gateau_lib import score, select
from gateau_lib.data import longalign, samples, sharded
from gateau_lib.methods import SCORED, model_passes, reader
from gateau_lib.methods.base import READINGS
from gateau_lib.models import loading, pair, rope
from gateau_lib.models import sizes as sizes_module
from gateau_lib.models.nll import NonFiniteLoss, OutOfMemory
from gateau_lib.scoring import part_files, score_table, settings
from gateau_lib.study import devices


@pytest.fixture()
def data(tmp_path):
    return write_data(tmp_path / "data.jsonl")


def test_rows_equal_a_slow_reference(data, saved_pair, tmp_path, capsys):
    out = tmp_path / "scores.parquet"
    assert score.main(command(data, saved_pair, out, "--methods", "hmg,cam,ifd,contrast,prolong")) == 0
    said = capsys.readouterr().out
    (short, tokenizer), (long, _) = (loading.load(path, to=torch.device("cpu")) for path in saved_pair)
    short, long = eager(rope.extend_window(short, LENGTH)), eager(long)
    found = rows_of(out)
    lost = sum(row["n_dropped"] for row in found)
    assert lost and f"7 rows, 0 with an error, 1 cut to 256 tokens, losing {lost}, 1 without context" in said
    assert list(found[0]) == list(score_table.COLUMNS) and [row["id"] for row in found] == [
        f"s{i}" for i in range(7)
    ]
    for sample, row in zip(longalign.read_samples(data), found, strict=True):
        encoded = samples.encode(sample, tokenizer, LENGTH)
        assert (
            row["n_context"] == len(encoded.context)
            and row["n_dropped"] == encoded.dropped
            and row["error"] is None
        )
        for name, want in slow_row(sample, short, long, tokenizer).items():
            if not isinstance(want, str | None):
                want = pytest.approx(want, abs=2e-4)
            assert row[name] == want, (sample.id, name)
        assert (row["prolong"] is None) == (
            len(encoded.context + encoded.instruction + encoded.response) < 2 * SEGMENT
        )


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


@pytest.mark.parametrize("error", [NonFiniteLoss, OutOfMemory])
def test_one_sample_that_fails_is_one_error_row(data, saved_pair, tmp_path, monkeypatch, error):
    real = model_passes.response_nll

    def fails_for_s4(model, encoded, **more):
        for index, sample in enumerate(encoded):
            if sample.id == "s4":
                raise error(index, sample.id)
        return real(model, encoded, **more)

    monkeypatch.setattr(reader, "response_nll", fails_for_s4)
    monkeypatch.setattr(part_files, "source_hash", lambda code: "fixed")
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", "--methods", "hmg")) == 0
    rows = rows_of(tmp_path / "s.parquet")
    assert rows[4]["error"] == f"sample 's4': {error.reason}" and rows[4]["nll_short"] is None
    assert all(row["error"] is None and np.isfinite(row["hmg"]) for row in rows if row["id"] != "s4")


def test_a_single_model_is_enough_for_its_methods(data, saved_pair, tmp_path):
    out = tmp_path / "s.parquet"
    plain = [
        str(data),
        "--long",
        str(saved_pair[1]),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--max-length",
        str(LENGTH),
    ]
    assert score.main([*plain, "--methods", "perplexity"]) == 0
    assert all(np.isfinite(row["nll_long"]) and row["nll_short"] is None for row in rows_of(out))
    assert score.main([*plain, "--methods", "hmg"]) == 2


def test_readings_differ_only_in_the_short_model(data, saved_pair, tmp_path):
    found = {}
    for reading in READINGS:
        out = tmp_path / f"{reading}.parquet"
        assert score.main(command(data, saved_pair, out, "--methods", "hmg", "--reading", reading)) == 0
        found[reading] = rows_of(out)
    assert len({rows[5]["nll_short"] for rows in found.values()}) == len(READINGS)
    assert len({rows[5]["nll_long"] for rows in found.values()}) == 1


def test_options_are_kept_in_the_table(data, saved_pair, tmp_path):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    about = json.loads(pq.read_schema(out).metadata[b"gateau"])
    assert (
        about["segment_length"] == SEGMENT
        and about["methods"] == ["hmg", "cam"]
        and about["short_window"] == 128
    )
    assert about["models"]["long"]["name"] == str(saved_pair[1]) and not about["shipped_pair"]
    assert (
        score.main(
            [str(data), "--out", str(out), "--device", "cpu", "--methods", "perplexity", "--max-length", "99"]
        )
        == 0
    )
    about = json.loads(pq.read_schema(out).metadata[b"gateau"])
    assert (
        about["shipped_pair"]
        and list(about["models"]) == ["long"]
        and "shipped" in about["models"]["long"]["name"]
    )


def test_manifest_accounts_for_tokens_and_shards(data, saved_pair, tmp_path, capsys):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    facts = json.loads(out.with_suffix(".manifest.json").read_text())
    rows = rows_of(out)
    tokens = sum(1 + row["n_context"] + row["n_instruction"] + row["n_response"] for row in rows)
    assert facts["passes"]["long_pass"]["tokens"] == facts["passes"]["hmg"]["tokens"] == tokens
    assert [shard["rows"] for shard in facts["shards"]] == [3, 3, 1] and facts["table"]["rows"] == 7
    assert facts["made_by"]["long"] == facts["options"]["models"]["long"]["sha256"]
    assert facts["kernels"] == devices.kernels() and "kernels" not in facts["made_by"]
    assert f"long_pass {tokens:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "unread"),
    [
        ([], {"cam"}),
        (["--adaptive"], {"cam"}),
        (["--methods", "prolong"], {"prolong"}),
        (["--methods", ",".join(SCORED)], {"cam", "prolong"}),
    ],
)
def test_a_pass_that_reads_nothing_counts_nothing(saved_pair, tmp_path, capsys, more, unread):
    """No sample has a context, and every text is shorter than two segments."""
    made = [samples.Sample(f"s{i}", "", "Why so?", "Because.") for i in range(3)]
    data, out = longalign.write_samples(made, tmp_path / "short.jsonl"), tmp_path / "s.parquet"
    for _ in range(2):  # a second run finds the parts of the first
        assert score.main(command(data, saved_pair, out, *more)) == 0
        said = capsys.readouterr().out
        assert "3 rows, 0 with an error, 0 cut to 256 tokens, losing 0, 3 without context" in said
        assert all(f"{name} 0" in said.split("tokens forwarded: ")[1] for name in unread)
    facts = json.loads(out.with_suffix(".manifest.json").read_text())
    for passes in (facts["passes"], facts["shards"][0]["passes"]):
        assert {name for name, count in passes.items() if count["tokens"] == 0} == unread
        assert all(passes[name] == {"tokens": 0, "padded": 0, "forwards": 0} for name in unread)


# What changes a score ---------------------------------------------------------------------------------------


def test_adaptive_is_named_and_never_meets_exact_parts(data, saved_pair, tmp_path):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out, "--methods", "cam")) == 0
    exact, parts = rows_of(out), set((tmp_path / "s.parquet.parts").glob("*.json"))
    assert score.main(command(data, saved_pair, out, "--methods", "cam", "--adaptive")) == 0
    adaptive = rows_of(out)
    assert {row["cam_mode"] for row in exact} == {"exact", None} and {
        row["cam_mode"] for row in adaptive
    } == {"adaptive", None}
    assert len(set((tmp_path / "s.parquet.parts").glob("*.json")) - parts) == 3
    assert json.loads(pq.read_schema(out).metadata[b"gateau"])["adaptive"] is True


def test_chat_template_is_read_or_missed_by_name(data, saved_pair, tmp_path, tokenizer):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out, "--methods", "perplexity", "--chat-template")) == 2
    templated = loading.load(saved_pair[1], to=torch.device("cpu"))
    templated[0].save_pretrained(tmp_path / "long")
    templated[
        1
    ].chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
    templated[1].save_pretrained(tmp_path / "long")
    with_template = (saved_pair[0], tmp_path / "long")
    assert score.main(command(data, with_template, out, "--methods", "perplexity", "--chat-template")) == 0
    chat = rows_of(out)
    assert score.main(command(data, with_template, out, "--methods", "perplexity")) == 0
    plain = rows_of(out)
    assert all(
        a["error"] is None and a["nll_long"] != b["nll_long"] for a, b in zip(chat, plain, strict=True)
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "hmg", "--adaptive"], "--adaptive is about segment importance"),
        (["--methods", "hmg,gateau"], "unknown method 'gateau'; choose from hmg, cam,"),
        (["--methods", " ,"], "--methods: none given"),
        (["--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_options_that_do_not_fit_together(data, saved_pair, tmp_path, capsys, more, message):
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", *more)) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


# What goes wrong --------------------------------------------------------------------------------------------


def broken(*records):
    good = longalign.to_record(samples.Sample("good", "A key lies here.", "Where is it?", "Here."))
    return "".join(json.dumps(record) + "\n" for record in [good, *records])


def test_commonest_reasons_are_told_with_counts_and_an_example(saved_pair, tmp_path, capsys):
    data, out = tmp_path / "d.jsonl", tmp_path / "s.parquet"
    turns = [{"from": "human", "value": "Why?"}]
    bad = (
        [{"id": f"b{n}", "turns": turns} for n in range(3)] + [{"messages": []}] * 2 + [{"id": "good"}, 7, []]
    )
    data.write_text("\n" + broken(*bad))  # lines are those of the file
    assert score.main(command(data, saved_pair, out, "--methods", "perplexity")) == 0
    said = capsys.readouterr().out
    assert "9 rows, 8 with an error" in said
    told = [line for line in said.splitlines() if line.startswith("error: ")]
    assert told[0].startswith("error: 4 × no usable 'messages'") or told[0].startswith("error: 3 ×")
    assert "(first: line 3, id 'b0')" in told[0]
    assert any("no 'id'" in line and "(first: line 6)" in line for line in told)
    assert len(told) <= 4 and "other reasons" in told[-1]
    facts = json.loads(out.with_suffix(".manifest.json").read_text())["table"]
    assert (facts["rows"], facts["with an error"], facts["without context"]) == (9, 8, 0)
    assert score.main([*command(data, saved_pair, out, "--methods", "perplexity"), "--plan"]) == 0
    assert "not usable: " in capsys.readouterr().out


def test_nothing_scored_is_a_failure(saved_pair, tmp_path, capsys):
    data, out = tmp_path / "d.jsonl", tmp_path / "s.parquet"
    data.write_text('{"id": "a", "messages": 3}\n')
    assert score.main(command(data, saved_pair, out)) == 1
    said = capsys.readouterr()
    assert "error: 1 × no usable 'messages'" in said.out and said.err.endswith(
        "no record could be scored; mend what stands above\n"
    )
    assert select.main([str(out), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "none of its 1 records could be scored: 1 × no usable 'messages'" in said
    assert "--methods" not in said and said.count("\n") == 1
    assert score.main([*command(data, saved_pair, out), "--plan"]) == 2
    assert "can be scored: 1 × no usable 'messages'" in capsys.readouterr().err


def test_no_context_anywhere_is_said_and_no_method_is_blamed(saved_pair, tmp_path, capsys):
    made = [samples.Sample(f"s{i}", "", "Why so?", "Because " * (i + 1)) for i in range(3)]
    data, out = longalign.write_samples(made, tmp_path / "short.jsonl"), tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    choose = [str(out), "--data", str(data), "--out", str(tmp_path / "o.jsonl")]
    for name in ("gateau", "hmg", "cam"):
        assert select.main([*choose, "--score", name]) == 2
        assert f"no usable row for --score {name} (3 with no context)" in capsys.readouterr().err
    assert select.main([*choose, "--score", "perplexity"]) == 0
    said = capsys.readouterr().out
    assert "without context: 3 usable samples" in said and "warning: no usable sample has a context" in said


def test_changed_texts_are_refused_and_other_fields_are_not(data, saved_pair, tmp_path, capsys):
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out)) == 0
    choose = [str(out), "--data", str(data), "--out", str(tmp_path / "o.jsonl"), "--top", "6"]
    assert select.main(choose) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("o.*")}
    records = [json.loads(line) for line in data.read_text().splitlines()]

    def rewrite():
        data.write_text("".join(json.dumps(record) + "\n" for record in records))

    for record in records:
        record["source"] = "web"
    records.reverse()
    rewrite()
    assert select.main(choose) == 0, "order and other fields make no score stale"
    before = {path.name: path.read_bytes() for path in tmp_path.glob("o.*")}
    records[2]["messages"][1]["content"] += " Or elsewhere."
    rewrite()
    capsys.readouterr()
    assert select.main(choose) == 2
    said = capsys.readouterr().err
    assert (
        f"{data}: line 3: the text of {records[2]['id']!r} is not the one that was scored (1 such samples)"
        in said
    )
    assert {path.name: path.read_bytes() for path in tmp_path.glob("o.*")} == before


# What it costs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--reading", "truncate"], *(["--methods", name] for name in SCORED)])
def test_plan_foretells_the_tokens_of_every_pass(data, saved_pair, tmp_path, capsys, more):
    """The plan, made from lengths alone, says what the run then counts:
    each method declares what it reads, no more."""
    methods = [] if "--methods" in more else ["--methods", ",".join(SCORED)]
    line = command(data, saved_pair, tmp_path / "s.parquet", *methods, *more)
    assert score.main([*line, "--plan"]) == 0 and not (tmp_path / "s.parquet").exists()
    words = [row.split() for row in capsys.readouterr().out.splitlines()]
    foretold = {
        row[0]: int(row[1].replace(",", ""))
        for row in words
        if len(row) == 4 and row[1].replace(",", "").isdigit()
    }
    assert score.main(line) == 0
    passes = json.loads((tmp_path / "s.manifest.json").read_text())["passes"]
    assert {name: count["tokens"] for name, count in passes.items()} == {
        k: v for k, v in foretold.items() if k != "all"
    }


def test_plan_grows_with_the_number_of_records(data, saved_pair, tmp_path, capsys):
    totals = []
    for n in ("7", "7000"):
        assert score.main([*command(data, saved_pair, tmp_path / "s.parquet"), "--plan", n]) == 0
        totals.append(int(capsys.readouterr().out.split("\nall ")[1].split()[0].replace(",", "")))
    assert totals[1] == 1000 * totals[0]


def test_operations_are_those_that_torch_counts(llama_gqa):
    """Torch counts eager attention over all N x N pairs, the plan only those that a causal model needs."""
    shape, n = sizes_module.of_config(llama_gqa.config), 40
    ids = torch.arange(n)[None]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        eager(llama_gqa)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    attention = 4 * shape.layers * shape.width
    assert counter.get_total_flops() == pytest.approx(
        shape.flops(n, n) + attention * (n * n - n * (n + 1) / 2), rel=0.01
    )
    # Reading a second half after a cached first one, or both at once, is the same work.
    assert shape.flops(n, 0) + shape.flops(n, 0, before=n) == pytest.approx(shape.flops(2 * n, 0))


def test_segment_length_follows_the_short_window(saved_pair):
    short, long = map(str, saved_pair)
    options = settings.resolve(
        Path("d.jsonl"), Path("s.parquet"), methods=["hmg"], short=short, long=long
    ).options
    assert (options.segment_length, options.max_length, options.short_window, options.reading) == (
        16,
        1024,
        128,
        "ntk",
    )


def test_segments_of_the_shipped_pair_do_not_depend_on_the_methods():
    lengths = {
        settings.resolve(Path("d.jsonl"), Path("s.parquet"), methods=methods).options.segment_length
        for methods in (["cam"], ["hmg", "cam"], ["prolong"])
    }
    assert len(lengths) == 1 and lengths.pop() < settings.SEGMENT_LENGTH


def test_models_are_prepared_as_they_read(saved_pair):
    short, long = map(str, saved_pair)
    asked = {"methods": ["hmg"], "short": short, "long": long, "max_length": 1200, "device": "cpu"}
    for reading, window in (("ntk", 1200), ("raw", 128), ("truncate", 128), ("ntk_each", 128)):
        run = settings.resolve(Path("d.jsonl"), Path("s.parquet"), reading=reading, **asked)
        _, pair = part_files.begin(run)
        assert rope.window(pair.short) == window and rope.window(pair.long) == 1200


def test_models_are_stretched_once_a_run(data, saved_pair, tmp_path, monkeypatch):
    stretched, real = [], rope.with_rope_theta
    monkeypatch.setattr(
        rope, "with_rope_theta", lambda model, *more: stretched.append(0) or real(model, *more)
    )
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", "--methods", "hmg")) == 0
    assert len(stretched) == 1, "three shards, one stretched short model"


def test_a_shard_is_read_once_by_each_pass_whoever_asks(data, saved_pair, tmp_path):
    """All methods together read what the dearest forms of their passes read, not the sum over methods."""
    out = tmp_path / "s.parquet"
    assert score.main(command(data, saved_pair, out, "--methods", ",".join(SCORED))) == 0
    passes = json.loads(out.with_suffix(".manifest.json").read_text())["passes"]
    whole = sum(1 + row["n_context"] + row["n_instruction"] + row["n_response"] for row in rows_of(out))
    assert passes["long_pass"]["tokens"] == whole == passes["longattn"]["tokens"]


def test_long_model_is_stretched_beyond_its_window(tmp_path, saved_pair):
    """A sample longer than the long window is scored by the stretched long model, not refused and not cut."""
    both = pair.load_pair(*map(str, saved_pair), True, "float32", torch.device("cpu"))
    window = both.long.config.max_position_embeddings
    data = tmp_path / "long.jsonl"
    text = "word " * (window // 4)
    turns = [{"role": "user", "content": f"{text}\n\nWhy?"}, {"role": "assistant", "content": "Because."}]
    data.write_text(json.dumps({"id": "a", "messages": turns}) + "\n")
    out = tmp_path / "s.parquet"
    names = [
        "--short",
        str(saved_pair[0]),
        "--long",
        str(saved_pair[1]),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    assert score.main([str(data), *names, "--max-length", str(2 * window)]) == 0
    row = pq.read_table(out).to_pylist()[0]
    assert row["n_context"] > window and row["n_dropped"] == 0 and row["error"] is None
    sample = samples.encode(
        sharded.read(data, *sharded.index(data, 1024))[0].sample, both.tokenizer, 2 * window
    )
    stretched = rope.extend_window(both.long, 2 * window)
    assert row["nll_long"] == pytest.approx(model_passes.response_nll(stretched, [sample])[0], rel=1e-5)
