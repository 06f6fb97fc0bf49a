"""The map in docs/architecture.md is the folder; the rooms, README.md and the index of formulas agree."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import gateau_lib

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "gateau_lib"
FORMULAS = re.split(r"\n\nFormulas\n-+\n", gateau_lib.__doc__ or "")[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MAP = re.split(r"```(?:text)?\n", PAGE)[1].strip()
OWN = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = [*OWN, *sorted((ROOT / "docs").glob("*.md"))]
BUILT = (
    "notebooks/",
    "claims/",
    "library/",
    "project/",
    "_static/theory/",
    "explorer.html",
)  # see test_site_in_browser
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rooms() -> dict[str, tuple[str, dict[str, str]]]:
    """Rooms of the map: what each is for, its modules with a line each; the commands are `gateau_lib`'s."""
    found = {}
    for block in MAP.split("\n\n"):
        head, *rest = block.splitlines()
        name, purpose = head.split(maxsplit=1)
        found[name.rstrip("/")] = (purpose, dict(line.split(maxsplit=1) for line in rest))
    return found


def formulas() -> list[tuple[str, str, list[str]]]:
    """Rows of the index: formula, whose it is, functions."""
    rows = []
    for line in FORMULAS.strip().splitlines():
        formula, of, names = re.split(r" {2,}|(?<= ours) +", line.strip())
        rows.append((formula, of, qualified(names)))
    return rows


def qualified(names: str) -> list[str]:
    """ "room.module.one, two" as whole names."""
    first, *others = names.split(", ")
    return [first, *(f"{first.rpartition('.')[0]}.{other}" for other in others)]


@pytest.mark.parametrize("room", sorted(rooms()))
def test_the_map_is_the_folder(room):
    folder = LIBRARY if room == LIBRARY.name else LIBRARY / room
    there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert set(rooms()[room][1]) == there, f"docs/architecture.md, Map: {room}"


def test_no_room_is_missing_or_made_up():
    there = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert set(rooms()) - {LIBRARY.name} == there


@pytest.mark.parametrize("room", sorted(set(rooms()) - {LIBRARY.name}))
def test_a_room_says_the_same_of_itself(room):
    said = (importlib.import_module(f"gateau_lib.{room}").__doc__ or "").splitlines()[0]
    purpose = rooms()[room][0]
    assert f"{said} ".casefold().startswith(f"{purpose}. ".casefold()), f"gateau_lib/{room}/__init__.py"


def test_the_library_readme_and_map_show_one_tree():
    readme = re.findall(r"^\| `gateau_lib/(\w+)/` \| (.+) \|$", README, flags=re.M)
    own = re.findall(r"^(\w+)/ +(.+)$", gateau_lib.__doc__ or "", flags=re.M)
    assert own == [("gateau_lib", "commands"), *readme]
    assert {name for name, _ in readme} == set(rooms()) - {LIBRARY.name}


def test_the_page_has_the_same_formulas():
    rows = re.findall(r"^\| (.+?) \| (\w+) \| (.+?) \|$", PAGE, flags=re.M)
    shown = []
    for formula, of, cell in rows:
        link = re.fullmatch(r"\[`(.+?)`\]\(\.\./gateau_lib/(.+?)\.py\)", cell)
        if link:
            assert link[1].startswith(link[2].replace("/", ".") + "."), cell
            shown.append((formula, of, qualified(link[1])))
    assert shown == formulas()


@pytest.mark.parametrize("name", sorted({name for *_, names in formulas() for name in names}))
def test_every_function_of_the_index_exists(name):
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(f"gateau_lib.{module}"), function))


def test_the_readme_has_a_line_for_each_room():
    shown = dict(re.findall(r"^\| `gateau_lib/(\w+)/` \| (.+?) \|$", README, flags=re.M))
    assert shown == {room: purpose for room, (purpose, _) in rooms().items() if room != LIBRARY.name}


def test_modules_that_the_pages_name_exist():
    named = re.compile(rf"`((?:{'|'.join(set(rooms()) - {LIBRARY.name})})\.\w+)(?:\.\w+)?`")
    for page in PAGES:
        for module in named.findall(page.read_text(encoding="utf-8")):
            assert (LIBRARY / f"{module.replace('.', '/')}.py").exists(), f"{page.name} names {module}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_the_pages_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith(BUILT):
            assert (page.parent / link).exists(), link
