"""Rules that need no kernel: the form of sources and executed notebooks, and what may not be in git."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from gateau_lib.experiments import claims
from gateau_lib.study import manifest, notebooks
from gateau_lib.study.profiles import resolve
from gateau_lib.study.staleness import UPSTREAM, inspect
from gateau_lib.study.store import Study

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EXERCISES = sorted(
    p for folder in ("exercises", "solutions") for p in (ROOT / "notebooks" / folder).glob("*.ipynb")
)
RESULTS = ROOT / "results" / "cpu"
CHECK = "# NBVAL_CHECK_OUTPUT"
DECIMAL = re.compile(r"(?<![\w.:/§])\d+\.\d+(?![\w/]|\.\d)")  # not part of a version or a path
NAMED_NUMBER = (
    r"(§|Sections?|Eqs?\.|Equations?|Figures?|Tables?|Appendix|Python|Llama|arXiv)[ :~-]*\(?\d+\.\d+\)?"
)
CODE_LINES, FUNCTION_LINES, CELLS = 15, 8, range(20, 36)

source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
any_source = pytest.mark.parametrize("path", SOURCES + EXERCISES, ids=lambda p: p.stem)
executed = pytest.mark.skipif(
    not (RESULTS / "notebooks").exists(), reason="no results/cpu/notebooks: make cpu"
)


def code(path: Path) -> list[tuple[int, str]]:
    """Numbers (from 1) and texts of the code cells of a source."""
    return [
        (i, notebooks.source(c))
        for i, c in enumerate(notebooks.read(path)["cells"], 1)
        if c["cell_type"] == "code"
    ]


def prose(text: str) -> str:
    """Markdown without code, formulas, addresses and named numbers such as "Section 3.2"."""
    for unread in (
        r"```.*?```",
        r"`[^`]*`",
        r"\$\$.*?\$\$",
        r"\$[^$\n]*\$",
        r"\]\([^)]*\)",
        r"https?://\S+",
        NAMED_NUMBER,
    ):
        text = re.sub(unread, " ", text, flags=re.S)
    return text


def test_every_notebook_is_there_and_says_what_it_reads():
    if not (ROOT / "notebooks").exists():
        pytest.skip("no notebooks")
    assert [p.name[:2] for p in SOURCES] == list(UPSTREAM)


@any_source
def test_source_has_no_outputs_and_no_traces(path):
    notebook = notebooks.read(path)
    for cell in notebook["cells"]:
        assert cell.get("id"), "a cell without an id gets a random one whenever it is saved"
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None, (
                f"clear the outputs: {notebooks.source(cell)[:60]}"
            )
        assert not set(cell["metadata"]) - {"tags"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in notebook["metadata"] and "papermill" not in notebook["metadata"]


@any_source
def test_code_cells_and_functions_are_short(path):
    for number, text in code(path):
        assert len(text.strip().splitlines()) <= CODE_LINES, (
            f"cell {number} is longer than {CODE_LINES} lines"
        )
        for node in ast.walk(
            ast.parse(notebooks.code({"cells": [{"cell_type": "code", "source": text}]}, path.name))
        ):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= FUNCTION_LINES, (
                    f"cell {number}: {node.name} has {length} lines; move it to the library"
                )


@source
def test_source_has_the_usual_shape(path):
    cells = notebooks.read(path)["cells"]
    assert len(cells) in CELLS, f"{len(cells)} cells"
    assert cells[0]["cell_type"] == "markdown" and notebooks.source(cells[0]).startswith("# ")
    assert [notebooks.tags(c) for c in cells].count(["parameters"]) == 1
    assert {"profile": "str", "seed": "int"}.items() <= inspect(path).items()
    assert any(text.startswith(CHECK) for _, text in code(path)), "no checked cell"
    assert all(text.startswith(CHECK) for _, text in code(path) if CHECK in text), (
        "the mark must be the cell's first line"
    )


@any_source
def test_no_decimal_number_is_typed_in_prose(path):
    for number, cell in enumerate(notebooks.read(path)["cells"], 1):
        if cell["cell_type"] == "markdown":
            found = DECIMAL.findall(prose(notebooks.source(cell)))
            assert not found, f"cell {number}: {found}; let a code cell print the number from results"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("an AUC of 0.93.", ["0.93"]),
        ("-0.5 or +1.5, about 0.5–0.7 (0.2)", ["0.5", "1.5", "0.5", "0.7", "0.2"]),
        ("from 1,024 to 65,536 tokens", []),
        ("GATEAU, Section 3.2 and Eq. (2.1), §4.1; Python 3.11, v5.17.1", []),
        ("see [the paper](https://arxiv.org/abs/2410.15633), arXiv:2410.15633", []),
        ("`0.5` and $0.5$", []),
    ],
)
def test_the_rule_about_decimals_itself(text, found):
    assert DECIMAL.findall(prose(text)) == found


# Executed copies --------------------------------------------------------------------------------------------


@executed
@source
def test_executed_copy_is_whole_and_current(path):
    copy = RESULTS / "notebooks" / path.name
    assert copy.exists(), f"make cpu NOTEBOOK={path.name[:2]}"
    assert not copy.with_suffix(".failed.ipynb").exists()
    original, done = notebooks.read(path), notebooks.read(copy)
    plain = {"cells": [c for c in done["cells"] if notebooks.INJECTED not in notebooks.tags(c)]}
    assert notebooks.text_hash(plain) == notebooks.text_hash(original), "older than its source: make cpu"
    for number, cell in enumerate(done["cells"], 1):
        if cell["cell_type"] == "code" and notebooks.source(cell).strip():
            assert isinstance(cell["execution_count"], int), f"cell {number} has not run"
            for output in cell["outputs"]:
                assert output["output_type"] != "error", f"cell {number} failed"
                assert output.get("name") != "stderr", f"cell {number} keeps stderr"


@executed
@source
def test_checked_cells_check_something(path):
    done = notebooks.read(RESULTS / "notebooks" / path.name)
    checked = [c for c in notebooks.code_cells(done) if notebooks.source(c).startswith(CHECK)]
    assert checked
    for cell in checked:
        text = "".join(
            "".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in cell["outputs"]
        )
        assert text.strip(), f"nothing to compare: {notebooks.source(cell)[:80]}"
        assert not DECIMAL.findall(text), (
            f"a measured number would differ elsewhere: {DECIMAL.findall(text)[:3]}"
        )


@executed
def test_results_are_those_of_the_manifest():
    assert manifest.verify(Study(resolve("cpu"), 0, RESULTS)) == []


@executed
def test_every_claim_is_used_where_its_evidence_is():
    copies = {p.stem: p.read_text(encoding="utf-8") for p in (RESULTS / "notebooks").glob("*.ipynb")}
    for claim in claims.load_claims():
        assert claim.evidence in copies, f"{claim.id}: no notebook {claim.evidence}"
        assert claim.id in copies[claim.evidence], f"{claim.id} is not shown in {claim.evidence}"
        assert claim.id in copies["09_findings"], f"{claim.id} is not shown in 09_findings"


# The repository ---------------------------------------------------------------------------------------------


def tracked() -> list[tuple[str, str]]:
    """Paths and texts of the files in git, except binary ones and this one."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__) and b"\0" not in path.read_bytes()[:4096]:
            found.append((name, path.read_text(encoding="utf-8", errors="replace")))
    return found


def test_no_home_paths_and_nothing_unfinished():
    private = re.compile(r"/(home|Users|root|work)/\w|C:\\\\Users")
    unfinished = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    for name, text in tracked():
        assert not (found := private.search(text)), f"{name}: {text[found.start() : found.start() + 60]!r}"
        assert not (found := unfinished.search(text)), f"{name}: {found[0]}"


def test_repository_stays_small():
    names = [name for name, _ in tracked()]
    assert not [n for n in names if "/cache/" in n or n.endswith((".pyc", ".failed.ipynb"))]
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    total = sum((ROOT / name).stat().st_size for name in listed if (ROOT / name).is_file())
    assert total < 30 * 2**20


# Code of a model's own --------------------------------------------------------------------------------------

LOADERS = ("from_pretrained", "from_config")


def may_run_code(text: str) -> list[int]:
    """Lines that load something by name without saying that code found there is not to be run.

    Without a word transformers asks on the terminal, where ``yes |`` may answer. peft's loader takes no such
    argument and runs nothing (`gateau_lib.models.adapters`).
    """
    nodes, safe = list(ast.walk(ast.parse(text))), set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOADERS:
            refuses = any(
                k.arg == "trust_remote_code" and ast.unparse(k.value) == "False" for k in node.keywords
            )
            if refuses or ast.unparse(node.func.value).endswith("PeftModel"):
                safe.add(id(node.func))
    return [
        n.lineno for n in nodes if isinstance(n, ast.Attribute) and n.attr in LOADERS and id(n) not in safe
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AutoTokenizer.from_pretrained(x)", [1]),
        ("AutoModel.from_pretrained(\n    x,\n    trust_remote_code=False,\n)", []),
        (
            "AutoModel.from_pretrained(x, trust_remote_code=True)\n"
            "AutoConfig.from_pretrained(x, trust_remote_code=trust)",
            [1, 2],
        ),
        ("AutoModel.from_config(config)", [1]),
        ("for load in (AutoConfig.from_pretrained, AutoTokenizer.from_pretrained):\n    load(x)", [1, 1]),
        ("peft().PeftModel.from_pretrained(base, x)", []),
    ],
)
def test_the_rule_about_code_itself(text, found):
    assert may_run_code(text) == found


def test_nothing_is_loaded_without_refusing_its_code():
    for path in sorted([*(ROOT / "gateau_lib").glob("**/*.py"), *(ROOT / "scripts").glob("**/*.py")]):
        lines = may_run_code(path.read_text(encoding="utf-8"))
        assert not lines, f"{path.name}, lines {lines}: use models.load, load_tokenizer or load_config"
    for path in SOURCES + EXERCISES:
        code_of_it = notebooks.code(notebooks.read(path), path.name)
        assert not may_run_code(code_of_it), f"{path.name}: load by gateau_lib.models.loading"
