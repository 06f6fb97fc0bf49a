"""A page in a real browser without a window, where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed here")
# Notes errors of scripts, and what could not be loaded.
WATCH = """<script>
window.saw = [];
addEventListener("error", (event) => saw.push(`${event.message || event.target.src}`), true);
</script>"""
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom")
OPTIONS += ("--allow-file-access-from-files",)  # a page may look into its frames
DARK = "--blink-settings=preferredColorScheme=0"


def rendered(page: Path, script: str = "", width: int = 1280, dark: bool = False) -> str:
    """The page's HTML after its scripts and then the body of a function, ``script``, ran; see `told`."""
    end = (
        "<script>addEventListener('load', () => setTimeout(() => { const pre = document.createElement('pre');"
        "pre.id = 'told'; pre.textContent = JSON.stringify([saw, (() => { "
        f"{script or 'return null'} }})()]);"
        "document.body.append(pre); }, 50));</script></body>"
    )
    text = re.sub("<head[^>]*>", lambda m: m[0] + WATCH, page.read_text(encoding="utf-8"), count=1)
    watched = page.with_name(f"watched-{page.name}")
    watched.write_text(text.replace("</body>", end), encoding="utf-8")
    theme = [DARK] if dark else []
    command = [str(BROWSER), *OPTIONS, *theme, f"--window-size={width},900", watched.as_uri()]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    finally:
        watched.unlink()


def told(html: str) -> str:
    """JSON that `rendered` left: a list of what failed in the page, and the script's result."""
    return unescape(re.search(r'<pre id="told">(.*?)</pre>', html, flags=re.S)[1])  # type: ignore[index]
