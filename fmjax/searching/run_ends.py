"""The effects of a law at the end of runs that differ in their rates alone, from a few weighted updates of each."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._types import Array, Real
from fmjax.effects.updates import Update
from fmjax.effects.weighted import Left, WeightedUpdates, Within
from fmjax.laws import Law, Row
from fmjax.schedules.anneals import DECAYS, Anneal, Joined
from fmjax.schedules.batch_stages import changes_of
from fmjax.schedules.kinds import Constant
from fmjax.searching.grid import Grid, Part
from fmjax.searching.panels import NEIGHBOURS, STEEP, Counts, Moments, Panels, crossings, most_panels, panel_sizes


class Run(NamedTuple):
    """What all candidates of a part share."""

    total_steps: Real
    warmup_steps: Real
    init_lr: Real


class Alike(NamedTuple):
    """Runs of the same counts, and so of the same panels."""

    peak_lr: Array
    """``[lanes]``."""
    final_lr: Array
    """``[lanes]``."""
    start: Real
    """Whole part of the update after which the anneal begins."""
    fraction: Real
    """The rest of it."""
    length: Real
    """Updates of the anneal, A = R T."""
    panels: Array
    """Which of the panels are theirs."""


class Group(NamedTuple):
    """Candidates of a part that differ in their rates alone."""

    rows: np.ndarray
    """Their cells, as places in the part."""
    ratio: int
    """Their ratio, as a place in the grid."""
    counts: Counts
    """What their panels follow from."""


def groups_of(law: Law, part: Part, grid: Grid, lanes: int) -> Iterator[Group]:
    """The candidates of a part in groups of at most ``lanes``, for a law with numbers for options."""
    total, warmup, steep = part.total_steps, grid.warmup_steps, part.decay in STEEP
    every, falls, moments = np.arange(part.cells.size), _falls(grid, part.decay), _moments(law)
    changes = _changes(law, part)
    for ratio, start in enumerate((total - grid.anneal_ratio * total).tolist()):
        counts = Counts(total, warmup, start, steep, falls, moments=moments, changes=changes)
        if law.warmup == "as-peak" or start >= warmup:
            shared = [(every, counts)]
        else:
            shared = [(rows, counts._replace(crossing=at)) for rows, at in _crossing(part, grid, start)]
        for rows, seen in shared:
            yield from (Group(rows[i : i + lanes], ratio, seen) for i in range(0, rows.size, lanes))


def panels_of(law: Law, grid: Grid, part: Part) -> int:
    """Number of panels of every candidate of a part, most of them to fill up."""
    longest, changes = int(grid.total_steps.max()), len(_changes(law, part))
    return most_panels(longest, _falls(grid, part.decay), _moments(law), changes)


def _changes(law: Law, part: Part) -> tuple[int, ...]:
    """Updates at which the batch of a part changes, where the law has the batch in it."""
    return changes_of(part.tokens_per_step) if law.spans_batches else ()


def _moments(law: Law) -> Moments | None:
    rate = law.squares_rate
    return None if rate is None else Moments(float(rate), law.warmup == "as-scheduled")


def _falls(grid: Grid, decay: str) -> int:
    """How often the steepest exponential anneal of a grid divides the rate by e."""
    if decay != "exponential":
        return 0
    share = grid.final_lr.min() / (1.0 if grid.final_is_share else grid.peak_lr.max())
    return max(0, math.ceil(-math.log(share)))


def _crossing(part: Part, grid: Grid, start: float) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Cells whose anneals cross the warmup within a few updates, and within which."""
    warmup: dict[str, Any] = {"init_lr": grid.init_lr, "warmup_steps": grid.warmup_steps}
    at = crossings(part.decay, part.peak_lr, part.final_lr, **warmup, start=start, stop=part.total_steps)
    rows = np.argsort(at, kind="stable")
    while rows.size:
        count = np.searchsorted(at[rows], at[rows[0]] + NEIGHBOURS, side="right")
        yield rows[:count], (int(at[rows[0]]), int(at[rows[count - 1]]))
        rows = rows[count:]


def alike(
    law: Law, groups: Sequence[Group], part: Part, grid: Grid, shape: tuple[int, int], dtype: str
) -> tuple[Alike, Panels]:
    """What a device needs of groups; ``shape``, (groups, lanes), is filled up by repeating the last ones."""
    chosen = [groups[min(i, len(groups) - 1)] for i in range(shape[0])]
    rows = np.stack([group.rows[np.minimum(np.arange(shape[1]), group.rows.size - 1)] for group in chosen])
    lengths = grid.anneal_ratio[[group.ratio for group in chosen]] * part.total_steps
    start = part.total_steps - lengths
    known = {counts: i for i, counts in enumerate(dict.fromkeys(group.counts for group in chosen))}
    panels = Panels.of(list(map(panel_sizes, known)), panels_of(law, grid, part), shape[0])
    which = np.array([known[group.counts] for group in chosen], np.int32)
    whole = np.floor(start).astype(np.int32)
    found = Alike(part.peak_lr[rows], part.final_lr[rows], whole, start % 1, lengths, which)
    return jax.tree.map(lambda x: x.astype(dtype, copy=False) if x.dtype == float else x, (found, panels))


def end_effects(law: Law, alike: Alike, panels: Panels, run: Run, *, decay: str) -> Row:
    """Effects after the last update, ``[lanes]`` each, under ``jit``.

    A law that is not ``weighted`` follows every update.
    """

    def one(peak_lr: Array, final_lr: Array) -> Row:
        rates = alike._replace(peak_lr=peak_lr, final_lr=final_lr)
        if not law.weighted:
            return _followed(law, rates, run, decay)
        updates = _updates(law, rates, own, run, decay)
        last = jnp.array([updates.lr.size - 1])
        return {key: value[0] for key, value in law.row_effects(updates, last).items()}

    own = Panels(*(jnp.asarray(field)[alike.panels] for field in panels))
    return jax.vmap(one)(alike.peak_lr, alike.final_lr)


def _followed(law: Law, alike: Alike, run: Run, decay: str) -> Row:
    """Effects of one run by the recursion; no rate is stored."""
    dtype = jnp.asarray(alike.peak_lr).dtype
    one = jnp.ones((1, 1), dtype)

    def advance(count: jax.Array, state: Any) -> Any:
        alone = Panels(count[None], jnp.zeros_like(one), one, one[None])
        update = _updates(law, alike, alone, run, decay)
        return law.step(state, Update(update.lr[0], update.drop[0]))

    last = jnp.asarray(run.total_steps).astype(jnp.int32)
    return law.observe(jax.lax.fori_loop(0, last, advance, law.init(dtype)))


def _updates(law: Law, alike: Alike, panels: Panels, run: Run, decay: str) -> WeightedUpdates:
    """The weighted updates of one run as the law counts them."""
    dtype = jnp.asarray(alike.peak_lr).dtype
    warm = Constant(alike.peak_lr, run.total_steps, run.warmup_steps, run.init_lr)
    rates = Joined(warm, Anneal(DECAYS[decay], alike.peak_lr, alike.final_lr, 0, alike.fraction, alike.length))

    def counted_from(origin: Real) -> jax.Array:
        whole = jnp.asarray(panels.first - origin).astype(dtype)  # whole numbers first, for float32
        return whole[:, None] + panels.offset

    end = jnp.minimum(run.warmup_steps, run.total_steps - 1)
    update, annealing, left = counted_from(0), counted_from(alike.start), -counted_from(run.total_steps - 1)
    seen = update > end
    if law.warmup == "as-peak":
        at = jnp.where(seen, update, end.astype(dtype)), jnp.where(seen, annealing, (end - alike.start).astype(dtype))
    else:
        at = update, annealing
    lr, drop = rates(*at), rates.drop(*at)
    drop = drop if law.warmup == "as-scheduled" else jnp.where(seen, drop, 0.0)
    forward, after = _sums(panels, lr)
    found = WeightedUpdates(update, lr, drop, forward, jnp.asarray(panels.weight), Left(left, after))
    flat: WeightedUpdates = jax.tree.map(jnp.ravel, found)
    within = Within(jnp.arange(len(panels.first)), _sums_until(panels))
    return flat._replace(within=within).in_stages(law.stages)


def _sums_until(panels: Panels) -> Array:
    """``[panels, nodes, nodes]`` weights of sums until each node; with an inverse where nodes fill a panel up."""
    return panels.until + jax.vmap(jnp.diag)(jnp.where(panels.weight == 0, 1.0, 0.0))


def _sums(panels: Panels, lr: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of the rates until each update, and of those after it."""

    def within(weights: Real) -> jax.Array:
        return jnp.einsum("pmn,pn->pm", weights, lr, precision="highest")

    whole = jnp.sum(panels.weight * lr, axis=1)
    before, later = jnp.cumsum(whole) - whole, jnp.cumsum(whole[::-1])[::-1] - whole
    # a difference of sums would lose the last digits of a small rest
    after = within(panels.weight[:, None, :] - panels.until)
    return before[:, None] + within(panels.until), jnp.maximum(later[:, None] + after, 0.0)
