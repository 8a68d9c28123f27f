"""Options of a fit, as one record that every verb that fits takes."""

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jax

from fmjax._checks import Call, choose, known_options
from fmjax._names import DTYPES
from fmjax.fitting import lanes
from fmjax.fitting.priors import Priors

if TYPE_CHECKING:
    from distributed import Client


@known_options("a fit")
@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How to fit; see ``fit``, which takes the same options by name.

    Raises:
      ValueError: an option that there is not, with the nearest that there is.

    >>> FitOptions(residual="raw").starts
    8
    """

    residual: str = "log"
    delta: float = 1e-3
    over_weight: float = 1.0
    drop_warmup: bool = True
    drop_before: int = 0
    end_weight: float = 1.0
    starts: int = 8
    max_iterations: int = lanes.MAX_ITERATIONS
    dtype: str = "float64"
    prior: Priors = "default"
    client: "Client | None" = field(default=None, compare=False, repr=False)
    """A ``distributed.Client``: the workers of its cluster do what is many fits at once, to the same bytes."""


ONE_FIT = FitOptions()
"""For verbs that fit a law once: starts cost little there."""

MANY_FITS = FitOptions(starts=3)
"""For verbs that fit every law at each peak rate, and again without each run: their time grows with the starts, and
the best of the closed-form starts come first."""


def precision(options: FitOptions) -> AbstractContextManager[object]:
    """Context in which JAX computes in the options' dtype."""
    return jax.enable_x64(choose(options.dtype, DTYPES, "dtype") == "float64")


def fitting_verb(verb: Call) -> Call:
    """Has a verb with ``options: FitOptions`` name the option that was meant, where it is given an unknown one."""
    hint = "; it is an option of its fits: options=FitOptions({}=...)"
    hints = {field.name: hint.format(field.name) for field in dataclasses.fields(FitOptions)}
    return known_options(verb.__name__, hints)(verb)
