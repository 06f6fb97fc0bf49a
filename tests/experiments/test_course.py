"""The course: checks say what is wrong, exercises are the solutions without them, and both run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from gateau_lib.experiments import course

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks" / "course"
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
DATA = ROOT / "results" / "cpu" / "tables" / f"{course.explorer.FILE}.json"
any_solution = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)


def double(x: float) -> float:
    return 2 * x


@pytest.mark.parametrize(
    ("function", "cases", "message"),
    [
        (lambda x: None, [((1,), 2)], "returns nothing; does it end with a return?"),
        (double, [((1,), 2), ((3,), 7)], r"double\(3\) gives 6, expected 7\nLook."),
        (lambda x: [x], [((1,), 2)], r"has shape \(1,\), expected \(\)"),
        (lambda x: "no", [(("a",), "yes")], "gives no, expected yes"),
    ],
)
def test_a_check_says_what_is_wrong(function, cases, message):
    with pytest.raises(AssertionError, match=message):
        course.check(function, cases, "Look.")


def test_a_check_takes_what_is_right_up_to_rounding(capsys):
    course.check(double, [((0.1 + 0.2,), 0.6), ((2,), 4)])
    course.check(np.sort, [(([3, 1],), [1, 3])])
    assert capsys.readouterr().out == "double: right\nsort: right\n"


def test_a_solution_is_left_out_where_it_stands():
    source = 'def f(x):\n    """What."""\n    # BEGIN SOLUTION\n    y = x\n    return y\n    # END SOLUTION'
    expected = 'def f(x):\n    """What."""\n    raise RuntimeError("your turn")'
    assert course.without_solution(source) == expected
    assert course.without_solution("a = 1") == "a = 1"
    for wrong in (
        "# BEGIN SOLUTION\nx",
        "x\n# END SOLUTION",
        "# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION",
    ):
        with pytest.raises(ValueError, match="without"):
            course.without_solution(wrong)


def test_exercises_are_what_the_solutions_leave():
    made = course.written(FOLDER / "solutions")
    assert len(made) >= 6 and set(made) == set(FOLDER.glob("*.ipynb"))
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: make readme"
        assert course.BEGIN not in text and course.STUB in json.loads(text)["cells"][3]["source"] + text


@any_solution
def test_an_exercise_says_what_it_takes(path):
    texts = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    assert texts[0].startswith("# ") and all(
        f"**{part}**" in texts[0] for part in ("You will", "Before", "Takes")
    )
    chapter = re.search(r"\(\.\./(\d\d_\w+\.ipynb)\)", texts[0])
    assert chapter and (FOLDER.parent / chapter[1]).exists()
    asked = [text for text in texts if re.match(r"## \d · ", text)]
    assert 2 <= len(asked) <= 4
    assert all(re.search(r"^\*(easy|medium|hard), \d+ minutes\.\*", text, flags=re.M) for text in asked)
    minutes = sum(int(n) for text in asked for n in re.findall(r", (\d+) minutes", text))
    assert minutes <= int(re.search(r"about (\d+) minutes", texts[0])[1]) + 5  # type: ignore[index]


@any_solution
@pytest.mark.skipif(not DATA.exists(), reason="no explorer data in results/cpu: make reproduce")
def test_solutions_pass_and_stubs_wait(path, monkeypatch):
    monkeypatch.setenv("GATEAU_RESULTS", str(ROOT / "results"))
    names: dict[str, object] = {}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), names)
    waiting, names = 0, {}
    for cell in nbformat.read(FOLDER / path.name, 4).cells:
        if cell.cell_type == "code":
            try:
                exec(compile(cell.source, path.name, "exec"), names)
            except (RuntimeError, NameError):
                waiting += 1
    assert waiting >= 2


def test_without_data_the_fix_is_named(tmp_path):
    with pytest.raises(course.CourseError, match="it comes with the repository, or from make reproduce"):
        course.pool(tmp_path)
