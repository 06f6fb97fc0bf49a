"""Small samples."""

from __future__ import annotations

from gateau_lib.data.samples import Sample

WORDS = "amber river copper falcon cedar silver lantern thunder velvet marble".split()


def sample(number: int, length: int = 2) -> Sample:
    word = WORDS[number % len(WORDS)]
    context = " ".join(f"{WORDS[(number + i) % 10]} {i}" for i in range(length))
    return Sample(f"s{number}", context, f"Say {word}.", f"It is {word}{number}.", answer=f"{word}{number}")
