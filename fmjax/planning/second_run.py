"""The run to make next where there is only one: the anneal whose rows would leave least open of the plan."""

from collections.abc import Sequence

import jax
import numpy as np

from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.fitting.evidence import slopes_of_log
from fmjax.fitting.row_effects import batch_effects
from fmjax.laws import Law
from fmjax.schedules.kinds import WSD

OFFERED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Annealing ratios of the second run to choose among, and of the plan."""

UNKNOWN = 1e-4
"""Relative noise of a row over the relative spread of a parameter beforehand."""


def to_run_next(law: Law, vector: np.ndarray, run: LossCurve) -> str:
    """The sentence that names the run to make beside an only one."""
    found = second_run(law, vector, run)
    return f"a second run of {found.total_steps} updates with R = {found.anneal_ratio:g} would determine most"


def second_run(law: Law, vector: np.ndarray, run: LossCurve) -> WSD:
    """The anneal, as long as the only run and at its peak rate, that would leave least open of a plan twice as long.

    By the slopes of the law's losses in its parameters: the variance of the plan's log final losses at ``OFFERED``
    ratios, by least squares over the rows of both runs. A parameter that the run leaves open counts as open.

    Args:
      law: the law that was fitted.
      vector: ``[parameters]`` its parameters; those left open may have any value.
      run: the only run.

    Reference: optimal design by the variance of predictions, Kiefer and Wolfowitz (1960).
    """
    length, warmup = int(run.schedule.total_steps), int(run.schedule.warmup_steps)
    rows = np.unique(np.linspace(warmup, length - 1, max(run.step.size, 2)).astype(int))
    total_steps, peak_lr = 2 * length, run.peak_lr
    tried = [WSD(peak_lr, length, ratio, warmup_steps=warmup) for ratio in OFFERED]
    plans = [WSD(peak_lr, total_steps, ratio, warmup_steps=warmup) for ratio in OFFERED]
    made = [_logged(schedule, rows) for schedule in tried]
    wanted = [_logged(schedule, np.array([total_steps - 1])) for schedule in plans]
    known, *others = _slopes(law, vector, [run, *made, *wanted])
    added, final = others[: len(made)], np.concatenate(others[len(made) :], axis=1)
    beforehand = UNKNOWN**2 * np.eye(len(vector))
    left = [np.trace(final.T @ np.linalg.solve(known @ known.T + new @ new.T + beforehand, final)) for new in added]
    return tried[int(np.argmin(left))]


def _logged(schedule: WSD, rows: np.ndarray) -> LossCurve:
    return LossCurve("second", rows, np.ones(rows.size), schedule)


def _slopes(law: Law, vector: np.ndarray, curves: Sequence[LossCurve]) -> list[np.ndarray]:
    """``[parameters, rows]`` of each run: slopes of the log loss in the parameters, relative to their sizes."""
    with jax.enable_x64(True):
        batch = pad(curves)
        held = "as-peak" if law.warmup == "as-scheduled" else law.warmup  # as where it is told what data determine
        effects = batch_effects(law, batch, warmup=held)
        flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in effects.items()}
        slopes = slopes_of_log(law, flat, vector).reshape(len(vector), *batch.at.shape)
    scale = np.maximum(np.abs(vector), 1e-3)[:, None]
    return [scale * slopes[:, i, batch.valid[i]] for i in range(len(curves))]
