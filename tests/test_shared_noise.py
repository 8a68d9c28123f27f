"""Noise that runs share is taken out of the errors of a law, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax import WSD, Cosine
from fmjax.curves.manifest import load_runs
from fmjax.fitting.shared_noise import Residuals, sharing_groups, with_common_noise, without_shared

STEP = np.arange(0, 4000, 10)


def noises(share, runs=3, seed=0, size=0.01):
    """``runs`` arrays of noise of which a share of the variance is the same in all."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal(STEP.size)
    return [size * (np.sqrt(share) * shared + np.sqrt(1 - share) * rng.standard_normal(STEP.size)) for _ in range(runs)]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_shared_noise_is_found_and_taken_out(share):
    one, *others = (Residuals(STEP, noise) for noise in noises(share, runs=4))
    found = without_shared(one, others)
    # the mean of three runs has the shared part s and a third of the rest: s^2 / (s + (1 - s) / 3) can be foreseen
    expected = share**2 / (share + (1 - share) / 3)
    assert found.share == pytest.approx(expected, abs=0.12)
    assert np.var(found.value) / np.var(one.value) == pytest.approx(1 - expected, abs=0.12)


def test_noise_of_its_own_stays():
    one, *others = (Residuals(STEP, noise) for noise in noises(0.0, runs=4))
    found = without_shared(one, others)
    assert found.share == 0
    np.testing.assert_array_equal(found.value, one.value)


def test_an_error_of_the_law_that_all_runs_have_stays():
    smooth = 0.05 * np.sin(STEP / 1500)
    one, other = (Residuals(STEP, noise + smooth) for noise in noises(0.9, runs=2))
    left = without_shared(one, [other]).value
    assert np.corrcoef(left, smooth)[0, 1] > 0.9
    assert np.std(left - smooth) < 0.7 * np.std(one.value - smooth)


def test_only_rows_at_equal_steps_change():
    one, other = (Residuals(STEP, noise) for noise in noises(0.9, runs=2))
    part = Residuals(STEP[100:300], other.value[100:300])
    left = without_shared(one, [part]).value
    changed = left != one.value
    assert changed[100:300].all()
    assert not changed[:100].any()
    assert not changed[300:].any()


def test_a_named_order_of_the_data_decides_which_runs_share():
    one, other = noises(0.15, runs=2)  # correlated by 0.15: too little to be found
    alike = [Residuals(STEP, noise, "first") for noise in (one, other)]
    assert without_shared(Residuals(STEP, one), [Residuals(STEP, other)]).share == 0
    assert 0 < without_shared(alike[0], alike[1:]).share < 0.1
    one, other = noises(0.9, runs=2)
    unlike = [Residuals(STEP, one, "first"), Residuals(STEP, other, "second")]
    assert without_shared(unlike[0], unlike[1:]).share == 0
    assert sharing_groups(unlike).tolist() == [0, 1]
    assert len(set(sharing_groups([unlike[0], Residuals(STEP, other, "first")]).tolist())) == 1


def test_a_forecast_takes_no_noise_from_a_run_of_another_order():
    run, earlier, _ = evaluated_runs(0.9)
    prior = fmjax.fit("lr-annealing", [run, earlier])
    seen = run.until(2000)
    alone = fmjax.forecast(seen, prior=prior, alternatives={}).planned
    unlike = [replace(one, data_order=name) for one, name in ((seen, "first"), (earlier, "second"))]
    assert fmjax.forecast(unlike[0], prior=prior, earlier=unlike[1:], alternatives={}).planned.loss == alone.loss
    assert fmjax.forecast(seen, prior=prior, earlier=[earlier], alternatives={}).planned.loss != alone.loss


def simulated(share):
    """Runs whose log loss is noise about 0, and the prediction 1 of it."""
    schedule = fmjax.Constant(1e-3, int(STEP[-1]) + 1)
    curves = [fmjax.LossCurve(f"run-{i}", STEP, np.exp(noise), schedule) for i, noise in enumerate(noises(share))]
    return curves, [np.ones(STEP.size) for _ in curves]


def test_noise_in_common_is_drawn_once_and_is_in_the_predictions():
    curves, predicted = simulated(0.9)
    noise, explained = with_common_noise([*curves, curves[0]], [*predicted, np.full(STEP.size, np.nan)])
    mean = np.mean([np.log(curve.loss) for curve in curves], axis=0)
    np.testing.assert_array_equal(noise.step, STEP)
    assert np.corrcoef(noise.value, mean)[0, 1] > 0.95
    for curve, values in zip(curves, explained, strict=False):
        assert np.std(np.log(curve.loss / values)) < 0.6 * np.std(np.log(curve.loss))
    assert np.isnan(explained[3]).all()


def test_without_noise_in_common_predictions_stay():
    noise, explained = with_common_noise(*simulated(0.0))
    assert noise is None
    assert all((values == 1).all() for values in explained)


@pytest.mark.parametrize("rows", [slice(None, None, 20), slice(0, 25)])
def test_too_few_equal_steps_decide_nothing(rows):
    one, other = (Residuals(STEP, noise) for noise in noises(0.9, runs=2))
    assert without_shared(one, [Residuals(STEP[rows], other.value[rows])]).share == 0


def test_runs_of_another_data_order_do_not_dilute():
    one, alike, _ = (Residuals(STEP, noise) for noise in noises(0.9))
    strangers = [Residuals(STEP, noise) for noise in noises(0.0, seed=1)]
    assert without_shared(one, [alike, *strangers]).share == pytest.approx(without_shared(one, [alike]).share)


def test_a_spike_moves_nothing_but_itself():
    one, other = (Residuals(STEP, noise) for noise in noises(0.9, runs=2))
    spiked = other.value.copy()
    spiked[200] += 3
    with_spike, without = (without_shared(one, [Residuals(STEP, value)]).value for value in (spiked, other.value))
    assert np.abs(np.delete(with_spike - without, 200)).max() < 0.003  # of noise of 0.01; the spike is 3


def evaluated_runs(share):
    schedules = [Cosine(1e-3, 4000), WSD(1e-3, 4000, 0.2), WSD(1e-3, 4000, 0.6)]
    clean = [synthetic.curve(f"run-{i}", each, rows=400) for i, each in enumerate(schedules)]
    rows = clean[0].step
    return [
        fmjax.LossCurve(run.name, rows, run.loss * np.exp(np.resize(noise, rows.size)), run.schedule)
        for run, noise in zip(clean, noises(share), strict=True)
    ]


def evaluated(share):
    runs = evaluated_runs(share)
    return fmjax.evaluate("lr-annealing", runs, train=runs[:2])


def test_evaluations_have_both_errors():
    found = evaluated(0.9)
    unseen = found.runs[2]
    assert unseen.paired_mape_percent < 0.9 * unseen.mape_percent  # the rest is the error of the fit
    assert unseen.shared_noise > 0.6
    record = found.to_dict()
    assert record["test_paired_mape_percent"] == pytest.approx(unseen.paired_mape_percent)
    assert record["runs"][2]["paired_mape_percent"] == pytest.approx(unseen.paired_mape_percent)


def test_without_shared_noise_both_errors_are_the_same():
    found = evaluated(0.0)
    assert all(run.shared_noise == 0 for run in found.runs)
    assert found.test_paired_mape_percent == pytest.approx(found.test_mape_percent, rel=1e-9)


@pytest.mark.slow
def test_raw_training_losses_are_predicted_better_with_the_noise_of_a_fitted_run(shared):
    """Every update's training loss of one data order: the noise is of the batch, and both runs have it."""
    runs = load_runs(Path(shared) / "data" / "raw_100m" / "runs.toml")
    found = fmjax.evaluate("intrinsic-momentum", runs, train=runs[:1])
    (unseen,) = (run for run in found.runs if run.name not in found.trained)
    assert unseen.shared_noise > 0.9
    assert unseen.paired_mape_percent < 0.6 * unseen.mape_percent


@pytest.mark.slow
def test_raw_losses_of_one_cosine_settle_through_the_prior(shared):
    """Its rows alone never do; 0.0378 is published for the momentum law, fitted to the cosine, on the set's WSD run."""
    cosine, step = load_runs(Path(shared) / "data" / "raw_100m" / "runs.toml")
    found = fmjax.evaluate(
        "intrinsic-momentum", [cosine, step], train=[cosine], options=fmjax.FitOptions(drop_before=2160)
    )
    assert found.fit.status == "converged"
    assert {"alpha", "xi"} <= set(found.fit.open_without_prior)
    unseen, level = found.runs[1], step.loss[step.step >= 2160].mean()
    assert unseen.mape_percent / 100 * level < 0.0378
    assert unseen.paired_mape_percent < 0.6 * unseen.mape_percent
