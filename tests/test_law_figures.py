"""What laws reach on real curves, beside what is published and what an independent optimiser found."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import synthetic

from fmjax.curves.manifest import load_runs, select_runs
from fmjax.fitting.fits import evaluate
from fmjax.laws import MultiPower

PUBLISHED = {
    "mpl_25m": (3.04045406, 0.52468604, 363.78751622, 0.50786857, 2.06560812, 0.58279013, 0.64142257),
    "mpl_100m": (2.6514477, 0.60115152, 437.9464276, 0.45295811, 2.13245612, 0.59785199, 0.65523644),
}
"""Parameters of multi-power as published, in the law's order."""


@pytest.fixture(scope="module", params=PUBLISHED)
def data(request, shared):
    return request.param, load_runs(shared / "data" / request.param)


def evaluated(law, curves):
    return evaluate(law, curves, train=select_runs(curves, "split:train"))


@pytest.mark.slow
def test_multi_power_at_published_parameters(data):
    name, curves = data
    with jax.enable_x64(True):
        law, params = MultiPower(), np.array(PUBLISHED[name])
        follow = jax.jit(lambda lrs, at: law.predict({**law.effects(lrs, at), "log_N": np.zeros(at.size)}, params))
        errors = []
        for curve in select_runs(curves, "split:test"):
            predicted = np.asarray(follow(synthetic.rates(curve.schedule), curve.step))
            kept = curve.step >= curve.schedule.warmup_steps
            errors.append(100 * np.mean(np.abs(predicted / curve.loss - 1)[kept]))
    assert np.mean(errors) == pytest.approx({"mpl_25m": 0.1102, "mpl_100m": 0.1425}[name], abs=5e-4)


def test_multi_power_is_the_double_sum(shared):
    params = dict(zip(MultiPower().parameter_names, PUBLISHED["mpl_25m"], strict=True))
    curve = next(run for run in load_runs(shared / "data" / "mpl_25m") if run.name == "wsdcon_3")
    rates, at = synthetic.rates(curve.schedule), np.arange(2_500, 16_000, 250)
    with jax.enable_x64(True):
        law = MultiPower()
        row = {**jax.jit(law.effects)(rates, at), "log_N": np.zeros(at.size)}
        found = law.predict(row, np.array(PUBLISHED["mpl_25m"]))
    power = np.cumsum(rates)[at] ** -params["alpha"]
    expected = params["L0"] + params["A"] * power - synthetic.multi_power(params, rates, at)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_multi_power_reaches_the_optimum(data):
    name, curves = data
    found = evaluated(MultiPower(warmup="as-scheduled"), curves)  # as published
    assert found.fit.status == "converged"
    assert found.fit.objective <= {"mpl_25m": 1.40e-4, "mpl_100m": 2.20e-5}[name]


@pytest.mark.slow
def test_intrinsic_momentum_predicts_unseen_schedules(data):
    name, curves = data
    found = evaluated("intrinsic-momentum", curves)
    assert found.fit.status == "converged"
    assert found.test_mape_percent <= {"mpl_25m": 0.085, "mpl_100m": 0.065}[name]


@pytest.mark.slow
def test_intrinsic_momentum_holds_across_peak_rates(shared):
    curves = [run for run in load_runs(shared / "data" / "cooldown_124m") if run.name.startswith("wsd")]
    curves = [run for run in curves if run.peak_lr > 2e-4]
    found = evaluate("intrinsic-momentum", curves, train=select_runs(curves, "*_T15000"))
    assert found.fit.ok
    assert found.test_mape_percent <= 0.25
    for peak in (5e-4, 1e-3, 2e-3):
        cell = [run for run in found.runs if run.name.startswith("wsd-linear") and f"_lr{peak:g}_T25000" in run.name]
        chosen = min(cell, key=lambda run: run.final_loss_predicted)
        assert chosen.final_loss - min(run.final_loss for run in cell) <= 1e-3


@pytest.mark.slow
def test_intrinsic_momentum_holds_across_sizes(shared):
    curves = [
        replace(run, name=f"{size}/{run.name}")
        for size in (33, 53, 93, 152)
        for run in load_runs(shared / "data" / f"cooldown_{size}m")
    ]
    found = evaluate("intrinsic-momentum", curves, train=select_runs(curves, "33/*,53/*,93/*"))
    assert found.fit.ok
    assert found.test_mape_percent < 1.0
