"""What a message says of an error that something else raised: one line, also when it has none."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoConfig, AutoTokenizer

from gateau_lib import score, select
from gateau_lib.data import longalign, samples
from gateau_lib.models import loading, sizes
from gateau_lib.study.errors import ModelError, reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("one\ntwo"), "one"),
        (OSError("\n\n  two \r\nthree"), "two"),
        (OSError(2, "No such file"), "[Errno 2] No such file"),
        (KeyError(""), "''"),
        (ValueError(), "ValueError"),
        (ValueError(None), "None"),
        (ValueError("\u2028 \n"), "ValueError"),
        (pa.ArrowInvalid(""), "ArrowInvalid"),
    ],
)
def test_first_line_or_the_type(error, said):
    assert reason(error) == said


def raises(error):
    def call(*args, **more):
        raise error

    return call


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def test_parquet_that_fails_without_a_word(tmp_path, monkeypatch, capsys):
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    for name in ("read_metadata", "read_schema", "ParquetFile"):
        monkeypatch.setattr(pq, name, raises(pa.ArrowInvalid("")))
    assert score.main([str(tmp_path / "d.parquet"), "--out", str(tmp_path / "s.parquet")]) == 2
    assert "d.parquet: not a Parquet file (ArrowInvalid)" in one_line(capsys)
    data = longalign.write_samples([samples.Sample("a", "", "Why?", "So.")], tmp_path / "d.jsonl")
    assert (
        select.main([str(tmp_path / "d.parquet"), "--data", str(data), "--out", str(tmp_path / "o.jsonl")])
        == 2
    )
    assert "d.parquet: not a Parquet file (ArrowInvalid)" in one_line(capsys)


def test_models_that_fail_without_a_word(tmp_path, monkeypatch, capsys):
    data = longalign.write_samples([samples.Sample("a", "", "Why?", "So.")], tmp_path / "d.jsonl")
    models = [tmp_path / "short", tmp_path / "long"]
    for folder in models:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    for kind in (AutoConfig, AutoTokenizer):
        monkeypatch.setattr(kind, "from_pretrained", raises(OSError()))
    short, long = map(str, models)
    assert score.main([str(data), "--short", short, "--long", long, "--plan"]) == 2
    assert f"{long}: cannot load (OSError)" in one_line(capsys)
    with pytest.raises(ModelError, match=r"long: cannot load \(OSError\)"):
        loading.load_tokenizer(long)
    with pytest.raises(ModelError, match=r"no configuration to read \(.*\(OSError\)"):
        sizes.of(long)
