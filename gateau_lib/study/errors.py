"""Errors of other libraries in words that fit into a message of one line."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of the error's message, or the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__


class ModelError(ValueError):
    """A model that cannot be loaded; the message says what was looked for and what to do."""
class ScoreError(ValueError):
    """Options, models or files of a scoring run that do not fit together; the message says which and what to do."""

class DataError(ValueError):
    """Input that cannot be used; the message names the file, the line or sample, and the fix."""
