"""Options chosen on runs: values between those that a law declares, and what the rows leave open of them."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import TRUTH, area, curve, rates, schedules

from fmjax.fitting.option_choice import choose_options
from fmjax.fitting.options import MANY_FITS, precision
from fmjax.fitting.problem import prepare
from fmjax.laws import LRAnnealing
from fmjax.planning.recommendation import recommend

DECAY = 0.987
"""Of the runs' memory; lr-annealing declares 0.98 and 0.99 to be tried."""


def noisy(sigma, seed=0, phi=0.0):
    """Runs under lr-annealing with a memory of ``DECAY``, with noise of correlation phi between rows."""
    rng, truth, made = np.random.default_rng(seed), TRUTH["lr-annealing"], []
    for name, schedule in schedules().items():
        run, lrs = curve(name, schedule), rates(schedule)
        loss = truth["L0"] + truth["A"] * np.maximum(np.cumsum(lrs), 1e-9) ** -truth["alpha"]
        loss = loss - truth["C"] * area(lrs, int(schedule.warmup_steps), DECAY)
        drawn = rng.normal(size=run.step.size)
        for row in range(1, drawn.size):
            drawn[row] = phi * drawn[row - 1] + np.sqrt(1 - phi**2) * drawn[row]
        made.append(replace(run, loss=loss[run.step] * np.exp(sigma * drawn)))
    return made


def chosen(curves):
    with precision(MANY_FITS):
        problem = prepare("lr-annealing", curves, fitted=[True] * len(curves), options=MANY_FITS)
        return choose_options(problem, MANY_FITS, np.ones((1, len(curves)), bool))


def memory(options):
    return np.log(1 - options["decay"])


def drawn(found, count=40):
    return np.array([memory(found.options[k]) for k in found.draw(count, np.random.default_rng(0))])


@pytest.mark.slow
def test_a_value_between_those_declared_is_found():
    found = chosen(noisy(1e-5))
    assert memory(found.best) == pytest.approx(np.log(1 - DECAY), abs=0.03)
    assert np.ptp(drawn(found)) < 0.1


@pytest.mark.slow
def test_values_drawn_spread_as_the_chosen_ones_do():
    each = [chosen(noisy(2e-3, seed, phi=0.5)) for seed in range(12)]
    spread = np.std([memory(one.best) for one in each])
    said = np.median([drawn(one).std() for one in each])
    assert 0.5 < said / spread < 2


@pytest.mark.slow
def test_correlated_noise_leaves_more_open():
    white, correlated = (
        np.median([drawn(chosen(noisy(2e-3, seed, phi))).std() for seed in range(6)]) for phi in (0, 0.8)
    )
    assert correlated > 1.2 * white


@pytest.mark.slow
def test_samples_of_chosen_options_draw_a_prior_anew():
    told = replace(MANY_FITS, prior={"alpha": (TRUTH["lr-annealing"]["alpha"], 0.1)})
    target = {"total_steps": 800, "peak_lr": 1e-3, "samples": 4}
    assert recommend(noisy(2e-3), law="lr-annealing", options=told, **target).best.samples == 4


@pytest.mark.slow
def test_a_law_whose_memory_is_chosen_has_the_wider_interval():
    curves, target = noisy(2e-3), {"total_steps": 800, "peak_lr": 1e-3}
    named, known = (recommend(curves, law=law, **target).best for law in ("lr-annealing", LRAnnealing(decay=DECAY)))
    width, without = (np.diff(one.cell.ratio_interval)[0] for one in (named, known))
    assert width > 1.3 * without
    assert named.samples == known.samples == 200
    assert named.cell.ratio_interval[0] - 0.01 < named.cell.best_ratio < named.cell.ratio_interval[1] + 0.01
