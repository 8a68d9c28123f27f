"""Many fits of one problem: what runs left out of the fit show."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fmjax import lanes
from fmjax.fitting import FitOptions, Problem, fit_groups, measure
from fmjax.records import FitResult, RunMetrics


def leave_one_out_groups(group: Any) -> np.ndarray:
    """Masks ``[chosen, runs]`` of a group of runs without each of its members in turn.

    >>> leave_one_out_groups([True, False, True]).astype(int).tolist()
    [[0, 0, 1], [1, 0, 0]]
    """
    chosen = np.asarray(group, bool)
    return chosen & ~np.eye(chosen.size, dtype=bool)[chosen]


def held_out(problem: Problem, group: Any, fits: Sequence[FitResult]) -> tuple[RunMetrics, ...]:
    """Metrics of each run of a group under the fit made without it; NaN where the other runs leave a parameter open.

    Args:
      problem: runs under a law.
      group: ``[runs]`` the group.
      fits: one fit for each of ``leave_one_out_groups(group)``.
    """
    runs = []
    for run, result in zip(np.flatnonzero(group), fits, strict=True):
        usable = (np.arange(len(problem.curves)) == run) & result.ok
        runs.append(measure(problem, result.lanes.params[lanes.best(result.lanes)], usable=usable)[run])
    return tuple(runs)


def leave_one_out(problem: Problem, group: Any, options: FitOptions) -> tuple[RunMetrics, ...]:
    """Predicts each run of a group from a fit of the others; all fits are lanes of one batch."""
    return held_out(problem, group, fit_groups(problem, leave_one_out_groups(group), options))
