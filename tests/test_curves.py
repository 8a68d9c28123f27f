"""Curves built in Python: the checks of their rows and schedule, and their padding into one batch."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest

from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated

SCHEDULE = Constant(peak_lr=1e-3, total_steps=100)


def curve(**changes):
    values = {"name": "a", "step": [0, 50, 99], "loss": [4.0, 3.5, 3.0], "schedule": SCHEDULE}
    return LossCurve(**(values | changes))


# ------------------------------------------------------------------------------------------------ one curve


@pytest.mark.parametrize("kind", [list, tuple, np.array, jax.numpy.array], ids=["list", "tuple", "np", "jax"])
def test_rows_become_host_arrays(kind):
    run = curve(step=kind([0, 50, 99]), loss=kind([4.0, 3.5, 3.0]))
    assert type(run.step) is type(run.loss) is np.ndarray
    assert (run.step.dtype, run.loss.dtype) == (np.int64, np.float64)
    assert (run.step.tolist(), run.loss.tolist()) == ([0, 50, 99], [4.0, 3.5, 3.0])


def test_whole_steps_may_be_floats():
    assert curve(step=[0.0, 50.0, 99.0]).step.tolist() == [0, 50, 99]


@pytest.mark.parametrize("end", [99, 100], ids=["last-update", "number-of-updates"])
def test_last_row_may_count_updates(end):
    assert curve(step=[0, 50, end]).step[-1] == end


def test_a_curve_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        curve().name = "b"


@pytest.mark.parametrize(("changes", "expected"), [({}, 3.0), ({"final_loss": 2.9}, 2.9)], ids=["last-row", "measured"])
def test_final_loss(changes, expected):
    assert curve(**changes).final_loss_measured == expected


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(SCHEDULE, 1e-3), (Cosine(2e-3, 100), 2e-3), (Tabulated(np.array([0.0, 5e-4] + [1e-4] * 98)), 5e-4)],
    ids=["constant", "cosine", "tabulated"],
)
def test_peak_rate(schedule, expected):
    assert curve(schedule=schedule).peak_lr == expected


@pytest.mark.parametrize(
    ("step", "kept_step", "kept_loss", "count"),
    [
        ([0, 10, 10, 20], [0, 10, 20], [1.0, 3.0, 4.0], 1),
        ([0, 10, 20, 10, 20, 30], [0, 10, 20, 30], [1.0, 4.0, 5.0, 6.0], 2),
        ([5, 5, 5], [5], [3.0], 2),
    ],
    ids=["twice", "resumed", "thrice"],
)
def test_repeated_steps_keep_their_last_row(step, kept_step, kept_loss, count):
    with pytest.warns(UserWarning, match=f"run 'a': {count} repeated steps .first: row .* step {step[1]}"):
        run = curve(step=step, loss=np.arange(1.0, len(step) + 1))
    assert (run.step.tolist(), run.loss.tolist()) == (kept_step, kept_loss)


def test_a_clean_curve_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": [4.0, 3.0]}, "run 'a': expected as many losses as steps, got 2 for 3"),
        ({"step": 0, "loss": 4.0}, "run 'a': step: expected one dimension"),
        ({"step": [[0, 1]], "loss": [[4.0, 3.0]]}, "run 'a': step: expected one dimension"),
        ({"step": [], "loss": []}, "run 'a': expected at least one row, found none"),
        ({"loss": [4.0, np.nan, 3.0]}, "run 'a', row 2: loss must be a positive number, got nan"),
        ({"loss": [4.0, 3.5, np.inf]}, "run 'a', row 3: loss must be a positive number, got inf"),
        ({"loss": [0.0, 3.5, 3.0]}, "run 'a', row 1: loss must be a positive number, got 0"),
        ({"loss": [4.0, -3.5, 3.0]}, "run 'a', row 2: loss must be a positive number, got -3.5"),
        ({"step": [-1, 50, 99]}, "run 'a', row 1: step must not be negative, got -1"),
        ({"step": [0, 50.5, 99]}, "run 'a', row 2: step must be a whole number, got 50.5"),
        ({"step": [0, 99, 50]}, "run 'a', row 3: steps must rise, but this one follows a later step, got 50"),
        ({"step": [0, 50, 101]}, "run 'a', row 3: step lies beyond the schedule's end at 100, got 101"),
        ({"model_size": 0}, "run 'a': model_size: expected a number above zero, got 0"),
        ({"model_size": "25M"}, "run 'a': model_size: expected a number, got '25M'"),
        ({"tokens_per_step": -1}, "run 'a': tokens_per_step: expected a number above zero, got -1"),
        ({"final_loss": np.nan}, "run 'a': final_loss: expected a finite number, got nan"),
        ({"schedule": Constant(0.0, 100)}, "run 'a': peak_lr: expected a number above zero, got 0"),
        ({"schedule": Constant(-1e-3, 100)}, "run 'a': peak_lr: expected a number above zero, got -0.001"),
        ({"schedule": Constant(1e-3, 0)}, "run 'a': total_steps: expected a whole number >= 1, got 0"),
        ({"schedule": Constant(1e-3, 99.5)}, "run 'a': total_steps: expected a whole number >= 1, got 99.5"),
        ({"schedule": Constant(1e-3, 100, 101)}, "run 'a': warmup of 101 steps is longer than the run of 100"),
        ({"schedule": Constant(1e-3, 100, -1)}, "run 'a': warmup_steps: expected a whole number >= 0, got -1"),
        ({"schedule": Constant(1e-3, 100, 5, -1e-4)}, "run 'a': init_lr: expected a rate in [0, peak_lr"),
        ({"schedule": Cosine(1e-3, 100, -1e-4)}, "run 'a': final_lr: expected a rate in [0, peak_lr"),
        ({"schedule": WSD(1e-3, 100, 0.0)}, "run 'a': anneal_ratio must lie in (0, 1], got 0"),
        ({"schedule": WSD(1e-3, 100, 1.5)}, "run 'a': anneal_ratio must lie in (0, 1], got 1.5"),
        ({"schedule": WSD(1e-3, 100, np.nan)}, "run 'a': anneal_ratio: expected a finite number, got nan"),
    ],
    ids=[
        "lengths", "scalars", "two-axes", "no-rows", "nan-loss", "inf-loss", "zero-loss", "negative-loss",
        "negative-step", "fraction-step", "falling-step", "beyond-the-end", "size-zero", "size-text", "tokens-negative",
        "final-loss-nan", "peak-zero", "peak-negative", "no-updates", "fraction-updates", "long-warmup",
        "negative-warmup", "negative-init", "negative-final", "ratio-zero", "ratio-above-one", "ratio-nan",
    ],
)  # fmt: skip
def test_wrong_curves(changes, message):
    with pytest.raises(ValueError, match="run 'a'") as error:
        curve(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------ a batch

RATES = np.array([1e-3, 8e-4, 4e-4, 2e-4])
RUNS = (
    LossCurve("short", [1, 4], [4.0, 3.0], Tabulated(RATES, warmup_steps=1), model_size=25e6),
    LossCurve("long", [0, 3, 5], [5.0, 4.5, 3.5], Step(1e-3, 6, (3,), (5e-4,))),
)


def test_a_batch_has_every_rate_of_each_run():
    lrs = [run.lr for run in pad(RUNS).every]
    np.testing.assert_array_equal(lrs[0], RATES)
    np.testing.assert_array_equal(lrs[1], [1e-3] * 3 + [5e-4] * 3)


def test_a_batch_has_what_weighted_updates_are_at_each_row():
    batch = pad(RUNS)
    np.testing.assert_array_equal(batch.at_rows("update"), batch.at)
    np.testing.assert_allclose(batch.at_rows("forward")[1, :3], [1e-3, 3.5e-3, 4.5e-3], rtol=1e-14)


def test_pad_takes_the_effects_of_the_last_update_from_the_end_on():
    # row of step s sees min(s, T - 1); columns past a run's rows, of which there is at least one, its last update
    assert pad(RUNS).at.tolist() == [[1, 3, 3, 3], [0, 3, 5, 5]]


def test_pad_marks_the_rows_that_exist():
    batch = pad(RUNS)
    assert batch.valid.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert batch.loss.tolist() == [[4.0, 3.0, 1.0, 1.0], [5.0, 4.5, 3.5, 1.0]]


def test_pad_keeps_warmups_and_sizes():
    batch = pad(RUNS)
    assert batch.warmup_steps.tolist() == [1, 0]
    np.testing.assert_array_equal(batch.model_size, [25e6, np.nan])


def test_pad_of_one_run_is_that_run():
    batch = pad(RUNS[:1])
    np.testing.assert_array_equal(batch.every[0].lr, RATES)
    assert batch.loss[batch.valid].tolist() == RUNS[0].loss.tolist()


def test_padding_does_not_change_a_run():
    alone, together = pad(RUNS[:1]), pad(RUNS)
    rows = alone.loss.shape[1]
    np.testing.assert_array_equal(together.at[:1, :rows], alone.at)
    np.testing.assert_array_equal(together.valid[:1, :rows], alone.valid)
