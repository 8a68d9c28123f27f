"""The batch engine against SciPy, and lanes that fail beside lanes that do not."""

import itertools

import jax
import numpy as np
import pytest
from scipy import optimize
from synthetic import DECAY, TRUTH, runs

from fmjax.fitting import lanes
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.fitting.starts import closed_form_starts
from fmjax.laws import LRAnnealing

LAW = LRAnnealing(decay=DECAY, warmup="as-scheduled")  # from all the far starts its losses are above zero
BEST = np.array([TRUTH["lr-annealing"][name] for name in LAW.parameter_names])
MANY = 5000
"""Evaluations that suffice from any of the far starts."""


def rows_of(curves):
    with jax.enable_x64(True):
        problem = prepare(LAW, curves, fitted=[True] * len(curves), options=FitOptions())
        return jax.tree.map(lambda x: x[:, : problem.keep.sum()], problem.rows(np.ones(len(curves), bool)))


@pytest.fixture(scope="module")
def rows():
    """120 rows with noise on both sides of delta."""
    return rows_of(runs(noise=3e-3))


@pytest.fixture(scope="module")
def starts():
    """Eight starts, up to a factor of ten away."""
    return BEST * 10 ** np.random.default_rng(0).uniform(-1, 1, (8, 4))


def minimise(rows, starts, weights=None, sets=None, **options):
    sets = np.zeros(len(starts), int) if sets is None else sets
    weights = np.ones((len(starts), rows.loss.shape[1])) if weights is None else weights
    with jax.enable_x64(True):
        return lanes.minimise(LAW, rows, lanes.Jobs(sets, weights, starts), **options)


def log_error(rows, params, k=0):
    level, scale, area, alpha = params
    predicted = level + scale * np.exp(-alpha * rows.effects["log_S"][k]) - area * rows.effects["S2"][k]
    return np.log(np.maximum(predicted, 1e-9)) - np.log(rows.loss[k])


def huber(error, delta=1e-3):
    size = np.abs(error)
    return np.sum(np.where(size <= delta, error**2 / 2, delta * (size - delta / 2)))


def scipy_minimum(rows, k=0):
    options = {"x_scale": np.abs(BEST), "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14, "max_nfev": 5000}
    found = optimize.least_squares(lambda p: log_error(rows, p, k), BEST, loss="huber", f_scale=1e-3, **options)
    return found.x, found.cost


@pytest.fixture(scope="module")
def found(rows, starts):
    return minimise(rows, starts, max_iterations=MANY)


def weights_like(starts, seed=1):
    return np.random.default_rng(seed).uniform(0.5, 1.5, (len(starts), 120))


def assert_same_lanes(one, other, which=slice(None)):
    for name, a, b in zip(lanes.Lanes._fields, one, other, strict=True):
        np.testing.assert_array_equal(a[which], b[which], err_msg=name)


# ------------------------------------------------------------------------------------------------ minima


def test_far_starts_reach_the_minimum_of_scipy(rows, found):
    params, cost = scipy_minimum(rows)
    assert found.status.tolist() == [lanes.CONVERGED] * 8
    np.testing.assert_allclose(found.objective, cost, rtol=1e-6)
    np.testing.assert_allclose(found.params, np.broadcast_to(params, (8, 4)), rtol=1e-3)


def test_the_objective_belongs_to_the_parameters(rows, found):
    np.testing.assert_allclose(found.objective, [huber(log_error(rows, p)) for p in found.params], rtol=1e-9)


def test_best_is_the_least_finite_objective(found):
    objective = np.array([np.nan, 3.0, np.inf, 1.0, 2.0])
    assert lanes.best(lanes.Lanes(np.zeros((5, 1)), objective, None, None)) == 3


def test_lanes_at_a_bound_agree_with_scipy(starts):
    truth = {"L0": -0.5, "A": 1.0, "C": 0.5, "alpha": 0.3}
    rows = rows_of(runs(params=truth, noise=3e-3))
    low, high = lanes.bounds(LAW)
    found = minimise(rows, starts)
    best = lanes.best(found)
    assert found.status[best] == lanes.AT_BOUND
    assert found.params[best, 0] == 0.0

    free = optimize.minimize(
        lambda p: 1e6 * huber(log_error(rows, p)),
        found.params[best] * 1.01 + 0.01,
        method="Nelder-Mead",
        bounds=list(zip(low, high, strict=True)),
        options={"xatol": 1e-10, "fatol": 1e-10, "maxiter": 5000, "maxfev": 5000},
    )
    assert found.objective[best] <= free.fun / 1e6 * (1 + 1e-6)
    assert np.all((found.params >= low) & (found.params <= high))


def test_no_more_evaluations_than_allowed(rows, starts):
    found = minimise(rows, starts, max_iterations=3)
    assert found.iterations.tolist() == [3] * 8
    assert found.status.tolist() == [lanes.ITERATION_LIMIT] * 8
    assert np.isfinite(found.objective).all()


def test_more_evaluations_lower_the_objective(rows, starts):
    values = [minimise(rows, starts, max_iterations=limit).objective for limit in (1, 4, 12, 30)]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(values))
    assert (values[-1] < values[0]).all()


# ------------------------------------------------------------------------------------------------ lanes among lanes


@pytest.mark.parametrize(
    ("what", "value"),
    [("weights", np.nan), ("weights", np.inf), ("start", np.nan), ("start", np.inf), ("loss", -1e300)],
    ids=["nan-weights", "inf-weights", "nan-start", "inf-start", "negative-prediction"],
)
def test_a_failed_lane_is_flagged_and_changes_no_other(rows, starts, found, what, value):
    weights, begin, others = np.ones((8, 120)), starts.copy(), np.arange(8) != 3
    if what == "weights":
        weights[3, 7] = value
    else:
        begin[3] = value
    broken = minimise(rows, begin, weights, max_iterations=MANY)
    assert broken.status[3] == lanes.NON_FINITE
    assert not np.isfinite(broken.objective[3])
    assert_same_lanes(broken, found, others)


def test_all_lanes_may_fail(rows, starts):
    found = minimise(rows, np.full_like(starts, np.nan))
    assert found.status.tolist() == [lanes.NON_FINITE] * 8


def test_rows_of_no_weight_may_be_anything(rows, starts):
    weights = np.ones((8, 120))
    weights[:, :30] = 0
    loss = rows.loss.copy()
    loss[0, :30] = 1e9
    assert_same_lanes(minimise(rows._replace(loss=loss), starts, weights), minimise(rows, starts, weights))


def test_a_weight_counts_as_repeated_rows(rows, starts, found):
    twice = minimise(rows, starts, np.full((8, 120), 4.0), max_iterations=MANY)
    np.testing.assert_allclose(twice.objective, 4 * found.objective, rtol=1e-9)
    np.testing.assert_allclose(twice.params, found.params, rtol=1e-6)


@pytest.mark.parametrize("lanes_", [5, 7])
def test_any_number_of_lanes(rows, starts, lanes_):
    weights = weights_like(starts)
    few, many = minimise(rows, starts[:lanes_], weights[:lanes_]), minimise(rows, starts, weights)
    assert few.status.shape == (lanes_,)
    np.testing.assert_allclose(few.objective, many.objective[:lanes_], rtol=1e-9)
    np.testing.assert_allclose(few.params, many.params[:lanes_], rtol=1e-6)


def test_lanes_in_several_chunks(rows, starts, monkeypatch):
    weights = weights_like(starts)
    one_chunk = minimise(rows, starts, weights)
    monkeypatch.setattr(lanes, "BLOCK_ELEMENTS", 240)
    monkeypatch.setattr(lanes, "CHUNK_BLOCKS", 2)
    told = []
    few = minimise(rows, starts[:7], weights[:7], progress=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(few.objective, one_chunk.objective[:7], rtol=1e-9)
    assert (len(told) > 1, told[-1]) == (True, (7, 7))
    assert told == sorted(told)


def test_weights_made_when_needed(rows, starts):
    weights = weights_like(starts)
    assert_same_lanes(minimise(rows, starts, lambda lane: weights[lane]), minimise(rows, starts, weights))


def test_lanes_of_several_sets(rows, starts):
    other = rows_of(runs(params={"L0": 1.5, "A": 0.6, "C": 3.0, "alpha": 0.5}, noise=3e-3))
    both = jax.tree.map(lambda *x: np.concatenate(x), rows, other)
    found = minimise(both, starts, sets=np.arange(8) % 2, max_iterations=MANY)
    assert found.status.tolist() == [lanes.CONVERGED] * 8
    for k in range(2):
        np.testing.assert_allclose(found.objective[k::2], scipy_minimum(both, k)[1], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ starts


def test_closed_form_starts_solve_least_squares(rows):
    grid = lanes.exponent_grid(LAW)
    with jax.enable_x64(True):
        found = np.asarray(
            closed_form_starts(
                LAW, rows, np.zeros(1, int), np.ones((1, 120)), lanes.Objective(), grid, residual="log", keep=8
            )
        )
    assert found.shape == (1, 8, 4)
    objectives = [huber(log_error(rows, params)) for params in found[0]]
    assert objectives == sorted(objectives)
    for *coefficients, alpha in found[0]:
        phi = [np.ones(120), np.exp(-alpha * rows.effects["log_S"][0]), -rows.effects["S2"][0]] / rows.loss[0]
        expected = np.linalg.lstsq(phi.T, np.ones(120), rcond=None)[0]
        np.testing.assert_allclose(coefficients, expected.clip(0 * expected, np.inf), rtol=1e-6)


def test_block_sizes_divide_the_lanes():
    for count in (1, 6, 8, 96, 4096):
        size = lanes.block_size(count, 120)
        assert count % size == 0
        assert size == 1 or size * 120 <= lanes.BLOCK_ELEMENTS
