"""Records as plain values for JSON."""

import json
import math
from typing import Any

import jax
import numpy as np


class AsText:
    """A value that JSON holds as text, as ``str`` writes it."""


def plain(value: object) -> Any:
    """Tuples as lists, NumPy and JAX scalars as numbers, and non-finite numbers as None: what strict JSON can hold."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, AsText):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Record:
    """What a verb returns: its JSON is what ``to_dict`` makes of it."""

    def to_dict(self) -> dict[str, object]:
        """The record as plain values; see ``plain``."""
        raise NotImplementedError

    def to_json(self) -> str:
        """The record as JSON text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)
