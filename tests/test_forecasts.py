"""Forecasts of a run in progress, from simulated runs whose ends are known."""

import json

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.planning import run_error as progress
from fmjax.planning.forecasts import alternatives_to
from fmjax.schedules.kinds import lrs

T, LAW = 2000, fmjax.LRAnnealing(decay=synthetic.DECAY)
TRUTH = synthetic.TRUTH["lr-annealing"]


def wsd(ratio, total=T):
    return fmjax.WSD(1e-3, total, ratio, warmup_steps=50)


def losses(schedule):
    return synthetic.losses("lr-annealing", TRUTH, synthetic.rates(schedule), warmup_steps=int(schedule.warmup_steps))


def run(name, schedule, *, error=lambda rates: 0.0, noise=0.0, seed=0, **fields):
    """A run whose log loss is the law's plus an error and noise, logged every 20 updates."""
    total = int(schedule.total_steps)
    step = np.append(np.arange(20, total - 1, 20), total - 1)
    log_loss = np.log(losses(schedule)) + error(synthetic.rates(schedule))
    log_loss = log_loss[step] + noise * np.random.default_rng(seed).standard_normal(step.size)
    return fmjax.LossCurve(name, step, np.exp(log_loss), schedule, **fields)


EARLIER = [run("constant", fmjax.Constant(1e-3, T, 50)), run("wsd", wsd(0.2)), run("short", wsd(0.4, T // 2))]


@pytest.fixture(scope="module")
def prior():
    return fmjax.fit(LAW, EARLIER, starts=2)


def test_a_run_that_follows_the_law(prior):
    found = fmjax.forecast(run("new", wsd(0.3)).until(T // 2), prior=prior)
    assert (found.count, found.status) == (981, "converged")
    assert found.planned.loss == pytest.approx(losses(wsd(0.3))[-1], rel=1e-4)
    for outlook in found.alternatives:
        end = losses(outlook.schedule)[-1]
        assert outlook.loss == pytest.approx(end, rel=1e-4), outlook.name
        assert outlook.excess == pytest.approx(end / losses(wsd(0.3))[-1] - 1, abs=1e-4)
        assert outlook.interval[0] < end < outlook.interval[1]
    assert found.best.loss == min(outlook.loss for outlook in (found.planned, *found.alternatives))
    schedules = {"planned": wsd(0.3), **alternatives_to(wsd(0.3), found.count)}
    assert found.best.name == min(schedules, key=lambda name: losses(schedules[name])[-1])


def test_rows_move_the_law(prior):
    """A run 3 % above the law all along ends 3 % above it."""
    new = run("new", wsd(0.3), error=lambda rates: 0.03)
    alone = fmjax.predict(prior, [new])[0][-1]
    found = fmjax.forecast(new.until(T // 2), prior=prior, alternatives={})
    assert abs(alone / new.loss[-1] - 1) > 0.02
    assert found.planned.loss == pytest.approx(new.loss[-1], rel=1e-3)


def test_excess_is_known_better_than_the_loss(prior):
    found = fmjax.forecast(run("new", wsd(0.3), noise=3e-3).until(T // 2), prior=prior)
    later = next(outlook for outlook in found.alternatives if outlook.name == "R = 0.2")
    assert np.diff(later.excess_interval) < 0.5 * np.diff(later.interval) / later.loss
    assert found.planned.excess_interval == (0.0, 0.0)


@pytest.mark.slow
def test_later_forecasts_are_narrower(prior):
    new = run("new", wsd(0.5), noise=2e-3)
    widths = [
        float(np.diff(fmjax.forecast(new.until(int(T * share)), prior=prior, alternatives={}).planned.interval)[0])
        for share in (0.3, 0.6, 0.95)
    ]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.slow
def test_intervals_hold_the_end():
    """Runs with errors of their own, as the runs that the prior was fitted to have them."""
    rng = np.random.default_rng(0)

    def one(i, ratio):
        level, gain, drift = np.array([1e-2, 6e-3, 2e-3]) * rng.standard_normal(3)

        def error(rates):
            fallen = 1 - rates / np.maximum.accumulate(np.maximum(rates, 1e-12))
            return level + gain * fallen + drift * np.log(np.arange(1, rates.size + 1) / rates.size)

        end = losses(wsd(ratio))[-1] * np.exp(level + gain)
        return run(f"run {i}", wsd(ratio), error=error, noise=2e-3, seed=i), end

    prior = fmjax.fit(LAW, [one(i, ratio)[0] for i, ratio in enumerate((0.1, 0.2, 0.3, 0.4, 0.5))], starts=1)
    inside = []
    for i in range(40):
        curve, end = one(100 + i, 0.3)
        low, high = fmjax.forecast(curve.until(T // 2), prior=prior, alternatives={}).planned.interval
        inside.append(low < end < high)
        assert high / low < 1.08
    assert sum(inside) >= 32


@pytest.mark.slow
def test_bootstrapped_prior_is_less_sure(prior):
    noisy = [run(f"{ratio}", wsd(ratio), noise=5e-3, seed=i) for i, ratio in enumerate((0.1, 0.2))]
    boot = fmjax.bootstrap(LAW, noisy, samples=20, options=fmjax.FitOptions(starts=1))
    new = run("new", wsd(0.6)).until(600)
    widths = [
        float(np.diff(fmjax.forecast(new, prior=p, alternatives={}).planned.interval)[0]) for p in (boot.fit, boot)
    ]
    assert widths[0] < widths[1]


@pytest.mark.slow
def test_without_a_prior_nothing_is_said_before_annealing():
    found = fmjax.forecast(run("new", wsd(0.2)).until(T // 2), law=LAW, options=fmjax.FitOptions(starts=1))
    assert (found.ok, found.status) == (False, "undetermined")
    assert all(np.isnan(outlook.loss) for outlook in (found.planned, *found.alternatives))
    assert json.loads(found.to_json())["planned"]["loss"] is None


@pytest.mark.slow
def test_without_a_prior_an_anneal_seen_is_enough():
    cosine = fmjax.Cosine(1e-3, T, 1e-4, 50)
    found = fmjax.forecast(
        run("new", cosine, noise=1e-3).until(T * 3 // 4), law=LAW, options=fmjax.FitOptions(starts=1)
    )
    assert found.planned.interval[0] < losses(cosine)[-1] < found.planned.interval[1]
    assert found.notes == ("fitted to this run alone: give a prior",)


def test_notes_say_what_is_extrapolated(prior):
    new = run("new", fmjax.WSD(2e-3, 2 * T, 0.3, warmup_steps=50)).until(T)
    assert fmjax.forecast(new, prior=prior, alternatives={}).notes == (
        "extrapolates to 2 x the longest fitted run (2000 updates)",
        "the prior was fitted at peak rates 0.001 ... 0.001, not 0.002",
    )


def test_many_rows_cost_no_more_than_their_averages(prior):
    new = fmjax.LossCurve("new", np.arange(1, T), losses(wsd(0.3))[1:], wsd(0.3))
    found = fmjax.forecast(new.until(T // 2), prior=prior, alternatives={})
    assert found.planned.loss == pytest.approx(losses(wsd(0.3))[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "count"),
    [(wsd(0.3), 1000), (wsd(0.3), 1800), (fmjax.Constant(1e-3, T, 50), 500), (fmjax.Cosine(1e-3, T, 1e-4, 50), 900)],
    ids=["stable", "annealing", "constant", "cosine"],
)
def test_alternatives_share_the_updates_made(schedule, count):
    made, others = np.asarray(lrs(schedule))[:count], alternatives_to(schedule, count)
    assert len(others) >= 2
    for name, other in others.items():
        rates = np.asarray(lrs(other))
        np.testing.assert_allclose(rates[:count], made, rtol=1e-4, err_msg=name)
        assert other.total_steps == T
        assert rates[-1] <= made[-1]
    first, second = list(others.values())[:2]
    assert float(first(count + 10)) < float(second(count + 10))


def test_no_alternatives_after_the_end():
    assert alternatives_to(wsd(0.3), T) == {}


NEW = run("new", wsd(0.3)).until(1000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"alternatives": {"x": wsd(0.9)}},
            "'x': its rate of update 201 is .* but the run made it at 0.001",
        ),
        (
            {"alternatives": {"x": wsd(0.3, 900)}},
            "'x': ends after 900 updates, when run 'new' has made 981",
        ),
        ({"alternatives": {"x": 0.1}}, "alternative 'x': expected an fmjax schedule, got float"),
        ({"level": 1.5}, "level: expected a number between 0 and 1, got 1.5"),
    ],
    ids=["another past", "too short", "no schedule", "level"],
)
def test_bad_input(prior, options, message):
    with pytest.raises(ValueError, match=message):
        fmjax.forecast(NEW, prior=prior, **options)


def test_prior_that_failed_is_refused():
    failed = fmjax.fit(LAW, EARLIER[:1], starts=1)
    with pytest.raises(ValueError, match="the prior cannot be used: "):
        fmjax.forecast(NEW, prior=failed)


def test_rows_of_warmup_are_not_enough(prior):
    with pytest.raises(ValueError, match="run 'new': expected rows after warmup, found 0"):
        fmjax.forecast(NEW.until(41), prior=prior)


def test_forecaster_is_the_function_on_the_rows_so_far(prior):
    forecaster = fmjax.Forecaster(wsd(0.3), prior=prior, name="new")
    for step, loss in zip(NEW.step, NEW.loss, strict=True):
        forecaster.log(step, 9.0)
        forecaster.log(step, loss)
    assert forecaster.forecast(alternatives={}).to_json() == fmjax.forecast(NEW, prior=prior, alternatives={}).to_json()
    with pytest.raises(ValueError, match="loss: expected a finite number, got nan"):
        forecaster.log(1001, float("nan"))


def test_rows_at_another_time_need_no_new_program(prior):
    """Rows are averaged and padded, so the number of rows changes no shape."""
    curve = run("new", wsd(0.3))
    fmjax.forecast(curve.until(1500), prior=prior, alternatives={})
    before = progress._predicted._cache_size()
    fmjax.forecast(curve.until(1540), prior=prior, alternatives={})
    assert progress._predicted._cache_size() == before


def test_until_leaves_out_what_came_later():
    half = run("new", wsd(0.3), final_loss=2.9).until(1000)
    assert (half.step[-1], half.final_loss, half.is_finished) == (980, None, False)
    with pytest.raises(ValueError, match="run 'new': expected a row in the first 0 updates, found none"):
        half.until(0)
