"""The correction against Gaussian-process formulas written out, and what it should do."""

import numpy as np
import pytest
from synthetic import curve

from fmjax.planning import correction
from fmjax.planning.correction import FINAL_LOSS_NOISES, CorrectionPrior, Points, Settings, correctable
from fmjax.schedules.kinds import WSD, Constant
from fmjax.searching.results import Cell

PRIOR = CorrectionPrior(0.1, FINAL_LOSS_NOISES, 0.9)
NO_OFFSET = PRIOR._replace(offset=0.0)
REACH = (0.3, np.log(4.0), np.log(4.0), np.log(4.0), np.log(4.0))


def cell(total_steps=1000, peak_lr=1e-3, decay="linear"):
    return Cell(total_steps, peak_lr, decay, 0.0, 0.5, 3.0, (0.4, 0.6), False)


def at(ratios, model_size=None, **where):
    return Points.of_cell(np.asarray(ratios, float), cell(**where), model_size)


RATIOS = [0.1, 0.2, 0.4, 0.6, 0.8]
SLOPE = 2e-3 * (np.sqrt(RATIOS) - 0.7)


@pytest.fixture
def one_setting(monkeypatch):
    for name, value in (("CELL_ERRORS", 3e-3), ("SHAPES", 2e-3)):
        monkeypatch.setattr(correction, name, (value,))
    return CorrectionPrior(0.1, (5e-4,), 0.9)


def covariance(a, b, offset=0.1, level=3e-3, shape=2e-3):
    """Entry by entry."""
    out = np.empty((len(a.decay), len(b.decay)))
    for i, (x, decay) in enumerate(zip(a.place, a.decay, strict=True)):
        for j, (y, other) in enumerate(zip(b.place, b.decay, strict=True)):
            d = [(x[k] - y[k]) / REACH[k] for k in range(5)]
            near = np.exp(-(d[1] ** 2 + d[2] ** 2 + d[3] ** 2 + d[4] ** 2) / 2)
            out[i, j] = offset**2 + level**2 * near + (decay == other) * shape**2 * near * np.exp(-(d[0] ** 2) / 2)
    return out


def test_mean_and_covariance_are_those_of_the_process(one_setting):
    runs = Points(np.vstack([at(RATIOS).place, at([0.3], decay="cosine").place]), ("linear",) * 5 + ("cosine",))
    residual = np.append(SLOPE, 1e-3)
    targets = at([0.15, 0.5, 0.9], total_steps=3000, peak_lr=2e-3)
    own = covariance(runs, runs) + 5e-4**2 * np.eye(6)
    cross = covariance(targets, runs)
    found = Settings.of(runs, residual, one_setting).at(targets)
    np.testing.assert_allclose(found.mean(residual), cross @ np.linalg.inv(own) @ residual, rtol=1e-6)
    expected = covariance(targets, targets) - cross @ np.linalg.inv(own) @ cross.T
    np.testing.assert_allclose(found.spread[0] @ found.spread[0].T, expected, rtol=1e-5, atol=1e-12)


def test_draws_have_that_mean_and_covariance(one_setting):
    runs, targets = at(RATIOS), at([0.3, 0.7], total_steps=2000)
    found = Settings.of(runs, SLOPE, one_setting._replace(offset=0.0)).at(targets)
    drawn = found.draw(np.tile(SLOPE, (20_000, 1)), np.random.default_rng(0))
    np.testing.assert_allclose(drawn.mean(axis=0), found.mean(SLOPE), atol=5e-5)
    np.testing.assert_allclose(np.cov(drawn.T), found.spread[0] @ found.spread[0].T, rtol=0.05, atol=1e-8)


def test_the_settings_are_weighed_by_their_likelihood(monkeypatch):
    monkeypatch.setattr(correction, "UNLIKELY", 0.0)
    runs = at(RATIOS)
    found = Settings.of(runs, SLOPE, NO_OFFSET).at(at([0.5]))
    odds = []
    for level in correction.CELL_ERRORS:
        for shape in correction.SHAPES:
            for noise in FINAL_LOSS_NOISES:
                k = covariance(runs, runs, 0.0, level, shape) + noise**2 * np.eye(5)
                prior = 0.9 if shape == 0 else (1 - 0.9) / (len(correction.SHAPES) - 1)
                odds.append(prior * np.exp(-0.5 * SLOPE @ np.linalg.solve(k, SLOPE)) / np.sqrt(np.linalg.det(k)))
    np.testing.assert_allclose(found.probability, np.array(odds) / np.sum(odds), rtol=1e-6)


def test_a_law_that_fits_is_left_alone():
    found = Settings.of(at(RATIOS), np.zeros(5), PRIOR).at(at([0.3, 0.9]))
    np.testing.assert_allclose(found.mean(np.zeros(5)), 0.0, atol=1e-12)
    assert np.sqrt(found.probability @ [(s @ s.T)[0, 0] for s in found.spread]) < 5e-4


def test_a_shape_left_over_carries_to_longer_runs_and_fades_far_away():
    slope = 5 * SLOPE

    def carried(**where):
        found = Settings.of(at(RATIOS), slope, PRIOR).at(at([0.1, 0.8], **where))
        low, high = found.mean(slope)
        return (high - low) / (slope[-1] - slope[0])

    assert 0.8 < carried() < 1.0
    assert 0.6 < carried(total_steps=2000) < carried()
    assert abs(carried(total_steps=1_000_000)) < 0.01
    assert 0.6 < carried(peak_lr=2e-3) < carried()
    assert abs(carried(decay="1-sqrt")) < 0.01


def test_what_all_share_is_an_offset():
    residual = np.full(5, 0.0123)
    found = Settings.of(at(RATIOS), residual, PRIOR).at(at([0.3], total_steps=8000, decay="1-sqrt"))
    assert found.mean(residual)[0] == pytest.approx(0.0123, abs=2e-4)


def test_model_sizes_far_apart_do_not_tell_of_each_other():
    found = Settings.of(at(RATIOS, model_size=1e6), SLOPE, NO_OFFSET).at(at([0.1, 0.8], model_size=1e9))
    assert np.abs(found.mean(SLOPE)).max() < 1e-6


def test_points_of_runs_and_cells_agree():
    runs = [curve(f"{ratio}", WSD(1e-3, 1000, ratio), size=1e6) for ratio in (0.1, 0.2)]
    there = Points.of(runs)
    np.testing.assert_allclose(there.place, at([0.1, 0.2], model_size=1e6).place)
    assert there.decay == ("linear", "linear")
    assert Points.of([]).place.shape == (0, 5)


def test_batch_sizes_lie_apart_where_they_count():
    runs = [curve(f"{b}", WSD(1e-3, 1000, 0.2), size=1e6, tokens_per_step=b) for b in (1e4, 1e5)]
    alike, apart = Points.of(runs), Points.of(runs, batches=True)
    np.testing.assert_allclose(alike.place[0], alike.place[1])
    assert apart.place[1, -1] - apart.place[0, -1] == pytest.approx(np.log(10))
    cell = at([0.2], model_size=1e6).place[0, :-1]
    np.testing.assert_allclose(apart.place[:, :-1], [cell, cell])


def test_only_finished_runs_with_a_ratio_correct():
    runs = [curve("wsd", WSD(1e-3, 400, 0.5)), curve("constant", Constant(1e-3, 400))]
    runs.append(curve("broken-off", WSD(1e-3, 400, 0.5)))
    object.__setattr__(runs[2], "step", runs[2].step - 100)
    assert correctable(runs).tolist() == [True, False, False]
