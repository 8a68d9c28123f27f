"""What the options of verbs stand for: laws, fits, options of fits, clusters."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fmjax._checks import require, within
from fmjax._dask import dask_client
from fmjax.cli.parameters import Assigned
from fmjax.fitting.options import FitOptions
from fmjax.fitting.priors import KnownExponents, Priors
from fmjax.fitting.records import FitResult
from fmjax.laws import Law, make_law


def candidates(grid: Mapping[str, Any]) -> int:
    """Number of schedules that the options of a search ask for."""
    axes = ("total_steps", "total_tokens", "model_size", "tokens_per_step", "peak_lr", "decay", "final_lr")
    told = (grid.get(axis) for axis in (*axes, "anneal_ratio"))
    return math.prod(1 if axis is None else int(np.size(axis)) for axis in told)


def chosen_law(name: str, options: Sequence[Assigned]) -> Law:
    """The law of --law and --law-option."""
    chosen = dict(options)
    for option in ("sizes", "families", "family", "size_in_level"):
        require(option not in chosen, f"the option {option} is set by the fit, from the runs")
    return make_law(name, **chosen)


def planning_law(name: str | None, options: Sequence[Assigned]) -> Law | str | None:
    """The law of --law and --law-option for verbs that can choose it, or its effects' coefficients, on the runs."""
    require(name is not None or not options, "--law-option: needs --law")
    return chosen_law(name, options) if name is not None and options else name


def with_fits(given: Mapping[str, Any], usual: FitOptions) -> dict[str, Any]:
    """Options of a verb, those of its fits made into one; what is not given is as usual."""
    given = {**given, "prior": told_prior(given.get("prior"))}
    names = {field.name for field in dataclasses.fields(FitOptions)} & given.keys()
    rest = {name: value for name, value in given.items() if name not in names}
    return {**rest, "options": dataclasses.replace(usual, **{name: given[name] for name in names})}


@contextmanager
def fits_on(scheduler: str | None, given: Mapping[str, Any], usual: FitOptions) -> Iterator[dict[str, Any]]:
    """``with_fits`` for a ``with`` block in which the workers of a cluster do the fits, if --scheduler names one."""
    with workers_of(scheduler) as client:
        yield with_fits({**given, "client": client}, usual)


def told_prior(told: str | None) -> Priors:
    """The prior of --prior."""
    if told in (None, "none"):
        return "default" if told is None else None
    with within(told):
        return KnownExponents.from_json(Path(told).read_text(encoding="utf-8"))


def read_fit(path: Path) -> FitResult:
    """The fit in a file."""
    with within(path):
        return FitResult.from_json(path.read_text(encoding="utf-8"))


def workers_of(scheduler: str | None) -> AbstractContextManager[Any]:
    """The client of --scheduler for a ``with`` block; None where this process computes."""
    return nullcontext() if scheduler is None else dask_client(scheduler)


def can_trade(options: Mapping[str, object]) -> bool:
    """Whether batches are chosen among at equal tokens."""
    batches = options.get("tokens_per_step")
    return options.get("total_tokens") is not None and isinstance(batches, tuple) and len(batches) > 1
