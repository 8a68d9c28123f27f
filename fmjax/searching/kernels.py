"""The final losses of a grid's candidates, part by part, on all local devices."""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._devices import Pool
from fmjax.laws import Law
from fmjax.searching.grid import Grid, Part
from fmjax.searching.rollout import Branches, Run, branch_effects

CALL = 2**22
"""Losses (parameter vectors x rows x ratios) computed in one call."""

PART = 2**24
"""Losses of a part; memory is bounded by this."""


class Layout(NamedTuple):
    """How the candidates of a grid are cut up. It follows from the grid and the kind of device, not their number."""

    rows: int
    """Cells of a part."""
    ratios: int
    """Ratios of a call; each call follows the stem anew."""
    branches: int
    """Ratios followed side by side."""

    @classmethod
    def of(cls, grid: Grid, vectors: int, platform: str) -> "Layout":
        """The layout for a grid, found by measurement: on a CPU, about a thousand lanes stay in the cache."""
        most, lanes, ratios = (1024, 1024, 64) if platform == "cpu" else (2**14, 2**17, 2**10)
        pairs, count = grid.peak_lr.size * grid.final_lr.size, grid.anneal_ratio.size
        ratios = min(ratios, max(1, CALL // vectors))
        ratios = -(-count // -(-count // ratios))
        most = max(1, min(most, CALL // (vectors * ratios), PART // (vectors * count)))
        rows = -(-pairs // -(-pairs // most))
        return cls(rows, ratios, max(1, min(lanes // rows, ratios)))


class Kernel(NamedTuple):
    """What every call of a search shares."""

    law: Law
    vectors: np.ndarray
    """``[vectors, parameters]`` the fit, and bootstrap samples of it."""
    grid: Grid
    log_n: float
    """Log of the model size."""
    dtype: str
    layout: Layout
    share_stem: bool
    """Whether schedules that differ only in their anneal share one stem; otherwise each is followed from its start."""

    def losses(self, parts: Iterable[Part]) -> Iterator[tuple[Part, np.ndarray]]:
        """Yields each part with its losses ``[vectors, rows, ratios]``, in order, while the devices work ahead."""
        waiting: deque[tuple[Part, list[tuple[np.ndarray, Future[np.ndarray]]]]] = deque()
        with Pool(x64=True) as pool:
            for part in parts:
                waiting.append((part, [(ratios, self._submit(pool, part, ratios)) for ratios in self._calls(part)]))
                while sum(len(calls) for _, calls in waiting) > 2 * len(pool.devices):
                    yield self._gather(*waiting.popleft())
            while waiting:
                yield self._gather(*waiting.popleft())

    def _submit(self, pool: Pool, part: Part, ratios: np.ndarray) -> "Future[np.ndarray]":
        def call(worker: int) -> np.ndarray:
            return self.call(part, ratios, pool.devices[worker])

        return pool.submit(call, program=self._program(part.decay))

    def _calls(self, part: Part) -> Iterator[np.ndarray]:
        """Ratios of each call, sorted by length of the anneal, the longest first."""
        order = np.argsort(part.total_steps - self.grid.anneal_ratio * part.total_steps, kind="stable")
        count = -(-order.size // self.layout.ratios)
        yield from np.array_split(order, count)

    def _program(self, decay: str) -> Hashable:
        """What tells the compiled program of one call from that of another."""
        options = (self.dtype, self.layout, self.share_stem, len(self.vectors), decay)
        return (jax.tree.structure(self.law), *options)

    def _gather(self, part: Part, calls: list[tuple[np.ndarray, "Future[np.ndarray]"]]) -> tuple[Part, np.ndarray]:
        losses = np.empty((len(self.vectors), part.cells.size, self.grid.anneal_ratio.size))
        for ratios, call in calls:
            losses[:, :, ratios] = call.result()
        return part, losses

    def call(self, part: Part, ratios: np.ndarray, device: jax.Device) -> np.ndarray:
        """Losses ``[vectors, rows, ratios]`` of some ratios of a part; arrays are padded to the layout's shapes."""
        size = -(-self.layout.ratios // self.layout.branches) * self.layout.branches
        lengths = np.resize(self.grid.anneal_ratio[ratios], size) * part.total_steps
        lengths[ratios.size :] = lengths[ratios.size - 1]  # sorted by start
        starts = part.total_steps - lengths
        shape = (-1, self.layout.branches)
        branches = Branches(
            np.floor(starts).astype(np.int32).reshape(shape),
            (starts % 1).astype(self.dtype).reshape(shape),
            lengths.astype(self.dtype).reshape(shape),
        )
        pad = partial(np.resize, new_shape=self.layout.rows)
        rates = [pad(rate).astype(self.dtype) for rate in (part.peak_lr, part.final_lr)]
        run = Run(
            np.int32(part.total_steps), np.int32(self.grid.warmup_steps), np.asarray(self.grid.init_lr, self.dtype)
        )
        shared = (self.vectors.astype(self.dtype), *rates, branches, run, np.asarray(self.log_n, self.dtype))
        law = jax.tree.map(float, self.law)  # 1 - beta must be taken in float64, also for float32
        arguments = jax.device_put((law, *shared), device)
        found = final_losses(*arguments, decay=part.decay, share=self.share_stem)
        return np.asarray(found, float)[:, : part.cells.size, : ratios.size]


@partial(jax.jit, static_argnames=("decay", "share"))
def final_losses(
    law: Law,
    vectors: jax.Array,
    peak_lr: jax.Array,
    final_lr: jax.Array,
    branches: Branches,
    run: Run,
    log_n: jax.Array,
    *,
    decay: str,
    share: bool,
) -> jax.Array:
    """Predicted losses ``[vectors, rows, ratios]`` after the last update; no rate is ever stored."""
    follow = partial(branch_effects, law, branches=branches, run=run, decay=decay, dtype=peak_lr.dtype, share=share)
    effects = jax.vmap(lambda peak, final: follow(peak, final))(peak_lr, final_lr)
    flat = {key: value.reshape(-1, *value.shape[3:]) for key, value in effects.items()}
    flat["log_N"] = jnp.broadcast_to(log_n, (peak_lr.size * jnp.size(branches.start),))
    losses = jax.vmap(law.predict, in_axes=(None, 0))(flat, vectors)
    return losses.reshape(len(vectors), peak_lr.size, jnp.size(branches.start))
