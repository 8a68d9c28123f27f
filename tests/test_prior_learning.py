"""Priors learned from sets of runs, and fits whose runs alone leave the law open."""

import dataclasses
import json

import numpy as np
import pytest
from synthetic import write_manifest
from test_size_and_batch import EXPONENTS, PLAIN, SIZE, run, truth

import fmjax
from fmjax import FitOptions, LossCurve, bootstrap, fit, learn_prior, predict
from fmjax.fitting.priors import KnownExponents, LawPrior
from fmjax.laws import make_law
from fmjax.laws.terms import Gaussian
from fmjax.scaling.prior_learning import SetEstimate, combined
from fmjax.schedules.kinds import WSD, Constant, Cosine

SHIPPED = Gaussian(0.5, 0.1)


def estimates(values, sd):
    return [SetEstimate(str(place), value, sd) for place, value in enumerate(values)]


def earlier(exponents, noise=2e-4, steps=800):
    """Runs of one size and batch, with anneals of every kind."""
    shapes = (
        Constant(2e-3, steps, warmup_steps=30),
        WSD(2e-3, steps, 0.1, warmup_steps=30),
        WSD(2e-3, steps, 0.4, warmup_steps=30),
        Cosine(2e-3, steps, warmup_steps=30),
    )
    found = [run(shape, 1e7, 1e5, noise, seed, exponents=exponents) for seed, shape in enumerate(shapes)]
    return [dataclasses.replace(curve, name=str(place)) for place, curve in enumerate(found)]


def two_runs(noise=2e-4, seed=0, exponents=EXPONENTS):
    """One at a constant rate, and one with a short anneal."""
    shapes = (Constant(2e-3, 800, warmup_steps=30), WSD(2e-3, 800, 0.1, warmup_steps=30))
    return [run(shape, 1e7, 1e5, noise, 10 * seed + place, exponents=exponents) for place, shape in enumerate(shapes)]


# ------------------------------------------------------------------------------------------------ combining sets


def test_one_set_alone_is_widened_by_the_spread_of_the_shipped_prior():
    mean, sd, between = combined(estimates([0.6], 0.1), SHIPPED)
    posterior = 0.1 / np.sqrt(2)
    assert (mean, between) == pytest.approx((0.55, 0.1))
    assert sd**2 == pytest.approx(posterior**2 + 2 * 0.1**2)  # of the set, and of a new one


def test_no_set_leaves_the_shipped_prior():
    assert combined([], SHIPPED) == (0.5, 0.1, 0.1)


def test_sets_that_say_little_do_not_narrow_the_prior():
    assert combined(estimates([0.5] * 5, 1.0), SHIPPED)[1] > 0.09


@pytest.mark.parametrize("spread", [0.02, 0.15])
def test_many_sets_show_how_exponents_differ_between_sets(spread):
    drawn = 0.7 + spread * np.random.default_rng(0).standard_normal(300)
    mean, sd, _ = combined(estimates(drawn + 0.01 * np.random.default_rng(1).standard_normal(300), 0.01), SHIPPED)
    assert mean == pytest.approx(0.7, abs=0.03)
    assert sd == pytest.approx(spread, abs=0.015)


def test_a_new_set_is_covered_as_often_as_it_should_be():
    """Sets drawn about the shipped mean by its spread, two and four of them, with errors of their own."""
    rng, inside = np.random.default_rng(0), []
    for count in (2, 4):
        for _ in range(400):
            *sets, new = SHIPPED.mean + SHIPPED.sd * rng.standard_normal(count + 1)
            mean, sd, _ = combined(estimates(sets + 0.05 * rng.standard_normal(count), 0.05), SHIPPED)
            inside.append(abs(new - mean) < 1.645 * sd)
    assert 0.85 < np.mean(inside) < 0.97


def test_without_the_shipped_prior_sets_alone_make_the_mean():
    assert combined(estimates([0.9], 0.1), SHIPPED, alone=True)[0] == pytest.approx(0.9)


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.slow
def test_a_prior_is_learned_from_sets():
    true = [{**EXPONENTS, "q": q, "xi": xi} for q, xi in ((0.30, 0.5), (0.34, 0.55))]
    sets = {}
    for place, exponents in enumerate(true):
        shapes = (Cosine(2e-3, 800, warmup_steps=30), WSD(2e-3, 800, 0.2, warmup_steps=30))
        every = [(shape, n, b) for n in (1e7, 4e7) for b in (5e4, 2e5) for shape in shapes]
        sets[f"set{place}"] = [run(*one, 1e-4, seed, exponents=exponents) for seed, one in enumerate(every)]
    found = learn_prior(sets)
    learned = {one.name: one for one in found.exponents}
    q = learned["q"]
    assert [one.name for one in q.sets] == ["set0", "set1"]
    assert abs(q.mean - 0.32) < 2 * q.sd
    assert q.mean < q.shipped.mean
    assert sum(one.moved for one in q.sets) < 0
    for one, exponents in zip(q.sets, true, strict=True):
        assert abs(one.estimate - exponents["q"]) < 3 * one.sd
    held = fit(PLAIN, sets["set0"][:5], prior=found.prior)
    assert {one.name: (one.mean, one.sd) for one in held.prior}["q"] == (q.mean, q.sd)
    assert KnownExponents.from_json(found.to_json()) == found.prior


@pytest.mark.slow
def test_an_exponent_that_no_set_shows_keeps_the_shipped_prior():
    found = learn_prior({"one size and batch": earlier(EXPONENTS)})
    kappa = next(one for one in found.exponents if one.name == "kappa")
    assert (kappa.mean, kappa.sd, kappa.sets) == (*kappa.shipped, ())
    assert any("no set shows" in note and "kappa" in note for note in found.notes)


def test_a_learned_prior_is_of_its_law_only():
    told = KnownExponents("intrinsic-momentum", {"alpha": (0.4, 0.05)})
    assert LawPrior.of(PLAIN, told).known[0] == (0.4, 0.05)
    assert not LawPrior.of(make_law("lr-annealing"), told)


def test_laws_without_priors_have_none_to_learn():
    with pytest.raises(ValueError, match="lr-annealing has no priors on its exponents; laws that have: intrinsic"):
        learn_prior({"a": earlier(EXPONENTS)}, law="lr-annealing")
    with pytest.raises(ValueError, match="expected at least one set of runs, found none"):
        learn_prior({})


# ------------------------------------------------------------------------------------------------ two runs


@pytest.mark.slow
def test_a_constant_run_and_a_short_anneal_are_determined_through_the_prior():
    curves = two_runs()
    assert fit(PLAIN, curves, prior=None).status == "undetermined"
    found = fit(PLAIN, curves)
    assert found.ok
    assert found.open_without_prior
    assert {one.name for one in found.prior} == {"alpha", "xi"}
    assert any(note.startswith("the runs alone leave open") for note in found.notes)
    assert fmjax.FitResult.from_json(found.to_json()).notes == found.notes


@pytest.mark.slow
def test_what_the_runs_determine_is_as_it_was():
    curves = earlier(EXPONENTS)
    results = [fit(PLAIN, curves, prior=prior) for prior in ("default", None)]
    assert results[0].params == results[1].params
    assert (results[0].prior, results[0].open_without_prior) == ((), ())


@pytest.mark.slow
def test_constant_rates_alone_stay_undetermined():
    shapes = (Constant(2e-3, 800, warmup_steps=30), Constant(2e-3, 600, warmup_steps=30))
    curves = [run(shape, 1e7, 1e5, 2e-4, seed) for seed, shape in enumerate(shapes)]
    curves = [dataclasses.replace(curve, name=str(place)) for place, curve in enumerate(curves)]
    assert fit(PLAIN, curves).status == "undetermined"


@pytest.mark.slow
def test_samples_of_two_runs_cover_other_anneals():
    """Truths with exponents drawn from the prior."""
    rng, inside = np.random.default_rng(2), []
    others = (Cosine(2e-3, 800, warmup_steps=30), WSD(2e-3, 800, 0.5, warmup_steps=30))
    for seed in range(8):
        true = {**EXPONENTS, "alpha": 0.5 + 0.1 * rng.standard_normal(), "xi": 0.65 + 0.08 * rng.standard_normal()}
        found = bootstrap(PLAIN, two_runs(5e-4, seed, true), samples=40, options=FitOptions(starts=2), seed=seed)
        assert found.fit.open_without_prior
        for schedule in others:
            ends = [_final(found.fit, own, schedule) for own in found.params]
            low, high = np.quantile(ends, [0.05, 0.95])
            inside.append(low <= truth(schedule, 1e7 / SIZE, 1.0, exponents=true)[-1] <= high)
            assert high / low - 1 < 0.15
    assert np.mean(inside) > 0.8


def _final(result, params, schedule):
    sample = dataclasses.replace(result, params=dict(zip(result.law.parameter_names, params.tolist(), strict=True)))
    last = int(schedule.total_steps) - 1
    return predict(sample, [LossCurve("other", [last], [1.0], schedule)])[0][-1]


@pytest.mark.slow
def test_a_recommendation_from_two_runs_covers_what_the_schedule_reaches():
    options = FitOptions(starts=2)
    plan = {"total_steps": 800, "peak_lr": 2e-3, "law": "intrinsic-momentum", "samples": 40, "options": options}
    cell = fmjax.recommend(two_runs(5e-4), **plan).best.cell
    reached = truth(WSD(2e-3, 800, cell.best_ratio, warmup_steps=30), 1e7 / SIZE, 1.0)[-1]
    low, high = cell.loss_interval
    assert low <= reached <= high
    with pytest.raises(ValueError, match="no fit can predict"):
        fmjax.recommend(two_runs(5e-4), **{**plan, "options": dataclasses.replace(options, prior=None)})


# ------------------------------------------------------------------------------------------------ the command line


@pytest.mark.slow
def test_the_command_line_learns_and_takes_a_prior(tmp_path, command_line):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    write_manifest(tmp_path / "old", earlier(EXPONENTS))
    write_manifest(tmp_path / "new", two_runs())
    target, new = tmp_path / "prior.json", tmp_path / "new"
    code, out, err = command_line("prior", tmp_path / "old", "-o", target)
    assert (code, err) == (0, "")
    assert "alpha" in out
    assert "shipped" in out
    record = json.loads(target.read_text())
    assert record["sets"][0]["status"] in ("converged", "at-bound")
    mean = {one["name"]: one["mean"] for one in record["exponents"]}["alpha"]
    options = ("--law", "intrinsic-momentum", "--law-option", "rho=1", "--json")
    code, out, _ = command_line("fit", new, *options, "--prior", target)
    assert code == 0
    assert {one["name"]: one["mean"] for one in json.loads(out)["prior"]}["alpha"] == mean
    code, out, _ = command_line("fit", new, *options, "--prior", "none")
    assert json.loads(out)["status"] == "undetermined"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "expected a prior, as fmjax prior -o writes it; found invalid JSON"),
        ("[]", "expected a prior, as fmjax prior -o writes it, found other JSON"),
        ('{"law": "lr-annealing", "params": {}}', "expected a prior, as fmjax prior -o writes it, found other JSON"),
        ('{"law": "no-law", "exponents": []}', "unknown law 'no-law'"),
        ('{"law": "intrinsic-momentum", "exponents": [{"name": "alpha"}]}', "damaged: KeyError 'mean'"),
        (
            '{"law": "intrinsic-momentum", "exponents": [{"name": "alpha", "mean": 0.5, "sd": -1}]}',
            "prior of alpha: expected a standard deviation of at least 0, got -1",
        ),
        (
            '{"law": "intrinsic-momentum", "exponents": [{"name": "alhpa", "mean": 0.5, "sd": 0.1}]}',
            "unknown exponent 'alhpa'; did you mean 'alpha'?",
        ),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "recommend", "bootstrap"])
def test_a_wrong_prior_is_one_clear_line(tmp_path, command_line, verb, text, said):
    file = tmp_path / "prior.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    write_manifest(tmp_path, two_runs())
    more = ("--total-steps", 900, "--peak-lr", 1e-3) if verb == "recommend" else ()
    code, out, err = command_line(verb, tmp_path, "--prior", file, *more)
    assert (code, out) == (2, "")
    assert err.startswith(f"fmjax: {file}: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_set_is_named_once(tmp_path, command_line):
    write_manifest(tmp_path, two_runs())
    code, _, err = command_line("prior", tmp_path, tmp_path)
    assert (code, "expected each set once" in err) == (2, True)
