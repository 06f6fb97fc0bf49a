"""Every setting of the published experiment has a source, and the values are the published ones."""

from __future__ import annotations

from gateau_lib.experiments import setting_sources
from gateau_lib.study.profiles import resolve


def test_every_field_of_the_paper_profile_has_a_source_or_says_that_it_is_ours():
    rows = setting_sources.rows()
    assert all(name and value and source for name, value, source in rows)
    assert {f"`{name}`" for name, *_ in resolve("paper").describe()} <= {name for name, *_ in rows}


def test_what_is_published_is_what_the_paper_profile_takes():
    published = {
        "epochs": 2.0,
        "batch_samples": 96,
        "sft_learning_rate": 2e-5,
        "long_samples": 10_000,
        "alphas": (0.8, 0.7),
        "short_samples": (100_000, 10_000),
        "shares": (0.1, 0.3, 0.5),
        "max_length": 64_000,
        "long_window": 65_536,
        "segment_length": 128,
        "prolong_pairs": 5_000,
        "benchmark_window": 64_000,
        "tuning": "full",
        "dtype": "bfloat16",
    }
    assert {name: getattr(resolve("paper"), name) for name in published} == published


def test_what_the_trainer_fixes_is_as_published():
    given = setting_sources.trainer_arguments()
    assert (given.adam_beta1, given.adam_beta2, given.weight_decay, given.warmup_steps) == (0.9, 0.95, 0.0, 3)
    assert given.lr_scheduler_type == "cosine" and given.max_grad_norm == 1.0 and given.learning_rate == 2e-5
