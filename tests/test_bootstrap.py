"""Bootstrap intervals: their width, their coverage, and what they are made of."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from synthetic import DECAY, TRUTH, area, constant_runs, curve, rates, runs

from fmjax.fitting import sampling
from fmjax.fitting.fits import fit_groups
from fmjax.fitting.noise_model import ChainNoise, NoiseChain
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.fitting.resampling import (
    LEVEL,
    METHODS,
    bootstrap,
    bootstrap_groups,
    percentile_interval,
)
from fmjax.fitting.sampling import CORRECTION_SAMPLES, Setting
from fmjax.laws import LRAnnealing
from fmjax.planning.recommendation import recommend
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import continuous_best
from fmjax.searching.sweeps import SEARCHED_RATIOS, search

LAW = LRAnnealing(decay=DECAY)
PARAMS = TRUTH["lr-annealing"]
SAMPLES = CORRECTION_SAMPLES
"""As many as in the rounds of correction: one shape, compiled once."""

TARGET = WSD(1e-3, 400, 0.35, warmup_steps=20)


def autoregressive(rng, phi, rows):
    drawn = rng.normal(size=rows)
    for i in range(1, rows):
        drawn[i] = phi * drawn[i - 1] + np.sqrt(1 - phi**2) * drawn[i]
    return drawn


def noisy(sigma=1e-3, phi=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [replace(run, loss=run.loss * np.exp(sigma * autoregressive(rng, phi, 30))) for run in runs()]


def resample(curves=None, **options):
    return bootstrap(LAW, noisy() if curves is None else curves, **{"samples": SAMPLES, **options})


def widths(found):
    return np.array([np.diff(found.interval(name))[0] for name in LAW.parameter_names])


def final_loss(params):
    """Loss of ``TARGET`` after its last update, for each of ``params[..., 4]``."""
    lrs = rates(TARGET)
    level, scale, fall, alpha = np.moveaxis(np.asarray(params), -1, 0)
    return level + scale * lrs.sum() ** -alpha - fall * area(lrs)[-1]


TRUE_FINAL = final_loss([PARAMS[name] for name in LAW.parameter_names])


@pytest.fixture(scope="module")
def found():
    return {method: resample(method=method) for method in METHODS}


# ------------------------------------------------------------------------------------------------ intervals


@pytest.mark.parametrize("method", METHODS)
def test_intervals_hold_the_estimate(found, method):
    sampled = found[method]
    assert (sampled.params.shape, sampled.failed, sampled.method) == ((SAMPLES, 4), 0, method)
    for name, value in sampled.fit.params.items():
        low, high = sampled.interval(name)
        assert low < value < high
        narrow = sampled.interval(name, level=0.5)
        assert low < narrow[0] < narrow[1] < high
    assert (widths(sampled) < 0.1).all()


@pytest.mark.parametrize("method", METHODS)
def test_wider_noise_makes_wider_intervals(found, method):
    ratio = widths(resample(noisy(4e-3), method=method)) / widths(found[method])
    assert (ratio > 2).all()
    assert (ratio < 8).all()


@pytest.mark.parametrize("seed", range(3))
def test_correlated_noise_makes_wider_intervals_than_white_noise(seed):
    ratio = widths(resample(noisy(phi=0.8, seed=seed))) / widths(resample(noisy(seed=seed)))
    assert ratio.min() > 0.9
    assert np.median(ratio) > 1.25


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_fixes_the_samples(found, method):
    again, other = resample(method=method), resample(method=method, seed=1)
    np.testing.assert_array_equal(again.params, found[method].params)
    assert (other.params != again.params).any(axis=1).mean() > 0.9


def test_samples_that_stop_early_have_failed():
    curves = noisy(4e-3)
    with jax.enable_x64(True):
        problem = prepare(LAW, curves, fitted=[True] * 4, options=FitOptions())
        everything = np.ones((1, 4), bool)
        fits = fit_groups(problem, everything, FitOptions())
        hasty = FitOptions(max_iterations=7)
        sampled = bootstrap_groups(problem, everything, fits, hasty, samples=SAMPLES)[0]
    assert 0 < sampled.failed < SAMPLES
    assert len(sampled.params) == SAMPLES - sampled.failed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curves": constant_runs()}, "the fit has no intervals: the data do not determine every parameter: C"),
        ({"samples": 1}, "samples: expected a whole number >= 2, got 1"),
        ({"method": "block"}, "unknown bootstrap method 'block'; did you mean 'blocks'"),
        ({"method": "blocks", "block": 0}, "block: expected a whole number >= 1, got 0"),
    ],
    ids=["undetermined", "one-sample", "method", "block"],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        resample(**options)


def test_draws_that_leave_a_parameter_open_have_failed():
    sampled = resample([*constant_runs()[1:], noisy()[3]], method="runs")
    assert sampled.failed > 0.15 * SAMPLES


def test_one_run_cannot_be_redrawn():
    alone = curve("alone", TARGET, noise=1e-3, rows=120)
    with pytest.raises(ValueError, match="two runs"):
        resample([alone], method="runs")


def test_groups_are_bootstraps_of_their_own(found, monkeypatch):
    half = SAMPLES // 2  # two groups of half as many are a batch of the shape of the others
    monkeypatch.setattr(sampling, "CORRECTION_SAMPLES", half)
    groups = np.array([[1, 1, 1, 1], [0, 1, 1, 1]], bool)
    with jax.enable_x64(True):
        problem = prepare(LAW, noisy(), fitted=[True] * 4, options=FitOptions())
        fits = fit_groups(problem, groups, FitOptions())
        both = bootstrap_groups(problem, groups, fits, FitOptions(), samples=half)
    assert [sampled.fit for sampled in both] == fits
    np.testing.assert_allclose(widths(both[0]), widths(found["noise"]), rtol=0.5)
    for sampled in both:
        spread = np.abs(np.median(sampled.params, axis=0) - sampled.fit.vector) / widths(sampled)
        assert (spread < 0.25).all()


def test_json_is_strict_and_holds_the_intervals(found):
    record = json.loads(found["noise"].to_json(), parse_constant=pytest.fail)
    assert (record["samples"], record["failed"], record["method"], record["level"]) == (SAMPLES, 0, "noise", LEVEL)
    assert {name: tuple(pair) for name, pair in record["intervals"].items()} == {
        name: found["noise"].interval(name) for name in LAW.parameter_names
    }


@pytest.mark.parametrize(
    ("values", "level", "expected"),
    [
        (range(5), 0.5, (1.0, 3.0)),
        (range(101), 0.9, (5.0, 95.0)),
        ([3.0, 1.0], 1.0, (1.0, 3.0)),
        ([2.0] * 9, 0.9, (2.0, 2.0)),
        ([2.0], 0.9, (np.nan, np.nan)),
        ([], 0.9, (np.nan, np.nan)),
    ],
    ids=["half", "ninety", "all", "equal", "one", "none"],
)
def test_percentile_interval(values, level, expected):
    np.testing.assert_allclose(percentile_interval(values, level), expected, rtol=1e-10)


def test_intervals_cover_the_truth():
    estimates, intervals = [], []
    for seed in range(40):
        sampled = resample(noisy(phi=0.5, seed=100 + seed), seed=seed)
        estimates.append(final_loss(sampled.fit.vector))
        intervals.append(percentile_interval(final_loss(sampled.params)))
    low, high = np.transpose(intervals)
    assert 0.75 <= np.mean((low < TRUE_FINAL) & (high > TRUE_FINAL)) <= 1.0
    assert np.mean(high - low) == pytest.approx(2 * 1.645 * np.std(estimates), rel=0.35)


# ------------------------------------------------------------------------------------------------ noise along runs

PHI = ChainNoise(*(np.full(4000, value) for value in (0.6, 2e-3, 0.0, 0.0)))
SHARED = ChainNoise(*(np.full(4000, value) for value in (0.3, 2e-3, 0.7, 0.8)))


def setting_of(curves):
    with jax.enable_x64(True):
        problem = prepare(LAW, curves, fitted=[True] * len(curves), options=FitOptions())
        everything = np.ones((1, len(curves)), bool)
        fits = fit_groups(problem, everything, FitOptions())
        return Setting.of(problem, everything, fits, FitOptions(), 10, None)


@pytest.fixture(scope="module")
def branches():
    """Four runs of 32 rows: a stem, two branches off it, and the stem again under another seed."""
    stem = curve("stem", WSD(1e-3, 400, 0.2, warmup_steps=20), rows=32)
    ratios = {"long": 0.5, "short": 0.3}
    branch = [curve(name, WSD(1e-3, 400, ratio, warmup_steps=20), rows=32) for name, ratio in ratios.items()]
    return setting_of([stem, *branch, replace(stem, name="again", loss=1.0001 * stem.loss)])


def test_rows_that_branches_share_have_one_owner(branches):
    owner = NoiseChain.of(branches.rows, branches.run).owner.reshape(4, 32)
    step, own = np.linspace(20, 399, 32).astype(int), np.arange(128).reshape(4, 32)
    np.testing.assert_array_equal(owner[0], own[0])
    for k, ratio in ((1, 0.5), (2, 0.3)):
        shared = step <= (1 - ratio) * 400  # the update at which the anneal begins is still at the peak rate
        np.testing.assert_array_equal(owner[k], np.where(shared, own[0], own[k]))
    np.testing.assert_array_equal(owner[3], own[3])


def test_shared_rows_share_their_noise_and_branches_go_on_from_it(branches):
    chain = NoiseChain.of(branches.rows, branches.run)
    drawn = chain.draw(np.random.default_rng(0), PHI).reshape(-1, 4, 32)
    owner = chain.owner.reshape(4, 32)
    for k in (1, 2):
        shared = owner[k] == owner[0]
        first = int(np.sum(shared))
        np.testing.assert_array_equal(drawn[:, k, shared], drawn[:, 0, shared])
        assert (drawn[:, k, first:] != drawn[:, 0, first:]).all()
        assert np.corrcoef(drawn[:, k, first], drawn[:, 0, first - 1])[0, 1] == pytest.approx(0.6, abs=0.04)
        assert np.corrcoef(drawn[:, k, first], drawn[:, 0, first])[0, 1] == pytest.approx(0.36, abs=0.06)
    assert abs(np.corrcoef(drawn[:, 0, 5], drawn[:, 3, 5])[0, 1]) < 0.05


def test_noise_drawn_has_the_size_and_correlation_asked_for(branches):
    chain = NoiseChain.of(branches.rows, branches.run)
    drawn = chain.draw(np.random.default_rng(0), PHI)
    np.testing.assert_allclose(drawn.std(axis=0), 2e-3, rtol=0.06)
    seen = chain.noise(drawn, np.ones_like(drawn))
    assert seen.sigma.mean() == pytest.approx(2e-3, rel=0.03)
    assert seen.phi.mean() == pytest.approx(0.6, abs=0.05)
    each = drawn.reshape(-1, 4, 32)
    assert abs(np.corrcoef(each[:, 0, -1], each[:, 3, 0])[0, 1]) < 0.05


def test_noise_is_measured_within_runs_and_shared_rows_count_once(branches):
    chain = NoiseChain.of(branches.rows, branches.run)
    residual, weights = np.random.default_rng(0).normal(size=(1, 128)), np.ones((1, 128))
    weights[0, 97:100] = 0
    own = (chain.owner == np.arange(128)) & (weights[0] > 0)
    later = [i for i in np.flatnonzero(own) if i % 32 and weights[0, i - 1] > 0]
    now, before = residual[0, later], residual[0, [i - 1 for i in later]]
    seen = chain.noise(residual, weights)
    np.testing.assert_allclose(seen.sigma, np.sqrt(np.mean(residual[0, own] ** 2)))
    np.testing.assert_allclose(seen.phi, max(0, now @ before / (before @ before)))


def test_runs_of_their_own_share_nothing():
    setting = setting_of(noisy())
    chain = NoiseChain.of(setting.rows, setting.run)
    np.testing.assert_array_equal(chain.owner[:120], np.arange(120))
    np.testing.assert_array_equal(np.flatnonzero(chain.starts), [0, 30, 60, 90])


def grouped(setting, group):
    return NoiseChain.of(setting.rows, setting.run, np.array(group)[setting.run], setting.step)


def test_runs_of_a_group_share_noise_as_asked_for(branches):
    chain = grouped(branches, [0, 0, 0, 3])
    drawn = chain.draw(np.random.default_rng(0), SHARED).reshape(-1, 4, 32)
    np.testing.assert_allclose(drawn.std(axis=0), 2e-3, rtol=0.06)

    def correlation(one, other):
        return np.corrcoef(one, other)[0, 1]

    for k in (1, 2):  # from the same step on, a branch has the stem's noise and its own
        assert correlation(drawn[:, k, -1], drawn[:, 0, -1]) == pytest.approx(0.7, abs=0.04)
        assert correlation(drawn[:, k, -1], drawn[:, 0, -2]) == pytest.approx(0.7 * 0.8, abs=0.04)
        assert correlation(drawn[:, k, -1], drawn[:, k, -2]) == pytest.approx(0.7 * 0.8 + 0.3 * 0.3, abs=0.04)
        assert abs(correlation(drawn[:, k, -1], drawn[:, 3, -1])) < 0.05
    np.testing.assert_array_equal(drawn[:, 1, :5], drawn[:, 0, :5])


def test_shared_noise_is_measured_between_rows_that_are_not_one_measurement(branches):
    chain = grouped(branches, [0, 0, 0, 0])
    seen = chain.noise(chain.draw(np.random.default_rng(0), SHARED), np.ones((4000, 128)))
    variance = np.mean(seen.sigma**2)
    assert variance == pytest.approx(4e-6, rel=0.03)
    assert np.mean(seen.share * seen.sigma**2) / variance == pytest.approx(0.7, abs=0.05)
    alone = chain.noise(np.random.default_rng(1).normal(size=(200, 128)), np.ones((200, 128)))
    assert alone.share.mean() < 0.15
    stem = np.where(np.arange(128) < 32, 1.0, 0.0) * np.ones((4, 1))  # by itself it shares with nobody
    assert not chain.noise(chain.draw(np.random.default_rng(0), SHARED)[:4], stem).share.any()


def paired(share, seed=0):
    """Runs of 60 rows, a share of the noise of which is common."""
    rng = np.random.default_rng(seed)
    common = autoregressive(rng, 0.5, 60)

    def noise():
        return 1e-3 * (np.sqrt(share) * common + np.sqrt(1 - share) * autoregressive(rng, 0.5, 60))

    clean = [curve(run.name, run.schedule, rows=60) for run in runs()]
    return [replace(run, loss=run.loss * np.exp(noise())) for run in clean]


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0.0, 0.0), (0.5, 0.2, 0.8), (0.9, 0.7, 0.99)])
def test_the_noise_that_runs_share_is_found(share, least, most):
    found = np.mean([resample(paired(share, seed)).shared_noise for seed in range(3)])
    assert least <= found <= most


def test_runs_that_share_no_noise_have_the_samples_that_they_had(monkeypatch):
    curves = paired(0.0)
    with_groups = resample(curves)
    monkeypatch.setattr(Setting, "sharing", lambda setting, residual, weights: (None, None))
    np.testing.assert_array_equal(with_groups.params, resample(curves).params)


# ------------------------------------------------------------------------------------------------ intervals of optima


def parabola(ratios, vertex, bend=2.0):
    return 3.0 + bend * (np.asarray(ratios) - vertex) ** 2


@pytest.mark.parametrize(
    "ratios",
    [np.linspace(0.1, 0.9, 9), [0.1, 0.15, 0.3, 0.32, 0.6, 0.9], [0.9, 0.1, 0.5, 0.3]],
    ids=["even", "uneven", "unsorted"],
)
def test_continuous_best_is_the_vertex_of_a_parabola(ratios):
    vertices = np.array([0.21, 0.3, 0.333, 0.44, 0.52])
    losses = np.array([parabola(ratios, vertex, bend) for bend in (0.3, 2.0) for vertex in vertices])
    np.testing.assert_allclose(continuous_best(np.array(ratios), losses), np.tile(vertices, 2), rtol=1e-9)


@pytest.mark.parametrize(
    ("ratios", "losses", "expected"),
    [
        ([0.2, 0.4, 0.6], [1.0, 2.0, 3.0], 0.2),
        ([0.2, 0.4, 0.6], [3.0, 2.0, 1.5], 0.6),
        ([0.6, 0.2, 0.4], [3.0, 1.0, 2.0], 0.2),
        ([0.2, 0.4], [2.0, 1.0], 0.4),
        ([0.3], [2.0], 0.3),
        ([0.2, 0.4, 0.6], [2.0, 2.0, 2.0], 0.2),
        ([0.2, 0.4, 0.6, 0.8], [2.0, 1.0, 1.0, 2.0], 0.5),
    ],
    ids=["first", "last", "first-unsorted", "two", "one", "flat", "tie"],
)
def test_continuous_best_at_edges(ratios, losses, expected):
    assert continuous_best(np.array(ratios), np.array([losses]))[0] == pytest.approx(expected, rel=1e-10)


GRID = {"total_steps": 400, "peak_lr": [1e-3, 2e-3], "warmup_steps": 20, "keep_losses": True}


@pytest.mark.slow
def test_a_search_with_samples_gives_intervals(found):
    sampled = found["noise"]
    result = search(sampled.fit, samples=sampled.params, **GRID)
    plain = search(sampled.fit, **GRID)
    np.testing.assert_array_equal(result.losses, plain.losses)
    for cell, without in zip(result.cells, plain.cells, strict=True):
        assert cell._replace(ratio_interval=None, loss_interval=None) == without
        low, high = cell.ratio_interval
        assert cell.best_ratio - 0.02 < low < high < cell.best_ratio + 0.02
        assert cell.loss_interval[0] < cell.loss < cell.loss_interval[1]


@pytest.mark.slow
def test_intervals_of_a_search_are_those_of_searches_for_each_sample(found):
    sampled, one = found["noise"], []
    for vector in sampled.params[:10]:
        params = dict(zip(LAW.parameter_names, vector.tolist(), strict=True))
        one.append(search(replace(sampled.fit, params=params), **GRID).losses[0])
    cell = search(sampled.fit, samples=sampled.params[:10], **GRID).cells[0]
    ratios, losses = np.array(SEARCHED_RATIOS), np.array(one)
    assert cell.ratio_interval == pytest.approx(percentile_interval(continuous_best(ratios, losses)), rel=1e-9)
    assert cell.loss_interval == pytest.approx(percentile_interval(losses[:, ratios == cell.best_ratio]), rel=1e-9)


@pytest.mark.parametrize("samples", [SAMPLES, 0])
def test_recommendations_have_intervals_where_samples_are_drawn(samples):
    (choice,) = recommend(noisy(), law=LAW, total_steps=400, peak_lr=1e-3, samples=samples).choices
    cell, record = choice.cell, json.loads(choice.fit.to_json())
    assert choice.samples == samples
    assert record["status"] == "converged"
    if not samples:
        assert cell.ratio_interval is cell.loss_interval is None
        return
    assert cell.ratio_interval[0] - 0.005 < cell.best_ratio < cell.ratio_interval[1] + 0.005
    assert cell.loss_interval[0] < cell.loss < cell.loss_interval[1]
    assert cell.loss_interval[1] - cell.loss_interval[0] < 0.01
