"""The final losses of a grid's candidates, part by part, on all local devices."""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from fmjax._devices import EACH, REPLICATED, SHARDED, Pool, local_mesh, over_mesh
from fmjax.laws import Law, Row
from fmjax.searching.grid import Grid, Part
from fmjax.searching.panels import Panels
from fmjax.searching.run_ends import Alike, Group, Run, alike, end_effects, groups_of, panels_of

CALL = 2**22
"""Losses (parameter vectors x rows x ratios) computed in one call."""

PART = 2**24
"""Losses of a part; memory is bounded by this."""

Places: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Rows and ratios of candidates, as places in a part and in the grid."""


class Layout(NamedTuple):
    """How the candidates of a grid are cut up. It follows from the grid and the kind of device, not their number."""

    rows: int
    """Cells of a part."""
    ratios: int
    """Ratios of a call."""
    branches: int
    """Groups computed side by side."""
    lanes: int = 1
    """Cells of a group."""

    @classmethod
    def of(cls, grid: Grid, vectors: int, platform: str, law: Law) -> "Layout":
        """The layout for a grid and a law, found by measurement.

        On a CPU the weighted updates of 64 candidates stay in the cache.
        """
        pairs, count, is_cpu = grid.peak_lr.size * grid.final_lr.size, grid.anneal_ratio.size, platform == "cpu"
        if stands_for_all(law, grid):
            most, ratios, side = (2**14, 64, 64) if is_cpu else (2**14, 2**8, 2**8)
            ratios = _even(count, min(ratios, max(1, CALL // vectors)))
            rows = _even(pairs, max(1, min(most, CALL // (vectors * ratios), PART // (vectors * count))))
            return cls(rows, ratios, min(side, ratios))
        most, side, call = (1024, 64, 2**12) if is_cpu else (2**14, 2**12, 2**16)
        call = max(1, min(call, CALL // vectors))
        rows = _even(pairs, max(1, min(most, call, PART // (vectors * count))))
        ratios = _even(count, max(1, call // rows))
        lanes = _even(rows, side)
        return cls(rows, ratios, max(1, min(side // lanes, ratios)), lanes)


def stands_for_all(law: Law, grid: Grid) -> bool:
    """Whether the effects of one peak rate give those of all."""
    return law.scales and grid.scales


def _even(count: int, most: int) -> int:
    """Size of the largest of as few parts of like size as can be, of at most so many."""
    return -(-count // -(-count // most))


class Kernel(NamedTuple):
    """What every call of a search shares."""

    law: Law
    vectors: np.ndarray
    """``[vectors, parameters]`` the fit, and bootstrap samples of it."""
    grid: Grid
    dtype: str
    layout: Layout

    def losses(self, parts: Iterable[Part]) -> Iterator[tuple[Part, np.ndarray]]:
        """Yields each part with its losses ``[vectors, rows, ratios]``, in order, while the devices work ahead."""
        waiting: deque[tuple[Part, list[Future[tuple[Places, np.ndarray]]]]] = deque()
        with Pool(x64=True) as pool:
            for part in parts:
                waiting.append((part, [self._submit(pool, part, groups) for groups in self._calls(part)]))
                while sum(len(calls) for _, calls in waiting) > 2 * pool.size:
                    yield self._gather(*waiting.popleft())
            while waiting:
                yield self._gather(*waiting.popleft())

    def _submit(self, pool: Pool, part: Part, groups: tuple[Group, ...]) -> "Future[tuple[Places, np.ndarray]]":
        return pool.submit(partial(self.call, part, groups), program=self._program(part))

    def call(self, part: Part, groups: tuple[Group, ...]) -> tuple[Places, np.ndarray]:
        """Losses ``[vectors, ...]`` of some candidates of a part, and which they are; all in shapes of the layout."""
        return self._multiples(part, groups) if self._scaled else self._ends(part, groups)

    def _calls(self, part: Part) -> Iterator[tuple[Group, ...]]:
        """Groups of each call."""
        seen, lanes = (self.grid.unit(part), 1) if self._scaled else (part, self.layout.lanes)
        groups = groups_of(self.law, seen, self.grid, lanes)
        while call := tuple(islice(groups, self._groups)):
            yield call

    @property
    def _scaled(self) -> bool:
        return stands_for_all(self.law, self.grid)

    @property
    def _groups(self) -> int:
        """Groups of a call: for every device the same multiple of those side by side."""
        rows, ratios, branches, lanes = self.layout
        groups = ratios if self._scaled else ratios * -(-rows // lanes)
        return -(-groups // branches) * branches * jax.local_device_count()

    def _program(self, part: Part) -> Hashable:
        """What tells the compiled program of one call from that of another."""
        options = (self.dtype, self.layout, self._scaled, len(self.vectors), part.decay)
        return (jax.tree.structure(self._law_of(part)), panels_of(self.law, self.grid, part), *options)

    def _gather(self, part: Part, calls: list["Future[tuple[Places, np.ndarray]]"]) -> tuple[Part, np.ndarray]:
        losses = np.empty((len(self.vectors), part.cells.size, self.grid.anneal_ratio.size))
        for (rows, ratios), found in (call.result() for call in calls):
            losses[:, rows, ratios] = found
        return part, losses

    def _shared(self, part: Part) -> tuple[Law, np.ndarray, Run, np.ndarray]:
        """What all candidates of a part share."""
        grid = self.grid
        run = Run(np.int32(part.total_steps), np.int32(grid.warmup_steps), np.asarray(grid.init_lr, self.dtype))
        law = jax.tree.map(float, self._law_of(part))  # 1 - beta must be taken in float64, also for float32
        log_n = np.log(1.0 if part.model_size is None else part.model_size)
        return law, self.vectors.astype(self.dtype), run, np.asarray(log_n, self.dtype)

    def _of_program(self, part: Part) -> dict[str, Any]:
        """Static arguments of the program of a part."""
        return {"decay": part.decay, "together": self.layout.branches, "mesh": local_mesh()}

    def _law_of(self, part: Part) -> Law:
        """The law for the batch of a part."""
        tokens = part.tokens_per_step if self.law.spans_batches else None
        return self.law if tokens is None else self.law.for_batch(tokens)

    def _ends(self, part: Part, groups: tuple[Group, ...]) -> tuple[Places, np.ndarray]:
        """Losses ``[vectors, candidates]`` of some groups of a part, and which candidates they are."""
        shape = self._groups, self.layout.lanes
        runs = alike(self.law, groups, part, self.grid, shape, self.dtype)
        found = end_losses(*self._shared(part), *runs, **self._of_program(part))
        rows = np.concatenate([group.rows for group in groups])
        ratios = np.repeat([group.ratio for group in groups], [group.rows.size for group in groups])
        real = np.arange(shape[1]) < np.array([[group.rows.size] for group in groups])
        return (rows, ratios), np.asarray(found, float)[:, : len(groups)][:, real]

    def _multiples(self, part: Part, groups: tuple[Group, ...]) -> tuple[Places, np.ndarray]:
        """Losses ``[vectors, ratios, rows]`` of some ratios of a part whose schedules are multiples of the groups'."""
        runs = alike(self.law, groups, self.grid.unit(part), self.grid, (self._groups, 1), self.dtype)
        factor = np.resize(part.peak_lr, self.layout.rows).astype(self.dtype)
        found = multiples_losses(*self._shared(part), *runs, factor, **self._of_program(part))
        ratios = np.array([group.ratio for group in groups])
        places = np.arange(part.cells.size)[None, :], ratios[:, None]
        return places, np.asarray(found, float)[:, : ratios.size, : part.cells.size]


OF_GROUPS = PartitionSpec(None, EACH)
"""Losses of whose groups each device has a share."""


@partial(jax.jit, static_argnames=("decay", "together", "mesh"))
def end_losses(
    law: Law,
    vectors: jax.Array,
    run: Run,
    log_n: jax.Array,
    runs: Alike,
    panels: Panels,
    *,
    decay: str,
    together: int,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Predicted losses ``[vectors, groups, lanes]`` after the last update, from few updates of each candidate.

    With a mesh each of its devices takes a share of the groups.
    """

    def of(law: Law, vectors: jax.Array, run: Run, log_n: jax.Array, runs: Alike, panels: Panels) -> jax.Array:
        follow = partial(end_effects, law, panels=panels, run=run, decay=decay)
        effects = jax.lax.map(follow, runs, batch_size=together)
        return _losses(law, vectors, effects, log_n, np.shape(runs.peak_lr))

    given = (REPLICATED, REPLICATED, REPLICATED, REPLICATED, SHARDED, REPLICATED)
    return over_mesh(mesh, of, given, OF_GROUPS)(law, vectors, run, log_n, runs, panels)


@partial(jax.jit, static_argnames=("decay", "together", "mesh"))
def multiples_losses(
    law: Law,
    vectors: jax.Array,
    run: Run,
    log_n: jax.Array,
    runs: Alike,
    panels: Panels,
    factor: jax.Array,
    *,
    decay: str,
    together: int,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Predicted losses ``[vectors, groups, rows]`` of the multiples ``factor[rows]`` of the one run of each group.

    With a mesh each of its devices takes a share of the groups.
    """

    def of(
        law: Law, vectors: jax.Array, run: Run, log_n: jax.Array, runs: Alike, panels: Panels, factor: jax.Array
    ) -> jax.Array:
        follow = partial(end_effects, law, panels=panels, run=run, decay=decay)
        units = {key: value[:, 0] for key, value in jax.lax.map(follow, runs, batch_size=together).items()}
        effects = jax.vmap(jax.vmap(law.scaled, in_axes=(None, 0)), in_axes=(0, None))(units, factor)
        return _losses(law, vectors, effects, log_n, (jnp.size(runs.panels), factor.size))

    given = (REPLICATED, REPLICATED, REPLICATED, REPLICATED, SHARDED, REPLICATED, REPLICATED)
    return over_mesh(mesh, of, given, OF_GROUPS)(law, vectors, run, log_n, runs, panels, factor)


def _losses(law: Law, vectors: jax.Array, effects: Row, log_n: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Losses ``[vectors, *shape]`` from effects whose first axes are of that shape."""
    flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in effects.items()}
    flat["log_N"] = jnp.broadcast_to(log_n, (math.prod(shape),))
    return jax.vmap(law.predict, in_axes=(None, 0))(flat, vectors).reshape(len(vectors), *shape)
