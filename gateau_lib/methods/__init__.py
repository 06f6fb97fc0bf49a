"""The papers, one file a method: formula, source, open points.

A selector is one file of this folder and one line here. What a command offers, what the score table holds,
what the plan counts and what figures call a method is read from `METHODS`; its order is theirs.
"""

from importlib import import_module

from gateau_lib.methods.base import Method
from gateau_lib.study import labels


def listed(*places: str) -> dict[str, Method]:
    """The methods that stand at these places (``module:NAME``), by name."""
    found = [getattr(import_module(module), name) for module, name in (place.split(":") for place in places)]
    return {method.name: method for method in found}


METHODS = listed(
    "gateau_lib.methods.gateau:GATEAU",
    "gateau_lib.methods.hmg:HMG",
    "gateau_lib.methods.cam:CAM",
    "gateau_lib.methods.prolong:PROLONG",
    "gateau_lib.methods.baselines:IFD",
    "gateau_lib.methods.baselines:CONTRAST",
    "gateau_lib.methods.baselines:PERPLEXITY",
    "gateau_lib.methods.baselines:LONGATTN",
    "gateau_lib.methods.compressors:ZLIB_CONTRAST",
    "gateau_lib.methods.compressors:GZIP_RATIO",
    "gateau_lib.methods.compressors:GZIP_BAND",
    "gateau_lib.methods.word_matching:WORD_OVERLAP",
    "gateau_lib.methods.word_matching:QUESTION_DISTANCE",
    "gateau_lib.methods.longppl:LONGPPL",
    "gateau_lib.methods.longfilter:LONGFILTER",
    "gateau_lib.methods.delta_entropy:DELTA_ENTROPY",
    "gateau_lib.methods.segment_contrast:SEGMENT_CONTRAST",
    "gateau_lib.methods.baselines:LONGEST",
    "gateau_lib.methods.baselines:RANDOM",
)
SCORED = tuple(name for name, method in METHODS.items() if method.fill)  # by `gateau_lib.score`


def scored_with(method: Method, column: str) -> str:
    """The method to score with, so that a table holds a column which ``method`` ranks by."""
    return next(name for name in (method.name, *SCORED) if column in METHODS[name].columns)


def name_in_figures() -> None:
    """Let figures and reports call and draw the methods by their titles and looks."""
    # Not done on import: what runs there counts in the keys of all that this folder holds.
    labels.LABELS.update({name: method.title for name, method in METHODS.items()})
    labels.LOOKS.update({name: method.look for name, method in METHODS.items()})
