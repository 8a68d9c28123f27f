"""Forecasts with an earlier run of the same data order: the noise they share is taken out, and nothing else is."""

from dataclasses import replace

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax import WSD, Cosine, LossCurve
from fmjax.planning.control_runs import Control, RowsAboutLaw

LAW = fmjax.LRAnnealing(decay=synthetic.DECAY)
TRUTH = synthetic.TRUTH["lr-annealing"]
TOTAL = 3000
RUN = WSD(1e-3, TOTAL, anneal_ratio=0.3, decay="linear", final_lr=1e-4, warmup_steps=50)
EARLIER = Cosine(1e-3, TOTAL, final_lr=1e-4, warmup_steps=50)
STEP = np.arange(51, TOTAL, 2)
SIZE = 0.01


def clean(name, schedule):
    every = synthetic.losses("lr-annealing", TRUTH, synthetic.rates(schedule), warmup_steps=50)
    return LossCurve(name, STEP, every[STEP], schedule)


@pytest.fixture(scope="module")
def curves():
    return clean("run", RUN), clean("earlier", EARLIER)


@pytest.fixture(scope="module")
def prior(curves):
    return fmjax.fit(LAW, curves)


def noisy(curves, share, seed):
    """The curves with noise of which a share of the variance is common to them; it does not fall with the rate."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(curves[0].step.size)
    for curve in curves:
        own = rng.standard_normal(common.size)
        yield replace(curve, loss=curve.loss * np.exp(SIZE * (np.sqrt(share) * common + np.sqrt(1 - share) * own)))


def half(curve):
    return curve.until(TOTAL // 2)


def width(found):
    low, high = found.planned.interval
    return np.log(high / low)


def forecast(curve, prior, **options):
    return fmjax.forecast(half(curve), prior=prior, alternatives={}, **options)


@pytest.mark.slow
def test_the_noise_of_the_last_row_is_known(curves, prior):
    """A stranger tells how widely rows scatter at the end; a run of the same data order tells where this row is."""
    inside, narrower = 0, []
    for seed in range(6):
        (run, earlier), (_, stranger) = noisy(curves, 0.98, seed), noisy(curves, 0.98, seed + 100)
        found, alone = forecast(run, prior, earlier=[earlier]), forecast(run, prior, earlier=[stranger])
        low, high = found.planned.interval
        inside += low <= run.loss[-1] <= high
        narrower.append(width(alone) / width(found))
        assert any("is that of earlier runs" in note for note in found.notes)
    assert inside >= 4  # of 6 that each are inside in 90 %, fewer are by chance once in sixty times
    assert np.median(narrower) > 2


def test_nothing_shared_changes_nothing_but_how_noise_falls(curves, prior):
    run, earlier = noisy(curves, 0.0, 0)
    found, alone = forecast(run, prior, earlier=[earlier]), forecast(run, prior)
    assert found.planned.loss == pytest.approx(alone.planned.loss, rel=1e-6)
    assert not any("earlier runs" in note for note in found.notes)


def test_noise_that_does_not_fall_with_the_rate_widens_the_end(curves, prior):
    """The earlier run tells that rows at low rates scatter as widely."""
    run, earlier = noisy(curves, 0.0, 1)
    assert width(forecast(run, prior, earlier=[earlier])) > 2 * 1.645 * SIZE
    assert width(forecast(run, prior)) < 2 * 1.645 * SIZE


def rows(curve, prior):
    expected = fmjax.predict(prior, [curve])[0]
    rate = np.asarray(curve.schedule(curve.step)) / 1e-3
    return RowsAboutLaw(curve.step, curve.loss, np.log(curve.loss / expected), rate)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_how_noise_falls_with_the_rate(curves, prior, power):
    rng, own = np.random.default_rng(0), rows(curves[1], prior)
    noise = SIZE * own.rate**power * rng.standard_normal(own.rate.size)
    noisy_rows = own._replace(residual=own.residual + noise)
    assert Control.of(rows(curves[0], prior), [noisy_rows]).power == pytest.approx(power, abs=0.15)


def test_rows_of_a_common_stem_are_one_measurement(curves, prior):
    """A branch logs the rows of its stem again: they say nothing of their own noise."""
    run, _ = noisy(curves, 0.0, 2)
    branch = replace(run, name="branch", schedule=replace(RUN, anneal_ratio=0.2))
    control = Control.of(rows(run, prior), [rows(branch, prior)])
    assert control.noise.share == 0
    found, alone = forecast(run, prior, earlier=[branch]), forecast(run, prior)
    assert found.planned.loss == pytest.approx(alone.planned.loss, rel=1e-6)


def test_an_earlier_run_that_ended_before_says_nothing_of_the_last_row(curves, prior):
    run, earlier = noisy(curves, 0.98, 3)
    control = Control.of(rows(half(run), prior), [rows(earlier.until(TOTAL - 100), prior)])
    _, known = control.at(run.step, np.ones(run.step.size))
    assert known[run.step < TOTAL - 100].all()
    assert not known[-1]
    unknown, told = control.deviation(1e-3, np.ones(2), np.array([False, True]))
    assert told == 1e-3
    assert unknown == pytest.approx(1e-3 / np.sqrt(1 - control.noise.share))


def test_a_spike_in_the_earlier_run_is_no_noise(curves, prior):
    run, earlier = noisy(curves, 0.98, 4)
    loss = earlier.loss.copy()
    loss[600:640] += 3
    found = forecast(run, prior, earlier=[replace(earlier, loss=loss)])
    assert found.planned.loss == pytest.approx(forecast(run, prior, earlier=[earlier]).planned.loss, rel=3e-3)
