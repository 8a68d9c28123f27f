"""How many programs fits need, and that how rows are handed to them changes no answer."""

import threading

import jax
import numpy as np
import pytest
from synthetic import DECAY, TRUTH, runs, two_rates

from fmjax import recommend
from fmjax._devices import beside, once_compiled
from fmjax.fitting import chunk_rows, evidence, lanes, problem, row_effects, selection, starts
from fmjax.fitting.objective import Rows
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.laws import LRAnnealing
from fmjax.planning.law_fits import _beside_each_other

LAW = LRAnnealing(decay=DECAY, warmup="as-scheduled")
BEST = np.array([TRUTH["lr-annealing"][name] for name in LAW.parameter_names])
PROGRAMS = {
    "effects": row_effects._effects,
    "starts": starts._starts_of_some,
    "fits": lanes._minimise,
    "predictions": problem._predict,
    "slopes": evidence._relative_slopes,
}


def compiled():
    return {name: program._cache_size() for name, program in PROGRAMS.items()}


def added(before):
    return {name: count - before[name] for name, count in compiled().items()}


# ------------------------------------------------------------------------------------------------ counts


def test_a_law_takes_one_program_of_each_kind():
    """Its options are chosen, it is fitted at two rates, without each run, and to samples under several options."""
    curves, before = two_rates(), compiled()
    peaks = sorted({curve.peak_lr for curve in curves})
    found = recommend(curves, total_steps=800, peak_lr=peaks, law="lr-annealing", samples=12)
    assert [choice.per_rate for choice in found.choices] == [True, True]
    assert added(before) == dict.fromkeys(PROGRAMS, 1)
    again = compiled()
    recommend(curves[:5], total_steps=800, peak_lr=peaks[0], law="lr-annealing", samples=300)
    assert {name: count for name, count in added(again).items() if name != "effects"} == {
        "starts": 0,
        "fits": 0,  # more lanes than rows are padded for, and yet as many rows
        "predictions": 0,
        "slopes": 0,
    }


def test_threads_compile_a_program_once_and_different_ones_side_by_side():
    traced, both = [], threading.Barrier(2, timeout=20)

    def slow(x):
        traced.append(x.shape)
        both.wait()  # passed only where two programs are traced at once
        return x + 1

    program = jax.jit(slow)
    calls = [beside(lambda n=n: once_compiled(program, np.ones(n))) for n in (1, 2, 1, 2)]
    assert [call.result().shape for call in calls] == [(1,), (2,), (1,), (2,)]
    assert sorted(traced) == [(1,), (2,)]


@pytest.mark.parametrize("x64", [True, False])
def test_what_runs_beside_has_the_precision_of_its_caller_and_gives_back_errors(x64):
    with jax.enable_x64(x64):
        assert beside(lambda: jax.numpy.ones(1).dtype).result() == (np.float64 if x64 else np.float32)
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0).result()


def test_where_one_law_fails_the_others_end_at_their_next_stage():
    said, failed, ended = [], threading.Event(), threading.Event()

    def fits_of(law, progress):
        if law == "bad":
            raise ValueError("cannot be fitted")
        failed.wait(20)
        try:
            progress("a further stage")
        finally:
            ended.set()

    with pytest.raises(ValueError, match="cannot be fitted"):
        _beside_each_other(fits_of, ["bad", "good"], said.append)
    failed.set()
    assert ended.wait(20)
    assert said == []


# ------------------------------------------------------------------------------------------------ the same answers


@pytest.fixture(scope="module")
def rows():
    """Four sets of 120 rows with effects of their own."""
    with jax.enable_x64(True):
        found = [prepare(LAW, runs(noise=(k + 1) * 1e-3), fitted=[True] * 4, options=FitOptions()) for k in range(4)]
        sets = [jax.tree.map(lambda x: x[:, :120], one.rows(np.ones(4, bool))) for one in found]
    sets = [one._replace(effects=one.effects | {"S2": one.effects["S2"] * (1 + k / 9)}) for k, one in enumerate(sets)]
    return jax.tree.map(lambda *x: np.concatenate(x), *sets)


def jobs_of(count, seed=0):
    rng = np.random.default_rng(seed)
    start = BEST * 10 ** rng.uniform(-0.2, 0.2, (count, 4))
    return lanes.Jobs(np.arange(count) % 4, rng.exponential(size=(count, 120)), start)


def minimise(rows, jobs):
    with jax.enable_x64(True):
        return lanes.minimise(LAW, rows, jobs)


def assert_alike(one, other):
    np.testing.assert_allclose(one.objective, other.objective, rtol=1e-9)
    np.testing.assert_allclose(one.params, other.params, rtol=1e-5)


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("way", ["one set a chunk", "all sets, as on an accelerator", "rows as they are"])
def test_however_rows_are_handed_over_fits_are_the_same(rows, count, way, monkeypatch):
    expected = minimise(rows, jobs_of(count))
    if way == "one set a chunk":
        monkeypatch.setattr(chunk_rows, "FEW_NUMBERS", 0)
    elif way == "rows as they are":
        monkeypatch.setattr(chunk_rows, "PADDED_ROWS", 1)
    else:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_alike(minimise(rows, jobs_of(count)), expected)


@pytest.mark.parametrize("few", [0, 16], ids=["one set a chunk", "each its own"])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_lanes_that_share_effects_and_not_losses(rows, few, backend, monkeypatch):
    monkeypatch.setattr(chunk_rows, "FEW_NUMBERS", few)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    which, jobs = np.arange(12) % 4, jobs_of(12)._replace(set=np.arange(12))
    losses = rows.loss[which] * np.exp(1e-3 * np.random.default_rng(1).normal(size=(12, 120)))
    apart = Rows({key: x[which] for key, x in rows.effects.items()}, losses)
    shared = minimise(Rows(rows.effects, losses), jobs._replace(effects_set=which))
    assert_alike(shared, minimise(apart, jobs))


def test_starts_come_in_the_order_of_problems(rows, monkeypatch):
    sets, weights = np.array([2, 0, 1, 2, 3, 0, 1]), np.random.default_rng(3).exponential(size=(7, 120))
    grid, objective = lanes.exponent_grid(LAW), lanes.Objective()

    def found(sets, weights):
        with jax.enable_x64(True):
            return starts.closed_form_starts(LAW, rows, sets, weights, objective, grid, residual="log", keep=2)

    together = found(sets, weights)
    np.testing.assert_allclose(together, np.concatenate([found(sets[[k]], weights[[k]]) for k in range(7)]), rtol=1e-7)
    monkeypatch.setattr(chunk_rows, "FEW_NUMBERS", 0)
    np.testing.assert_allclose(found(sets, weights), together, rtol=1e-7)


def test_groups_without_common_rows_are_fitted_on_their_own_rows(rows):
    used = np.array([np.arange(120) < 50, np.arange(120) >= 50], float)
    cut, sets, weights = selection._of_groups(rows, used)
    assert (cut.loss.shape, weights.shape) == ((8, 80), (2, 80))  # 70 rows, padded
    for k, (set_, weight) in enumerate(zip(sets, np.tile(weights, (4, 1)), strict=True)):
        np.testing.assert_array_equal(cut.loss[set_][weight > 0], rows.loss[k // 2][used[k % 2] > 0])
        np.testing.assert_array_equal(cut.effects["S2"][set_][weight > 0], rows.effects["S2"][k // 2][used[k % 2] > 0])
    overlapping = np.stack([used[0], np.ones(120)])
    same, sets, weights = selection._of_groups(rows, overlapping)
    assert same is rows
    assert (sets.tolist(), weights is overlapping) == ([0, 0, 1, 1, 2, 2, 3, 3], True)


def test_predictions_of_more_rows_than_one_call_takes(rows):
    effects = {key: np.concatenate(list(x)) for key, x in rows.effects.items()}  # 480 rows
    vectors = BEST * np.random.default_rng(2).uniform(0.5, 1.5, (5, 4))
    with jax.enable_x64(True):
        found = problem.predict_each(LAW, effects, vectors)
    level, scale, area, alpha = vectors.T[:, :, None]
    expected = level + scale * np.exp(-alpha * effects["log_S"]) - area * effects["S2"]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("vectors", "count"), [(0, 5), (3, 0)], ids=["vectors", "rows"])
def test_predictions_of_none_are_none(vectors, count):
    effects = {key: np.ones(count) for key in ("log_S", "S2", "log_N")}
    with jax.enable_x64(True):
        assert problem.predict_each(LAW, effects, np.ones((vectors, len(LAW.parameters)))).shape == (vectors, count)
