"""Effect coefficients chosen on curves whose coefficients are known, and on real curves."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import optimize
from synthetic import TRUTH, area, rates, runs, schedules

from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs
from fmjax.fitting.fits import evaluate, fit
from fmjax.fitting.options import FitOptions
from fmjax.fitting.selection import CRITERIA, FLAT, ROLLOUT, select
from fmjax.laws import ForwardMomentum, LRAnnealing, Option, check_options
from fmjax.laws.base import register

CHOSEN = {"decay": 0.99, "rho": 0.7}
GRID = {"decay": (0.98, 0.99, 0.995), "rho": (0.5, 0.7, 1.0)}
COARSE = {"decay": (0.96, 0.98, 0.995), "rho": (0.4, 0.5, 1.0)}
"""Without the truth; nine candidates as in ``GRID``, so that nothing compiles again."""
PARAMS = TRUTH["lr-annealing"]


def curve(name, schedule, noise=0.0, held=False):
    """One run of lr-annealing with ``CHOSEN``; ``held`` counts warmup as if at the peak."""
    lrs, step = rates(schedule).copy(), np.linspace(schedule.warmup_steps, schedule.total_steps - 1, 30).astype(int)
    if held:
        lrs[: schedule.warmup_steps] = schedule.peak_lr
    seen = 1e-3 * np.cumsum((lrs / 1e-3) ** CHOSEN["rho"])[step]
    loss = (
        PARAMS["L0"]
        + PARAMS["A"] * seen ** -PARAMS["alpha"]
        - PARAMS["C"] * area(lrs, schedule.warmup_steps, CHOSEN["decay"])[step]
    )
    drawn = np.random.default_rng(len(name)).normal(size=step.size)
    return LossCurve(name, step, loss * np.exp(noise * drawn), schedule)


def curves(noise=0.0, held=False):
    return tuple(curve(name, schedule, noise, held) for name, schedule in schedules().items())


def choose(noise=1e-3, **options):
    return select("lr-annealing", curves(noise), **{"grid": GRID, "refine": False, **options})


def values(law):
    return {name: getattr(law, name) for name in CHOSEN}


@pytest.fixture(scope="module")
def found():
    return {by: choose(by=by) for by in CRITERIA}


@pytest.fixture(scope="module")
def refined():
    """Refined from a coarse grid without the truth, by the noise of the losses."""
    return {noise: choose(noise, grid=COARSE, refine=True) for noise in (0.0, 1e-3)}


# ------------------------------------------------------------------------------------------------ the grid


@pytest.mark.parametrize("noise", [0.0, pytest.param(1e-3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("by", CRITERIA)
def test_every_criterion_picks_the_truth(by, noise):
    chosen = choose(noise, by=by)
    assert values(chosen.law) == chosen.candidates[0].options == CHOSEN
    assert chosen.fit.params == pytest.approx(PARAMS, rel=0.03 if noise else 1e-9)


@pytest.mark.parametrize("by", CRITERIA)
def test_candidates_are_the_grid_sorted(found, by):
    candidates, scores = found[by].candidates, [candidate.score for candidate in found[by].candidates]
    tried = {(candidate.options["decay"], candidate.options["rho"]) for candidate in candidates}
    assert tried == {(decay, rho) for decay in GRID["decay"] for rho in GRID["rho"]}
    assert len(candidates) == 9
    assert scores == sorted(scores)
    assert found[by].score == pytest.approx(scores[0], rel=1e-6)
    assert found[by].by == by


def scipy_fit(options, runs, keep):
    """Objective over the rows kept, and a function that gives the relative errors of a run."""

    def predict(run, params):
        lrs = rates(run.schedule)
        seen = 1e-3 * np.cumsum((lrs / 1e-3) ** options["rho"])[run.step]
        level, scale, fall, alpha = params
        return level + scale * seen**-alpha - fall * area(lrs, run.schedule.warmup_steps, options["decay"])[run.step]

    def residual(params):
        ratios = [np.maximum(predict(run, params) / run.loss, 1e-9) for run in runs]
        return np.concatenate([np.log(ratio)[keep(run)] for ratio, run in zip(ratios, runs, strict=True)])

    start = [PARAMS[name] for name in ("L0", "A", "C", "alpha")]
    tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14, "x_scale": start, "max_nfev": 2000}
    found = optimize.least_squares(residual, start, loss="huber", f_scale=1e-3, **tight)
    return found.cost, lambda run: np.abs(predict(run, found.x) / run.loss - 1)


def every_row(run):
    return run.step >= 0


def early(run):
    return run.step < ROLLOUT * 399


@pytest.mark.parametrize("index", [0, 1, 4])
def test_objectives_are_those_of_scipy(found, index):
    candidate = found["objective"].candidates[index]
    assert candidate.score == pytest.approx(scipy_fit(candidate.options, curves(1e-3), every_row)[0], rel=1e-5)


def test_scores_of_runs_left_out_are_errors_of_fits_without_them(found):
    best, made = found["leave-one-out"].candidates[0], curves(1e-3)
    errors = []
    for out in made:
        _, error = scipy_fit(best.options, [run for run in made if run is not out], every_row)
        errors.append(100 * error(out).mean())
    assert best.score == pytest.approx(np.mean(errors), rel=1e-3)


def test_scores_of_the_rollout_are_errors_of_the_rest(found):
    best, made = found["rollout"].candidates[0], curves(1e-3)
    _, error = scipy_fit(best.options, made, early)
    assert best.score == pytest.approx(np.mean([100 * error(run)[~early(run)].mean() for run in made]), rel=1e-3)


@pytest.mark.parametrize("by", CRITERIA)
def test_flat_spans_the_candidates_near_the_best(found, by):
    chosen = found[by]
    near = [c.options for c in chosen.candidates if c.score <= (1 + FLAT) * chosen.candidates[0].score]
    for name, (low, high) in chosen.flat.items():
        assert (low, high) == (min(o[name] for o in near), max(o[name] for o in near))
        assert low <= getattr(chosen.law, name) <= high


def test_flat_holds_values_that_do_not_matter():
    flat = choose(grid={"decay": (0.98999, 0.99, 0.99001), "rho": (0.5, 0.7, 1.0)}).flat
    assert flat == {"decay": (0.98999, 0.99001), "rho": (0.7, 0.7)}


@pytest.mark.parametrize(("held", "mode"), [(False, "without-rise"), (True, "as-peak")])
def test_warmup_in_the_grid(held, mode):
    grid = {"rho": GRID["rho"], "warmup": ("as-peak", "without-rise"), "decay": GRID["decay"]}
    chosen = select("lr-annealing", curves(1e-4, held), grid=grid, refine=False)
    assert (chosen.law.warmup, values(chosen.law)) == (mode, CHOSEN)
    assert len(chosen.candidates) == 18
    assert chosen.flat["warmup"] == (mode, mode)
    assert chosen.score == pytest.approx(chosen.candidates[0].score, rel=1e-6)


def test_options_outside_the_grid_stay(found):
    several = tuple(np.linspace(0.5, 0.9, 9).round(2).tolist())
    chosen = select(LRAnnealing(decay=0.98), curves(1e-3), grid={"rho": several}, refine=False)
    scores = {candidate.options["rho"]: candidate.score for candidate in chosen.candidates}
    assert chosen.law.decay == 0.98
    assert sorted(scores) == list(several)
    for candidate in found["objective"].candidates:
        if candidate.options["decay"] == 0.98 and candidate.options["rho"] in scores:
            assert scores[candidate.options["rho"]] == pytest.approx(candidate.score, rel=1e-6)


def test_options_of_the_fit_count(found):
    chosen = choose(options=FitOptions(end_weight=30.0))
    assert chosen.score > 2 * found["objective"].score
    assert chosen.score == pytest.approx(fit(chosen.law, curves(1e-3), end_weight=30.0).objective, rel=1e-9)


@pytest.mark.parametrize("by", CRITERIA)
def test_json_is_strict_and_holds_what_was_found(found, by):
    record = json.loads(found[by].to_json(), parse_constant=pytest.fail)
    assert record["law"] == "lr-annealing"
    assert (record["by"], record["score"]) == (by, found[by].score)
    assert {name: record["options"][name] for name in CHOSEN} == CHOSEN
    assert record["candidates"][0]["options"] == CHOSEN
    assert record["fit"]["params"] == found[by].fit.params
    assert record["flat"]["decay"] == list(found[by].flat["decay"])


@pytest.mark.parametrize("by", CRITERIA)
def test_a_law_without_choices_is_its_plain_fit(by):
    made = runs("chinchilla", noise=1e-3)
    chosen = select("chinchilla", made, by=by)
    plain = fit("chinchilla", made)
    assert [candidate.options for candidate in chosen.candidates] == [{}]
    assert chosen.fit.params == plain.params
    assert chosen.flat == {}


BAD = {
    "option": ({"grid": {"decai": (0.9,)}}, "unknown option of lr-annealing 'decai'; did you mean 'decay'?"),
    "other-law": ({"grid": {"beta1": (0.9,)}}, "unknown option of lr-annealing 'beta1'"),
    "criterion": ({"by": "roll-out"}, "unknown criterion 'roll-out'; did you mean 'rollout'?"),
    "warmup": ({"grid": {"warmup": ("as-paek",)}}, "unknown warmup mode 'as-paek'; did you mean 'as-peak'?"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD.keys())
def test_unknown_names_are_refused_with_the_nearest(options, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        choose(**options)


@pytest.mark.parametrize(
    ("grid", "message"),
    [({"decay": ()}, "decay"), ({**GRID, "decay": (0.98, 0.99, 1.5)}, "decay")],
    ids=["empty", "range"],
)
def test_values_that_cannot_be_tried_are_named(grid, message):
    with pytest.raises(ValueError, match=f"{message}.*expected|expected.*{message}"):
        choose(grid=grid)


def test_one_run_cannot_be_left_out():
    with pytest.raises(ValueError, match="at least two runs"):
        select("lr-annealing", curves()[:1], grid=GRID, by="leave-one-out")


# ------------------------------------------------------------------------------------------------ refinement


@pytest.mark.slow
def test_refinement_finds_the_truth_from_a_coarse_grid(refined):
    found = refined[0.0]
    assert found.law.decay == pytest.approx(0.99, abs=1e-4)
    assert found.law.rho == pytest.approx(0.7, abs=1e-3)
    assert found.score < 1e-6 * found.candidates[0].score


@pytest.mark.slow
def test_refinement_of_noisy_losses_is_near_the_truth(refined):
    found = refined[1e-3]
    assert found.law.decay == pytest.approx(0.99, abs=0.002)
    assert found.law.rho == pytest.approx(0.7, abs=0.03)
    assert found.score < fit(LRAnnealing(**CHOSEN), curves(1e-3)).objective


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_refinement_never_raises_the_objective(seed):
    rng = np.random.default_rng(seed)
    made = [replace(run, loss=run.loss * np.exp(rng.normal(scale=5e-3, size=30))) for run in curves()]
    grid = {"decay": rng.uniform(0.9, 0.999, 3).tolist(), "rho": rng.uniform(0.3, 1.2, 3).tolist()}
    found = select("lr-annealing", made, grid=grid)
    assert found.score <= found.candidates[0].score * (1 + 1e-9)
    assert found.score == pytest.approx(fit(found.law, made).objective, rel=1e-9)


def test_refinement_never_raises_the_objective_of_weighted_rows():
    """(0.989, 0.68) is better for these weights than the optimum of unit weights, (0.98938, 0.7033)."""
    found = choose(
        grid={"decay": (0.987, 0.989, 0.991), "rho": (0.66, 0.68, 0.7)},
        options=FitOptions(end_weight=30.0),
        refine=True,
    )
    assert found.score <= found.candidates[0].score * (1 + 1e-9)


def test_only_the_objective_is_refined():
    assert values(choose(grid=COARSE, by="rollout", refine=True).law) in [
        {"decay": decay, "rho": rho} for decay in COARSE["decay"] for rho in COARSE["rho"]
    ]


@register
@dataclass(frozen=True)
class Slowed(LRAnnealing):
    """A law of a test, with an option that no other law has."""

    name: ClassVar[str] = "slowed"
    tunable: ClassVar[tuple[Option, ...]] = (Option("halving", 10.0, 1e4, (50.0, 70.0, 90.0)),)
    halving: Any = 70.0

    def step(self, state, update):
        return LRAnnealing(decay=0.5 ** (1 / self.halving)).step(state, update)

    def observe(self, state):
        return LRAnnealing(decay=0.5 ** (1 / self.halving)).observe(state)


@pytest.mark.slow
def test_an_option_of_one_law_is_checked_and_chosen_by_what_the_law_declares():
    with pytest.raises(ValueError, match="slowed: halving: expected a number above zero, got -1"):
        check_options(Slowed(halving=-1))
    with pytest.raises(ValueError, match="slowed: halving: expected a number, got None"):
        check_options(Slowed(halving=None))
    decay = select("lr-annealing", curves(1e-3), grid={"decay": (0.98, 0.99, 0.995)}).law.decay
    found = select(Slowed(), curves(1e-3))
    assert found.law.halving == pytest.approx(math.log(0.5) / math.log(decay), rel=1e-3)


# ------------------------------------------------------------------------------------------------ real curves


@pytest.mark.slow
@pytest.mark.parametrize(("data", "goal"), [("mpl_25m", 0.128), ("mpl_100m", 0.120)])
def test_chosen_on_real_curves_it_predicts_unseen_ones(shared, data, goal):
    made = load_runs(shared / "data" / data)
    train = [run for run in made if run.split == "train"]
    found = select(ForwardMomentum(warmup="as-scheduled"), train)  # as published
    assert found.score <= found.candidates[0].score
    assert evaluate(found.law, made, train=train).test_mape_percent <= goal
