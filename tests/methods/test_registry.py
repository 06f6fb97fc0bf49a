"""The list of methods: complete, honest about what it reads, and light enough for whoever only ranks."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from score_rows import make_rows

from gateau_lib.experiments import pool, ranking
from gateau_lib.methods import METHODS, SCORED, baselines, name_in_figures, scored_with
from gateau_lib.methods.base import RankOptions
from gateau_lib.methods.reader import named_passes
from gateau_lib.scoring import score_table
from gateau_lib.scoring.settings import needs_short
from gateau_lib.study import labels, style
from gateau_lib.study.code_hash import PACKAGE, source_hash
from gateau_lib.training import fine_tuning

README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
LIGHT = ("baselines", "cam", "compressors", "gateau", "hmg", "prolong", "selection", "skipalign")
LIGHT += ("delta_entropy", "longfilter", "longppl", "segment_contrast", "word_matching")


def test_formulas_and_selecting_load_no_torch():
    modules = ["gateau_lib.methods", *(f"gateau_lib.methods.{name}" for name in LIGHT), "gateau_lib.select"]
    code = "".join(
        f"import {module}\nprint(*({{'torch', 'transformers'}} & set(sys.modules)))\n" for module in modules
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert dict(zip(modules, done.stdout.splitlines(), strict=True)) == dict.fromkeys(modules, "")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_method_says_what_it_reads_and_leaves(method):
    assert method.name.isidentifier() and method.title and method.source
    assert bool(method.fill) == bool(method.columns)
    named_passes(method.passes)  # raises for one that no reader has
    assert all(column in METHODS[scored_with(method, column)].columns for column in method.needs)
    assert style.label(method.name) == style.label(labels.SAME.get(method.name, method.name))
    assert labels.LABELS[method.name] == method.title


@pytest.mark.parametrize("name", ranking.COLUMN_OF)
def test_a_selector_and_the_score_it_ranks_by_have_one_name_in_figures(name):
    assert style.label(name) == style.label(ranking.COLUMN_OF[name])
    assert style.look(name) == style.look(ranking.COLUMN_OF[name])


def test_looks_can_be_told_apart():
    """By colour alone, since curves without markers are told apart by nothing else."""
    name_in_figures()
    assert set(METHODS) <= set(labels.LOOKS)
    colours = {name: colour for name, (colour, _) in labels.LOOKS.items() if name != "full_epochs"}
    assert len(set(colours.values())) == len(colours), colours


def test_an_unknown_pass_is_named():
    with pytest.raises(ValueError, match="no pass 'nll_both': a Reader has long_pass, nll_long"):
        named_passes(["nll_both"])


def test_only_methods_of_two_models_need_the_short_one():
    assert [name for name in SCORED if needs_short([METHODS[name]])] == [
        *("hmg", "contrast", "zlib_contrast", "word_overlap", "longppl", "longfilter", "delta_entropy"),
    ]


def test_the_table_holds_what_every_method_leaves():
    assert (
        *("id", "n_context", "n_instruction", "n_response", "n_dropped", "n_earlier", "n_system"),
        *("nll_short", "nll_long", "hmg", "cam", "prolong", "ifd", "contrast", "longattn"),
        *("zlib_contrast", "gzip_ratio", "word_overlap", "question_distance"),
        *("longppl", "longfilter", "delta_entropy", "segment_contrast"),
        *("cam_mode", "segment_nll", "segment_attention", "segment_chars", "text_hash", "error"),
    ) == score_table.COLUMNS


def test_the_readme_names_every_score():
    (row,) = (line for line in README.splitlines() if line.startswith("| `--score"))
    assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(METHODS), (
        "mend the row --score of README's table"
    )


def test_every_formula_file_names_its_source():
    for name in ("cam", "gateau", "hmg", "prolong", "skipalign", "longattn", "longppl"):
        head = ast.get_docstring(ast.parse((PACKAGE / "methods" / f"{name}.py").read_text(encoding="utf-8")))
        assert re.search(r"arXiv \d{4}\.\d{5}", head) and re.search(
            r"released code|code ``?|code src", head
        ), name


def test_ifd_above_one_means_one_thing():
    rows = pd.DataFrame({"id": list("abcd"), "ifd": [0.2, 1.0, 1.001, 0.9]})
    assert [METHODS["ifd"].unfit(row) for row in rows.to_dict("records")] == [None, None, "ifd above 1", None]
    ranks = METHODS["ifd"].rank(rows, RankOptions())
    assert list(np.argsort(-ranks)) == [1, 3, 0, 2] and list(baselines.mismatched(rows["ifd"])) == [
        0,
        0,
        1,
        0,
    ]


def test_pool_columns_rank_as_the_registered_methods_do():
    """What notebook 06 selects by under a column's name is what `--score` selects by."""
    rng = np.random.default_rng(3)
    rows = pd.DataFrame(make_rows(30))
    table = pd.DataFrame(
        {"pool": "independent", "seed": 0, "id": rows["id"], "n_tokens": rows["n_context"] + 9}
    )
    table = table.assign(nll_long=rows["nll_long"], nll_short_ntk=rows["nll_short"], cam_default=rows["cam"])
    table = table.assign(
        nll_short_truncate=rows["nll_short"],
        nll_short_raw=rows["nll_short"],
        nll_short_ntk_each=rows["nll_short"],
        prolong=rows["prolong"],
    )
    table = table.assign(
        nll_long_truncate=rng.uniform(1, 3, 30), nll_alone=rows["nll_long"] * rng.uniform(0.8, 2, 30)
    )
    table = ranking.combined(ranking.guidance(table), 0.7)
    scores = ranking.score_columns(table)
    for name, column in ranking.COLUMN_OF.items():
        if name != "random":  # drawn in the notebook
            ranks = METHODS[name].rank(scores, RankOptions(alpha=0.7))
            assert list(np.argsort(ranks)) == list(np.argsort(table[column])), name


def test_others_are_the_methods_that_no_pool_column_holds():
    assert list(ranking.OTHERS) == [
        *("longattn", "zlib_contrast", "gzip_ratio", "gzip_band", "word_overlap", "question_distance"),
        *("longppl", "longfilter", "delta_entropy", "segment_contrast"),
    ]
    assert set(ranking.DERIVED) <= set(ranking.OTHERS)


def test_an_edit_of_a_formula_changes_its_methods_key_and_no_other(tmp_path):
    """Parts of a scoring run are named by the methods that filled them; a pool's table by the whole list."""
    copied = tmp_path / "gateau_lib"
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("tiny_pair", "__pycache__"))
    codes = {name: [METHODS[name].fill] for name in SCORED} | {"others": [pool.others]}
    codes |= {"training": [fine_tuning.build], "homologous": [pool.homologous]}
    before = {name: source_hash(code, copied) for name, code in codes.items()}
    file = copied / "methods" / "prolong.py"
    file.write_text(file.read_text().replace('{"prolong": [', '{"prolong": [0] + ['))
    after = {name: source_hash(code, copied) for name, code in codes.items()}
    assert [name for name in codes if after[name] != before[name]] == ["prolong", "others"]
