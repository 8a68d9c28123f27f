"""The batch engine: the Optax loop over many lanes, in chunks over all local devices."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from fmjax._dask import OnDask
from fmjax._devices import REPLICATED, SHARDED, Pool, local_mesh, once_compiled, over_mesh, threads
from fmjax._types import Array, Dtype
from fmjax.fitting.chunk_rows import MANY_LANES, ChunkRows, widened, widened_weights
from fmjax.fitting.newton import DampedNewtonState, damped_newton
from fmjax.fitting.objective import Objective, PriorPull, Rows, bounds, exponent_grid, model, starts_of_one
from fmjax.laws import Law

if TYPE_CHECKING:
    from distributed import Client

MAX_ITERATIONS = 200
TOLERANCE = 1e-13
"""A lane has converged when an undamped step promises less than this share of the objective."""

STUCK = 1e-8
"""A lane that stops with more than this still promised has not converged."""

FIT_STATUS = {
    "converged": "converged",
    "iteration-limit": "stopped before the objective settled",
    "non-finite": "no start gave a finite objective: the data or options are outside what the law can describe",
    "undetermined": "the data do not determine every parameter",
    "at-bound": "a parameter lies at its bound",
}
"""What can be said of a fit, by status; lanes carry the index."""

CONVERGED, ITERATION_LIMIT, NON_FINITE, UNDETERMINED, AT_BOUND = range(5)


class Lanes(NamedTuple):
    """What came of each lane (start) of a batch of minimisations."""

    params: Any
    """``[lanes, parameters]``."""
    objective: Any
    """``[lanes]``; infinite where no finite value was found."""
    status: Any
    """``[lanes]`` index into ``FIT_STATUS``."""
    iterations: Any
    """``[lanes]`` evaluations spent."""

    @property
    def best_params(self) -> np.ndarray:
        """``[parameters]`` of the lane that ``best`` names."""
        return self.params[best(self)]


Weights: TypeAlias = Array | Callable[[np.ndarray], np.ndarray]
"""``[lanes, rows]`` weight of each row, or a function of lanes that makes theirs when they are needed."""


class Jobs(NamedTuple):
    """What sets one lane apart from the others."""

    set: Array
    """``[lanes]`` which of the sets of rows."""
    weights: Any
    """``[lanes, rows]`` weight of each row, or a function ``lanes -> [lanes, rows]`` that makes them when needed."""
    start: Any
    """``[lanes, parameters]``."""
    effects_set: Any = None
    """``[lanes]`` which set of effects, where there are fewer than of losses; None where ``set`` is both."""

    def weights_of(self, index: np.ndarray) -> Array:
        """``[index, rows]`` weights of some lanes."""
        found: Array = self.weights(index) if callable(self.weights) else self.weights[index]
        return found


BLOCK_ELEMENTS = 8192
"""Lanes x rows worked on at once on a CPU. A row takes some 50 numbers of a lane (its slopes), so that a block stays in
the cache of a core; and a lane that is done waits for few others."""

WIDE_BLOCK_ELEMENTS = 2**20
"""The same on an accelerator, which works on that many at once; not measured."""

CHUNK_BLOCKS = 8
"""Blocks handed to a device at once, some of them empty where there are few lanes: one shape, so one program. Memory is
bounded by this, whatever the number of lanes."""

FEW_LANES = 8
"""Lanes for which blocks are made where there are fewer: one fit takes the program of several."""

FIRST_ROUND = 12
"""Evaluations after which the lanes still running are gathered into new blocks."""


class _Iterate(NamedTuple):
    """One lane between evaluations."""

    params: jax.Array
    state: DampedNewtonState
    running: jax.Array
    evaluations: jax.Array


def _newton(law: Law, dtype: Dtype) -> optax.GradientTransformationExtraArgs:
    return damped_newton(*(jnp.asarray(b, dtype) for b in bounds(law)))


def _settled(state: DampedNewtonState, tolerance: float, rows: int) -> jax.Array:
    """Whether what is left to gain is a small share of the objective, or of the size of its rounding errors."""
    eps = float(jnp.finfo(state.value.dtype).eps)
    return state.decrement <= max(tolerance, 0.1 * eps) * state.value + rows * (8 * eps) ** 2


def _advance(law: Law, residual: str, objective: Objective, rows: Rows, lane: Any) -> _Iterate:
    """One evaluation and Optax update of one lane; a lane that is done stays as it is."""
    weights, prior, (start, state, running, evaluations) = lane
    objective = objective._replace(prior=prior)
    newton = _newton(law, start.dtype)
    params, value, grad, curvature = model(law, residual, rows, weights, objective, start)
    updates, after = newton.update(grad, state, params, value=value, curvature=curvature)
    state = jax.tree.map(lambda new, old: jnp.where(running, new, old), after, state)
    lower, upper = (jnp.asarray(b, start.dtype) for b in bounds(law))
    proposed = jnp.clip(optax.apply_updates(params, updates), lower, upper)  # rounding may carry it across
    params = jnp.where(running, proposed, start)
    go_on = running & jnp.isfinite(state.value) & (state.damping < 1e12)  # NaN stops a lane
    go_on &= ~_settled(state, TOLERANCE, rows.loss.size)
    return _Iterate(params, state, go_on, evaluations + running)


def _finish(law: Law, rows: int, lane: _Iterate) -> Lanes:
    lower, upper = (jnp.asarray(b, lane.params.dtype) for b in bounds(law))
    point, state = lane.state.point, lane.state
    at_bound = jnp.any((point <= lower) | (point >= upper))
    stuck = lane.running | ~_settled(state, STUCK, rows)
    status = jnp.where(stuck, ITERATION_LIMIT, jnp.where(at_bound, AT_BOUND, CONVERGED))
    return Lanes(point, state.value, jnp.where(jnp.isfinite(state.value), status, NON_FINITE), lane.evaluations)


@partial(jax.jit, static_argnames=("residual", "mesh", "sharded"))
def _minimise(
    law: Law,
    rows: Rows,
    jobs: Jobs,
    live: jax.Array,
    objective: Objective,
    limit: jax.Array,
    *,
    residual: str,
    mesh: Mesh | None = None,
    sharded: tuple[bool, bool] = (False, False),
) -> Lanes:
    """Minimises a chunk of lanes block by block; lanes not ``live`` cost nothing.

    With a mesh each of its devices takes a share of the lanes. ``sharded`` says whether each lane has effects, and
    losses, of its own.
    """
    of_lanes = Rows(*(SHARDED if own else REPLICATED for own in sharded))
    given = REPLICATED, of_lanes, SHARDED, SHARDED, Objective(REPLICATED, REPLICATED, SHARDED), REPLICATED
    each = over_mesh(mesh, partial(_minimise_blocks, residual=residual), given, SHARDED)
    return each(law, rows, jobs, live, objective, limit)


def _minimise_blocks(
    law: Law, rows: Rows, jobs: Jobs, live: jax.Array, objective: Objective, limit: jax.Array, *, residual: str
) -> Lanes:
    lanes, width = jobs.weights.shape
    size = block_size(lanes, width)
    newton = _newton(law, jobs.start.dtype)

    def block(part: tuple[Jobs, PriorPull | None, jax.Array]) -> Lanes:
        jobs, prior, live = part
        of_lane = rows.of(jobs.set)
        own = jax.tree.map(lambda x: None if len(x) == 1 else 0, rows)
        advance = jax.vmap(partial(_advance, law, residual, objective), in_axes=(own, 0))
        first = _Iterate(jobs.start, jax.vmap(newton.init)(jobs.start), live, jnp.zeros(size, jnp.int32))
        last = jax.lax.while_loop(
            lambda lane: jnp.any(lane.running & (lane.evaluations < limit)),
            lambda lane: advance(of_lane, (jobs.weights, prior, lane)),
            first,
        )
        return jax.vmap(partial(_finish, law, width))(last)

    blocks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), (jobs, objective.prior, live))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(block, blocks))


def block_size(lanes: int, rows: int) -> int:
    """Lanes worked on at once: a power of two that divides ``lanes``."""
    size, most = 1, _block_elements()
    while 2 * size * rows <= most and lanes % (2 * size) == 0:
        size *= 2
    return size


def _block_elements() -> int:
    return BLOCK_ELEMENTS if jax.default_backend() == "cpu" else WIDE_BLOCK_ELEMENTS


def solve_one(law: Law, rows: Rows, weights: jax.Array, objective: Objective, *, residual: str) -> jax.Array:
    """Best parameters ``[parameters]`` for one set of rows ``[rows]`` with weights; for use under ``jit``."""
    grid = jnp.asarray(exponent_grid(law), rows.loss.dtype)
    start = starts_of_one(law, rows, weights, objective, grid, residual=residual)[:1]
    sets, jobs = jax.tree.map(lambda x: x[None], rows), Jobs(jnp.zeros(1, jnp.int32), weights[None], start)
    objective = objective._replace(prior=jax.tree.map(lambda x: x[None], objective.prior))
    limit = jnp.asarray(MAX_ITERATIONS, jnp.int32)
    return _minimise(law, sets, jobs, jnp.ones(1, bool), objective, limit, residual=residual).params[0]


def minimise(
    law: Law,
    rows: Rows,
    jobs: Jobs,
    objective: Objective = Objective(),  # noqa: B008 - an immutable record
    *,
    residual: str = "log",
    max_iterations: int = MAX_ITERATIONS,
    progress: Callable[[int, int], None] | None = None,
    client: "Client | None" = None,
) -> Lanes:
    """Minimises the objective of every lane; a lane that fails says so by status and changes no other lane's bits.

    Lanes run in chunks of one shape, compiled once, on all local devices (on every core of a CPU). Those still running
    after ``FIRST_ROUND`` evaluations are gathered and run on from where they are, so that few wait for another.

    Args:
      law: the law.
      rows: sets of rows.
      jobs: the lanes.
      objective: Huber delta and over-estimate weight, shared by all lanes; priors, shared or one a lane.
      residual: "log" for log predicted - log loss, "raw" for predicted - loss.
      max_iterations: evaluations after which a lane is given up.
      progress: called with (lanes done, lanes in all).
      client: a ``distributed.Client``; where there is more than a block of lanes, the workers of its cluster run them,
        to the same bytes.

    Returns:
      The outcome of each lane, as NumPy arrays.
    """
    lanes = len(jobs.start)
    runner = _Runner.of(law, rows, jobs, objective, residual)
    start = np.array(jobs.start)
    found = Lanes(start, np.full(lanes, np.inf, start.dtype), np.full(lanes, ITERATION_LIMIT), np.zeros(lanes, int))
    active = np.arange(lanes)
    for limit in (min(FIRST_ROUND, max_iterations), max_iterations - FIRST_ROUND):
        if limit > 0 and active.size:
            for index, values in runner.run(active, found.params, limit, client):
                values = values._replace(iterations=values.iterations + found.iterations[index])
                for mine, new in zip(found, values, strict=True):
                    mine[index] = new
                if progress is not None:
                    progress(int(np.sum(found.status != ITERATION_LIMIT)), lanes)
            active = np.flatnonzero(found.status == ITERATION_LIMIT)
    if progress is not None:
        progress(lanes, lanes)
    return found


def compile_fits(law: Law, rows: Rows, jobs: Jobs, objective: Objective, *, residual: str) -> None:
    """Compiles what ``minimise`` runs for such lanes, whatever their starts; for a thread beside other work."""
    _Runner.of(law, rows, jobs, objective, residual).compile(np.zeros_like(jobs.start))


class _Runner:
    """Runs chunks of lanes on the local devices, or on the workers of a cluster."""

    def __init__(
        self,
        law: Law,
        rows: Rows,
        jobs: Jobs,
        objective: Objective,
        residual: str,
        size: int | None = None,
        each: bool | None = None,
    ) -> None:
        if objective.prior is not None:
            objective = objective._replace(prior=objective.prior.each(len(jobs.start)))
        self.law, self.jobs, self.objective, self.residual = law, jobs, objective, residual
        effects_sets = None if jobs.effects_set is None else np.asarray(jobs.effects_set)
        self.mesh = local_mesh()
        devices = 1 if self.mesh is None else self.mesh.size
        self.rows = ChunkRows(rows, np.asarray(jobs.set), effects_sets, each)
        self.block = _block_lanes(self.rows.together, rows.loss.shape[1])
        share = size or self.block * CHUNK_BLOCKS
        self.size = share * devices
        # blocks are dealt out to the devices one by one, so that few lanes go to all of them too
        self.order = np.arange(self.size).reshape(-1, devices, min(self.block, share)).swapaxes(0, 1).ravel()

    @classmethod
    def of(cls, law: Law, rows: Rows, jobs: Jobs, objective: Objective, residual: str) -> "_Runner":
        """A runner of lanes; where there are few, their rows are widened."""
        if len(jobs.start) <= MANY_LANES:
            jobs = jobs._replace(weights=lambda index, of=jobs: widened_weights(of.weights_of(index)))
            rows = widened(rows)
        return cls(law, rows, jobs, objective, residual)

    def compile(self, start: np.ndarray) -> None:
        """Runs a chunk without lanes."""
        self._chunk(np.zeros(0, int), start, 0)

    def run(
        self, active: np.ndarray, start: np.ndarray, limit: int, client: "Client | None" = None
    ) -> Iterator[tuple[np.ndarray, Lanes]]:
        """Yields (lane indices, outcomes) chunk by chunk."""
        if client is not None and len(start) * self.rows.all.loss.shape[1] > _block_elements():
            yield from self._run_on(OnDask(client), active, start, limit)
            return
        blocks = -(-active.size // self.block)
        lanes = min(self.size, self.block * -(-blocks // threads()))  # few lanes go to all threads too
        yield from self.run_chunks(self.rows.cut(active, lanes), start, limit)

    def _run_on(
        self, cluster: OnDask, active: np.ndarray, start: np.ndarray, limit: int
    ) -> Iterator[tuple[np.ndarray, Lanes]]:
        """The same on a cluster. Chunks are as small as can be; their blocks, and so their bytes, are those of here."""
        prior = self.objective.prior
        chunks = self.rows.cut(active, self.block)
        weights = np.asarray(self.jobs.weights_of(active))
        jobs = Jobs(self.rows.sets[active], weights, start[active], self.rows.effects_sets[active])
        prior = None if prior is None else jax.tree.map(lambda x: np.asarray(x)[active], prior)
        x64 = jnp.result_type(float) == jnp.float64
        objective, places = self.objective._replace(prior=prior), [np.searchsorted(active, chunk) for chunk in chunks]
        work = LaneChunks(
            self.law, self.rows.all, jobs, objective, self.residual, int(limit), self.block, self.rows.each, x64, places
        )
        for number, values in cluster.results(work, range(len(chunks))):
            yield chunks[number], values

    def run_chunks(
        self, parts: Sequence[np.ndarray], start: np.ndarray, limit: int
    ) -> Iterator[tuple[np.ndarray, Lanes]]:
        """Yields (lane indices, outcomes) of chunks of lanes, in order, from the local devices."""
        if len(parts) == 1:
            yield parts[0], self._chunk(parts[0], start, limit)
            return
        with Pool(x64=jnp.result_type(float) == jnp.float64) as pool:
            found = [pool.submit(partial(self._chunk, part, start, limit)) for part in parts]
            yield from ((part, chunk.result()) for part, chunk in zip(parts, found, strict=True))

    def _chunk(self, index: np.ndarray, start: np.ndarray, limit: int) -> Lanes:
        own = index if index.size else np.zeros(1, int)
        which = self.order % own.size
        padded, weights = own[which], self.jobs.weights_of(own)
        rows, sets = self.rows.of(padded)
        jobs = Jobs(sets, weights[which], start[padded])
        prior = None if self.objective.prior is None else jax.tree.map(lambda x: x[padded], self.objective.prior)
        live = self.order < index.size
        objective = self.objective._replace(prior=prior)
        given = self.law, rows, jobs, live, objective, np.int32(limit)
        static = {"residual": self.residual, "mesh": self.mesh, "sharded": self.rows.sharded}
        found = once_compiled(_minimise, *given, **static)
        places = np.argsort(self.order)[: index.size]
        return jax.tree.map(lambda x: np.asarray(x)[places], found)


class LaneChunks(NamedTuple):
    """Lanes as the work of other processes, cut into chunks of at most ``size``."""

    law: Law
    rows: Rows
    jobs: Jobs
    """Of these lanes, with an array of weights."""
    objective: Objective
    residual: str
    limit: int
    size: int
    each: bool
    """Whether each lane is handed its own effects."""
    x64: bool
    chunks: Sequence[np.ndarray]
    """Lanes of each."""

    def results(self, numbers: Iterable[int]) -> Iterator[Lanes]:
        """The outcome of each chunk, in the given order, on all devices of this process."""
        with jax.enable_x64(self.x64):
            runner = _Runner(self.law, self.rows, self.jobs, self.objective, self.residual, self.size, self.each)
            chunks = [self.chunks[number] for number in numbers]
            found = [values for _, values in runner.run_chunks(chunks, self.jobs.start, self.limit)]
        yield from found


def _block_lanes(lanes: int, rows: int) -> int:
    """Lanes of a block: as many as a block holds, and no more than there are, or ``FEW_LANES``."""
    return block_size(1 << (max(lanes, FEW_LANES).bit_length() - 1), rows)


def best(found: Lanes) -> int:
    """Index of the lane of least objective; among equally good ones, of one that settled."""
    objective = np.where(np.isnan(found.objective), np.inf, found.objective)
    settled = np.isin(found.status, (CONVERGED, AT_BOUND))
    as_good = settled & (objective <= objective.min() * (1 + 1e-6) + np.finfo(float).tiny)
    return int(np.argmin(np.where(as_good, objective, np.inf) if as_good.any() else objective))
