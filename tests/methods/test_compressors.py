"""Scores of a compressor against gzip files and tokens, and what they must not depend on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.model_free import slow_parts, slow_saved, slow_size
from scoring_command import WORDS, command, rows_of, write_data
from tiny import other_tokenizers

from gateau_lib import score
from gateau_lib.data.longalign import read_samples
from gateau_lib.data.samples import Sample, encode, far_and_near, kept_context
from gateau_lib.methods import METHODS, compressors
from gateau_lib.methods.base import RankOptions

TEXTS = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)
SECRET = "zinc velvet otter poplar"


def reader(samples, tokenizer, window, max_length=None):
    """As much of a `Reader` as a method without a model asks for."""
    encoded = [encode(sample, tokenizer, max_length) for sample in samples]
    pair, options = SimpleNamespace(tokenizer=tokenizer), SimpleNamespace(short_window=window)
    return SimpleNamespace(samples=samples, encoded=encoded, pair=pair, options=options)


@pytest.mark.parametrize("window", [2, 20, 60, 100, 10_000])
@pytest.mark.parametrize("max_length", [None, 90])
def test_near_is_what_the_short_window_holds(tokenizer, window, max_length, tmp_path):
    for sample in read_samples(write_data(tmp_path / "data.jsonl")):
        encoded = encode(sample, tokenizer, max_length)
        far, near = far_and_near(sample, tokenizer, encoded, window)
        assert (far, near) == slow_parts(tokenizer, sample, encoded, window)
        assert far + near == kept_context(sample, tokenizer, encoded)
        assert sample.context.endswith(far + near) and (far + near == sample.context) == (not encoded.dropped)


@pytest.mark.parametrize("name", other_tokenizers())
def test_near_in_words_of_other_tokenizers(name):
    """Borders are the sample's own characters, also where text gets a mark before it."""
    sample = Sample("a", "The old mill keeps a blue lantern. " * 9, "Who?", "Nobody.")
    tokenizer = other_tokenizers()[name]()
    encoded = encode(sample, tokenizer)
    window = len(encoded.ids) - len(encoded.context) + 12
    far, near = far_and_near(sample, tokenizer, encoded, window)
    assert far + near == sample.context and far and near
    assert abs(len(tokenizer(near, add_special_tokens=False)["input_ids"]) - 12) <= 2


@given(TEXTS, TEXTS, TEXTS, TEXTS)
def test_bytes_saved_are_those_of_gzip_files(far, near, question, response):
    want = slow_saved(far, near, question, response) if far else 0
    assert compressors.bytes_saved(far, near, question, response) == want


@given(st.text(min_size=1, max_size=400).filter(lambda t: not any("\ud800" <= c <= "\udfff" for c in t)))
def test_ratio_is_that_of_a_gzip_file(text):
    assert compressors.compression_ratio(text) == slow_size(text) / len(text.encode())


def test_a_far_copy_is_found_and_a_near_one_is_not():
    noise = [" ".join(np.random.default_rng(n).permutation(WORDS)) for n in range(3)]
    far, near, nowhere = noise[0] + SECRET, noise[1], noise[2]
    assert compressors.bytes_saved(far, near, "Which?", SECRET) > 10
    assert compressors.bytes_saved(far, near + SECRET, "Which?", SECRET) <= 1
    assert compressors.bytes_saved(nowhere, near, "Which?", SECRET) <= 4
    assert compressors.bytes_saved("", near, "Which?", SECRET) == 0


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("near_words", [10, 6000])
def test_a_copy_is_found_beyond_deflates_reach(place, near_words):
    """In a context of several times the reach, and with a near part longer than the reach."""
    rng = np.random.default_rng(1)
    drawn = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(14_000)]
    drawn.insert(int(place * len(drawn)), SECRET)
    near = " ".join("".join(rng.choice(list("abcdefgh"), 6)) for _ in range(near_words))
    assert len(" ".join(drawn)) > 2 * compressors.REACH
    saved = compressors.bytes_saved(" ".join(drawn), near, "Which?", SECRET)
    drawn.remove(SECRET)
    assert saved > 10 > 6 > compressors.bytes_saved(" ".join(drawn), near, "Which?", SECRET)


@given(st.lists(st.floats(0.1, 1.2), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_band_prefers_the_middle_of_the_pool(ratios, random):
    pool = pd.DataFrame({"gzip_ratio": ratios})
    band = METHODS["gzip_band"].rank(pool, RankOptions())
    middle = np.median(ratios)
    assert (band <= 0).all() and ratios[int(band.argmax())] in (
        ratios[i] for i in np.flatnonzero(np.abs(ratios - middle) == np.abs(ratios - middle).min())
    )
    order = random.sample(range(len(ratios)), len(ratios))
    np.testing.assert_array_equal(METHODS["gzip_band"].rank(pool.iloc[order], RankOptions()), band[order])


def test_a_sample_without_context(tokenizer):
    read = reader([Sample("a", "", "Which?", SECRET)], tokenizer, 8)
    assert METHODS["zlib_contrast"].fill(read) == {"zlib_contrast": [0.0]}
    assert METHODS["gzip_ratio"].fill(read) == {"gzip_ratio": [None]}


def test_what_is_cut_off_is_read_by_nobody(tokenizer):
    sample = Sample("a", SECRET + " " + "stone " * 30, "Which?", SECRET)
    whole = METHODS["zlib_contrast"].fill(reader([sample], tokenizer, 60))["zlib_contrast"][0]
    cut = METHODS["zlib_contrast"].fill(reader([sample], tokenizer, 60, max_length=180))["zlib_contrast"][0]
    assert whole > 10 and cut <= 1


def test_the_command_leaves_these_columns_and_asks_no_model(saved_pair, tmp_path, capsys):
    data, out = write_data(tmp_path / "data.jsonl"), tmp_path / "scores.parquet"
    asked = "zlib_contrast,gzip_ratio,word_overlap,question_distance"
    assert score.main(command(data, saved_pair, out, "--methods", asked)) == 0
    assert "tokens forwarded: none" in capsys.readouterr().out
    for row, sample in zip(rows_of(out), read_samples(data), strict=True):
        assert (row["gzip_ratio"] is None) == (not sample.context) and row["nll_long"] is None
        assert all(row[name] is not None for name in asked.split(",") if name != "gzip_ratio")


@pytest.mark.parametrize("name", ["zlib_contrast", "word_overlap"])
def test_the_short_model_is_named_where_its_window_is_asked_for(saved_pair, tmp_path, capsys, name):
    """Without it the short window would be the long one, and nothing far."""
    data = write_data(tmp_path / "data.jsonl")
    words = [str(data), "--long", str(saved_pair[1]), "--out", str(tmp_path / "s.parquet"), "--methods", name]
    assert score.main(words) == 2
    assert "--short is missing" in capsys.readouterr().err
