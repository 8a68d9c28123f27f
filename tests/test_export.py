"""Exported snippets, run as a user would, against the schedules they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.export import optax_snippet
from fmjax.schedules import DECAYS, WSD

T = 400
COUNTS = np.arange(T)


def run(snippet):
    assert "fmjax" not in snippet
    names = {}
    exec(snippet, names)
    return names["schedule"]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(
    "fields",
    [
        {"anneal_ratio": 0.25},
        {"anneal_ratio": 0.25, "warmup_steps": 50, "init_lr": 1e-5},
        {"anneal_ratio": 0.875, "warmup_steps": 50},
        {"anneal_ratio": 1.0},
        {"anneal_ratio": 0.95, "warmup_steps": 50},
        {"anneal_ratio": 1.0, "warmup_steps": 50},
    ],
    ids=["cold", "warm", "adjacent", "whole", "overlap", "whole-warm"],
)
def test_rates_are_the_schedule_at_every_count(fields, decay, x64):
    schedule = WSD(peak_lr=1e-3, total_steps=T, decay=decay, final_lr=1e-5, **fields)
    rates = run(optax_snippet(schedule))(COUNTS)
    np.testing.assert_allclose(rates, schedule(COUNTS), rtol=1e-6)


@pytest.mark.parametrize("decay", ["linear", "cosine", "1-sqrt"])
def test_anneals_to_zero(decay, x64):
    schedule = WSD(peak_lr=1e-3, total_steps=T, anneal_ratio=0.25, decay=decay)
    rates = run(optax_snippet(schedule))(np.arange(T + 5))
    np.testing.assert_allclose(rates, schedule(np.arange(T + 5)), rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("decay", DECAYS)
def test_an_anneal_of_no_update_is_the_peak(decay, x64):
    schedule = WSD(peak_lr=1e-3, total_steps=T, anneal_ratio=1e-4, decay=decay, final_lr=1e-5)
    np.testing.assert_allclose(run(optax_snippet(schedule))(COUNTS), 1e-3, rtol=1e-6)


def test_fields_may_be_arrays():
    schedule = WSD(jnp.float32(0.5), jnp.int32(T), jnp.float32(0.25), warmup_steps=jnp.int32(8))
    assert optax_snippet(schedule) == optax_snippet(WSD(0.5, T, 0.25, warmup_steps=8))
