"""What fits and evaluations return: immutable records that read and write JSON."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import choose, positive, require
from fmjax._json import Record, plain
from fmjax.fitting import lanes
from fmjax.fitting.fitted_runs import FittedRuns
from fmjax.fitting.priors import LearnedExponent
from fmjax.laws import Law, make_law
from fmjax.laws.base import NEEDS_BATCH, ONE_BATCH
from fmjax.schedules.batch_stages import Batch, batch_of, batch_sizes

FIT_FORMAT = 1
"""Version of the JSON of a fit."""


MEAN_ERRORS = ("train_mape_percent", "test_mape_percent", "test_paired_mape_percent")
"""Mean errors of an evaluation, in its JSON."""

UNTOLD = 0.5
"""Share of the precision of an exponent below which the data did not decide it."""

SAME_PEAK = 1e-3
"""Relative difference up to which two peak rates count as one."""

ONE_SIZE = "the fitted runs have one size, so the law has no size in it"
"""Why several sizes cannot be planned for."""


class RunMetrics(NamedTuple):
    """How well one run is predicted, on the loss itself; rows before the end of warmup do not count."""

    name: str
    split: str | None
    mape_percent: float
    worst_percent: float
    rmse: float
    r2: float
    final_loss_predicted: float
    final_loss: float
    row_error: float = float("nan")
    """Root mean square of the log error of a row, rows far off pulled in; NaN in fits read from older files."""
    paired_mape_percent: float = float("nan")
    """``mape_percent`` without the noise that fitted runs had at the same steps; NaN where it was not looked for."""
    shared_noise: float = float("nan")
    """Share of the variance of its rows' noise that fitted runs had as well; likewise."""

    @property
    def relative_error(self) -> float:
        """``row_error``; of a fit from an older file the root mean square over all rows."""
        return self.rmse / self.final_loss if np.isnan(self.row_error) else self.row_error


class FittedRange(NamedTuple):
    """What the schedules of fitted runs cover; beyond it a law extrapolates."""

    total_steps: tuple[int, int]
    """Least and greatest number of updates."""
    peak_lr: tuple[float, float]
    """Least and greatest peak rate."""
    steepest: float
    """Largest drop of the rate over one update after warmup, relative to the run's peak."""
    lowest: float
    """Lowest rate after warmup, likewise."""
    model_size: tuple[float, float] | None = None
    """Least and greatest model size; None where not every run has one, and in fits from older files."""
    tokens_per_step: tuple[float, float] | None = None
    """Least and greatest batch, in tokens an update; likewise."""

    def has_peak(self, peak_lr: float) -> bool:
        """Whether a peak rate lies among those fitted."""
        low, high = self.peak_lr
        return low * (1 - SAME_PEAK) <= peak_lr <= high * (1 + SAME_PEAK)

    def outside(
        self, total_steps: int, peak_lr: float, model_size: float | None = None, tokens_per_step: Batch | None = None
    ) -> tuple[str, ...]:
        """In what a plan lies outside the fitted runs: "total_steps", "peak_lr", "model_size", "tokens_per_step"."""
        beyond = {
            "total_steps": total_steps > self.total_steps[1],
            "peak_lr": not self.has_peak(peak_lr),
            "model_size": _is_outside(model_size, self.model_size),
            "tokens_per_step": _is_outside(tokens_per_step, self.tokens_per_step),
        }
        return tuple(name for name, is_beyond in beyond.items() if is_beyond)

    def other_models(self, sizes: np.ndarray | None, batches: np.ndarray | None) -> Iterator[str]:
        """Notes on model sizes and batches of a plan outside those fitted, one note each."""
        of = {"model size": (sizes, self.model_size), "tokens an update": (batches, self.tokens_per_step)}
        for what, (planned, ends) in of.items():
            others = [] if planned is None else [value for value in planned.tolist() if _is_outside(value, ends)]
            if ends is not None and others:
                named = f"{others[0]:.4g}" if len(others) == 1 else f"{others[0]:.4g} ... {others[-1]:.4g}"
                yield f"{what} {named}: outside those fitted, {ends[0]:.4g} ... {ends[1]:.4g}"

    def longer(self, total_steps: int) -> tuple[str, ...]:
        """A note that a run is longer than every fitted one, or nothing."""
        longest = self.total_steps[1]
        said = f"extrapolates to {total_steps / longest:.3g} x the longest fitted run ({longest} updates)"
        return (said,) if total_steps > longest else ()


def _is_outside(value: Batch | None, ends: tuple[float, float] | None) -> bool:
    if ends is None:
        return False
    return any(not ends[0] * (1 - ONE_BATCH) <= size <= ends[1] * (1 + ONE_BATCH) for size in batch_sizes([value]))


@dataclass(frozen=True)
class FitResult(Record):
    """A fitted law.

    ``params`` holds NaN for parameters that the data do not determine. ``lanes`` has the outcome of every start.
    """

    law: Law
    params: dict[str, float]
    objective: float
    rows: int
    status: str
    undetermined: tuple[str, ...]
    at_bound: tuple[str, ...]
    residual: str
    delta: float
    runs: tuple[RunMetrics, ...]
    lanes: lanes.Lanes
    reach: FittedRange | None = None
    """What the fitted runs cover; None in fits read from files older than this field."""
    trained_with: FittedRuns | None = None
    """What the fitted runs were trained with; likewise."""
    left_out: tuple[str, ...] = ()
    """Notes on runs that have no row to fit."""
    prior: tuple[LearnedExponent, ...] = ()
    """Exponents that had a prior, and what the data made of them."""
    open_without_prior: tuple[str, ...] = ()
    """Parameters that the runs alone leave open, where the law's own prior was taken for that reason."""
    left_open: tuple[str, ...] = ()
    """Parameters that stay open even with that prior, while the losses of anneals like those fitted do not."""
    scale: float = float("nan")
    """Objective that counts as one unit of log likelihood beside the prior; see ``fmjax.fitting.priors``."""

    @property
    def ok(self) -> bool:
        """Whether every parameter can be used."""
        return self.status in ("converged", "at-bound")

    @property
    def vector(self) -> np.ndarray:
        """Parameters as an array, in the law's order."""
        return np.array([self.params[name] for name in self.law.parameter_names])

    @property
    def message(self) -> str:
        """The status as a sentence."""
        names = {"undetermined": self.undetermined, "at-bound": self.at_bound}.get(self.status, ())
        return lanes.FIT_STATUS[self.status] + (f": {', '.join(names)}" if names else "")

    def log_size(self, model_size: float | None) -> float:
        """Log of the model size to predict for, which a fit over several sizes needs; 0 where none is given."""
        needed = getattr(self.law, "sizes", False)
        require(not needed or model_size is not None, "the fit spans several model sizes, so model_size is needed")
        if model_size is not None and self.law.size_in_level and self.trained_with is not None:
            self.trained_with.check_size(self.law.family, positive(model_size, "model_size"))
        return float(np.log(positive(model_size, "model_size"))) if model_size is not None else 0.0

    def for_family(self, family: str | None) -> "FitResult":
        """The fit that predicts plans of a family of models; without it, of the only one of the fitted runs.

        Raises:
          ValueError: none is told where there are several, or one that was not fitted.
        """
        told = family if self.trained_with is None else self.trained_with.family_told(family)
        return dataclasses.replace(self, law=self.law.for_family(told))

    @property
    def family_size(self) -> float | None:
        """The only model size of the family that the fit predicts; None where it has several, or there are none."""
        named = self.trained_with is not None and self.law.family is not None
        return self.trained_with.only_size(self.law.family) if named else None  # type: ignore[union-attr]

    def law_for(self, tokens_per_step: Batch | str | None) -> Law:
        """The law that predicts plans of this batch size, which a fit over several batch sizes needs.

        Raises:
          ValueError: no batch size where it is needed; or another than that of the fitted runs, under a law without it.
        """
        if self.law.spans_batches:
            require(tokens_per_step is not None, NEEDS_BATCH)
            return self.law.for_batch(batch_of(tokens_per_step, "tokens_per_step"))
        if tokens_per_step is not None:
            wanted, runs = batch_of(tokens_per_step, "tokens_per_step"), self.trained_with
            known = set(batch_sizes(runs.tokens_per_step)) if runs else set()
            sizes = batch_sizes([wanted])
            same = known and max(abs(tokens / size - 1) for tokens in known for size in sizes) <= ONE_BATCH
            had = " and ".join(f"{tokens:g}" for tokens in sorted({min(known), max(known)})) if known else "unknown"
            require(
                same,
                f"tokens_per_step: {self.law.name} as fitted has no batch size in it; "
                f"expected that of the fitted runs, {had}, got {wanted:g}",
            )
        return self.law

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the fitted runs, for every verb that uses the fit."""
        law, runs = self.law, self.trained_with
        of_runs = () if runs is None else runs.notes(batches=law.spans_batches, families=bool(law.families))
        unsure = ", ".join(learned.name for learned in self.prior if learned.told < UNTOLD)
        said: tuple[str, ...] = (f"the prior decides more than the data on: {unsure}",) if unsure else ()
        if self.open_without_prior:
            held = ", ".join(learned.name for learned in self.prior)
            said = (
                f"the runs alone leave open {', '.join(self.open_without_prior)}; taken with a prior on {held}",
                *said,
            )
        if self.left_open:
            open_ = ", ".join(self.left_open)
            said += (f"{open_}: of little meaning by themselves, as terms of the memory can take their place",)
        return self.left_out + said + of_runs

    def plan_notes(self, total_steps: int, peak_lr: float) -> tuple[str, ...]:
        """Notes on where a plan lies outside the fitted runs."""
        if self.reach is None:
            return ()
        (low, high), said = self.reach.peak_lr, self.reach.longer(total_steps)
        outside = f"peak rate {peak_lr:.4g} lies outside those fitted, {low:.4g} ... {high:.4g}"
        return said if self.reach.has_peak(peak_lr) else (*said, outside)

    def loss_limits(self, total_steps: int) -> tuple[float, float]:
        """Below and above which no prediction of a final loss is right: the fitted L0, and what fitted runs began with.

        L0 is that of the family planned for. It is no limit, and 0 is, where it is open or a fitted run got below it. A
        fit from an older file has no limits.
        """
        if self.trained_with is None:
            return -float("inf"), float("inf")
        floor = 0.0 if "L0" in self.left_open else self.law.level_of(self.params)
        floor = floor if floor <= min(self.trained_with.least_loss) else 0.0
        return floor * (1 - 1e-9), self.trained_with.most_loss(total_steps)

    def doubts(self, loss: float, total_steps: int) -> tuple[str, ...]:
        """Why a predicted final loss cannot be right; see ``loss_limits``."""
        least, most = self.loss_limits(total_steps)
        if loss < least:
            return (f"a predicted loss of {loss:.4g} lies below what the law can reach, {least:.4g}",)
        began = f"a predicted loss of {loss:.4g} lies above the first rows of the fitted runs, at most {most:.4g}"
        return (began,) if loss > most else ()

    def with_runs(
        self, runs: Sequence["RunMetrics"], reach: FittedRange, trained_with: FittedRuns | None = None
    ) -> "FitResult":
        """The same fit with metrics of its runs, what they cover and what they were trained with."""
        return dataclasses.replace(self, runs=tuple(runs), reach=reach, trained_with=trained_with or self.trained_with)

    def to_dict(self) -> dict[str, object]:
        """The result as plain values for JSON; NaN becomes None."""
        record = {
            "format": FIT_FORMAT,
            "law": self.law.name,
            "options": self.law.options(),
            "params": self.params,
            "objective": self.objective,
            "rows": self.rows,
            "status": self.status,
            "message": self.message,
            "undetermined": self.undetermined,
            "at_bound": self.at_bound,
            "residual": self.residual,
            "delta": self.delta,
            "runs": [run._asdict() for run in self.runs],
            "reach": None if self.reach is None else self.reach._asdict(),
            "trained_with": None if self.trained_with is None else self.trained_with._asdict(),
            "left_out": self.left_out,
            "prior": [learned.to_dict() for learned in self.prior],
            "open_without_prior": self.open_without_prior,
            "left_open": self.left_open,
            "scale": self.scale,
            "notes": self.notes,
            "lanes": {key: np.asarray(value).tolist() for key, value in self.lanes._asdict().items()},
        }
        return plain(record)

    @classmethod
    def from_json(cls, text: str) -> "FitResult":
        """Reads what ``to_json`` wrote.

        Raises:
          ValueError: not such a file, another version of it, or an unknown law, option or parameter.
        """
        try:
            record = json.loads(text)
            require(isinstance(record, dict) and "params" in record and "law" in record, "not a fit file")
            found = record.get("format")
            require(
                found == FIT_FORMAT, f"fit file has format {found!r}, this fmjax reads format {FIT_FORMAT}; fit again"
            )
            return cls._from_dict(record)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a fit file: invalid JSON ({error})") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"damaged fit file: {type(error).__name__} {error}") from None

    @classmethod
    def _from_dict(cls, record: dict[str, Any]) -> "FitResult":
        options = {name: tuple(x) if isinstance(x, list) else x for name, x in record["options"].items()}
        law = make_law(record["law"], **options)
        expected, names = set(law.parameter_names), set(record["params"])
        require(names == expected, f"fit file: {law.name} has parameters {sorted(expected)}, found {sorted(names)}")
        choose(record["status"], lanes.FIT_STATUS, "status")
        nan = partial(_none_as, float("nan"))
        read: dict[str, Any] = {"params": _floats, "objective": _floats, "status": np.array, "iterations": np.array}
        return cls(
            law=law,
            params={name: nan(value) for name, value in record["params"].items()},
            objective=nan(record["objective"]),
            runs=tuple(
                RunMetrics(**{key: _metric(key, value) for key, value in run.items()}) for run in record["runs"]
            ),
            lanes=lanes.Lanes(**{key: read[key](value) for key, value in record["lanes"].items()}),
            reach=_reach(record.get("reach")),
            trained_with=FittedRuns.from_dict(record["trained_with"]) if record.get("trained_with") else None,
            left_out=tuple(record.get("left_out", ())),
            prior=tuple(LearnedExponent.from_dict(learned) for learned in record.get("prior", ())),
            open_without_prior=tuple(record.get("open_without_prior", ())),
            left_open=tuple(record.get("left_open", ())),
            scale=nan(record.get("scale")),
            undetermined=tuple(record["undetermined"]),
            at_bound=tuple(record["at_bound"]),
            **{key: record[key] for key in ("rows", "status", "residual", "delta")},
        )


def _reach(record: dict[str, Any] | None) -> FittedRange | None:
    if record is None:
        return None
    steps, peaks = tuple(record["total_steps"]), tuple(record["peak_lr"])
    told = [tuple(record[name]) if record.get(name) else None for name in ("model_size", "tokens_per_step")]
    return FittedRange(steps, peaks, float(record["steepest"]), float(record["lowest"]), *told)


def _none_as(default: float, value: Any) -> float:
    return default if value is None else float(value)


def _metric(key: str, value: Any) -> Any:
    return value if key in ("name", "split") else _none_as(float("nan"), value)


def _floats(value: Any) -> np.ndarray:
    found = np.array(value, float)  # None becomes NaN
    return np.where(np.isnan(found), np.inf, found)


@dataclass(frozen=True)
class Evaluation(Record):
    """A law fitted on some runs and used to predict all: ``runs`` in the given order, ``trained`` the fitted names."""

    fit: FitResult
    runs: tuple[RunMetrics, ...]
    trained: tuple[str, ...]

    @property
    def train_mape_percent(self) -> float:
        """Mean over fitted runs of the mean absolute percentage error."""
        return _mean([run.mape_percent for run in self.runs if run.name in self.trained])

    @property
    def test_mape_percent(self) -> float:
        """Mean over unseen runs of the mean absolute percentage error; NaN without any."""
        return _mean([run.mape_percent for run in self.runs if run.name not in self.trained])

    @property
    def test_paired_mape_percent(self) -> float:
        """The same without the noise that the fitted runs had at the same steps; see ``fmjax.fitting.shared_noise``."""
        return _mean([run.paired_mape_percent for run in self.runs if run.name not in self.trained])

    def to_dict(self) -> dict[str, object]:
        """The evaluation as plain values for JSON."""
        fit_keys = ("law", "options", "objective", "params", "status", "message", "notes")
        record = {key: value for key, value in self.fit.to_dict().items() if key in fit_keys}
        mapes = {key: getattr(self, key) for key in MEAN_ERRORS}
        return plain({**record, "trained": self.trained, "runs": [run._asdict() for run in self.runs], **mapes})


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
