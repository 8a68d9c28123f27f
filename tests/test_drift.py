"""How far a law errs beyond the longest run, as runs of one length show it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from synthetic import DECAY, runs

from fmjax.fitting.fits import fit_groups
from fmjax.fitting.options import MANY_FITS
from fmjax.fitting.problem import prepare
from fmjax.laws import ConvexBound, LRAnnealing
from fmjax.planning.drift import EARLY_SHARE, LEAST_DRIFT, MOST_DRIFT, drift_from_early_rows


def drift(curves, law=None):
    law = law or LRAnnealing(decay=DECAY)
    with jax.enable_x64(True):
        everything = np.ones(len(curves), bool)
        problem = prepare(law, curves, fitted=everything, options=MANY_FITS)
        return drift_from_early_rows(problem, everything, fit_groups(problem, everything[None], MANY_FITS)[0])


def flattening(curves, slope):
    """The runs, their losses higher by ``slope`` per e-fold of updates from the middle of a run on."""
    return [
        replace(c, loss=c.loss * np.exp(slope * np.log(np.maximum(c.step / (EARLY_SHARE * 400), 1)))) for c in curves
    ]


def test_a_law_that_holds_has_the_least_drift():
    assert drift(runs("lr-annealing")) == pytest.approx(LEAST_DRIFT, rel=1e-3)


@pytest.mark.parametrize("slope", [5e-3, -5e-3])
def test_a_loss_that_leaves_the_power_law_is_found(slope):
    """Only about: the fit of all rows takes up a part of the bend."""
    assert drift(flattening(runs("lr-annealing"), slope)) == pytest.approx(5e-3, rel=0.4)


def test_a_large_drift_is_bounded():
    assert drift(flattening(runs("lr-annealing"), 0.1)) == MOST_DRIFT


def test_a_law_without_a_power_of_s_has_levels_alone():
    assert LEAST_DRIFT <= drift(runs("convex-bound"), ConvexBound()) <= MOST_DRIFT


def test_too_few_early_rows_say_nothing():
    late = [replace(c, step=c.step[-12:], loss=c.loss[-12:]) for c in runs("lr-annealing")]
    assert drift(late) is None
