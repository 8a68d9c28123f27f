"""Steps of rows that count in epochs: updates that begin anew in each epoch, and rows with an epoch and no step."""

import re
from collections.abc import Sequence

import numpy as np

from fmjax._checks import require

_BAR = re.compile(r"\|\s*(\d+)/(\d+) \[[^\]]*(?:it/s|s/it)")
"""A progress bar that counts updates."""

_END = re.compile(r"""['"]train_runtime['"]: .*['"]epoch['"]: ['"]?(\d[\d.]*)""")
"""The line of the Trainer at the end of a run."""


def counted_over_epochs(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with steps that go on from epoch to epoch; ``total`` is then the updates of one.

    Raises:
      ValueError: steps begin anew in each epoch, and how many an epoch has is not known.

    >>> table = {"step": np.array([5.0, 10, 5, 10]), "epoch": np.array([1.0, 1, 2, 2]), "total": np.full(4, 10.0)}
    >>> counted_over_epochs(table)["step"].tolist()
    [5.0, 10.0, 15.0, 20.0]
    """
    step, epoch, total = columns["step"], columns.get("epoch"), columns.get("total")
    others = {key: column for key, column in columns.items() if key != "epoch"}
    if epoch is None or np.isnan(epoch).any() or (epoch != np.floor(epoch)).any():
        return others
    anew, risen = np.diff(step) < 0, np.diff(epoch) > 0
    if not anew.any() or (anew & ~risen).any():
        return others
    known = total is not None and np.unique(total).size == 1
    require(known, "steps begin anew in each epoch, and the rows do not have the number of steps of one")
    assert total is not None
    return {**others, "step": step + (epoch - min(epoch[0], 1)) * total[0], "total": np.full(step.size, np.nan)}


def counted_by_bars(columns: dict[str, np.ndarray], lines: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns with the steps and the total that the progress bars between the rows give.

    A run of T updates in E epochs has a row of epoch e at step e T / E. T is what the run's bar counts to. E is the
    epoch of the last line of a run that ended; of one that was cut off, T / E follows from the bar's last count. As
    epochs are printed with a few digits, that is off by some updates: the equal intervals that it allows are taken.

    Raises:
      ValueError: there is no bar, or the epochs are too coarse.
    """
    if "step" in columns:
        return {key: column for key, column in columns.items() if key != "epoch"}
    epoch = columns["epoch"]
    total, per_epoch = _length(lines, columns)
    require(total, "rows have an epoch and no step, and no progress bar counts the updates; take trainer_state.json")
    trained = np.isfinite(columns.get("loss", np.full(epoch.size, np.nan)))
    off = 0.5 * 10.0 ** -_digits(epoch) * per_epoch + 0.5
    step = epoch * per_epoch
    if trained.any():
        step[trained] = _at_intervals(step[trained], off)
        step[~trained] = np.interp(epoch[~trained], epoch[trained], step[trained])
    others = {key: column for key, column in columns.items() if key != "epoch"}
    return {**others, "step": np.rint(step), "total": np.full(step.size, float(total))}


def _length(lines: Sequence[str], columns: dict[str, np.ndarray]) -> tuple[int, float]:
    """Updates of the run, and of an epoch; 0 where no bar counts them."""
    first, last = int(columns["line"][0]), int(columns["line"][-1])
    before = _BAR.findall("\n".join(lines[: first + 1]))
    between = _BAR.findall("\n".join(lines[first : last + 1]))
    after = _BAR.findall("\n".join(lines[last:]))
    total = int((before or between or after or [(0, 0)])[-1 if before else 0][1])
    end = _END.search("\n".join(lines[last:]))
    if end is not None:
        return total, total / float(end[1])
    counted = max((int(done) for done, of in between if int(of) == total), default=0)
    return total * bool(counted), counted / columns["epoch"][-1]


def _at_intervals(step: np.ndarray, off: float) -> np.ndarray:
    """Steps of equal distance, the first at one interval or at 1, that agree with steps known to ``off`` updates."""
    rows = np.arange(1, step.size + 1)
    guesses = []
    for shift in (0, 1):
        interval = max(round(step[-1] / max(step.size - shift, 1)), 1)
        guesses += [np.maximum((rows - shift) * (interval + more), 1) for more in (-1, 0, 1) if interval + more > 0]
    best = min(guesses, key=lambda guess: float(np.abs(guess - step).max()))
    if np.abs(best - step).max() <= off + 1e-6 * step[-1]:
        return best.astype(float)
    require(off <= 1, "epochs are printed with too few digits to tell the steps of the rows; take trainer_state.json")
    return np.rint(step)


def _digits(epoch: np.ndarray) -> int:
    """Digits behind the point that epochs are printed with."""
    return next((digits for digits in range(2, 8) if np.allclose(epoch, np.round(epoch, digits), atol=1e-12)), 8)
