"""Runs left out of a fit, against explicit fits without them."""

import math

import jax
import numpy as np
import pytest
from synthetic import DECAY, constant_runs, five_runs, runs

from fmjax.fitting.fits import evaluate
from fmjax.fitting.options import FitOptions
from fmjax.fitting.problem import prepare
from fmjax.fitting.resampling import leave_one_out, leave_one_out_groups
from fmjax.laws import LRAnnealing

LAW = LRAnnealing(decay=DECAY)


def left_out(curves, group=None):
    with jax.enable_x64(True):
        problem = prepare(LAW, curves, fitted=[True] * len(curves), options=FitOptions())
        return leave_one_out(problem, [True] * len(curves) if group is None else group, FitOptions())


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ([1, 1, 1], [[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
        ([1, 0, 1, 0], [[0, 0, 1, 0], [1, 0, 0, 0]]),
        ([0, 1], [[0, 0]]),
    ],
    ids=["all", "some", "one"],
)
def test_groups(group, expected):
    assert leave_one_out_groups(group).astype(int).tolist() == expected


def test_leave_one_out_is_fitting_without_each_run():
    curves = five_runs(noise=1e-3)
    for i, found in enumerate(left_out(curves)):
        explicit = evaluate(LAW, curves, train=[run for k, run in enumerate(curves) if k != i]).runs[i]
        assert found.name == explicit.name == curves[i].name
        both = (one._replace(paired_mape_percent=0, shared_noise=0) for one in (found, explicit))  # not looked for here
        np.testing.assert_allclose(*(one[2:] for one in both), rtol=1e-6)


def test_only_members_of_the_group_are_left_out_and_used():
    curves = (*five_runs(noise=1e-3), *runs(params={"L0": 9.0, "A": 1.0, "C": 1.0, "alpha": 1.0}, prefix="other-"))
    found = left_out(curves, [True] * 5 + [False] * 4)
    assert [run.name for run in found] == [run.name for run in curves[:5]]
    assert max(run.mape_percent for run in found) < 0.2


def test_a_run_without_which_a_parameter_is_open_is_nan():
    found = left_out([*constant_runs(), runs(noise=1e-5)[3]])
    assert [math.isnan(run.mape_percent) for run in found] == [False] * 4 + [True]
    assert math.isnan(found[-1].final_loss_predicted)
