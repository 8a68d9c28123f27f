"""The law over size, batch and rate, and priors on exponents, on runs simulated by plain NumPy loops."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from synthetic import rates

import fmjax
from fmjax import FitOptions, FitResult, LossCurve, bootstrap, evaluate, fit, predict, search
from fmjax.cli.commands import run as cli
from fmjax.fitting.priors import LawPrior, found_scale, least_scale
from fmjax.laws import IntrinsicMomentum, make_law
from fmjax.laws.intrinsic_momentum import FORGETTING_RATES
from fmjax.schedules.kinds import WSD, Constant, Cosine

EXPONENTS = {"alpha": 0.45, "beta": 0.3, "gamma": 0.06, "q": 0.35, "kappa": 0.5, "phi": 0.2, "xi": 0.6}
TERMS = {"L0": 2.0, "A": 0.5, "C": 0.8, "c3": 3.0, "c30": 4.0, "d1": 2.0, "d100": 3.0}
SIZE, BATCH = 2e7, 1e5
"""N0 and B0 of the simulation."""


def truth(schedule, n, b, terms=TERMS, exponents=EXPONENTS):
    """Loss after every update, by the definition."""
    e, memory, total, out = exponents, np.zeros(len(FORGETTING_RATES)), 0.0, []
    forgetting = np.array(FORGETTING_RATES)
    c, d = ([terms.get(f"{kind}{rate:g}", 0.0) for rate in FORGETTING_RATES] for kind in "cd")
    for lr in rates(schedule):
        total += lr
        memory += (1 - np.exp(-forgetting * lr)) * (lr ** e["xi"] - memory)
        forward = (b ** e["phi"] * total) ** -e["alpha"] if total else 0.0
        noise = n ** e["q"] * b ** -e["kappa"] * (np.add(c, np.multiply(d, forward)) @ memory)
        size = terms["C"] * n ** -e["beta"]
        out.append(terms["L0"] + size + n ** -e["gamma"] * terms["A"] * forward + noise)
    return np.array(out)


def run(schedule, size, batch, noise=0.0, seed=0, unit=(SIZE, BATCH), exponents=EXPONENTS):
    """A run logged at 40 steps."""
    step = np.unique(np.geomspace(40, schedule.total_steps, 40).astype(int) - 1)
    loss = truth(schedule, size / unit[0], batch / unit[1], exponents=exponents)[step]
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(step.size))
    name = f"{size:g}-{batch:g}-{type(schedule).__name__}-{schedule.peak_lr:g}"
    return LossCurve(name, step, loss, schedule, model_size=size, tokens_per_step=batch)


def grid(sizes=(1e7, 4e7), batches=(5e4, 2e5), noise=0.0, peaks=(1e-3, 3e-3), steps=800):
    """Runs of every size, batch and peak rate, by cosine and WSD; geometric means are N0 and B0."""
    shapes = [lambda lr: Cosine(lr, steps, warmup_steps=30), lambda lr: WSD(lr, steps, 0.2, warmup_steps=30)]
    every = [(n, b, lr, shape) for n in sizes for b in batches for lr in peaks for shape in shapes]
    return [run(shape(lr), n, b, noise, seed) for seed, (n, b, lr, shape) in enumerate(every)]


PLAIN = IntrinsicMomentum(rho=1.0)


def test_predictions_follow_the_definition():
    curves = grid()
    law = PLAIN.spanning([c.model_size for c in curves], [c.tokens_per_step for c in curves])
    assert (law.size_unit, law.batch_unit) == pytest.approx((SIZE, BATCH))
    params = {**dict.fromkeys(law.parameter_names, 0.0), **TERMS, **EXPONENTS}
    result = dataclasses.replace(fit("chinchilla", curves[:2]), law=law, params=params)
    for curve, found in zip(curves, predict(result, curves), strict=True):
        np.testing.assert_allclose(found, curve.loss, rtol=1e-6)


def test_size_and_batch_are_recovered():
    found = fit(PLAIN, grid(sizes=(5e6, 2e7, 8e7), noise=1e-9), prior=None)
    assert found.law.sizes
    assert found.law.batches
    assert found.prior == ()
    assert {name: found.params[name] for name in EXPONENTS} == pytest.approx(EXPONENTS, abs=2e-3)


def test_one_batch_or_none_leaves_the_law_as_it_is():
    curves = grid(sizes=(1e7,), batches=(1e5,))
    bare = [dataclasses.replace(curve, tokens_per_step=None) for curve in curves]
    results = [fit(PLAIN, runs) for runs in (curves, bare)]
    assert results[0].params == results[1].params
    assert "kappa" not in results[0].params
    assert results[0].prior == ()


def test_some_unknown_batches_leave_the_law_without_terms_in_them():
    curves = grid(sizes=(1e7,), peaks=(1e-3,))
    curves[0] = dataclasses.replace(curves[0], tokens_per_step=None)
    found = fit(PLAIN, curves)
    assert "kappa" not in found.params
    assert any("batch sizes of the fitted runs differ" in note for note in found.notes)


@pytest.mark.slow
def test_mixed_batches_need_no_note_only_with_terms_in_them():
    curves = grid(sizes=(1e7,), peaks=(1e-3,))
    assert not any("batch sizes" in note for note in fit(PLAIN, curves).notes)
    assert any("batch sizes of the fitted runs differ" in note for note in fit("lr-annealing", curves).notes)


def test_unseen_runs_need_their_batch():
    curves = grid(sizes=(1e7,), peaks=(1e-3,))
    unknown = dataclasses.replace(curves[0], name="unknown", tokens_per_step=None)
    with pytest.raises(ValueError, match="run 'unknown': batch sizes differ, so tokens_per_step is needed"):
        evaluate(PLAIN, [*curves, unknown], train=curves)


@pytest.mark.slow
def test_an_unseen_size_and_batch_are_predicted():
    curves, larger = grid(noise=1e-4), run(Cosine(2e-3, 1200, warmup_steps=30), 8e7, 4e5)
    found = evaluate(PLAIN, [*curves, larger], train=curves).runs[-1]
    assert found.final_loss_predicted == pytest.approx(larger.final_loss_measured, rel=4e-3)


# ------------------------------------------------------------------------------------------------ priors


@pytest.mark.slow
def test_a_prior_decides_what_the_data_cannot():
    """Size and batch move together, so that q and kappa show only in q - kappa."""
    curves = [
        run(shape, n, b, 1e-4)
        for n, b in ((1e7, 5e4), (4e7, 2e5))
        for shape in (
            Cosine(1e-3, 800, warmup_steps=30),
            WSD(1e-3, 800, 0.2, warmup_steps=30),
            Constant(1e-3, 800, warmup_steps=30),
        )
    ]
    curves = [dataclasses.replace(c, name=str(i)) for i, c in enumerate(curves)]
    result = fit(PLAIN, curves)
    found = {learned.name: learned for learned in result.prior}
    assert set(found) == {"alpha", "beta", "gamma", "q", "kappa", "phi", "xi"}
    assert found["q"].told < 0.6
    assert found["kappa"].told < 0.6
    assert found["phi"].told < 0.5
    assert all(abs(learned.moved) < 2 for learned in found.values())
    assert any(note.startswith("the prior decides more than the data on:") for note in result.notes)
    assert fit(PLAIN, curves, prior=None).status == "undetermined"


@pytest.mark.slow
def test_many_runs_overrule_a_prior():
    wrong = {"q": (0.9, 0.1)}
    found = fit(PLAIN, grid(noise=1e-5), prior=wrong)
    (learned,) = found.prior
    assert (learned.name, learned.mean, learned.sd) == ("q", 0.9, 0.1)
    assert abs(learned.estimate - EXPONENTS["q"]) < 0.15
    assert learned.told > 0.8


@pytest.mark.slow
def test_bootstrap_samples_hold_the_width_of_the_prior():
    curves = grid(sizes=(1e7,), batches=(1e5, 1.3e5), peaks=(1e-3,), noise=1e-3)
    found = bootstrap(PLAIN, curves, samples=60, options=FitOptions(starts=2))
    (phi,) = (learned for learned in found.fit.prior if learned.name == "phi")
    drawn = found.params[:, found.fit.law.parameter_names.index("phi")]
    assert phi.told < 0.2
    assert 0.6 * phi.sd < np.std(drawn) < 1.4 * phi.sd


def test_a_held_exponent_stays():
    found = fit(PLAIN, grid(), prior={"q": (0.2, 0.0)})
    assert found.params["q"] == pytest.approx(0.2, abs=1e-4)
    assert found.prior[0].moved == 0.0
    assert found.prior[0].told == 0.0


def test_the_objective_reported_is_that_of_the_rows():
    curves = grid(noise=1e-3)
    found = fit(PLAIN, curves)
    errors = np.concatenate([np.log(p / c.loss) for p, c in zip(predict(found, curves), curves, strict=True)])
    size = np.abs(errors)
    expected = np.where(size <= 1e-3, 0.5 * size**2, 1e-3 * (size - 5e-4)).sum()
    assert found.objective == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("prior", "said"),
    [
        ("none", "unknown prior 'none'"),
        ({"q": 0.4}, r"prior of q: expected \(mean, sd\), got 0.4"),
        ({"q": (0.4, -1.0)}, "prior of q: expected a standard deviation of at least 0, got -1"),
        ({"kapa": (0.4, 0.1)}, "unknown exponent 'kapa'; did you mean 'kappa'?"),
    ],
)
def test_priors_are_checked(prior, said):
    with pytest.raises(ValueError, match=said):
        fit(PLAIN, grid(sizes=(1e7,), batches=(1e5,)), prior=prior)


def test_json_keeps_units_and_priors():
    found = fit(PLAIN, grid(noise=1e-3))
    again = FitResult.from_json(found.to_json())
    assert (again.law, again.prior, again.scale) == (found.law, found.prior, found.scale)
    listed = json.loads(found.to_json())["prior"]
    assert {"name", "mean", "sd", "estimate", "estimate_sd", "moved", "told"} == set(listed[0])


def test_the_scale_is_what_rows_are_worth():
    """Independent rows: the variance of a row. Rows of a run that err alike: that times their number."""
    rng, run_of_row = np.random.default_rng(0), np.repeat(np.arange(500), 20)
    weights, huge = np.ones((1, 10_000)), fmjax.fitting.objective.Objective(delta=1.0)
    alone = np.exp(1e-2 * rng.standard_normal(10_000))
    alike = np.repeat(np.exp(1e-2 * rng.standard_normal(500)), 20)
    found = [found_scale(np.ones(10_000), p[None], weights, run_of_row, huge, "log")[0] for p in (alone, alike)]
    assert found == pytest.approx([1e-4, 20e-4], rel=0.15)
    assert least_scale(weights, run_of_row, 1e-2)[0] == pytest.approx(20e-4)


def test_laws_without_terms_have_no_prior_by_default():
    assert not LawPrior.of(make_law("lr-annealing"), "default")
    assert not LawPrior.of(PLAIN, FitOptions().prior)


def test_gradients_pass_through_the_batch():
    law = dataclasses.replace(PLAIN, xi=0.6, batches=True, batch_unit=BATCH)
    params = np.array([{**TERMS, **EXPONENTS}.get(name, 0.0) for name in law.parameter_names])
    with jax.enable_x64(True):
        lrs = rates(Cosine(1e-3, 400, warmup_steps=30))
        loss = lambda tokens: law.for_batch(tokens).final_loss(lrs, params, warmup_steps=30)  # noqa: E731
        slope = float(jax.grad(loss)(2e5))
        assert slope == pytest.approx(float(loss(2.001e5) - loss(1.999e5)) / 200, rel=1e-3)
        with pytest.raises(ValueError, match="tokens_per_step is needed"):
            law.final_loss(lrs, params, warmup_steps=30)


# ------------------------------------------------------------------------------------------------ plans

PLAN = {"total_steps": 800, "peak_lr": [1e-3, 3e-3], "warmup_steps": 30, "final_lr": 0.0}


@pytest.fixture(scope="module")
def fitted():
    return fit(PLAIN, grid(noise=1e-5))


@pytest.mark.parametrize("size_and_batch", [(1e7, 5e4), (4e7, 2e5)])
def test_a_search_predicts_for_its_batch(fitted, size_and_batch):
    size, batch = size_and_batch
    found = search(fitted, **PLAN, anneal_ratio=[0.2], model_size=size, tokens_per_step=batch)
    for cell in found.cells:
        expected = truth(WSD(cell.peak_lr, 800, 0.2, warmup_steps=30), size / SIZE, batch / BATCH)[-1]
        assert cell.loss == pytest.approx(expected, rel=2e-3)


def test_plans_say_that_they_need_a_batch(fitted):
    needed = "the fit spans several batch sizes, so tokens_per_step is needed"
    with pytest.raises(ValueError, match=needed):
        search(fitted, **PLAN, model_size=1e7)
    with pytest.raises(ValueError, match=needed):
        fmjax.optimize(fitted, total_steps=60, peak_lr=1e-3, model_size=1e7)
    run_now = dataclasses.replace(grid()[0], name="now", tokens_per_step=None).until(300)
    with pytest.raises(ValueError, match=f"run 'now': {needed}"):
        fmjax.forecast(run_now, prior=fitted)


def test_a_law_without_batch_sizes_plans_for_that_of_its_runs_only():
    curves = grid(sizes=(1e7,), batches=(1e5,))
    result = fit("lr-annealing", curves)
    plan = {"total_steps": 800, "peak_lr": 1e-3, "anneal_ratio": [0.2]}
    told = search(result, **plan, tokens_per_step=1e5).cells[0]
    assert told == search(result, **plan).cells[0]._replace(tokens_per_step=1e5)
    with pytest.raises(ValueError, match="lr-annealing as fitted has no batch size in it; expected that of the fitted"):
        search(result, **plan, tokens_per_step=2e5)


@pytest.mark.slow
def test_samples_are_searched_for_the_batch_too(fitted):
    samples = np.stack([fitted.vector] * 2)
    plan = {**PLAN, "anneal_ratio": [0.1, 0.3], "model_size": 1e7, "tokens_per_step": 2e5}
    found = search(fitted, **plan, samples=samples, keep_losses=True)
    np.testing.assert_allclose(found.sample_losses[0], found.losses, rtol=1e-6)
    assert not np.allclose(found.losses, search(fitted, **{**plan, "tokens_per_step": 5e4}, keep_losses=True).losses)


@pytest.mark.slow
def test_an_optimised_schedule_is_for_the_batch(fitted):
    plan = {"total_steps": 200, "peak_lr": 3e-3, "warmup_steps": 10, "final_lr": 0.0, "model_size": 1e7}
    for batch in (5e4, 2e5):
        found = fmjax.optimize(fitted, **plan, tokens_per_step=batch, max_iterations=3).best
        expected = truth(Cosine(3e-3, 200, warmup_steps=10), 1e7 / SIZE, batch / BATCH)[-1]
        assert found.cosine_loss == pytest.approx(expected, rel=2e-3)


@pytest.mark.slow
def test_a_recommendation_over_batches_takes_the_law_that_has_them():
    curves = [
        run(WSD(lr, 400, ratio, warmup_steps=30), 1e7, batch, 1e-5)
        for batch in (5e4, 2e5)
        for lr in (1e-3, 3e-3)
        for ratio in (0.1, 0.5)
    ]
    curves = [dataclasses.replace(curve, name=str(i)) for i, curve in enumerate(curves)]
    plan = {"total_steps": 400, "peak_lr": 3e-3, "samples": 0, "options": FitOptions(starts=1)}
    best = fmjax.recommend(curves, **plan, tokens_per_step=2e5).best
    assert best.fit.law.name == "intrinsic-momentum"
    expected = truth(WSD(3e-3, 400, best.cell.best_ratio, warmup_steps=30), 1e7 / SIZE, 2e5 / BATCH)[-1]
    assert best.cell.loss == pytest.approx(expected, rel=3e-3)
    with pytest.raises(ValueError, match="so tokens_per_step is needed"):
        fmjax.recommend(curves, **plan)


@pytest.mark.slow
def test_the_command_line_plans_for_a_batch(fitted, tmp_path, capsys):
    (tmp_path / "fit.json").write_text(fitted.to_json(), encoding="utf-8")
    words = ["search", str(tmp_path / "fit.json"), "--total-steps", "800", "--peak-lr", "1e-3", "--model-size", "1e7"]
    assert cli(words) == 2
    assert "tokens_per_step is needed" in capsys.readouterr().err
    assert cli([*words, "--tokens-per-step", "5e4", "--json"]) == 0
    expected = search(fitted, total_steps=800, peak_lr=1e-3, model_size=1e7, tokens_per_step=5e4).cells[0]
    assert json.loads(capsys.readouterr().out)["cells"][0]["loss"] == pytest.approx(expected.loss, rel=1e-9)
