"""Updates one by one and in blocks: sums and moving averages against plain NumPy loops, and compensated sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmjax.effects.updates import NODES, Block, One, Sum, nodes_of, plus

SIZES = (8, 32, 33, 256)
RATES = (0.001, 0.1, 0.9, 1.0)
each_size = pytest.mark.parametrize("size", SIZES)


def cubic(size):
    """A cubic at every update of a block."""
    x = np.arange(size) / size
    return 0.3 - 2.0 * x + 5.0 * x**2 - 3.5 * x**3


def block(values):
    """The block with these values at every update, and its values at the nodes."""
    at = tuple(values[i] for i in nodes_of(len(values)))
    return Block(at, at, len(values)), at


def average_loop(x, rate, values):
    """The average after every update."""
    found = []
    for value in values:
        x = (1 - rate) * x + rate * value
        found.append(x)
    return np.array(found)


def number(x, dtype="float64"):
    return Sum(jnp.asarray(x, dtype), jnp.zeros((), dtype))


# ------------------------------------------------------------------------------------------------ blocks


@pytest.mark.parametrize("size", [4, 5, 8, 32, 33, 256, 1000])
def test_nodes_are_distinct_updates_of_the_block(size):
    nodes = nodes_of(size)
    assert len(nodes) == NODES
    assert 0 <= nodes[0] < nodes[1] < nodes[2] < nodes[3] < size


def test_an_update_is_its_own_node():
    assert nodes_of(1) == (0,)


@each_size
def test_a_sum_is_exact_for_cubics(size, x64):
    values = cubic(size)
    many, at = block(values)
    np.testing.assert_allclose(many.sum(at), values.sum(), rtol=1e-11)


@pytest.mark.parametrize(("size", "slack"), [(32, 3e-2), (256, 3e-3)])
@pytest.mark.parametrize("degree", [4, 7])
def test_a_sum_is_near_for_higher_powers(degree, size, slack, x64):
    values = (np.arange(size) / size) ** degree
    many, at = block(values)
    np.testing.assert_allclose(many.sum(at), values.sum(), rtol=slack)


def test_a_formula_is_taken_at_each_node(x64):
    many, at = block(cubic(32))
    found = many.each(lambda x, y, z: x + y * z, at, 3.0, tuple(2 * x for x in at))
    np.testing.assert_allclose(found, [7 * x for x in at], rtol=1e-12)


@each_size
def test_one_value_for_all_updates_counts_once_an_update(size, x64):
    many, _ = block(cubic(size))
    np.testing.assert_allclose(many.sum(0.25), 0.25 * size, rtol=1e-11)


@each_size
@pytest.mark.parametrize("rate", RATES)
def test_an_average_is_the_loop_for_cubics(size, rate, x64):
    values = cubic(size)
    many, at = block(values)
    expected = average_loop(0.7, rate, values)
    now, after = many.average(number(0.7), rate, at)
    np.testing.assert_allclose(now, expected[list(nodes_of(size))], rtol=0, atol=1e-12)
    np.testing.assert_allclose(after.total, expected[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", RATES)
def test_an_average_of_one_value(rate, x64):
    many, _ = block(cubic(32))
    expected = average_loop(0.0, rate, np.ones(32))
    now, after = many.average(Sum.zero("float64"), rate, 1.0)
    np.testing.assert_allclose(now, expected[list(nodes_of(32))], rtol=1e-11)
    np.testing.assert_allclose(after.total, expected[-1], rtol=1e-11)


def test_averages_of_traced_rates_in_float32(x64):
    """1 - beta in float64, the average in float32: the weights keep the digits of 1e-6."""
    many, at = block(cubic(256))
    rates = np.array([1e-6, *RATES])
    narrow = tuple(jnp.asarray(x, jnp.float32) for x in at)
    found = jax.jit(jax.vmap(lambda rate: many.average(number(0.0, "float32"), rate, narrow)[1].total))(rates)
    assert found.dtype == jnp.float32
    expected = [average_loop(0.0, rate, cubic(256))[-1] for rate in rates]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_blocks_follow_each_other(x64):
    """A cubic over 96 updates, in three blocks of 32."""
    values, rate = cubic(96), 0.03
    average = number(0.2)
    for part in np.split(values, 3):
        many, at = block(part)
        average = many.average(average, rate, at)[1]
    np.testing.assert_allclose(average.total, average_loop(0.2, rate, values)[-1], rtol=1e-11)


# ------------------------------------------------------------------------------------------------ single updates


@pytest.mark.parametrize("rate", RATES)
def test_single_updates_are_the_textbook_recursion(rate, x64):
    values = np.random.default_rng(0).normal(size=50)

    def advance(average, value):
        now, average = One(value, value).average(average, rate, value)
        return average, now

    after, now = jax.lax.scan(advance, number(0.7), values)
    expected = average_loop(0.7, rate, values)
    np.testing.assert_allclose(now, expected, rtol=0, atol=1e-12)
    assert float(after.total) == float(now[-1])


def test_a_single_update_sums_and_maps_itself():
    one = One(3.0, 0.5)
    assert (one.sum(one.lr), one.each(lambda x, y: x - y, one.lr, one.drop)) == (3.0, 2.5)


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
        return One(value, value).average(average, 1e-8, value)[1]

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
