"""The damped Newton method on small problems, beside SciPy."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from fmjax.fitting.newton import Curvature, bounded_step, damped_newton, solve

DELTA = 0.05
X = np.linspace(0, 4, 40)
Y = 2.0 * np.exp(-1.3 * X) + 0.5 + np.random.default_rng(0).normal(0, 0.02, 40)
Y[[5, 20]] += 0.6  # outliers
OUTSIDE = (np.array([0.0, 0.1, 0.0]), np.array([10.0, 5.0, 10.0]))
TIGHT = (np.array([0.0, 0.1, 0.6]), np.array([10.0, 1.0, 10.0]))


def decay(params):
    return params[0] * jnp.exp(-params[1] * X) + params[2] - Y


def objective(params, delta):
    """Huber loss of an exponential decay, its gradient and curvatures."""
    error, slopes = decay(params), jax.jacfwd(decay)(params)
    inside = jnp.abs(error) <= delta
    value = jnp.where(inside, error**2 / 2, delta * (jnp.abs(error) - delta / 2)).sum()
    weight = jnp.where(inside, 1.0, delta / jnp.maximum(jnp.abs(error), delta))
    curvature = Curvature(slopes.T @ (slopes * inside[:, None]), slopes.T @ (slopes * weight[:, None]))
    return value, slopes.T @ jnp.clip(error, -delta, delta), curvature


@partial(jax.jit, static_argnames=("function", "steps"))
def minimise(function, start, lower, upper, steps=60):
    """Best point and value after a number of steps, and every point tried."""
    newton = damped_newton(lower, upper)

    def advance(carry, _):
        params, state = carry
        value, grad, curvature = function(params)
        step, state = newton.update(grad, state, params, value=value, curvature=curvature)
        return (params + step, state), params

    (_, state), tried = jax.lax.scan(advance, (start, newton.init(start)), length=steps)
    return state, tried


def huber(params):
    return objective(params, DELTA)


def squares(params):
    return objective(params, 1e3)


def in_other_units(params):
    value, grad, curvature = huber(params / UNITS)
    return value, grad / UNITS, Curvature(*(matrix / np.outer(UNITS, UNITS) for matrix in curvature))


UNITS = np.array([1e3, 1e-4, 1e6])


def logarithm(params):
    """Sum of p - log p, NaN at p < 0 and least at 1; its Newton step from 5 leads far below 0."""
    square = jnp.diag(1 / params**2)
    return jnp.sum(params - jnp.log(params)), 1 - 1 / params, Curvature(square, square)


@pytest.mark.parametrize("bounds", [OUTSIDE, TIGHT], ids=["free", "at-bounds"])
@pytest.mark.parametrize("function", [huber, squares], ids=["huber", "squares"])
def test_reaches_what_scipy_reaches(function, bounds, x64):
    start = np.array([1.0, 0.5, 1.0])
    state, tried = minimise(function, start, *bounds)
    compiled = jax.jit(function)
    peer = scipy.optimize.minimize(
        lambda p: [np.asarray(part) for part in compiled(p)[:2]],
        start,
        jac=True,
        bounds=list(zip(*bounds, strict=True)),
        options={"ftol": 1e-15, "gtol": 1e-11, "maxiter": 500},
    )
    assert float(state.value) <= peer.fun * (1 + 1e-9)
    np.testing.assert_allclose(state.point, peer.x, rtol=1e-4)
    assert ((bounds[0] <= np.asarray(tried)) & (np.asarray(tried) <= bounds[1])).all()
    assert 0 <= float(state.decrement) < 1e-13


def test_at_the_optimum_the_gradient_is_zero_or_points_out(x64):
    lower, upper = TIGHT
    state, _ = minimise(huber, np.array([1.0, 0.5, 1.0]), lower, upper)
    free = (state.point > lower) & (state.point < upper)
    assert 0 < free.sum() < 3
    # a value is known to eps of itself, so a step that lowers it by less cannot be told from one that does not:
    # what is left of a slope g at curvature H has g^2 / 2 H below a few eps of the value
    curvature = np.diag(huber(state.point)[2].newton)
    left = np.asarray(state.grad**2 / (2 * curvature))[free]
    assert (left <= 100 * np.finfo(float).eps * float(state.value)).all()
    assert (state.grad[state.point <= lower] > 0).all()
    assert (state.grad[state.point >= upper] < 0).all()


def test_a_step_into_nan_is_taken_back(x64):
    state, tried = minimise(logarithm, np.array([5.0]), np.array([-1e3]), np.array([1e3]))
    assert float(tried.min()) < 0  # the objective was NaN there
    np.testing.assert_allclose(state.point, 1.0, rtol=1e-6)
    assert float(state.value) == pytest.approx(1.0)


def test_a_nan_start_fails_alone(x64):
    bounds = np.array([-1e3]), np.array([1e3])
    starts = np.array([[5.0], [-1.0], [0.01]])
    together, _ = jax.vmap(lambda start: minimise(logarithm, start, *bounds))(starts)
    alone, _ = minimise(logarithm, starts[0], *bounds)
    np.testing.assert_allclose(together.point, [alone.point, [-1.0], [1.0]], rtol=1e-6)
    assert np.isfinite(together.value).tolist() == [True, False, True]


def test_units_do_not_matter(x64):
    start = np.array([1.0, 0.5, 1.0])
    _, tried = minimise(huber, start, *OUTSIDE)
    scaled_bounds = (bound * UNITS for bound in OUTSIDE)
    _, scaled = minimise(in_other_units, start * UNITS, *scaled_bounds)
    np.testing.assert_allclose(np.asarray(scaled) / UNITS, tried, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8], ids=["one", "small", "large"])
def test_solve(scale, x64):
    half = np.random.default_rng(1).normal(size=(3, 5)) * np.array([[1.0], [scale], [1.0]])
    vector = np.array([1.0, 2.0 * scale, 3.0])
    np.testing.assert_allclose(half @ half.T @ solve(half @ half.T, vector), vector, rtol=1e-6)


def test_solve_is_nan_where_the_matrix_is_not_positive(x64):
    assert np.isnan(solve(jnp.array([[1.0, 2.0], [2.0, 1.0]]), jnp.ones(2))).any()


AT_ONCE = """
import os
from concurrent.futures import ThreadPoolExecutor
import jax, numpy as np
from fmjax.fitting.newton import solve

half = np.random.default_rng(0).normal(size=(512, 16, 20))
run = jax.jit(jax.vmap(solve))
with ThreadPoolExecutor(2 * os.cpu_count()) as pool:
    found = list(pool.map(lambda _: np.asarray(run(half @ half.swapaxes(1, 2), half[..., 0])), range(200)))
print(len(found))
"""


def test_batches_at_once_on_every_core_end():
    done = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "200\n"


def test_solve_keeps_away_from_an_empty_direction(x64):
    np.testing.assert_allclose(solve(jnp.diag(jnp.array([2.0, 0.0])), jnp.array([1.0, 0.0])), [0.5, 0.0], rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_bounded_steps_are_those_of_scipy(seed, x64):
    rng = np.random.default_rng(seed)
    rows, target = rng.normal(size=(30, 12)), rng.normal(size=30)
    lower, upper = np.where(rng.random(12) < 0.7, 0.0, -np.inf), np.where(rng.random(12) < 0.3, 0.05, np.inf)
    point = np.clip(rng.normal(0, 0.1, 12), lower, upper)
    step = jax.jit(bounded_step)(rows.T @ rows, rows.T @ (rows @ point - target), point, lower, upper)
    expected = scipy.optimize.lsq_linear(rows, target, (lower, upper), tol=1e-14).x
    np.testing.assert_allclose(point + step, expected, atol=1e-7)
    assert np.all((point + step >= lower) & (point + step <= upper))
