"""Fits: golden numbers, recovery of known parameters, what is said of a fit, and its JSON."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
from synthetic import (
    DECAY,
    SAME_FIT,
    SIZES,
    TRUTH,
    area,
    constant_runs,
    curve,
    rates,
    runs,
    sized_runs,
    sized_truth,
)

from fmjax.curves.manifest import load_runs
from fmjax.fitting import lanes
from fmjax.fitting.fits import evaluate, fit, fit_groups, measure, predict
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.fitting.records import FitResult
from fmjax.laws import LAWS, LRAnnealing, make_law
from fmjax.schedules.kinds import WSD

LAW = LRAnnealing(decay=DECAY)
NOISE = 1e-4


def law_of(name):
    options = {"intrinsic-momentum": {"rho": TRUTH["intrinsic-momentum"]["rho"]}}.get(name, {})
    return LAW if name == LAW.name else make_law(name, **options)


@pytest.fixture(scope="module")
def noisy():
    return runs(noise=NOISE)


@pytest.fixture(scope="module")
def fitted(noisy):
    return fit(LAW, noisy)


@pytest.fixture(scope="module")
def undetermined():
    return fit(LAW, constant_runs())


def slow_for(laws, *names):
    """Parameters of a test, of which these compile long."""
    return [pytest.param(law, marks=pytest.mark.slow) if law in names else law for law in laws]


def with_loss(run, loss):
    return dataclasses.replace(run, loss=loss)


# ------------------------------------------------------------------------------------------------ golden numbers

DATA = ("mpl_25m", "mpl_100m")
GOLDEN_LAWS = ("lr-annealing lambda=0.999", "lr-annealing lambda=0.995", "forward-momentum", "forward-only")


@functools.cache
def golden(shared):
    records = json.loads((shared / "golden" / "fits.json").read_text())["fits"]
    return {(record["data"], record["law"], record["warmup"]): record for record in records}


@functools.cache
def golden_fits(shared, law, warmup):
    """The fit and its runs for each data set; both sets go through one batch, which saves compiling."""
    name, _, decay = law.partition(" lambda=")
    made = make_law(name, **({"decay": float(decay)} if decay else {}))
    curves = [run for data in DATA for run in load_runs(shared / "data" / data)]
    curves = [dataclasses.replace(run, model_size=None) for run in curves]
    of_data = np.repeat(np.arange(len(DATA)), len(curves) // len(DATA))
    train = np.array([run.name in golden(shared)[DATA[0], law, warmup]["train"] for run in curves])
    with jax.enable_x64(True):
        law = dataclasses.replace(made, warmup=warmup)
        problem = prepare(law, curves, fitted=[True] * len(curves), options=FitOptions())
        problem = problem._replace(law=made)  # the warmup mode is in the effects by now
        found = fit_groups(problem, [train & (of_data == i) for i in range(len(DATA))], FitOptions())
        measured = [measure(problem, result.vector, usable=of_data == i) for i, result in enumerate(found)]
    return {
        data: (found[i], [run for run, at in zip(measured[i], of_data, strict=True) if at == i])
        for i, data in enumerate(DATA)
    }


@pytest.mark.parametrize("warmup", ["as-scheduled", "as-peak"])
@pytest.mark.parametrize("law", GOLDEN_LAWS)
@pytest.mark.parametrize("data", DATA)
def test_golden_fits(shared, data, law, warmup):
    record = golden(shared)[data, law, warmup]
    found, measured = golden_fits(shared, law, warmup)[data]
    assert (found.status, found.rows) == ("converged", record["n_points"])
    assert found.objective <= record["objective_sum"] * (1 + 1e-6)
    assert {run.name: run.mape_percent for run in measured} == pytest.approx(record["mape_percent"], rel=0, abs=1e-3)


def test_every_golden_fit_is_tested(shared):
    tested = {(data, law, warmup) for data in DATA for law in GOLDEN_LAWS for warmup in ("as-scheduled", "as-peak")}
    assert set(golden(shared)) == tested


@pytest.mark.slow
def test_a_golden_fit_by_the_public_verb(shared):
    record = golden(shared)["mpl_100m", "lr-annealing lambda=0.999", "as-peak"]
    curves = load_runs(shared / "data" / "mpl_100m")
    train = [run for run in curves if run.name in record["train"]]
    found = evaluate(LRAnnealing(warmup="as-peak"), curves, train=train)
    assert found.fit.objective == pytest.approx(record["objective_sum"], rel=1e-6)
    assert found.test_mape_percent == pytest.approx(record["test_mape_percent_mean"], abs=1e-3)


# ------------------------------------------------------------------------------------------------ known parameters


FOLLOWED = ("multi-power", "functional", "convex-bound")
"""Laws whose kernels are followed to 1e-6 of the loss only."""
EVERY = slow_for(TRUTH, *FOLLOWED)


def scaled(law, scale):
    exponents = {exponent.name for exponent in law_of(law).exponents}
    return {name: value * (1 if name in exponents else scale) for name, value in TRUTH[law].items()}


def assert_recovered(found, params, rel):
    """The parameters, or where a mixture leaves single terms open, the losses."""
    assert found.status == "converged"
    if not any(coefficient.mixture for coefficient in found.law.coefficients):
        assert found.params == pytest.approx(params, rel=rel)
    for predicted, run in zip(predict(found, runs(found.law.name)), runs(found.law.name, params), strict=True):
        np.testing.assert_allclose(predicted, run.loss, rtol=rel)


def test_every_law_is_tested():
    assert set(TRUTH) == set(LAWS)


@pytest.mark.parametrize("scale", [1e-3, 1.0, pytest.param(1e4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("law", slow_for([law for law in TRUTH if law not in FOLLOWED], "intrinsic-momentum"))
def test_recovery_at_any_scale_of_the_loss(law, scale):
    params = scaled(law, scale)
    found = fit(law_of(law), runs(law, params, noise=1e-8))
    assert_recovered(found, params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("law", FOLLOWED)
def test_recovery_of_laws_that_are_followed_closely(law, scale):
    params = scaled(law, scale)
    assert_recovered(fit(law_of(law), runs(law, params, noise=1e-8)), params, 1e-3)


@pytest.mark.parametrize("peak_lr", [1e-5, 1.0])
@pytest.mark.parametrize("law", ["forward-momentum", "lr-annealing", "forward-only"])
def test_recovery_at_any_scale_of_the_rate(law, peak_lr):
    ratio = peak_lr / 1e-3
    factors = {"A": ratio**0.45, "C": 1 / ratio if law == "lr-annealing" else 1.0}
    params = {name: value * factors.get(name, 1.0) for name, value in TRUTH[law].items()}
    found = fit(law_of(law), runs(law, params, peak_lr=peak_lr, noise=1e-8))
    assert found.status == "converged"
    assert found.params == pytest.approx(params, rel=1e-4)


@pytest.mark.parametrize("law", EVERY)
def test_recovery_despite_outliers(law):
    rng = np.random.default_rng(0)
    curves = []
    for run in runs(law, noise=1e-8):
        factor = np.ones(run.loss.size)
        factor[rng.choice(run.loss.size, 3, replace=False)] = [1.3, 0.7, 2.0]
        curves.append(with_loss(run, run.loss * factor))
    hard = {"delta": 1e-3, "max_iterations": 2000}  # a mixture under many outliers settles slowly
    mixed = law == "intrinsic-momentum"
    found = fit(law_of(law), curves, **(hard if mixed else {"delta": 1e-6}))
    assert_recovered(found, TRUTH[law], 1e-3 if mixed or law in FOLLOWED else 1e-4)


SIZED = ("lr-annealing", "forward-momentum", "forward-only", "chinchilla")


@pytest.mark.parametrize("law", slow_for(SIZED, *SIZED[1:]))
def test_recovery_over_model_sizes(law):
    found = fit(law_of(law), sized_runs(law, noise=1e-8))
    assert (found.status, found.law.sizes, found.rows) == ("converged", True, 360)
    assert found.params == pytest.approx(sized_truth(law), rel=1e-4)


def test_warmup_counted_as_peak():
    curves = runs()
    with jax.enable_x64(True):
        law = dataclasses.replace(LAW, warmup="as-peak")
        problem = prepare(law, curves, fitted=[True] * 4, options=FitOptions())
    for run, found in zip(curves, problem.effects["S2"], strict=True):
        at_peak = rates(run.schedule).copy()
        at_peak[:20] = at_peak[20]
        np.testing.assert_allclose(found[:30], area(at_peak)[run.step], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("law", slow_for(TRUTH, "multi-power", "functional", "intrinsic-momentum"))
def test_a_perfect_fit_converges(law):
    assert fit(law_of(law), runs(law)).status == "converged"


# ------------------------------------------------------------------------------------------------ options


def test_raw_residuals(noisy, fitted):
    def objective(found):
        error = np.concatenate([p - run.loss for p, run in zip(predict(found, noisy), noisy, strict=True)])
        size = np.abs(error)
        return np.sum(np.where(size <= 1e-3, error**2 / 2, 1e-3 * (size - 5e-4)))

    found = fit(LAW, noisy, residual="raw")
    assert (found.status, found.residual) == ("converged", "raw")
    assert found.objective == pytest.approx(objective(found), rel=1e-9)
    assert objective(found) < objective(fitted)


def test_over_weight_makes_over_estimates_rarer(noisy, fitted):
    def over(found):
        return np.mean(np.concatenate([p > run.loss for p, run in zip(predict(found, noisy), noisy, strict=True)]))

    assert 0.4 < over(fitted) < 0.6
    assert over(fit(LAW, noisy, over_weight=100.0)) < 0.2
    assert over(fit(LAW, noisy, over_weight=0.01)) > 0.8


def test_dropped_warmup_rows_do_not_count(noisy, fitted):
    early = [dataclasses.replace(run, step=np.r_[0, 10, run.step], loss=np.r_[99.0, 98.0, run.loss]) for run in noisy]
    found = fit(LAW, early)
    assert found.rows == fitted.rows
    assert found.params == pytest.approx(fitted.params, rel=SAME_FIT)
    assert found.runs[0].worst_percent == pytest.approx(fitted.runs[0].worst_percent)


def test_warmup_rows_count_on_request(noisy):
    early = [dataclasses.replace(run, step=np.r_[10, run.step[1:]]) for run in noisy]
    assert fit(LAW, early, drop_warmup=False).rows == 120


def test_rows_before_an_update_are_dropped_on_request(noisy):
    late = [dataclasses.replace(run, step=np.r_[21, run.step[1:]]) for run in noisy]
    early = [dataclasses.replace(run, step=np.r_[20, run.step], loss=np.r_[9, run.loss]) for run in late]
    found = fit(LAW, early, drop_before=21)
    assert found.rows == 120
    assert found.params == pytest.approx(fit(LAW, late).params, rel=SAME_FIT)


def test_rows_at_the_end_weigh_more_on_request(noisy, fitted):
    def late_error(found):
        return max(
            np.abs(p / run.loss - 1)[run.step >= 0.9 * 399].max()
            for p, run in zip(predict(found, noisy), noisy, strict=True)
        )

    found = fit(LAW, noisy, end_weight=1000.0)
    assert found.rows == fitted.rows
    assert late_error(found) < late_error(fitted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0}, "delta: expected a number above zero, got 0"),
        ({"delta": math.nan}, "delta: expected a finite number, got nan"),
        ({"delta": "small"}, "delta: expected a number, got 'small'"),
        ({"over_weight": -1}, "over_weight: expected a number above zero, got -1"),
        ({"over_weight": math.inf}, "over_weight: expected a finite number"),
        ({"starts": 0}, "starts: expected a whole number >= 1, got 0"),
        ({"residual": "row"}, "unknown residual 'row'; did you mean 'raw'"),
    ],
    ids=["delta-zero", "delta-nan", "delta-text", "over-negative", "over-inf", "no-starts", "residual"],
)
def test_wrong_options(noisy, options, message):
    with pytest.raises(ValueError, match=message):
        fit(LAW, noisy, **options)


UNKNOWN = {
    "options": (lambda _: FitOptions(strats=3), "unknown option of a fit 'strats'; did you mean 'starts'"),
    "fit": (lambda curves: fit(LAW, curves, detla=1e-3), "unknown option of fit 'detla'; did you mean 'delta'"),
    "verb": (
        lambda curves: evaluate(LAW, curves, tarin=curves),
        "unknown option of evaluate 'tarin'; did you mean 'train'",
    ),
    "of-its-fits": (
        lambda curves: evaluate(LAW, curves, train=curves, starts=3),
        r"unknown option of evaluate 'starts'; it is an option of its fits: options=FitOptions\(starts=\.\.\.\)",
    ),
    "law": (lambda _: LRAnnealing(decy=0.9), "unknown option of lr-annealing 'decy'; did you mean 'decay'"),
    "changed-law": (lambda _: dataclasses.replace(LAW, decy=0.9), "unknown option of lr-annealing 'decy'"),
}


@pytest.mark.parametrize(("call", "message"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_an_unknown_option_is_answered_with_the_nearest(noisy, call, message):
    with pytest.raises(ValueError, match=message):
        call(noisy)


def test_options_of_a_fit_are_those_of_every_verb(noisy):
    given = {"residual": "raw", "drop_before": 30, "starts": 2}
    by_options = evaluate(LAW, noisy, train=noisy, options=FitOptions(**given)).fit
    assert fit(LAW, noisy, **given).to_json() == by_options.to_json()


@pytest.mark.parametrize("limit", [0, -1, 2.5])
def test_wrong_iteration_limits(noisy, limit):
    with pytest.raises(ValueError, match="max_iterations"):
        fit(LAW, noisy, max_iterations=limit)


@pytest.mark.parametrize(
    ("law", "message"),
    [("lr-aneal", "unknown law 'lr-aneal'; did you mean 'lr-annealing'"), (LRAnnealing(warmup="peak"), "warmup mode")],
    ids=["law", "warmup"],
)
def test_wrong_laws(noisy, law, message):
    with pytest.raises(ValueError, match=message):
        fit(law, noisy)


def test_no_runs():
    with pytest.raises(ValueError, match="at least one run to fit, found none"):
        fit(LAW, [])


def test_no_rows_after_warmup(noisy):
    early = dataclasses.replace(noisy[0], step=[0, 5], loss=[5.0, 4.0])
    with pytest.raises(ValueError, match=r"no row is left to fit of \['constant'\]: every row was logged before"):
        fit(LAW, [early])


# ------------------------------------------------------------------------------------------------ statuses


def test_without_annealing_the_annealing_coefficient_is_open(undetermined):
    assert (undetermined.status, undetermined.undetermined, undetermined.ok) == ("undetermined", ("C",), False)
    assert undetermined.message == "the data do not determine every parameter: C"
    assert math.isnan(undetermined.params["C"])
    assert undetermined.params["L0"] == pytest.approx(2.5, rel=1e-2)


def test_the_rows_of_a_fit_are_predicted_even_where_a_parameter_is_open(undetermined):
    assert max(run.worst_percent for run in undetermined.runs) < 0.01


def test_runs_of_one_row(noisy, fitted):
    rows = [(run, i) for run in noisy for i in range(run.step.size)]
    split = [
        dataclasses.replace(run, name=f"{run.name}-{i}", step=[run.step[i]], loss=[run.loss[i]]) for run, i in rows
    ]
    found = fit(LAW, split)
    assert found.params == pytest.approx(fitted.params, rel=SAME_FIT)
    assert all(math.isnan(run.r2) for run in found.runs)


def test_one_point_determines_nothing(noisy):
    row = dataclasses.replace(noisy[1], step=[399], loss=[3.0])
    found = fit(LAW, [dataclasses.replace(row, name=f"row-{i}") for i in range(120)])
    assert (found.status, found.undetermined) == ("undetermined", LAW.parameter_names)
    assert found.runs[0].final_loss_predicted == pytest.approx(3.0)


def test_equal_losses_leave_the_exponent_open(noisy):
    found = fit(LAW, [with_loss(run, np.full(run.loss.size, 3.0)) for run in noisy])
    assert (found.status, "alpha" in found.undetermined) == ("undetermined", True)
    assert found.params["L0"] == pytest.approx(3.0)


def test_iteration_limit(noisy):
    found = fit(LAW, noisy, max_iterations=2)
    assert (found.status, found.ok) == ("iteration-limit", False)
    assert found.lanes.iterations.max() <= 2
    assert found.message == "stopped before the objective settled"


def test_parameter_at_its_bound():
    params = {"L0": -0.5, "A": 1.0, "C": 0.5, "alpha": 0.3}
    found = fit(LAW, runs(params=params))
    assert (found.status, found.at_bound, found.ok) == ("at-bound", ("L0",), True)
    assert found.params["L0"] == 0.0
    assert found.message == "a parameter lies at its bound: L0"


@pytest.mark.parametrize("decay", [math.nan, 1.0, -0.1])
def test_options_out_of_range(noisy, decay):
    with pytest.raises(ValueError, match="lr-annealing: decay: expected"):
        fit(LRAnnealing(decay=decay), noisy)


# ------------------------------------------------------------------------------------------------ invariants


def test_metrics_agree_with_the_predictions(noisy, fitted):
    for run, predicted, measured in zip(noisy, predict(fitted, noisy), fitted.runs, strict=True):
        error = predicted / run.loss - 1
        assert measured.name == run.name
        assert measured.mape_percent == pytest.approx(100 * np.abs(error).mean())
        assert measured.worst_percent == pytest.approx(100 * np.abs(error).max())
        assert measured.final_loss_predicted == pytest.approx(predicted[-1])
        assert measured.final_loss == run.loss[-1]


def test_predictions_agree_with_the_truth(noisy, fitted):
    unseen = curve("unseen", WSD(1e-3, 400, 0.35, "cosine", warmup_steps=30))
    np.testing.assert_allclose(predict(fitted, [unseen, *noisy[:3]])[0], unseen.loss, rtol=5e-4)


def test_the_order_of_runs_does_not_matter(noisy, fitted):
    backwards = fit(LAW, noisy[::-1])
    assert backwards.params == pytest.approx(fitted.params, rel=1e-6)
    assert backwards.objective == pytest.approx(fitted.objective, rel=1e-9)
    assert [run.name for run in backwards.runs] == [run.name for run in noisy[::-1]]


def test_a_longer_unseen_run_does_not_change_the_fit(noisy, fitted):
    longer = curve("longer", WSD(1e-3, 600, 0.3, warmup_steps=20))
    found = evaluate(LAW, [*noisy, longer], train=noisy)
    assert found.fit.params == pytest.approx(fitted.params, rel=SAME_FIT)
    assert found.trained == tuple(run.name for run in noisy)
    assert found.runs[-1].mape_percent == pytest.approx(found.test_mape_percent)
    assert found.test_mape_percent < 0.05
    assert found.train_mape_percent == pytest.approx(np.mean([run.mape_percent for run in fitted.runs]))


def test_unseen_runs_are_not_predicted_where_a_parameter_is_open(noisy):
    constants = constant_runs()
    found = evaluate(LAW, [*constants, noisy[1]], train=constants)
    assert found.train_mape_percent < 0.01
    assert math.isnan(found.runs[-1].final_loss_predicted)
    assert math.isnan(found.test_mape_percent)
    assert json.loads(found.to_json())["test_mape_percent"] is None


def test_without_unseen_runs_the_test_error_is_nan(noisy):
    assert math.isnan(evaluate(LAW, noisy, train=noisy).test_mape_percent)


@pytest.mark.parametrize("enabled", [False, True], ids=["float32", "float64"])
def test_the_setting_of_the_caller_stays(noisy, fitted, enabled):
    with jax.enable_x64(enabled):
        found = fit(LAW, noisy)
        assert jax.config.jax_enable_x64 is enabled
    assert found.params == fitted.params
    assert all(type(value) is float for value in found.params.values())


def test_another_value_of_an_option_does_not_compile_again(noisy, fitted):
    before = lanes._minimise._cache_size()
    assert fit(LRAnnealing(decay=0.98), noisy, delta=2e-3, max_iterations=150).params != fitted.params
    assert lanes._minimise._cache_size() == before


# ------------------------------------------------------------------------------------------------ model sizes


def test_sizes_that_differ_need_every_size(noisy):
    curves = [dataclasses.replace(noisy[0], model_size=1e6), noisy[1]]
    with pytest.raises(ValueError, match="run 'cosine': sizes differ, so model_size is needed"):
        fit(LAW, curves)


def test_an_unseen_size_under_a_fit_of_one_size(noisy):
    of_size = [dataclasses.replace(run, model_size=1e6 * (1 + (i == 3))) for i, run in enumerate(noisy)]
    with pytest.raises(ValueError, match=r"run 'wsd-0.5': model size 2000000.0 differs from the one size fitted"):
        evaluate(LAW, of_size, train=of_size[:3])


def test_one_size_is_as_none(noisy, fitted):
    found = fit(LAW, [dataclasses.replace(run, model_size=SIZES[0]) for run in noisy])
    assert found.law.sizes is False
    assert found.params == pytest.approx(fitted.params, rel=SAME_FIT)


# ------------------------------------------------------------------------------------------------ JSON


def test_json_round_trip(fitted):
    again = FitResult.from_json(fitted.to_json())
    assert again.to_dict() == fitted.to_dict()
    assert again.law == fitted.law
    assert (again.ok, again.message, again.runs) == (fitted.ok, fitted.message, fitted.runs)
    np.testing.assert_array_equal(again.vector, fitted.vector)


def test_json_text_round_trip(fitted):
    assert FitResult.from_json(fitted.to_json()).to_json() == fitted.to_json()


def test_open_parameters_are_null_in_json(undetermined):
    text = undetermined.to_json()
    assert json.loads(text)["params"]["C"] is None
    again = FitResult.from_json(text)
    assert math.isnan(again.params["C"])
    assert again.undetermined == ("C",)
    assert again.to_dict() == undetermined.to_dict()


def test_json_keeps_the_metrics(fitted):
    record = json.loads(fitted.to_json())
    assert (record["format"], record["law"], record["options"]["decay"]) == (1, "lr-annealing", DECAY)
    assert [run["name"] for run in record["runs"]] == ["constant", "cosine", "wsd-0.2", "wsd-0.5"]
    assert np.shape(record["lanes"]["params"]) == (8, 4)


def test_json_of_an_evaluation(noisy):
    record = json.loads(evaluate(LAW, noisy, train=noisy).to_json())
    assert {"law", "objective", "params", "status", "runs", "train_mape_percent", "test_mape_percent"} <= set(record)
    keys = {"name", "split", "mape_percent", "worst_percent", "r2", "final_loss_predicted", "final_loss"}
    assert all(keys <= set(run) for run in record["runs"])


def edited(fitted, drop=None, **changes):
    record = {**json.loads(fitted.to_json()), **changes}
    return json.dumps({key: value for key, value in record.items() if key != drop})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "fit file has format 2, this fmjax reads format 1; fit again"),
        ({"drop": "format"}, "fit file has format None"),
        ({"law": "lr-aneal"}, "unknown law 'lr-aneal'; did you mean 'lr-annealing'"),
        ({"options": {"decy": 0.9}}, "unknown option of lr-annealing 'decy'; did you mean 'decay'"),
        ({"params": {"L0": 1.0}}, r"lr-annealing has parameters \['A', 'C', 'L0', 'alpha'\], found \['L0'\]"),
        ({"drop": "params"}, "not a fit file"),
    ],
    ids=["version", "no-version", "law", "option", "params", "no-params"],
)
def test_other_fit_files(fitted, changes, message):
    with pytest.raises(ValueError, match=message):
        FitResult.from_json(edited(fitted, **changes))


@pytest.mark.parametrize("text", ["", "fit", "[]", "3", '{"a": 1}', '{"params": {'], ids=repr)
def test_files_that_are_no_fit(text):
    with pytest.raises(ValueError, match="not a fit file"):
        FitResult.from_json(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop": "options"},
        {"drop": "lanes"},
        {"options": []},
        {"params": ["A", "C", "L0", "alpha"]},
        {"lanes": {"x": [1]}},
        {"runs": [{"x": 1}]},
    ],
    ids=["no-options", "no-lanes", "options-list", "params-list", "lanes", "runs"],
)
def test_damaged_fit_files(fitted, changes):
    with pytest.raises(ValueError, match="fit file"):
        FitResult.from_json(edited(fitted, **changes))
