"""One look for each method, model and arm of training, and colours that tell wanted samples from the rest."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from gateau_lib.experiments import (
    cam_settings,
    findings,
    ranking,
    replication_tables,
    score_rows,
    selection_runs,
    skip_runs,
)
from gateau_lib.experiments.selection_runs import EVERY, FOR_EPOCHS
from gateau_lib.methods import METHODS
from gateau_lib.study import labels, looks
from gateau_lib.study.profiles import PROFILES

MODELS = ["theta_a", "theta_a_ntk", "theta_b"]
STRATEGIES = [*skip_runs.methods(PROFILES["cpu"]), "theta_a", "theta_a_stretched", "base"]
ARMS = ["base", *EVERY, *(f"{name}_epochs" for name in FOR_EPOCHS if f"{name}_epochs" in labels.LABELS)]
SELECTORS = [*ranking.COLUMN_OF.values(), *ranking.OTHERS]
FORMS = [*ranking.GUIDANCE, *ranking.COMBINATIONS, *ranking.NAMES, *ranking.OTHERS, "ifd", "prolong"]
FIGURES = {
    "what the pair recalls": MODELS,
    "strategies by length, beside a selection": [*STRATEGIES, "gateau"],
    "arms of training": ARMS,
    "selectors by cost": SELECTORS,
    "forms of the scores": FORMS,
    "settings of CAM": [*score_rows.AWARENESS, *cam_settings.LENGTHS],
    "without a model": ["longest", "facts", *ranking.OTHERS],
    "headline": [*findings.HEADLINE_SELECTORS, *findings.HEADLINE_STRATEGIES],
}
OF_SAMPLES = {"wanted": looks.WANTED, "near": looks.NEAR, "noise": looks.NOISE}
REST = {name: colour for name, (colour, _) in (looks.LOOKS | labels.LOOKS).items()}
REST |= {name: colour for name, (colour, _) in (replication_tables.OWN | findings.LOOKS).items()}
REST |= {
    name: getattr(looks, name)
    for name in "EVIDENCE IMPORTANCE ATTENTION LINK DOCUMENT QUESTION RESPONSE".split()
}
REST |= {f"place {n}": colour for n, colour in enumerate(looks.PLACES)} | {"unknown": looks.UNKNOWN}
LEAST = 0.08  # between a role's colour and any other, in OKLab; black and white are 1 apart


def oklab(colour: str) -> np.ndarray:
    """Coordinates in which equal steps look about equal (Ottosson 2020)."""
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    light = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    cones = np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]])
    to_lab = np.array(
        [[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]
    )
    return to_lab @ np.cbrt(cones @ light)


def test_every_name_has_one_look():
    once = [*looks.LOOKS, *looks.ALIKE, *labels.LOOKS]
    assert len(set(once)) == len(once), "a look stands twice: with a method, in labels.LOOKS or in looks"
    assert set(looks.ALIKE.values()) <= {*looks.LOOKS, *labels.LOOKS}
    assert {name: method.look for name, method in METHODS.items()}.items() <= labels.LOOKS.items()
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in [*REST.values(), *OF_SAMPLES.values()])


@pytest.mark.parametrize("figure", FIGURES)
def test_whatever_a_figure_shows_has_a_look_of_its_own(figure):
    """No two share colour and marker, unless they are two names of one thing."""
    names = dict.fromkeys(FIGURES[figure])
    assert not [name for name in names if looks.look(name)[0] == looks.UNKNOWN], (
        "give it a look in study/looks.py"
    )
    for one, other in combinations(names, 2):
        same = looks.ALIKE.get(one, one) == looks.ALIKE.get(other, other)
        assert same or looks.look(one) != looks.look(other), (one, other)


def test_an_arm_is_among_the_figures():
    assert {arm.selector for arm in selection_runs.arms(PROFILES["cpu"])} <= set(ARMS)


@pytest.mark.parametrize("role", OF_SAMPLES)
def test_what_a_sample_is_has_a_colour_of_its_own(role):
    others = REST | {name: colour for name, colour in OF_SAMPLES.items() if name != role}
    apart = {name: float(np.linalg.norm(oklab(OF_SAMPLES[role]) - oklab(c))) for name, c in others.items()}
    assert min(apart.values()) >= LEAST, min(apart, key=lambda name: apart[name])


def test_rows_of_the_published_tables_look_like_the_methods_that_they_are():
    assert replication_tables.row_look("GATEAU")["color"] == looks.look("gateau_rank")[0]
    assert replication_tables.row_look("Cherry") == replication_tables.row_look("ifd")
    rows = findings.reported()["row"].unique()
    seen = {row: tuple(replication_tables.row_look(row).values()) for row in rows}
    assert len(set(seen.values())) == len(seen) and looks.UNKNOWN not in {
        colour for colour, _ in seen.values()
    }


def test_tones_run_from_dark_to_light():
    tones = looks.shades(looks.WANTED, 5)
    assert len(set(tones)) == 5 and looks.shades(looks.NEAR, 1) == [looks.NEAR]
    assert all(oklab(a)[0] < oklab(b)[0] for a, b in zip(tones, tones[1:], strict=False))


def test_what_has_no_look_is_grey_with_a_marker_by_its_place():
    assert looks.look("mine", 3) == (looks.UNKNOWN, looks.MARKERS[3])
