"""What a law is made of: coefficients, exponents and options, with their bounds, starts and priors."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Coefficient(NamedTuple):
    """A parameter in which the loss is linear."""

    name: str
    lower: float = -np.inf
    upper: float = np.inf
    mixture: bool = False
    """Whether only the sum of its term with its neighbours' means something: it may well be zero, or not determined."""


class Gaussian(NamedTuple):
    """What is held of a number before the data: a mean and a standard deviation, 0 for a number that is held."""

    mean: float
    sd: float


class Exponent(NamedTuple):
    """A parameter in which the loss is not linear, with the grid of starts to try."""

    name: str
    lower: float
    upper: float
    starts: tuple[float, ...]
    prior: Gaussian | None = None
    """What other runs have shown of it, for fits that need it."""


ALPHA = Exponent("alpha", 1e-3, 5.0, tuple(np.geomspace(0.05, 2.5, 24).tolist()))


class Scale(NamedTuple):
    """How values of an option lie on a line along which equal steps matter about equally."""

    place: Callable[[float], float]
    """The place of a value on the line."""
    value: Callable[[jax.Array], jax.Array]
    """The value at a place."""
    holds: Callable[[float], bool]
    """Whether a value may be had at all."""
    range: str
    """Which may, in words."""


POSITIVE = Scale(math.log, jnp.exp, lambda x: x > 0, "above zero")
"""Numbers above zero, by their logarithm."""

PER_UPDATE = Scale(lambda x: math.log(1 - x), lambda z: 1 - jnp.exp(z), lambda x: 0 <= x < 1, "in [0, 1)")
"""Decays per update, by the logarithm of what they forget."""


class Option(NamedTuple):
    """A number that a law's effects depend on: a fit takes it as it is, ``select`` chooses it on the runs."""

    name: str
    """The field of the law that holds it."""
    lower: float
    upper: float
    """Ends of the range that ``select`` refines it in."""
    tried: tuple[float, ...] = ()
    """Values that ``select`` tries by default; none where it is to be chosen only when asked for."""
    scale: Scale = POSITIVE
    none: float | None = None
    """The number that None stands for, if it stands for one."""


RATE_EXPONENT = Option("rho", 0.3, 1.5, (0.5, 0.6, 0.7, 0.85, 1.0), none=1.0)
"""Exponent on the rate in S, of laws in which it is an option."""

BETA = (1e-3, 5.0, (0.05, 0.1, 0.2, 0.35, 0.6, 1.0))
"""Bounds and starts of the exponent on the model size."""
