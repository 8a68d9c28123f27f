"""Errors at sizes and batches that no fitted run has: what fits without one of them miss."""

from types import SimpleNamespace

import numpy as np
import pytest

import fmjax
from fmjax.fitting.priors import LEVEL_ERROR
from fmjax.planning import unseen
from fmjax.planning.unseen import Splits, Unseen

BATCHES = (100.0, 200.0, 400.0, 1600.0)
MISSED = {100.0: 0.03, 200.0: 0.01, 400.0: -0.02, 1600.0: 0.05}


@pytest.fixture
def problem():
    """Two runs of each batch, of one size."""
    curves = [SimpleNamespace(model_size=1e6, mean_batch=batch) for batch in BATCHES for _ in range(2)]
    return SimpleNamespace(curves=curves, law=SimpleNamespace(sizes=False, spans_batches=True))


def test_errors_by_distance():
    found = Unseen(np.log([1e6, 1e7]), 0.01, 0.02)
    assert found.error(1e6) == found.error(1e7 * 1.0001) == 0
    assert found.error(3e6) == pytest.approx(0.01)
    assert found.error(1e7 * np.e) == found.error(1e6 / np.e) == pytest.approx(np.hypot(0.01, 0.02))


def test_every_batch_is_left_out_once(problem):
    group = np.array([True] * 7 + [False])
    sizes, batches = Splits.of(problem, group).logs
    assert sizes.size == 0
    assert batches == pytest.approx(np.log(BATCHES), abs=1e-3)
    expected = [[i < 7 and i // 2 != place for i in range(8)] for place in range(4)]
    np.testing.assert_array_equal(Splits.of(problem, group).without, expected)


@pytest.mark.parametrize("failed", [False, True], ids=["all", "one-fit-failed"])
def test_errors_are_those_of_the_fits_without_a_batch(problem, failed, monkeypatch):
    def measured(problem, params, *, usable):
        left = [
            MISSED[curve.mean_batch] if is_in else np.nan for curve, is_in in zip(problem.curves, usable, strict=True)
        ]
        return [SimpleNamespace(final_loss=2 * np.exp(e), final_loss_predicted=2.0) for e in left]

    monkeypatch.setattr(unseen, "measure", measured)
    group, lanes = np.ones(8, bool), SimpleNamespace(best_params=None)
    fits = [SimpleNamespace(ok=not failed or place != 2, lanes=lanes) for place in range(4)]
    sizes, batches = Splits.of(problem, group).errors(problem, group, fits)
    assert sizes is None
    assert batches.between == pytest.approx(0.01 if failed else np.sqrt((0.01**2 + 0.02**2) / 2))
    assert batches.beyond == pytest.approx(np.sqrt(((0.03 / np.log(2)) ** 2 + (0.05 / np.log(4)) ** 2) / 2), rel=2e-3)


def test_two_batches_do_not_tell(problem):
    group = np.arange(8) < 4
    splits = Splits.of(problem, group)
    assert splits.without.size == 0
    found = splits.errors(problem, group, [])[1]
    assert found.error(150.0) == found.error(800.0) == LEVEL_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("peak", [0.0025, 0.0064])
def test_the_interval_of_a_batch_that_was_not_fitted_covers_what_it_reached(peak):
    """The law errs by 1 % on these runs, whose batches are 16-fold apart."""
    curves = [c for c in fmjax.datasets.proxy_runs("batches") if c.peak_lr == peak and c.schedule.total_steps == 2000]
    there = [c for c in curves if c.tokens_per_step == 2048]
    known = [c for c in curves if c.tokens_per_step != 2048]
    plan = fmjax.recommend(
        known, anneal_ratio=0.4, law="intrinsic-momentum", total_steps=2000, peak_lr=peak, tokens_per_step=2048
    ).best.cell
    low, high = plan.loss_interval
    (reached,) = [c.loss[-1] for c in there if "linear-0.4" in c.name]
    assert low < reached < high
    assert high - low < 0.1 * reached
