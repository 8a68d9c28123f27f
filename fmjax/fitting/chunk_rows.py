"""How rows are handed to lanes, so that few programs are compiled: in few shapes, whatever the number of sets."""

import math
from typing import Literal

import jax
import numpy as np
from jax.sharding import NamedSharding

from fmjax._devices import REPLICATED, local_mesh
from fmjax._types import Array
from fmjax.fitting.objective import Rows

PADDED_ROWS = 1024
"""Rows that those of small fits are padded to, so that all of them take one program."""

MANY_LANES = 512
"""Lanes up to which one program for all fits of a law counts for more than the time of these."""

FEW_NUMBERS = 16
"""Numbers of a row, of all effects, up to which lanes are handed their effects one by one."""


def widened(rows: Rows) -> Rows:
    """Rows with ``PADDED_ROWS`` at least; further rows repeat the last one."""
    missing = PADDED_ROWS - np.shape(rows.loss)[1]
    return rows if missing <= 0 else jax.tree.map(lambda x: _padded(x, missing, mode="edge"), rows)


def widened_weights(weights: Array) -> Array:
    """Weights ``[lanes, rows]`` of ``widened`` rows; further rows weigh nothing."""
    missing = PADDED_ROWS - weights.shape[1]
    return weights if missing <= 0 else _padded(weights, missing)


def _padded(values: Array, missing: int, mode: Literal["edge", "constant"] = "constant") -> np.ndarray:
    """Values ``[..., rows, ...]`` with further rows along their second axis."""
    return np.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (np.ndim(values) - 2)], mode=mode)


def are_narrow(rows: Rows) -> bool:
    """Whether a row has so few numbers that each lane may be handed its own effects."""
    return sum(math.prod(np.shape(x)[2:]) for x in rows.effects.values()) <= FEW_NUMBERS


def handed(rows: Rows, sets: np.ndarray, effects_sets: np.ndarray, *, each: bool) -> Rows:
    """Losses of lanes of these sets, with the effects of each, or those of the first for all."""
    chosen = effects_sets if each else effects_sets[:1]
    return Rows({key: _of_sets(x, chosen) for key, x in rows.effects.items()}, _of_sets(rows.loss, sets))


def _of_sets(values: Array, sets: np.ndarray) -> Array:
    return values[sets if len(values) > 1 else np.zeros(sets.size, int)]


def cut_by_set(index: np.ndarray, sets: np.ndarray, most: int) -> list[np.ndarray]:
    """Lanes in chunks of at most so many, all of one of the sets ``[lanes]``."""
    own = sets[index]
    apart = [index[own == one] for one in np.unique(own)]
    return [of[i : i + most] for of in apart for i in range(0, of.size, most)]


class ChunkRows:
    """The rows of chunks of lanes.

    A chunk is handed the losses of its lanes, and their effects: on a CPU those of each lane where they are few
    numbers, else one set, which all lanes of the chunk have. So the number of sets is in no shape. A fit, fits without
    each run, bootstrap samples and choices of options of one law take one program. An accelerator takes lanes of many
    sets at once.

    Args:
      rows: sets of rows.
      sets: ``[lanes]`` which set each lane has.
      effects_sets: ``[lanes]`` which set of effects, where there are fewer than of losses; else None.
      each: whether each lane is handed its own effects; None where that is to be found.
    """

    def __init__(
        self,
        rows: Rows,
        sets: np.ndarray,
        effects_sets: np.ndarray | None,
        each: bool | None = None,
    ) -> None:
        self.sets = sets
        self._shared = all(len(x) == 1 for x in rows.effects.values())
        told, on_cpu = sets if effects_sets is None else effects_sets, jax.default_backend() == "cpu"
        self.effects_sets = np.zeros_like(told) if self._shared else told
        few = not self._shared or sets.size <= MANY_LANES
        self.each = on_cpu and are_narrow(rows) and few if each is None else each
        self._split = on_cpu and not self._shared and not self.each
        if not (on_cpu or self._shared) and effects_sets is not None:
            rows = rows._replace(effects={key: x[told] for key, x in rows.effects.items()})
        self.all = jax.tree.map(np.asarray, rows)
        self._kept: Rows | None = None
        if not (self.each or self._split):
            kept = rows._replace(loss=self.all.loss[:1]) if self._shared else rows
            mesh = local_mesh()
            self._kept = jax.device_put(kept, None if mesh is None else NamedSharding(mesh, REPLICATED))

    @property
    def sharded(self) -> tuple[bool, bool]:
        """Whether each lane has effects of its own among those that ``of`` gives, and losses of its own."""
        return self.each, self.each or self._split or self._shared

    @property
    def together(self) -> int:
        """Most lanes that one chunk can have."""
        return int(np.bincount(self.effects_sets).max()) if self._split else self.sets.size

    def cut(self, active: np.ndarray, most: int) -> list[np.ndarray]:
        """Lanes in chunks of at most so many."""
        return cut_by_set(active, self.effects_sets if self._split else np.zeros_like(self.sets), most)

    def of(self, lanes: np.ndarray) -> tuple[Rows, np.ndarray]:
        """The rows of a chunk's lanes, and the set of each: its place on its device where losses are its own."""
        sets = self.sets[lanes]
        if self._kept is not None and not self._shared:
            return self._kept, sets
        places = np.arange(lanes.size) % (lanes.size // jax.local_device_count())
        if self._kept is None:
            return handed(self.all, sets, self.effects_sets[lanes], each=self.each), places
        return self._kept._replace(loss=_of_sets(self.all.loss, sets)), places
