"""A data set scored by a cascade against the exact run: the same selection, the same bytes after a kill."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scoring_command import command, rows_of, write_data

from gateau_lib import score, select
from gateau_lib.data import corpus, longalign
from gateau_lib.methods import cascade, reader
from gateau_lib.models import loading
from gateau_lib.models.nll import NonFiniteLoss
from gateau_lib.scoring import part_files, score_table
from gateau_lib.study.profiles import named

ON_CPU = ["--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A planted pool, its exact scores by the shipped pair, and those of a cascade for the best tenth."""
    folder = tmp_path_factory.mktemp("planted")
    profile = replace(named("cpu"), pool_per_kind=4, noise_per_kind=4, pool_tokens=(300, 600))
    drawn = corpus.candidate_pool(
        profile, loading.load_tokenizer(str(loading.SHIPPED / "long")), "independent", 0
    )
    data = longalign.write_samples(drawn, folder / "data.jsonl")
    assert score.main([str(data), "--out", str(folder / "exact.parquet"), *ON_CPU]) == 0
    assert score.main([str(data), "--out", str(folder / "scores.parquet"), "--cascade", "0.1", *ON_CPU]) == 0
    return data, folder / "exact.parquet", folder / "scores.parquet"


def selected(scores, data, out, *more):
    select.main([str(scores), "--data", str(data), "--out", str(out), *more])
    return [json.loads(line)["id"] for line in out.read_text().splitlines()]


def test_the_selection_of_a_planted_pool_is_the_exact_one(planted, tmp_path, capsys):
    data, exact, out = planted
    whole, rows = rows_of(exact), rows_of(out)
    modes = [row["cam_mode"] for row in rows]
    counts = {mode: modes.count(mode) for mode in cascade.MODES}
    assert all(counts.values()) and sum(counts.values()) == len(rows)
    for old, row in zip(whole, rows, strict=True):
        assert old.keys() == row.keys() and row["error"] is None
        for name in old.keys() - {"cam", "segment_nll", "cam_mode"}:
            assert row[name] == old[name], name
        read = row["cam_mode"] != cascade.UNREAD
        assert read == (row["cam"] is not None) == (row["segment_nll"] is not None)
        if read:  # batches hold other samples, which moves the last bits
            assert row["cam"] == pytest.approx(old["cam"], abs=1e-5)
            assert row["segment_nll"] == pytest.approx(old["segment_nll"], abs=1e-4)
    best = selected(exact, data, tmp_path / "exact.jsonl")
    capsys.readouterr()
    assert selected(out, data, tmp_path / "selected.jsonl") == best
    said = capsys.readouterr().out
    assert f"cascade: {cascade.told(counts)}" in said
    assert cascade.told(counts) in (tmp_path / "selected.report.html").read_text()
    manifest = json.loads(out.with_suffix(".manifest.json").read_text())
    assert manifest["options"]["cascade"] == {"fraction": 0.1, "alpha": 0.8} | counts
    exactly = json.loads(exact.with_suffix(".manifest.json").read_text())
    for name, share in (("hmg", 1), ("long_pass", 1), ("cam", 1 - counts[cascade.UNREAD] / len(rows))):
        tokens = manifest["passes"][name]["tokens"]
        assert tokens == pytest.approx(
            share * exactly["passes"][name]["tokens"], rel=0 if share == 1 else 0.2
        )


def test_what_the_table_cannot_answer_is_refused(planted, tmp_path, capsys):
    data, _, out = planted
    for more, why in (
        (
            ["--fraction", "0.5"],
            "whose CAM was not read .--cascade. could be in this selection; select fewer",
        ),
        (["--alpha", "0.3"], "could be in this selection"),
        (["--combine", "softmax_both"], "made with --cascade is for --combine rank"),
        (["--score", "cam"], "CAM was read of some samples only"),
    ):
        refused = [str(out), "--data", str(data), "--out", str(tmp_path / "no.jsonl"), *more]
        assert select.main(refused) == 2
        said = capsys.readouterr().err
        assert re.search(why, said), said
        assert not (tmp_path / "no.jsonl").exists()
    assert len(selected(out, data, tmp_path / "fewer.jsonl", "--top", "1")) == 1
    assert selected(out, data, tmp_path / "hmg.jsonl", "--score", "hmg", "--fraction", "0.5")


def test_a_killed_run_goes_on_to_the_same_bytes(saved_pair, tmp_path, monkeypatch, capsys):
    data = write_data(tmp_path / "data.jsonl", n=30)
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"

    def run(out, fraction="0.1"):
        return score.main(command(data, saved_pair, out, "--cascade", fraction))

    assert run(whole) == 0
    assert f"cascade: {cascade.told(score_table.read_about(whole)['cascade'])}" in capsys.readouterr().out
    done, stops, leave = [], [], part_files.leave

    def dying(job, path, *rest):
        if len(done) == stops[0]:
            raise KeyboardInterrupt
        leave(job, path, *rest)
        done.append(path)

    parts = len(list((tmp_path / "whole.parquet.parts").glob("*.json")))
    for stop in (1, parts - 2):  # in the first reading, and in a later one
        stops[:], done[:] = [stop], []
        monkeypatch.setattr(part_files, "leave", dying)
        assert run(broken) == 130
        assert not broken.exists()
    monkeypatch.setattr(part_files, "leave", leave)
    assert run(broken) == 0 and broken.read_bytes() == whole.read_bytes()
    # A larger fraction finds the parts of the smaller one, and ends as if there had been none.
    other, fresh = tmp_path / "whole.parquet", tmp_path / "fresh.parquet"
    assert run(other, "0.2") == 0 and run(fresh, "0.2") == 0
    assert other.read_bytes() == fresh.read_bytes() != broken.read_bytes()


def test_errors_and_samples_without_context_are_no_part_of_the_pool(saved_pair, tmp_path, capsys):
    data = write_data(tmp_path / "data.jsonl", n=30)
    lines = data.read_text().splitlines()
    data.write_text("\n".join([*lines[:20], lines[3], '{"id": "bad"}', *lines[20:]]) + "\n")
    for out, more in ((tmp_path / "exact.parquet", []), (tmp_path / "scores.parquet", ["--cascade", "0.2"])):
        assert score.main(command(data, saved_pair, out, *more)) == 0
    whole, rows = rows_of(tmp_path / "exact.parquet"), rows_of(tmp_path / "scores.parquet")
    assert [row["error"] for row in rows] == [row["error"] for row in whole]
    assert [row["cam_mode"] is None for row in rows] == [row["cam"] is None for row in whole]


def test_a_sample_whose_segments_fail_leaves_the_pool(saved_pair, tmp_path, monkeypatch):
    data, out = write_data(tmp_path / "data.jsonl", n=12), tmp_path / "scores.parquet"

    whole = reader.segment_importance

    def failing(model, encoded, *rest, **more):
        if any(each.id == "s11" for each in encoded):
            raise NonFiniteLoss(0, "s11", 0)
        return whole(model, encoded, *rest, **more)

    monkeypatch.setattr(reader, "segment_importance", failing)
    assert score.main(command(data, saved_pair, out, "--cascade", "0.5")) == 0
    (bad,) = [row for row in rows_of(out) if row["error"]]
    assert bad["id"] == "s11" and bad["cam"] is None and bad["nll_long"] is None and bad["n_context"] > 0
    assert len(selected(out, data, tmp_path / "selected.jsonl", "--fraction", "0.5")) == 5


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--cascade", "0"], "above 0 and below 1"),
        (["--cascade", "0.1", "--adaptive"], "without --adaptive"),
        (["--cascade", "0.1", "--methods", "hmg"], "for --methods hmg,cam"),
    ],
)
def test_options_that_do_not_go_together(saved_pair, tmp_path, capsys, more, why):
    data = write_data(tmp_path / "data.jsonl")
    assert score.main(command(data, saved_pair, tmp_path / "s.parquet", *more)) == 2
    assert why in capsys.readouterr().err


def test_the_plan_prints_the_estimate_beside_the_exact_tokens(saved_pair, tmp_path, capsys):
    data = write_data(tmp_path / "data.jsonl")
    tokens = {}
    for more in ([], ["--cascade", "0.1"]):
        score.main(command(data, saved_pair, tmp_path / "s.parquet", "--plan", "1000000", *more))
        said = capsys.readouterr().out
        table = {
            line.split()[0]: line.split()[1]
            for line in said.splitlines()
            if line[:4] in ("cam ", "hmg ", "all ")
        }
        tokens[bool(more)] = {name: float(number.replace(",", "")) for name, number in table.items()}
    assert tokens[True]["hmg"] == tokens[False]["hmg"]
    share = tokens[True]["cam"] / tokens[False]["cam"]
    assert share == pytest.approx(cascade.expected_reads(10**6, 0.1), abs=1e-4) and 0.2 < share < 0.25
    assert f"of the {tokens[False]['all']:,.0f} that all of CAM takes" in said
    assert np.isclose(
        tokens[True]["all"] / tokens[False]["all"],
        float(said.split("about ")[-1].split("%")[0]) / 100,
        atol=0.006,
    )
