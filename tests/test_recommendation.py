"""Recommendations against the optimum of the law that made the curves."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from synthetic import DECAY, cells, constant_runs, curve, final_losses, losses, rates, runs, two_rates
from synthetic import TRUTH as TRUTHS

from fmjax.fitting.options import FitOptions
from fmjax.laws import LRAnnealing
from fmjax.planning.drift import LEAST_DRIFT
from fmjax.planning.recommendation import recommend
from fmjax.schedules.kinds import WSD
from fmjax.searching.results import NEAR

LAW = LRAnnealing(decay=DECAY)
PEAKS = (1e-3, 2e-3, 1.5e-3)


@pytest.fixture(scope="module")
def curves():
    return two_rates()


@pytest.fixture(scope="module")
def found(curves):
    return recommend(curves, law=LAW, total_steps=600, peak_lr=PEAKS)


def choose(curves, **options):
    return recommend(curves, **{"law": LAW, "total_steps": 400, "peak_lr": 1e-3, **options})


@pytest.mark.parametrize("index", range(3), ids=["low", "high", "between"])
def test_the_ratio_is_the_true_optimum(found, index):
    choice = found.choices[index]
    truth = final_losses(found.anneal_ratio, peak_lr=PEAKS[index], total_steps=600)
    best = int(np.argmin(truth))
    assert 0 < best < truth.size - 1
    assert abs(choice.cell.best_ratio - found.anneal_ratio[best]) < 0.011
    assert choice.cell.loss == pytest.approx(truth[best], rel=1e-5)
    np.testing.assert_allclose(choice.losses, truth, rtol=1e-5)
    near = found.anneal_ratio[truth <= truth[best] + NEAR]
    assert choice.cell.interval == pytest.approx((near.min(), near.max()), abs=0.011)


@pytest.mark.slow
def test_the_shape_of_the_anneal_is_searched(curves):
    found = choose(curves, decay=["linear", "cosine"])
    assert [choice.cell.decay for choice in found.choices] == ["linear", "cosine"]
    for choice in found.choices:
        truth = final_losses(found.anneal_ratio, peak_lr=1e-3, total_steps=400, decay=choice.cell.decay)
        np.testing.assert_allclose(choice.losses, truth, rtol=1e-5)
    assert found.best.cell.loss == min(choice.cell.loss for choice in found.choices)


def test_rates_with_runs_of_their_own_are_predicted_by_them(found):
    assert [choice.per_rate for choice in found.choices] == [True, True, False]
    assert [len(choice.fit.runs) for choice in found.choices] == [4, 4, 8]
    assert {run.name.split("-")[0] for run in found.choices[1].fit.runs} == {"high"}


def test_own_runs_that_leave_a_parameter_open_give_way_to_all_runs():
    curves = (*runs(prefix="low-", noise=1e-6), *constant_runs((2e-3,) * 4))
    low, high = recommend(curves, law=LAW, total_steps=400, peak_lr=[1e-3, 2e-3]).choices
    assert (low.per_rate, high.per_rate) == (True, False)
    assert "fitted jointly over peak rates 0.001 ... 0.002" in high.notes
    assert high.cell.loss == pytest.approx(
        final_losses([high.cell.best_ratio], peak_lr=2e-3, total_steps=400)[0], rel=1e-4
    )


def test_runs_are_left_out_one_at_a_time(found):
    for choice in found.choices:
        assert [run.name for run in choice.held_out] == [run.name for run in choice.fit.runs]
        assert 0 < choice.held_out_mape_percent < 0.01


def test_the_schedule_is_the_one_recommended(found):
    for choice in found.choices:
        schedule = choice.schedule
        assert (schedule.peak_lr, schedule.anneal_ratio) == (choice.cell.peak_lr, choice.cell.best_ratio)
        assert (schedule.total_steps, schedule.warmup_steps, schedule.final_lr) == (600, 20, 0.0)
    assert found.best.cell.loss == min(choice.cell.loss for choice in found.choices)


def test_notes_on_what_is_extrapolated(found):
    longer = "extrapolates to 1.5 x the longest fitted run (400 updates)"
    assert found.choices[0].notes == (longer,)
    assert found.choices[2].notes == (longer, "no run has this peak rate; fitted on 0.001 ... 0.002")


def test_no_notes_where_nothing_is_extrapolated(curves):
    assert choose(curves).best.notes == ()


def test_a_note_on_the_edge(curves):
    (choice,) = choose(curves, anneal_ratio=[0.01, 0.02, 0.03]).choices
    assert choice.cell.at_edge
    assert choice.notes == ("the best ratio lies at the edge of those searched",)


def test_a_run_shorter_than_the_warmup_of_the_others(curves):
    assert choose(curves, total_steps=10).best.schedule.warmup_steps == 10


def test_one_run_is_not_left_out():
    found = choose(
        [curve("one", WSD(1e-3, 400, 0.5, warmup_steps=20), noise=1e-6, rows=120)], options=FitOptions(starts=8)
    )
    assert found.best.held_out == ()
    assert math.isnan(found.best.held_out_mape_percent)
    assert json.loads(found.to_json())["choices"][0]["held_out_mape_percent"] is None


@pytest.mark.slow
def test_one_run_alone_gives_no_interval_and_names_the_run_to_make():
    """No interval is offered that no run could check."""
    one = curve("one", WSD(1e-3, 400, 0.2, warmup_steps=20), noise=1e-5, rows=60)
    found = choose([one], total_steps=600)
    cell = found.best.cell
    assert np.isnan([*cell.ratio_interval, *cell.loss_interval, found.best.regret]).all()
    assert cell.loss > 0
    best = second_by_hand(one)
    assert any(
        f"a second run of 400 updates with R = {best:g} would determine most" in note for note in found.best.notes
    )


def test_one_run_that_determines_nothing_names_the_run_to_make():
    with pytest.raises(ValueError, match=r"not determine .*: C; a second run of 400 updates with R = 0.\d would"):
        choose(constant_runs((1e-3,)))


def second_by_hand(run):
    """The ratio of the second run after which final losses of a run twice as long are known best, by differences."""
    names, truth, ratios = LAW.parameter_names, TRUTHS["lr-annealing"], np.arange(1, 10) / 10
    rows = np.linspace(20, 399, 60).astype(int)

    def slopes(schedule, at):
        def log_loss(params):
            return np.log(losses("lr-annealing", params, rates(schedule), warmup_steps=20))[at]

        return [(log_loss({**truth, n: 1.001 * truth[n]}) - log_loss(truth)) / 1e-3 for n in names]

    known = np.array(slopes(run.schedule, rows))
    plans = np.hstack([slopes(WSD(1e-3, 800, ratio, warmup_steps=20), [799]) for ratio in ratios])

    def left(ratio):
        new = np.array(slopes(WSD(1e-3, 400, ratio, warmup_steps=20), rows))
        both = np.hstack([known, new])
        return np.sum(plans * np.linalg.solve(both @ both.T, plans))

    return min(ratios, key=left)


def test_stages_are_told(curves):
    told = []
    choose(curves, progress=told.append)
    at = "at peak rate 0.001"
    fitted = [f"fitting lr-annealing to 4 runs {at}, and again without each", f"drawing 200 bootstrap samples {at}"]
    assert told == [*fitted, f"searching 99 ratios {at}"]


def test_json(found):
    record = json.loads(found.to_json())
    assert (record["law"], record["options"]["decay"]) == ("lr-annealing", DECAY)
    best = record["choices"][record["best"]]
    assert best["loss"] == min(choice["loss"] for choice in record["choices"])
    assert best["best_ratio"] == found.best.cell.best_ratio
    assert best["optax"].startswith("import optax")
    assert best["params"] == pytest.approx(found.best.fit.params)
    assert {"interval", "notes", "held_out", "fitted", "warmup_steps", "per_rate"} <= set(best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_steps": 0}, "total_steps: expected a whole number >= 1, got 0"),
        ({"peak_lr": []}, "at least one peak_lr, found none"),
        ({"peak_lr": -1e-3}, "peak_lr: expected a number above zero"),
        ({"peak_lr": math.nan}, "peak_lr: expected a finite number"),
        ({"anneal_ratio": [0.5, 1.5]}, r"anneal_ratio must lie in \(0, 1\], got 1.5"),
        ({"anneal_ratio": []}, "at least one value on every axis"),
        ({"decay": "liner"}, "unknown decay 'liner'; did you mean 'linear'"),
        ({"final_lr": 1.0}, "final_lr: expected a rate in"),
        ({"warmup_steps": 700}, "warmup of 700 steps is longer than the run of 400"),
        ({"law": "lr-aneal"}, "unknown law 'lr-aneal'"),
    ],
    ids=["steps", "no-peak", "peak", "nan", "ratio", "no-ratio", "decay", "final", "warmup", "law"],
)
def test_wrong_targets(curves, options, message):
    with pytest.raises(ValueError, match=message):
        choose(curves, **options)


# ------------------------------------------------------------------------------------- measured losses, choice of law


def shifted(runs, by):
    """Runs whose final losses were measured apart: 3 % higher, and bent with the ratio."""
    bent = [1.03 + by * (np.sqrt(run.schedule.anneal_ratio) - 0.4) ** 2 for run in runs]
    return [replace(run, final_loss=factor * run.loss[-1]) for run, factor in zip(runs, bent, strict=True)]


def test_measured_final_losses_correct_the_law():
    curves = shifted(cells(peak_lrs=(1e-3,), lengths=(300, 400)), by=0.1)
    (choice,) = choose(curves, total_steps=600).choices
    fine = np.linspace(0.01, 0.99, 99)
    plain = final_losses(fine, peak_lr=1e-3, total_steps=600)
    truth = plain * (1.03 + 0.1 * (np.sqrt(fine) - 0.4) ** 2)
    assert choice.law_ratio == pytest.approx(fine[np.argmin(plain)], abs=0.011)
    assert choice.cell.best_ratio < choice.law_ratio - 0.05
    near = truth[np.argmin(np.abs(fine - choice.cell.best_ratio))] - truth.min()
    assert near < 0.25 * (truth[np.argmin(np.abs(fine - choice.law_ratio))] - truth.min())
    assert 0 < choice.regret < 0.01
    assert choice.cell.loss == pytest.approx(truth.min(), rel=2e-3)
    assert choice.cell.loss_interval[0] < truth.min() < choice.cell.loss_interval[1]
    assert f"lr-annealing alone says {choice.law_ratio:.3g}; 10 measured final losses correct it" in choice.notes


def test_longer_runs_are_less_sure(curves):
    """All runs have 400 updates; beyond, the error of a law that holds widens the interval of the loss alone."""
    near, far = (choose(curves, total_steps=steps, anneal_ratio=[0.2, 0.5]).best for steps in (400, 1600))
    assert np.diff(np.log(near.cell.loss_interval)) < 1e-4
    half = np.diff(np.log(far.cell.loss_interval))[0] / 2
    assert half == pytest.approx(LEAST_DRIFT * np.log(4) * 1.645, rel=0.3)
    assert np.diff(far.cell.ratio_interval) == 0


def test_what_shorter_runs_missed_widens_longer_plans():
    """Runs twice as long are half a percent above the law, which is all that shorter runs can tell."""
    runs = cells(peak_lrs=(1e-3,), lengths=(300, 600), ratios=(0.1, 0.2, 0.4, 0.6))
    off = [replace(run, final_loss=run.loss[-1] * (1.005 if "t600" in run.name else 1.0)) for run in runs]
    known, missed = (choose(some, total_steps=1200, anneal_ratio=[0.2, 0.5]).best for some in (runs, off))
    assert np.diff(np.log(known.cell.loss_interval))[0] / 2 < 1.3 * LEAST_DRIFT * np.log(2) * 1.645
    assert np.diff(np.log(missed.cell.loss_interval))[0] / 2 == pytest.approx(0.005 * 1.645, rel=0.5)  # and its own


def test_a_law_that_fits_is_left_alone(found):
    for choice in found.choices:
        assert choice.cell.best_ratio == choice.law_ratio
        assert choice.regret < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("law", ["lr-annealing", "intrinsic-momentum"])
def test_the_law_is_the_one_that_predicts_runs_left_out(law):
    (choice,) = recommend(runs(law, noise=1e-5), total_steps=400, peak_lr=1e-3, samples=20).choices
    assert choice.fit.law.name == law
    truth = losses(law, TRUTHS[law], rates(choice.schedule), warmup_steps=choice.schedule.warmup_steps)[-1]
    assert choice.cell.loss == pytest.approx(truth, rel=1e-3)
    assert choice.cell.ratio_interval[0] - 0.01 < choice.cell.best_ratio < choice.cell.ratio_interval[1] + 0.01


def test_runs_that_determine_nothing():
    with pytest.raises(ValueError, match=r"no fit can predict peak_lr 0.001: the data do not determine .*: C"):
        choose(constant_runs((1e-3,) * 4 + (2e-3,) * 4))


def test_no_runs():
    with pytest.raises(ValueError, match="at least one run"):
        choose([])


def test_the_best_is_of_a_peak_rate_that_was_run(curves):
    found = choose(curves, peak_lr=(1e-3, 4e-3), samples=0)
    assert [choice.known_rate for choice in found.choices] == [True, False]
    assert found.best.cell.peak_lr == 1e-3
