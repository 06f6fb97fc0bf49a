"""The pages say what results and code say: making their generated parts again changes nothing."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from gateau_lib.experiments import evidence_files, pages
from gateau_lib.experiments.claims import load_claims
from gateau_lib.study.profiles import PROFILES, resolve

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "cpu"
README = ROOT / "README.md"
OF_RESULTS = ("README.md", "docs/index.md", "docs/gpu.md")  # the other pages are of the code alone
TEXT = README.read_text(encoding="utf-8")


def committed(folder: Path) -> Path | None:
    """The manifest and the metrics of the last commit, unpacked; None where there are none."""
    wanted = ["results/cpu/manifest.json", "results/cpu/metrics"]
    wanted += ["results/evidence"] if (ROOT / "results" / "evidence").exists() else []
    done = subprocess.run(["git", "archive", "HEAD", *wanted], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "results" / "cpu"


@pytest.mark.skipif(not (RESULTS / "manifest.json").exists(), reason="no results/cpu/manifest.json: make cpu")
def test_making_it_again_changes_nothing(tmp_path):
    """From the results that lie here or, after a run of one's own, from the published ones:
    times differ between machines."""
    published = committed(tmp_path)
    for name in OF_RESULTS:
        page, made = ROOT / name, pages.generated(RESULTS, ROOT / "notebooks")
        here, text = pages.fill(page, made[name]), page.read_text(encoding="utf-8")
        if here != text and published is not None:
            here = pages.fill(page, pages.generated(published, ROOT / "notebooks")[name])
        assert here == text, f"{name} is older than results or the notebooks: make readme"


def test_pages_on_clusters_and_scale_are_those_of_the_code(results):
    for name, made in pages.generated(results, ROOT / "notebooks").items():
        if name not in OF_RESULTS:
            page = ROOT / name
            assert pages.fill(page, made) == page.read_text(encoding="utf-8"), f"{name}: make readme"


def test_links_lead_to_files():
    if not (RESULTS / "manifest.json").exists():
        pytest.skip("no results/cpu/manifest.json: make cpu")
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)\)", TEXT):
        assert (ROOT / link).exists(), link


def test_commands_are_real():
    """Every make target and module that the README names exists."""
    targets = set(re.findall(r"^([a-z -]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    known = {target for line in targets for target in line.split()}
    named = re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, flags=re.M)
    assert named and set(named) <= known, set(named) - known
    for module in re.findall(r"python -m gateau_lib\.(\w+)", TEXT):
        assert (ROOT / "gateau_lib" / f"{module}.py").exists(), module


def test_first_screen_tells_what_and_how():
    screen = TEXT[: TEXT.index("## Reading order")]
    assert "begin headline" in screen and "make reproduce" in screen and "make test" in screen
    if (ROOT / "results" / pages.TESTED).exists():
        assert re.search(r"`make test` took \d+ minutes", screen), "say how long make test takes"
    assert re.search(r"^git clone (\w+) .*# \1: where", screen, flags=re.M), (
        "the address is the reader's own: say so"
    )
    assert len(screen.splitlines()) < 45


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with one notebook in its manifest, and evidence beside it for one claim."""
    results, rows = tmp_path / "cpu", {}
    (results / "metrics").mkdir(parents=True)
    row = {"metric": "auc", "method": "hmg_minmax_ntk", "condition": "clean", "value": 0.9, "n": 5}
    (results / "metrics" / "03_hmg_scoring.json").write_text(json.dumps([row | {"seed": 0}]))
    for pair in range(3):
        rows[pair] = tmp_path / f"pair-{pair}"
        rows[pair].mkdir()
        (rows[pair] / "metrics.csv").write_text(evidence_files.text(pd.DataFrame([row])))
        (rows[pair] / "scores.csv").write_text("id\n")
        (rows[pair] / "chosen.json").write_text("{}")
    evidence_files.write(
        tmp_path / "evidence", rows, resolve("cpu"), dict.fromkeys(rows, 1.0), evidence_files.now()
    )
    machine = '{"device": "cpu", "cpu": "A Processor", "cores": 2, "memory_gb": 8, "system": "Linux"}'
    entry = '{"seconds": 90, "peak_memory_mb": 2048, "files": {}, "parameters": {"seed": 0}}'
    notebook = f'{{"03_hmg_scoring": {entry}}}'
    text = f'{{"seconds": 720.0, "peak_memory_mb": 2048, "machine": {machine}, "notebooks": {notebook}}}'
    (results / "manifest.json").write_text(text)
    return results


def test_parts_say_what_the_results_say(results):
    made = pages.readme(results, ROOT / "notebooks")
    assert "**12 minutes, 2.0 GB**" in made["cost"] and made["cost"].endswith("2 cores (A Processor).")
    (results.parent / pages.TESTED).write_text('{"seconds": 845.0}')
    again = pages.readme(results, ROOT / "notebooks")["cost"]
    assert again == made["cost"] + " `make test` took 14 minutes after that."
    assert (
        f"Of {len(load_claims())} claims 1 hold, 0 fail" in made["headline"]
        and "09_headline.svg" in made["headline"]
    )
    assert re.search(r"^\| GATEAU \| 1 \| 0 \| 0 \| \d+ \|$", made["verdicts"], flags=re.M)
    assert "over 3 pairs of models" in made["headline"] and "`hmg-ranks-far-clean`" in made["headline"]
    assert made["verdicts"].count("\n") == len({claim.paper for claim in load_claims()}) + 1
    home = pages.generated(results, ROOT / "notebooks")["docs/index.md"]["headline"]
    assert "(../results/cpu/figures/09_headline.svg)" in home and "](claims/index.md)" in home
    assert "results/cpu/notebooks/03_hmg_scoring.ipynb) | 1.5 | 2.0 |" in made["reading"]
    assert all(f"`make {name}`" in made["profiles"] for name in PROFILES) and set(pages.PURPOSE) == set(
        PROFILES
    )


def test_without_evidence_no_verdict_is_told(results):
    (results.parent / "evidence" / "manifest.json").unlink()
    made = pages.readme(results, ROOT / "notebooks")
    assert made["headline"] == made["verdicts"] == pages.NOTHING_YET and "12 minutes" in made["cost"]


def test_filling_is_idempotent_and_keeps_the_rest(results, tmp_path):
    made, page = pages.readme(results, ROOT / "notebooks"), tmp_path / "README.md"
    once = pages.fill(README, made)
    page.write_text(once, encoding="utf-8")
    assert pages.fill(page, made) == once and made["cost"] in once

    def rest(text):
        return re.sub(r"(<!-- begin (\w+) -->).*?(<!-- end \2 -->)", r"\1\3", text, flags=re.S)

    assert rest(once) == rest(TEXT)


def test_missing_results_and_marks_are_named(tmp_path):
    with pytest.raises(pages.PageError, match="run make cpu first"):
        pages.readme(tmp_path, ROOT / "notebooks")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin cost -->\n", encoding="utf-8")
    with pytest.raises(pages.PageError, match="page.md: .* must stand there once"):
        pages.fill(page, {"cost": "", "headline": ""})
    with pytest.raises(pages.PageError, match="page.md: .* has no <!-- end cost -->"):
        pages.fill(page, {"cost": ""})
