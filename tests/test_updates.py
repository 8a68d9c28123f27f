"""Moving averages against plain NumPy loops, and compensated sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.effects.updates import Sum, averaged, plus

RATES = (0.001, 0.1, 0.9, 1.0)


def average_loop(x, rate, values):
    """The average after every update."""
    found = []
    for value in values:
        x = (1 - rate) * x + rate * value
        found.append(x)
    return np.array(found)


def number(x, dtype="float64"):
    return Sum(jnp.asarray(x, dtype), jnp.zeros((), dtype))


@pytest.mark.parametrize("rate", RATES)
def test_single_updates_are_the_textbook_recursion(rate, x64):
    values = np.random.default_rng(0).normal(size=50)

    def advance(average, value):
        average = averaged(average, rate, value)
        return average, average.total

    after, now = jax.lax.scan(advance, number(0.7), values)
    expected = average_loop(0.7, rate, values)
    np.testing.assert_allclose(now, expected, rtol=0, atol=1e-12)
    assert float(after.total) == float(now[-1])


# ------------------------------------------------------------------------------------------------ sums

COUNT = 10**6


def summed(start, x, dtype, add):
    return jax.jit(lambda start: jax.lax.fori_loop(0, COUNT, lambda _, total: add(total, x), start))(start)


def test_a_float32_sum_keeps_a_million_tiny_summands():
    kept = summed(number(1.0, "float32"), 2e-8, "float32", plus)
    lost = summed(jnp.float32(1.0), jnp.float32(2e-8), "float32", jnp.add)
    assert kept.total.dtype == jnp.float32
    assert float(lost) == 1.0  # each is less than half a digit of 1
    np.testing.assert_allclose(kept.total, 1.02, rtol=1e-7)


def test_a_float32_average_keeps_steps_below_its_digits(x64):
    """An average of 1 that forgets at 1e-8 an update; a plain one would stay where it is."""
    value = jnp.float32(3.0)

    def advance(_, average):
        return averaged(average, 1e-8, value)

    found = jax.jit(lambda: jax.lax.fori_loop(0, COUNT, advance, number(1.0, "float32")))()
    assert np.float32(1.0) + np.float32(2e-8) == np.float32(1.0)
    np.testing.assert_allclose(found.total, 3 - 2 * np.exp(COUNT * np.log1p(-1e-8)), rtol=2e-7)


def test_a_float64_sum_is_plain(x64):
    values = np.random.default_rng(0).uniform(size=300)
    total = number(1e9)
    for value in values:
        total = plus(total, value)
    assert float(total.total) == np.add.accumulate([1e9, *values])[-1]
    assert float(total.lost) == 0.0
    assert float(plus(number(1.0), 1e-20).total) == 1.0
