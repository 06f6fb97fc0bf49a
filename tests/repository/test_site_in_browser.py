"""The site in a real browser: nothing fails, is fetched or sticks out, and pictures have words."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import needs_browser, rendered, told
from site_build import built

pytest.importorskip("myst_nb")
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "cpu"
pytestmark = pytest.mark.skipif(
    not (RESULTS / "manifest.json").exists(), reason="no results/cpu: make reproduce"
)
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LOOKED_AT = [
    "index",
    "theory",
    "glossary",
    "claims/index",
    "library/methods",
    "project/errata",
    "project/readme",
]
LOOKED_AT += [f"notebooks/{name}" for name in CHAPTERS]
IN_THE_DARK = [
    "index",
    "theory",
    "claims/index",
    "notebooks/03_hmg_scoring",
    "notebooks/09_findings",
]  # small
# In a theme: what came from elsewhere, pictures without words or content, tables as text, what sticks
# out, pale letters.
LOOK = """
document.documentElement.dataset.theme = "%s";
const inside = document.querySelector("article");
const all = (what) => [...inside.querySelectorAll(what)];
const short = (node) => node.tagName + " " + (node.textContent || node.src || "").trim().slice(0, 60);
const scrolled = (node) => {
  for (let at = node; at && at !== inside; at = at.parentElement) {
    if (/(auto|scroll|hidden|clip)/.test(getComputedStyle(at).overflowX)) return true;
  }
  return false;
};
const numbers = (colour) => colour.match(/[0-9.]+/g).map(Number);
const curve = (part) => (part <= 10 ? part / 3295 : ((part / 255 + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * curve(r) + 0.7152 * curve(g) + 0.0722 * curve(b);
const behind = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = numbers(getComputedStyle(at).backgroundColor);
    if ((colour[3] ?? 1) > 0.5) return colour;
  }
  return [255, 255, 255];
};
const contrast = (node) => {
  const pair = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
};
const elsewhere = (name) => !/^(file|data):/.test(name);
const edge = inside.getBoundingClientRect().right + 2;
const over = (each) => each.getBoundingClientRect().right > edge && !scrolled(each);
return {
  outside: performance.getEntriesByType("resource").map((each) => each.name).filter(elsewhere),
  wordless: all("img").filter((each) => !each.alt || /\\.(svg|png)$/.test(each.alt)).map((each) => each.src),
  broken: all("img").filter((each) => each.complete && !each.naturalWidth).map((each) => each.src),
  piped: all("p").filter((each) => each.textContent.split("|").length > 8).map(short),
  wide: all("pre, table, img, mjx-container, p, li").filter(over).map(short),
  pale: all("p, td, th, figcaption").filter((each) => contrast(each) < 3).map(short),
  page: document.documentElement.scrollWidth > innerWidth + 2,
};
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, as `make site` builds it."""
    place = tmp_path_factory.mktemp("site")
    (place / "results").symlink_to(ROOT / "results")
    return built(place)


@needs_browser
@pytest.mark.parametrize(
    ("name", "theme", "width"),
    [(name, "light", 1400) for name in LOOKED_AT] + [(name, "dark", 500) for name in IN_THE_DARK],
)
def test_a_page_is_whole(site, name, theme, width):
    failed, seen = json.loads(told(rendered(site / f"{name}.html", LOOK % theme, width)))
    assert failed == []
    assert {what: found for what, found in seen.items() if found} == {}


@needs_browser
def test_no_page_is_wider_than_a_phone(site):
    """A window is at least 500 pixels wide without a screen, so pages are looked at in frames."""
    names = [*LOOKED_AT, "teaching", "architecture", "library/evaluation", "project/contributing"]
    frames = "".join(f'<iframe src="{name}.html" style="width: 390px"></iframe>' for name in names)
    page = site / "frames.html"
    page.write_text(f"<html><head></head><body>{frames}</body></html>", encoding="utf-8")
    script = "return [...document.querySelectorAll('iframe')].map((each) => [each.getAttribute('src'), "
    script += "each.contentDocument.documentElement.scrollWidth, each.contentDocument.title]);"
    try:
        _, seen = json.loads(told(rendered(page, script)))
    finally:
        page.unlink()
    assert len(seen) == len(names) and all(title for _, _, title in seen)
    assert [(name, wide) for name, wide, _ in seen if wide > 390] == []


@needs_browser
def test_the_explorer_is_there_and_works(site):
    if not (site / "explorer.html").exists():
        pytest.skip("no explorer data in results/cpu: make reproduce")
    script = "const all = document.querySelectorAll('#segments .segment');"
    script += "return [byId('found').textContent, all.length, document.documentElement.scrollWidth]"
    failed, (found, segments, wide) = json.loads(told(rendered(site / "explorer.html", script, 500)))
    assert failed == [] and found.startswith("AUC ") and segments > 3 and wide <= 502


def test_links_and_anchors_lead_somewhere(site):
    pages = {
        path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if "_static" not in path.parts
    }
    marks = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    lost = []
    for path, text in pages.items():
        for link in set(re.findall(r'<a [^>]*href="([^"]+)"', text)):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = unescape(unquote(link)).partition("#")
            there = (path.parent / target).resolve() if target else path
            if not there.exists() or (anchor and there in marks and anchor not in marks[there]):
                lost.append(f"{path.relative_to(site)}: {link}")
    assert lost == []


def test_a_search_for_contextual_awareness_finds_chapter_04(site):
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(re.search(r"Search\.setIndex\((.*)\)", index, flags=re.S)[1])  # type: ignore[index]
    in_parts = [
        [found[part].get(stem, []) for part in ("terms", "titleterms")] for stem in ("contextu", "awar")
    ]
    places = [
        {n for part in parts for n in ([part] if isinstance(part, int) else part)} for parts in in_parts
    ]
    both = set.intersection(*places)
    assert "notebooks/04_cam_scoring" in {found["docnames"][place] for place in both}
