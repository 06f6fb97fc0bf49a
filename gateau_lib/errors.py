"""Errors of other libraries in words that fit into a message of one line."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The first line of the error's message, or the name of its type if it has none."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip() if text else type(error).__name__
