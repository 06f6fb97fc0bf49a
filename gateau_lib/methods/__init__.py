"""The papers, one file a method: formula, source, open points. This file lists them.

A selector is one file of this folder and one line here. What a command offers, what the score table holds, what
the plan counts and what figures call a method is read from `METHODS`; its order is theirs.
"""
# ruff: noqa: F401, I001

from gateau_lib.methods.base import Method
from gateau_lib.study import labels

from gateau_lib.methods.gateau import GATEAU
from gateau_lib.methods.hmg import HMG
from gateau_lib.methods.cam import CAM
from gateau_lib.methods.prolong import PROLONG
from gateau_lib.methods.baselines import IFD
from gateau_lib.methods.baselines import CONTRAST
from gateau_lib.methods.baselines import PERPLEXITY
from gateau_lib.methods.baselines import LONGATTN
from gateau_lib.methods.baselines import LONGEST
from gateau_lib.methods.baselines import RANDOM

METHODS: dict[str, Method] = {
    each.name: each for each in list(globals().values()) if isinstance(each, Method)
}
SCORED = tuple(name for name, method in METHODS.items() if method.fill)  # by `gateau_lib.score`

labels.add({name: method.title for name, method in METHODS.items()})
labels.LOOKS.update({name: method.look for name, method in METHODS.items()})


def scored_with(method: Method, column: str) -> str:
    """The method to score with, so that a table holds a column which ``method`` ranks by."""
    return next(name for name in (method.name, *SCORED) if column in METHODS[name].columns)
