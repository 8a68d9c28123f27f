"""Lanes beside bad lanes to the last bit, options of the objective by hand, compile counts, and float32."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import DECAY, SAME_FIT, TRUTH, curve, runs, schedules

from fmjax.curves.manifest import load_runs
from fmjax.fitting import chunk_rows, lanes
from fmjax.fitting.fits import fit, predict
from fmjax.fitting.objective import value as objective_value
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import END_SHARE, prepare
from fmjax.fitting.starts import closed_form_starts
from fmjax.laws import LRAnnealing, make_law

LAW = LRAnnealing(decay=DECAY)
BEST = np.array([TRUTH["lr-annealing"][name] for name in LAW.parameter_names])
LANES, SETS = 300, 8
SET = np.arange(LANES) % SETS


def problem_of(law, curves, **options):
    with jax.enable_x64(True):
        return prepare(law, curves, fitted=[True] * len(curves), options=FitOptions(**options))


def rows_of(law, curves):
    problem = problem_of(law, curves)
    return jax.tree.map(lambda x: x[:, : problem.keep.sum()], problem.rows(np.ones(len(curves), bool)))


@pytest.fixture(scope="module")
def rows():
    """Eight sets of 120 rows: two memories of the annealing area, four draws of the noise."""
    sets = [rows_of(dataclasses.replace(LAW, decay=decay), runs()) for decay in (0.99, 0.98) * (SETS // 2)]
    found = jax.tree.map(lambda *x: np.concatenate(x), *sets)
    noise = np.random.default_rng(0).normal(size=found.loss.shape)
    return found._replace(loss=found.loss * np.exp(3e-3 * noise))


@pytest.fixture(scope="module", autouse=True)
def no_padding():
    """Rows as they are: 120 of them make blocks of many lanes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_rows, "PADDED_ROWS", 1)
        yield


@pytest.fixture(scope="module")
def jobs():
    """Lanes that share sets and differ in weights and starts."""
    rng = np.random.default_rng(1)
    return lanes.Jobs(SET, rng.exponential(size=(LANES, 120)), BEST * 10 ** rng.uniform(-0.3, 0.3, (LANES, 4)))


def minimise(rows, jobs, which=slice(None), **options):
    with jax.enable_x64(True):
        return lanes.minimise(LAW, rows, jax.tree.map(lambda x: x[which], jobs), **options)


@pytest.fixture(scope="module")
def clean(rows, jobs):
    return minimise(rows, jobs)


def pick(found, which):
    return lanes.Lanes(*(x[which] for x in found))


def assert_same_bits(one, other):
    for name, a, b in zip(lanes.Lanes._fields, one, other, strict=True):
        assert np.array_equal(a, b), name


def assert_same(one, other):
    settled = one.status != lanes.ITERATION_LIMIT
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_allclose(one.objective[settled], other.objective[settled], rtol=1e-9)
    # lanes stop where a step promises 1e-13 of the objective, which leaves the parameters the square root of that
    np.testing.assert_allclose(one.params[settled], other.params[settled], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ lanes among bad lanes


def spoil(rows, where, change):
    loss = rows.loss.copy()
    loss[where] = change(loss[where])
    return rows._replace(loss=loss)


def test_the_clean_batch_runs_two_rounds(clean):
    assert (clean.iterations > lanes.FIRST_ROUND).any()
    assert (clean.iterations < lanes.FIRST_ROUND).any()
    assert (clean.status == lanes.CONVERGED).mean() > 0.95


FATAL = {
    "all-nan": (np.s_[3], lambda x: np.nan * x),
    "one-nan": (np.s_[3, 17], lambda x: np.nan),
    "infinite": (np.s_[3, 17], lambda x: np.inf),
    "zero": (np.s_[3, 17], lambda x: 0.0),
    "negative": (np.s_[3, 17], lambda x: -x),
}
HARSH = {
    "all-equal": (np.s_[3], lambda x: 0 * x + 2.0),
    "outlier": (np.s_[3, 17], lambda x: 1e6 * x),
    "many-outliers": (np.s_[3, ::7], lambda x: 1e6 * x),
    "vanishing": (np.s_[3, 17], lambda x: 1e-6 * x),
}


@pytest.mark.parametrize(("where", "change"), FATAL.values(), ids=FATAL.keys())
def test_losses_that_cannot_be_fitted_flag_their_lanes_alone(rows, jobs, clean, where, change):
    found = minimise(spoil(rows, where, change), jobs)
    assert np.array_equal(found.status == lanes.NON_FINITE, SET == 3)
    assert not np.isfinite(found.objective[SET == 3]).any()
    assert_same_bits(pick(found, SET != 3), pick(clean, SET != 3))


@pytest.mark.parametrize(("where", "change"), HARSH.values(), ids=HARSH.keys())
def test_absurd_losses_are_fitted_and_change_no_other_lane(rows, jobs, clean, where, change):
    found = minimise(spoil(rows, where, change), jobs)
    assert np.isfinite(found.objective).all()
    assert not (found.status == lanes.NON_FINITE).any()
    assert (found.objective[SET == 3] != clean.objective[SET == 3]).all()
    assert_same_bits(pick(found, SET != 3), pick(clean, SET != 3))


@pytest.mark.parametrize("kept", [[5], [5, 90], []], ids=["one-row", "two-rows", "no-row"])
def test_lanes_of_hardly_any_weight_change_no_other(rows, jobs, clean, kept):
    weights, odd = jobs.weights.copy(), np.isin(np.arange(LANES), [0, 10, 299])
    weights[odd] = 0
    weights[np.ix_(odd, kept)] = 1
    found = minimise(rows, jobs._replace(weights=weights))
    assert (found.objective[odd] < 1e-12).all()
    assert not (found.status == lanes.NON_FINITE).any()
    assert_same_bits(pick(found, ~odd), pick(clean, ~odd))


def test_bad_lanes_of_every_kind_at_once(rows, jobs, clean):
    spoilt = rows
    for k, (where, change) in enumerate((*FATAL.values(), *HARSH.values())):
        at = (k % SETS, *where[1:]) if isinstance(where, tuple) else k % SETS
        spoilt = spoil(spoilt, at, change) if k < SETS - 1 else spoilt
    found = minimise(spoilt, jobs)
    assert np.array_equal(found.status == lanes.NON_FINITE, np.isin(SET, range(len(FATAL))))
    assert_same_bits(pick(found, SET == SETS - 1), pick(clean, SET == SETS - 1))


# ------------------------------------------------------------------------------------------------ other batches


def test_the_order_of_lanes_changes_no_bit(rows, jobs, clean):
    order = np.random.default_rng(2).permutation(LANES)
    assert_same_bits(minimise(rows, jobs, order), pick(clean, order))


def test_fewer_lanes_in_blocks_of_the_same_size_change_no_bit(rows, jobs, clean):
    assert_same_bits(minimise(rows, jobs, np.s_[:290]), pick(clean, np.s_[:290]))


def test_a_handful_of_lanes(rows, jobs, clean):
    assert_same(minimise(rows, jobs, np.s_[:7]), pick(clean, np.s_[:7]))


def test_chunks_and_blocks_of_another_size(rows, jobs, clean, monkeypatch):
    sizes, run = [], lanes._minimise  # a chunk of 96 lanes is compiled here alone, with blocks of this size
    monkeypatch.setattr(lanes, "_minimise", lambda *of, **how: sizes.append(len(of[2].start)) or run(*of, **how))
    monkeypatch.setattr(lanes, "BLOCK_ELEMENTS", 32 * 120)
    monkeypatch.setattr(lanes, "CHUNK_BLOCKS", 3)
    found = minimise(rows, jobs)
    assert set(sizes) == {96}
    assert_same(found, clean)


def test_weights_as_a_function_are_those_of_the_array(rows, jobs, clean):
    asked = []

    def weights(index):
        asked.append(len(index))
        return jobs.weights[index]

    with jax.enable_x64(True):
        found = lanes.minimise(LAW, rows, jobs._replace(weights=weights))
    assert_same_bits(found, clean)
    assert max(asked) < LANES


def test_lanes_over_several_sets_are_separate_fits(rows, jobs, clean):
    for k in range(SETS):
        only = jax.tree.map(lambda x: np.repeat(x[k : k + 1], SETS, axis=0), rows)  # noqa: B023
        mine = np.resize(np.arange(k, LANES, SETS), LANES)
        assert_same(minimise(only, jobs, mine), pick(clean, mine))


@pytest.mark.parametrize("limit", [5, 9, 12])
def test_a_limit_stops_the_lanes_that_need_more_and_no_other(rows, jobs, clean, limit):
    found = minimise(rows, jobs, max_iterations=limit)
    done = clean.iterations <= limit
    assert np.sum(~done) > 0
    assert_same_bits(pick(found, done), pick(clean, done))
    assert set(found.status[~done]) == {lanes.ITERATION_LIMIT}
    assert set(found.iterations[~done]) == {limit}


def progress_of(rows, jobs, which, **options):
    told = []
    minimise(rows, jobs, which, progress=lambda done, total: told.append((done, total)), **options)
    return told


def test_progress_rises_to_the_total(rows, jobs, clean):
    settled = np.flatnonzero(clean.status != lanes.ITERATION_LIMIT)[:280]
    told = progress_of(rows, jobs, settled)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == (280, 280)


def test_progress_reaches_the_total_at_the_limit(rows, jobs):
    assert progress_of(rows, jobs, slice(None), max_iterations=3)[-1] == (LANES, LANES)


def test_the_same_shapes_compile_once(rows, jobs, clean):
    before = lanes._minimise._cache_size()
    other = jobs._replace(start=jobs.start * 1.01, weights=jobs.weights + 0.1)
    found = minimise(rows, other, objective=lanes.Objective(delta=2e-3, over_weight=3.0), max_iterations=50)
    assert lanes._minimise._cache_size() == before
    assert (found.objective != clean.objective).all()


# ------------------------------------------------------------------------------------------------ options of a fit


@pytest.fixture(scope="module")
def noisy():
    return runs(noise=3e-3)


def log_errors(found, curves):
    pairs = zip(predict(found, curves), curves, strict=True)
    return [np.log(predicted) - np.log(run.loss) for predicted, run in pairs]


def huber(error, delta=1e-3):
    size = np.abs(error)
    return np.where(size <= delta, error**2 / 2, delta * (size - delta / 2))


def by_hand(found, curves, over_weight=1.0, end_weight=1.0):
    total = 0.0
    for error, run in zip(log_errors(found, curves), curves, strict=True):
        late = run.step >= (1 - END_SHARE) * (run.schedule.total_steps - 1)
        total += np.sum(np.where(late, end_weight, 1.0) * np.where(error > 0, over_weight, 1.0) * huber(error))
    return total


OPTIONS = {
    "none": {},
    "over": {"over_weight": 30.0},
    "under": {"over_weight": 0.1},
    "end": {"end_weight": 100.0},
    "both": {"over_weight": 3.0, "end_weight": 5.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_objective_is_the_sum_by_hand(noisy, options):
    found = fit(LAW, noisy, **options)
    assert found.objective == pytest.approx(by_hand(found, noisy, **options), rel=1e-9)
    assert found.objective <= by_hand(fit(LAW, noisy), noisy, **options) * (1 + 1e-9)


def test_end_weight_weighs_the_last_tenth_of_each_run(noisy):
    weights = problem_of(LAW, noisy, end_weight=4.0).row_weights(np.ones(4, bool))
    expected = np.concatenate([np.where(run.step >= 0.9 * 399, 4.0, 1.0) for run in noisy])
    np.testing.assert_array_equal(weights[:120], expected)
    np.testing.assert_array_equal(weights[120:], 0.0)  # rows that pad
    assert np.sum(weights == 4.0) == 12


def test_end_weight_improves_the_final_rows():
    wrong, curves = LRAnnealing(decay=0.9), runs()

    def late(found):
        return np.mean([np.abs(error[-3:]) for error in log_errors(found, curves)])

    assert late(fit(wrong, curves, end_weight=1000.0)) < 0.7 * late(fit(wrong, curves))


def test_over_weight_lowers_the_share_of_over_estimates(noisy):
    weights = (0.1, 1.0, 10.0, 100.0)
    shares = [np.mean(np.concatenate(log_errors(fit(LAW, noisy, over_weight=w), noisy)) > 0) for w in weights]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.8
    assert 0.3 < shares[1] < 0.7
    assert shares[-1] < 0.1


def test_drop_before_leaves_out_rows():
    """Half of 60 rows a run, so that what is left has the shape of the other fits."""
    dense = [curve(name, schedule, noise=3e-3, rows=60) for name, schedule in schedules().items()]
    edge = int(dense[0].step[30])
    late = [dataclasses.replace(run, step=run.step[30:], loss=run.loss[30:]) for run in dense]
    found = fit(LAW, dense, drop_before=edge, end_weight=5.0)
    assert found.rows == 120
    assert found.objective == pytest.approx(by_hand(found, late, end_weight=5.0), rel=1e-9)
    assert found.params == pytest.approx(fit(LAW, late, end_weight=5.0).params, rel=SAME_FIT)
    assert problem_of(LAW, dense, drop_before=edge + 1).keep.sum() == 116


# ------------------------------------------------------------------------------------------------ float32

GOLDEN = ("lr-annealing", "forward-momentum", "forward-only")


def golden_records(shared, law):
    records = json.loads((shared / "golden" / "fits.json").read_text())["fits"]
    return [record for record in records if record["law"].partition(" ")[0] == law]


def golden_rows(law, curves, records):
    """One set of rows for each record."""
    sets = []
    for record in records:
        decay = record["law"].partition("lambda=")[2]
        made = dataclasses.replace(law, warmup=record["warmup"], **({"decay": float(decay)} if decay else {}))
        sets.append(rows_of(made, curves))
    return jax.tree.map(lambda *x: np.concatenate(x), *sets)


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_float32_comes_near_the_golden_objectives(shared, name):
    """Every record is a set with the rows of both data sets; the weights pick one."""
    law, records = make_law(name), golden_records(shared, name)
    counts = {record["data"]: record["n_points"] for record in records}
    curves = [run for data in counts for run in load_runs(shared / "data" / data) if run.name in records[0]["train"]]
    rows = golden_rows(law, [dataclasses.replace(run, model_size=None) for run in curves], records)
    origin = np.repeat(list(counts), list(counts.values()))
    weights = np.array([origin == record["data"] for record in records], float)
    small = jax.tree.map(lambda x: x.astype(np.float32), (rows, weights))
    sets, grid, objective = np.arange(len(records)), lanes.exponent_grid(law).astype(np.float32), lanes.Objective()
    with jax.enable_x64(False):
        starts = closed_form_starts(law, small[0], sets, small[1], objective, grid, residual="log", keep=8)
        start = np.asarray(starts).reshape(-1, starts.shape[2])
        found = lanes.minimise(law, small[0], lanes.Jobs(np.repeat(sets, 8), lambda i: small[1][i // 8], start))
    assert found.params.dtype == found.objective.dtype == np.float32
    for k, record in enumerate(records):
        one = pick(found, np.s_[8 * k : 8 * k + 8])
        with jax.enable_x64(True):
            params = jnp.asarray(one.params[lanes.best(one)], float)
            value = objective_value(law, "log", rows.of(k), weights[k], lanes.Objective(), params)
        assert float(value) == pytest.approx(record["objective_sum"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["lr-annealing", "forward-momentum"])
def test_fit_in_float32(shared, law):
    train = [run for run in load_runs(shared / "data" / "mpl_100m") if run.split == "train"]
    single, double = (fit(law, train, dtype=dtype) for dtype in ("float32", "float64"))
    assert single.status == double.status == "converged"
    assert single.objective == pytest.approx(double.objective, rel=1e-3)


def test_an_unknown_dtype_is_named(shared):
    train = load_runs(shared / "data" / "mpl_100m")
    with pytest.raises(ValueError, match="unknown dtype 'float46'; did you mean 'float64'"):
        fit("lr-annealing", train, dtype="float46")


DEVICES = """
import fmjax, hashlib, jax
from fmjax.fitting import lanes
found = fmjax.bootstrap("lr-annealing", fmjax.datasets.demo_runs(), samples=40)
print(len(jax.local_devices()), hashlib.sha256(found.params.tobytes()).hexdigest(), lanes._minimise._cache_size())
"""


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bits_by_as_many_programs():
    flag = "--xla_force_host_platform_device_count="
    runs = [
        subprocess.run(
            [sys.executable, "-c", DEVICES], env={**os.environ, "XLA_FLAGS": flag + count}, capture_output=True
        )
        for count in ("1", "4")
    ]
    (one, bits, programs), (four, *same) = (run.stdout.decode().split() for run in runs)
    assert (one, four, same) == ("1", "4", [bits, programs])
