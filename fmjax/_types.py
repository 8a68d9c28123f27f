"""Types that several folders share."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array of JAX, traced or not, or of NumPy."""

Real: TypeAlias = float | np.number | jax.Array | np.ndarray
"""A number or an array of numbers; each may be traced by JAX."""

Reals: TypeAlias = Sequence[float] | Sequence[jax.Array] | jax.Array | np.ndarray
"""Several numbers, which may be traced."""

HostNumbers: TypeAlias = float | Sequence[float] | np.ndarray
"""One number or many, on the host."""

Dtype: TypeAlias = str | type[np.generic] | np.dtype
"""What names a precision: "float64", "float32", or NumPy's own types."""
