"""Selectors without a model the slow, obvious way."""

from __future__ import annotations

import gzip
import string

from gateau_lib.methods.model_passes import last_window


def slow_parts(tokenizer, sample, encoded, window):
    """Far and near context as text, from the tokens that a reader of the window is given."""
    prefix, targets = last_window(encoded, window)
    read = len(prefix) + len(targets) - len(encoded.start)
    near = min(len(encoded.context), max(0, read - len(encoded.instruction) - len(encoded.response)))
    cut = len(encoded.context) - near
    return tokenizer.decode(encoded.context[:cut]), tokenizer.decode(encoded.context[cut:])


def slow_size(text):
    """Bytes of the deflate stream in a gzip file, with zlib's own 6 bytes around it in place of gzip's 18."""
    return len(gzip.compress(text.encode(), compresslevel=9, mtime=0)) - 18 + 6


def slow_saved(far, near, question, response):
    after_near = f"{near}\n\n{question}\n\n"
    alone = slow_size(after_near + response) - slow_size(after_near)
    return alone - (slow_size(far + after_near + response) - slow_size(far + after_near))


def slow_words(text):
    kept = "".join(c if c in string.ascii_letters + string.digits else " " for c in text)
    return [word.lower() for word in kept.split()]


def slow_share(far, near, question, response):
    found, used = 0, sorted(set(slow_words(response)))
    for word in used:
        if word in slow_words(far) and word not in slow_words(near) and word not in slow_words(question):
            found += 1
    return found / len(used) if used else 0.0


def slow_distance(context, wanted):
    """Cuts the context from the left until what is left begins with a wanted word."""
    for begin in range(len(context) - 1, -1, -1):
        inside = begin > 0 and context[begin - 1].isalnum()
        if context[begin].isalnum() and not inside and slow_words(context[begin:])[0] in wanted:
            return len(context) - begin
    return len(context)
