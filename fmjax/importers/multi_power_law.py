"""Curves of the Multi-Power Law: training loss of models of 25, 100 and 400 million parameters, one CSV a schedule."""

import csv
import re
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path

import numpy as np

from fmjax._checks import choose, finite, require, whole, within
from fmjax.curves.loss_curve import LossCurve
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step

MODEL_SIZES = (25, 100, 400)
"""Sizes of the models, in millions of parameters."""

PAPER_TRAIN = ("constant_24000", "cosine_24000", "wsdcon_9")
"""Curves that the paper fits; it predicts all others."""

_PEAK, _FINAL, _WARMUP = 3e-4, 3e-5, 2160
_SWITCH, _SWITCHED_TOTAL = 8000, 16000
_TOLERANCE = 0.01  # of the peak: how far a logged rate may lie from the schedule


def load(clone: str | PathLike[str], *, size: int) -> tuple[LossCurve, ...]:
    r"""Reads the curves of one model size from a clone of thu-yao-01-luo/MultiPowerLaw.

    The file's name gives the schedule, with peak 3e-4 after 2160 updates of warmup from 0; T and D are updates:

    - ``constant_T``, ``cosine_T``: constant; cosine to 3e-5
    - ``wsd_D_T``, ``wsdld_D_T``: exponential or linear anneal to 3e-5 from update D on
    - ``wsdcon_K``: 16000 updates, at a rate of K 1e-5 from update 8000 on

    The logged rates must agree with it. Other files are ignored, with a warning.

    Args:
      clone: the folder of the clone; its ``loss_curve_repo/csv_{size}`` is read.
      size: millions of parameters, one of ``MODEL_SIZES``.

    Returns:
      The curves, by kind of schedule and length, with the paper's split: "train" (``PAPER_TRAIN``) or "test".

    Raises:
      ValueError: naming the folder, or the file and row (counted from 1), what was expected and what was found.

    Reference: arXiv 2503.12811.
    """
    choose(str(size), map(str, MODEL_SIZES), "size in millions of parameters")
    folder = Path(clone) / "loss_curve_repo" / f"csv_{size}"
    found = folder.is_dir()
    require(found, f"{folder}: expected this folder in a clone of thu-yao-01-luo/MultiPowerLaw, found none")
    files = {path.stem: path for path in folder.glob("*.csv")}
    names = sorted(filter(_kind, files), key=_order)
    unknown = sorted(files.keys() - set(names))
    if unknown:
        warnings.warn(f"{folder}: ignored curves of unknown schedules: {', '.join(unknown)}", stacklevel=2)
    require(names, f"{folder}: expected CSV files such as constant_24000.csv, found none")
    return tuple(_curve(files[name], size) for name in names)


def _constant(total: int) -> Schedule:
    return Constant(_PEAK, total, warmup_steps=_WARMUP)


def _cosine(total: int) -> Schedule:
    return Cosine(_PEAK, total, final_lr=_FINAL, warmup_steps=_WARMUP)


def _exponential(start: int, total: int) -> Schedule:
    return WSD(_PEAK, total, (total - start) / total, "exponential", _FINAL, _WARMUP)


def _linear(start: int, total: int) -> Schedule:
    return WSD(_PEAK, total, (total - start) / total, "linear", _FINAL, _WARMUP)


def _switched(rate: int) -> Schedule:
    return Step(_PEAK, _SWITCHED_TOTAL, boundaries=(_SWITCH,), lrs=(rate * 1e-5,), warmup_steps=_WARMUP)


_KINDS: dict[str, Callable[..., Schedule]] = {
    r"constant_(\d+)": _constant,
    r"cosine_(\d+)": _cosine,
    r"wsd_(\d+)_(\d+)": _exponential,
    r"wsdld_(\d+)_(\d+)": _linear,
    r"wsdcon_(\d+)": _switched,
}


def _kind(name: str) -> str:
    """The pattern of ``_KINDS`` that a file's name matches, empty if none does."""
    return next((kind for kind in _KINDS if re.fullmatch(kind, name)), "")


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _order(name: str) -> tuple[int, list[int]]:
    return list(_KINDS).index(_kind(name)), _numbers(name)


def _curve(file: Path, size: int) -> LossCurve:
    with within(file):
        schedule = _KINDS[_kind(file.stem)](*_numbers(file.stem))
        step, lr, loss = _read(file)
        split = "train" if file.stem in PAPER_TRAIN else "test"
        curve = LossCurve(file.stem, step, loss, schedule, model_size=size * 10**6, split=split)
        _check_rates(schedule, step, lr)
    return curve


def _read(file: Path) -> np.ndarray:
    """Columns step, lr and loss, ``[3, rows]``."""
    with file.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        header = rows.fieldnames or ()
        right = {"step", "lr", "loss"} <= set(header)
        require(right, f"expected the columns step, lr, loss, found: {', '.join(header) or 'an empty file'}")
        columns = [_row(i, row) for i, row in enumerate(rows, start=1)]
    require(columns, "expected at least one row, found only a header")
    return np.array(columns, np.float64).T


def _row(number: int, row: dict[str, str]) -> tuple[int, float, float]:
    with within(f"row {number}"):
        return whole(row["step"], "step"), finite(row["lr"], "lr"), finite(row["loss"], "loss")


def _check_rates(schedule: Schedule, step: np.ndarray, lr: np.ndarray) -> None:
    """Each logged rate is that of its update or, where the rate jumps, of the one before."""
    expected = np.asarray(schedule(step))
    gap = np.minimum(abs(lr - expected), abs(lr - np.asarray(schedule(step - 1))))
    i = int(np.argmax(gap))
    fits = gap[i] <= _TOLERANCE * _PEAK
    require(fits, f"row {i + 1}: expected a rate of {expected[i]:.4g} by the file's name, found {lr[i]:.4g}")
