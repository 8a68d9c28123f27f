"""Exported snippets, run as a user would, against the schedules they stand for."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.exporters.snippets import csv_text, knots_snippet, optax_snippet
from fmjax.schedules.kinds import DECAYS, WSD, Tabulated
from fmjax.schedules.knots import thinned

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
    np.testing.assert_allclose(rates, schedule(np.arange(T + 5)), rtol=1e-6, atol=1e-16)


@pytest.mark.parametrize("decay", DECAYS)
def test_an_anneal_of_no_update_is_the_peak(decay, x64):
    schedule = WSD(peak_lr=1e-3, total_steps=T, anneal_ratio=1e-4, decay=decay, final_lr=1e-5)
    np.testing.assert_allclose(run(optax_snippet(schedule))(COUNTS), 1e-3, rtol=1e-6)


def test_fields_may_be_arrays():
    schedule = WSD(jnp.float32(0.5), jnp.int32(T), jnp.float32(0.25), warmup_steps=jnp.int32(8))
    assert optax_snippet(schedule) == optax_snippet(WSD(0.5, T, 0.25, warmup_steps=8))


KNOTS = np.array([0, 19, 20, 100, 250, 399]), np.array([0.0, 9.5e-4, 1e-3, 9e-4, 2e-4, 0.0])


def test_knots_are_the_schedule_at_every_count(x64):
    rates = run(knots_snippet(*KNOTS, within=0.0))(COUNTS)
    np.testing.assert_allclose(rates, np.interp(COUNTS, *KNOTS), rtol=1e-10, atol=1e-16)


def test_dropped_knots_change_no_rate_by_more_than_is_allowed(x64):
    rates = 1e-3 * (1 + np.cos(np.pi * COUNTS / T)) / 2
    steps, kept = thinned(COUNTS, rates)
    assert 10 < steps.size < 40
    np.testing.assert_allclose(np.interp(COUNTS, steps, kept), rates, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(knots_snippet(COUNTS, rates))(COUNTS), rates, rtol=0, atol=1e-6 * (1 + 1e-9))
    assert thinned(COUNTS, rates, within=1e-4)[0].size > 2 * steps.size


def test_a_knot_snippet_is_an_optax_schedule():
    optimizer = optax.sgd(run(knots_snippet(*KNOTS)))
    state = optimizer.init(jnp.zeros(()))
    for count in range(3):
        update, state = optimizer.update(jnp.ones(()), state)
        np.testing.assert_allclose(-update, np.interp(count, *KNOTS), rtol=1e-6)


def test_straight_lines_need_no_knots_between():
    assert thinned(np.arange(5), np.linspace(1.0, 0.0, 5))[0].tolist() == [0, 4]
    assert thinned(np.arange(5), np.zeros(5))[0].tolist() == [0, 4]
    assert thinned([3], [1.0])[0].tolist() == [3]


def test_csv_has_a_row_an_update(x64):
    rates = np.interp(COUNTS, *KNOTS)
    header, *rows = csv_text(Tabulated(rates)).splitlines()
    assert header == "step,lr"
    table = np.array([row.split(",") for row in rows], float)
    np.testing.assert_array_equal(table, np.stack([COUNTS, rates], axis=1))
