"""A page in which scores are tried: what the study's explorer and the report of a selection have in common.

``explorer_page.html`` holds the parts as macros, ``.css`` their look, ``.js`` the library's formulas and the
views of a sample and of a ranking. A page is a template that uses the macros, and a script of its own that
calls ``explore``. It needs no other file and no network.
"""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np

HERE = Path(__file__).parent


def filled(template: Path, data: str, **values: Any) -> str:
    """The page of a template with its script, which lies beside it as ``.js``, and ``data`` (JSON) in it.

    ``values``: what else the template asks for. Texts among them are escaped.
    """
    options: dict[str, Any] = {"trim_blocks": True, "lstrip_blocks": True, "autoescape": True}
    places = jinja2.FileSystemLoader([template.parent, HERE])
    pages = jinja2.Environment(loader=places, undefined=jinja2.StrictUndefined, **options)
    own = template.with_suffix(".js").read_text(encoding="utf-8")
    script = (HERE / "explorer_page.js").read_text(encoding="utf-8")
    parts = {"script": script + "\n" + own, "style": (HERE / "explorer_page.css").read_text(encoding="utf-8")}
    # In JSON "<" stands inside of texts only; so no text can end the element, or begin a comment in it.
    parts["data"] = data.replace("<", "\\u003c")
    return pages.get_template(template.name).render(values | parts)


def few(values: Any) -> Any:
    """Numbers with four digits, as JSON has them."""
    if np.ndim(values):
        return [few(value) for value in np.asarray(values)]
    return float(f"{float(values):.4g}")
