"""The command and the bare script both run, and the best of their times is told."""

from __future__ import annotations

from gateau_lib.scoring import fixed_cost


def test_both_are_run():
    found = fixed_cost.measure(repeats=1)
    assert list(found) == ["command", "bare script"] and all(0.1 < value < 300 for value in found.values())


def test_the_best_counts_and_they_take_turns(monkeypatch):
    seconds, asked = iter([5.0, 2.0, 3.0, 4.0]), []
    monkeypatch.setattr(fixed_cost, "_wall", lambda line: asked.append(line[0]) or next(seconds))
    assert fixed_cost.measure(repeats=2) == {"command": 3.0, "bare script": 2.0}
    assert asked == ["-m", "-c"] * 2
