"""Designs: of all schedules that never rise after warmup, or of those of a few straight pieces, the best under a law.

``KNOTS`` straight pieces stand for all schedules. Where the best schedule is smooth, so many follow it to far below the
error of a fit; a jump of the rate, where a law wants one, is drawn out from one knot to the next.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from fmjax._checks import finite, require, whole
from fmjax._json import Record, plain
from fmjax._types import HostNumbers, Real
from fmjax.fitting.fitted_runs import PlanShape
from fmjax.fitting.records import FitResult
from fmjax.laws import Law
from fmjax.schedules.anneals import DECAYS, ramp
from fmjax.schedules.batch_stages import Batch
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Tabulated
from fmjax.schedules.knots import thinned
from fmjax.searching.descent import Descent, Ground, Start, descend
from fmjax.searching.grid import Grid, axis_of
from fmjax.searching.results import Cell
from fmjax.searching.sweeps import SEARCHED_RATIOS

KNOTS = 256
"""Knots that stand for every schedule, the closer together the nearer to the end of the run."""

MAX_DESCENT_STEPS = 300
"""Steps of the descent after which it is given up."""

POWER = 1.5
"""Exponent of the third start, peak (1 - x)^POWER, beside the best WSD and cosine."""

DESIGN_STARTS = 3
"""Starts of each target."""

UPDATES = 2**20
"""Updates of all schedules in one call; memory is bounded by this, or by a single target where that is more."""

ABRUPT = 10
"""Updates in which a schedule that loses half its peak rate is abrupt."""

EQUAL_RATES = 1e-3
"""Relative difference up to which two rates count as the same."""

DESIGN_STATUS = {
    "settled": "nothing worth having is left to gain",
    "iteration-limit": "stopped before the loss settled",
    "not-beaten": "no better schedule was found than the best WSD, cosine or constant one, which is returned",
}
"""What can be said of a design, by status."""


class Design(NamedTuple):
    """The schedule of least predicted final loss for one target, and what it is compared with."""

    total_steps: int
    peak_lr: float
    loss: float
    """Predicted loss after the last update."""
    steps: np.ndarray
    """``[knots]`` update counts of the knots, those of the warmup first."""
    rates: np.ndarray
    """``[knots]`` learning rates there; between knots rates lie on a straight line."""
    warmup_steps: int
    wsd: Cell
    """The best WSD schedule over all decays, and its loss."""
    cosine_loss: float
    """Predicted final loss of cosine to the lowest rate allowed."""
    cosine_tenth_loss: float
    """Predicted final loss of cosine to a tenth of the peak rate, or to the lowest rate allowed if that is higher."""
    constant_loss: float
    """Predicted final loss of the constant rate."""
    status: str
    iterations: int
    """Steps of the descent that found it."""
    notes: tuple[str, ...]
    """What to keep in mind: where the law is asked for more than it was fitted on."""

    @property
    def lrs(self) -> np.ndarray:
        """``[T]`` learning rate of each update."""
        return np.interp(np.arange(self.total_steps), self.steps, self.rates)

    @property
    def schedule(self) -> Tabulated:
        """The design as a schedule."""
        return Tabulated(self.lrs, self.warmup_steps)


@dataclass(frozen=True)
class Designs(Record):
    """Designs for every combination of total steps and peak rate."""

    law: Law
    designs: tuple[Design, ...]
    taken: dict[str, float] = field(default_factory=dict)
    """Warmup, initial and final rate that were taken from the fitted runs; the final rate as a share of the peak."""
    doubted: tuple[bool, ...] = ()
    """Designs whose predicted loss is lower or higher than it can be; none is the best."""

    @property
    def best(self) -> Design:
        """The design of least predicted loss, among those whose loss is not doubted."""
        doubted = self.doubted or (False,) * len(self.designs)
        offered = [design for design, doubt in zip(self.designs, doubted, strict=True) if not doubt]
        return min(offered, key=lambda design: design.loss)

    def to_dict(self) -> dict[str, object]:
        """The designs as plain values for JSON."""
        designs = [{**design._asdict(), "wsd": design.wsd._asdict()} for design in self.designs]
        best = self.designs.index(self.best)
        return plain(
            {
                "law": self.law.name,
                "options": self.law.options(),
                "best": best,
                "designs": designs,
                "taken_from_fitted_runs": self.taken,
            }
        )


def optimize(
    result: FitResult,
    *,
    total_steps: HostNumbers,
    peak_lr: HostNumbers,
    knots: int | None = None,
    warmup_steps: int | None = None,
    init_lr: float | None = None,
    final_lr: float | None = None,
    model_size: float | None = None,
    tokens_per_step: Batch | str | None = None,
    family: str | None = None,
    max_iterations: int = MAX_DESCENT_STEPS,
    progress: Callable[[int, int], None] | None = None,
) -> Designs:
    r"""Finds the schedule of least predicted final loss among all that never rise after warmup.

    After a linear warmup to the peak rate, the rates $\eta_j = \eta_f + (\eta - \eta_f) \sum_{i > j} u_i^2 / \sum_i u_i^2$
    at knots j are found by L-BFGS (Optax) over u, from the best WSD of all decays and ratios, from cosine and from a
    power of the time left. All targets run side by side. Where a law has several optima, as multi-power has at high peak
    rates in short runs, it is the best of those that these starts lead to.

    Args:
      result: a fit that converged.
      total_steps: numbers of updates, one or many.
      peak_lr: peak rates, one or many.
      knots: straight pieces are to meet in so many points after warmup (the ends of the run counted), whose places are
        found as well; None for any schedule, in which ``KNOTS`` fixed knots stand for every update.
      warmup_steps: updates w of linear warmup; by default as many as the fitted runs had.
      init_lr: rate of update 0 when there is a warmup; by default the fitted runs'.
      final_lr: lowest rate allowed after warmup; by default the fitted runs' final share of the lowest peak rate.
      model_size: number of parameters, for laws fitted over several sizes.
      tokens_per_step: tokens an update, for laws fitted over several batch sizes; a batch that changes as for ``search``.
      family: family of models, for laws fitted over several; its only size is then the model size by default.
      max_iterations: steps of the descent.
      progress: called with (targets done, targets in all).

    Returns:
      A design for every combination of total steps and peak rate. Without ``knots`` none is predicted to be worse than
      the best WSD, cosine or constant schedule; check ``status`` and ``notes``.

    Raises:
      ValueError: a fit that cannot predict, a value out of range, or a run without two updates after warmup.

    >>> import fmjax
    >>> result = fmjax.fit("lr-annealing", fmjax.datasets.demo_runs())
    >>> found = optimize(result, total_steps=400, peak_lr=2e-3, warmup_steps=40).best
    >>> found.loss < found.wsd.loss < found.cosine_loss
    True
    """  # noqa: E501 - one formula
    require(result.ok, f"the fit cannot predict: {result.message}")
    result = result.for_family(family)
    model_size = result.family_size if model_size is None else model_size
    steps, peaks = axis_of(total_steps, "total_steps"), axis_of(peak_lr, "peak_lr")
    final = None if final_lr is None else finite(final_lr, "final_lr")
    told: dict[str, Any] = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": final}
    room = max(0, int(steps.min()) - 2)
    shape = PlanShape.of(result.trained_with, longest_warmup=room, peak_lr=peaks, **told)
    lowest = finite(shape.final_at(float(peaks.min())), "final_lr")
    decays = tuple(decay for decay in DECAYS if decay != "exponential" or lowest > 0)
    grid = Grid.of(
        total_steps=total_steps,
        peak_lr=peak_lr,
        decay=decays,
        final_lr=lowest,
        anneal_ratio=SEARCHED_RATIOS,
        warmup_steps=shape.warmup_steps,
        init_lr=shape.init_lr,
        tokens_per_step=tokens_per_step,
    )
    room = int(grid.total_steps.min()) - grid.warmup_steps
    require(room >= 2, f"expected at least two updates after warmup, found {max(room, 0)}")
    wanted = None if knots is None else whole(knots, "knots", least=2)
    require(wanted is None or wanted <= room, f"{wanted} knots are too many for {room} updates after warmup")
    law, vector = result.law_for(tokens_per_step).settled(result.vector)
    log_n = result.log_size(model_size)
    ground = Ground(jax.tree.map(float, law), vector, log_n, grid.warmup_steps, grid.init_lr, lowest)
    limit, longest = whole(max_iterations, "max_iterations", least=1), int(grid.total_steps.max())
    cells, found = [(int(t), float(lr)) for t in grid.total_steps for lr in grid.peak_lr], []
    count = min(KNOTS, longest - grid.warmup_steps)
    size = _even(len(cells), UPDATES // (DESIGN_STARTS * longest))
    with jax.enable_x64(True):
        for first in range(0, len(cells), size):
            some = cells[first : first + size]
            targets = [_Target.of(ground, *cell, decays=decays, longest=longest) for cell in some]
            starts = [start for target in targets for start in _starts(ground, target, wanted, count)]
            drawn = descend(ground, starts, size * DESIGN_STARTS, limit, longest, move=wanted is not None)
            for i, target in enumerate(targets):
                best = min(drawn[i * DESIGN_STARTS : (i + 1) * DESIGN_STARTS], key=_loss_or_inf)
                found.append(_design(ground, target, best, wanted, result))
            if progress is not None:
                progress(len(found), len(cells))
    designs = [design._replace(notes=(*shape.notes, *result.notes, *design.notes)) for design in found]
    doubts = [result.doubts(design.loss, design.total_steps) for design in found]
    require(not all(doubts), f"no schedule can be offered: {(doubts[0] or ('',))[0]}")
    return Designs(result.law, tuple(designs), shape.taken, tuple(map(bool, doubts)))


def _loss_or_inf(drawn: Descent) -> float:
    return math.inf if math.isnan(drawn.loss) else float(drawn.loss)


def _even(count: int, most: int) -> int:
    """Size of even groups of ``count`` things, at most ``most`` of them each."""
    return -(-count // -(-count // max(1, most)))


# ---------------------------------------------------------------------------------------------------------------------
# Predicted losses, and what designs are compared with
# ---------------------------------------------------------------------------------------------------------------------


@jax.jit
def _rates(schedule: Schedule, count: Real) -> jax.Array:
    return schedule(count)


@jax.jit
def _each_loss(ground: Ground, last: jax.Array, lrs: jax.Array) -> jax.Array:
    return jax.vmap(partial(ground.loss, last))(lrs)


def _losses(ground: Ground, total: int, schedules: Sequence[Schedule], longest: int) -> np.ndarray:
    """Predicted losses of schedules of ``total`` updates."""
    found, size = [], _even(len(schedules), UPDATES // longest)
    for first in range(0, len(schedules), size):
        lrs = np.stack([_rates(schedule, np.arange(longest)) for schedule in schedules[first : first + size]])
        found.append(np.asarray(_each_loss(ground, np.int32(total - 1), np.resize(lrs, (size, longest))))[: len(lrs)])
    return np.concatenate(found)


class _Target(NamedTuple):
    """One run to design for, and the schedules it is compared with."""

    total_steps: int
    peak_lr: float
    wsd: Cell
    rivals: tuple[Schedule, ...]
    """The best WSD; cosine to the lowest rate, and to a tenth of the peak; the constant rate."""
    losses: tuple[float, ...]
    """Their predicted losses."""

    @classmethod
    def of(cls, ground: Ground, total: int, peak: float, *, decays: Sequence[str], longest: int) -> "_Target":
        """Finds the best WSD and predicts the others."""
        warm: dict[str, Any] = {"warmup_steps": ground.warmup_steps, "init_lr": ground.init_lr}
        final, ratios = ground.final_lr, np.array(SEARCHED_RATIOS)
        others = [Cosine(peak, total, lowest, **warm) for lowest in (final, max(final, peak / 10))]
        schedules = [WSD(peak, total, ratio, decay, final, **warm) for decay in decays for ratio in SEARCHED_RATIOS]
        losses = _losses(ground, total, [*schedules, *others, Constant(peak, total, **warm)], longest)
        require(np.isfinite(losses).all(), f"the fit predicts a loss that is not finite for peak_lr {peak:g}")
        kinds = zip(decays, losses[: len(schedules)].reshape(-1, ratios.size), strict=True)
        cells = [Cell.of((total, peak, decay, final), ratios, of_decay[None]) for decay, of_decay in kinds]
        wsd = min(cells, key=attrgetter("loss"))
        rest = losses[len(schedules) :].tolist()
        return cls(total, peak, wsd, (wsd.schedule(**warm), *others, Constant(peak, total, **warm)), (wsd.loss, *rest))


# ---------------------------------------------------------------------------------------------------------------------
# Starts and descent
# ---------------------------------------------------------------------------------------------------------------------


def _starts(ground: Ground, target: _Target, wanted: int | None, count: int) -> Iterator[Start]:
    """The best WSD, cosine and a power of the time left, at ``wanted`` knots or at ``count`` denser towards the end."""
    begin, last = ground.warmup_steps, target.total_steps - 1
    even = _dense(begin, last, count) if wanted is None else np.linspace(begin, last, wanted)
    bent = even
    if wanted is not None and wanted > 2:
        corner = np.clip((1 - target.wsd.best_ratio) * target.total_steps, begin + 1, last - wanted + 2)
        bent = np.append(begin, np.linspace(corner, last, wanted - 1))
    left = (target.total_steps - even) / (target.total_steps - begin)
    rates = _rates(target.rivals[0], bent), _rates(target.rivals[1], even), target.peak_lr * left**POWER
    for steps, lrs in zip((bent, even, even), rates, strict=True):
        yield Start(last, target.peak_lr, steps, np.maximum(lrs, ground.final_lr))


def _dense(begin: float, last: float, count: int) -> np.ndarray:
    """``[count]`` knots: one an update at the end, sparser before; closer than updates where the run is too short."""
    left, span = np.linspace(1, 0, count), last - begin
    if count > span:
        return np.linspace(begin, last, count)
    share = count / span  # of even spacing, which keeps the last knots an update apart
    return np.floor(begin + span * (1 - share * left - (1 - share) * left**2) + 0.5)


# ---------------------------------------------------------------------------------------------------------------------
# The chosen design, and notes on it
# ---------------------------------------------------------------------------------------------------------------------


def _design(ground: Ground, target: _Target, drawn: Descent, wanted: int | None, fit: FitResult) -> Design:
    """The best schedule drawn, or a rival where none is better and any number of knots will do."""
    total, peak, warmup = target.total_steps, target.peak_lr, ground.warmup_steps
    best = int(np.argmin(target.losses))
    kept = wanted is None and not drawn.loss < target.losses[best]
    if kept:
        every = np.arange(total)
        steps, rates = thinned(every, _rates(target.rivals[best], every), within=1e-12)
    else:
        ends = np.unique([0, warmup - 1]) if warmup else np.empty(0)
        rise = np.asarray(ramp(ends, warmup, ground.init_lr, peak))
        fixed = drawn.steps if (drawn.steps == np.floor(drawn.steps)).all() else np.arange(warmup, total)
        steps, rates = np.append(ends, fixed), np.append(rise, np.interp(fixed, drawn.steps, drawn.rates))
    design = Design(
        total_steps=total,
        peak_lr=peak,
        loss=target.losses[best] if kept else float(drawn.loss),
        steps=steps.astype(int),
        rates=rates,
        warmup_steps=warmup,
        wsd=target.wsd,
        cosine_loss=target.losses[1],
        cosine_tenth_loss=target.losses[2],
        constant_loss=target.losses[3],
        status="not-beaten" if kept else "settled" if drawn.settled else "iteration-limit",
        iterations=int(drawn.iterations),
        notes=(),
    )
    notes = *_of_descent(design, min(target.losses)), *_of_shape(design), *_of_reach(design, fit)
    return design._replace(notes=notes)


def _of_descent(design: Design, rival: float) -> Iterator[str]:
    if design.status != "settled":
        yield DESIGN_STATUS[design.status]
    if design.loss > rival:
        yield f"the best WSD, cosine or constant schedule is predicted to be {design.loss - rival:.2g} better"
    if design.loss == design.wsd.loss == design.constant_loss:
        yield "the law predicts the same loss for every schedule"


def _of_shape(design: Design) -> Iterator[str]:
    lost = _greatest_loss(design, ABRUPT)
    if lost > 0.5:
        yield f"loses {100 * lost:.0f} % of its peak rate within {ABRUPT} updates: try it on a small run first"


def _of_reach(design: Design, fit: FitResult) -> Iterator[str]:
    yield from fit.doubts(design.loss, design.total_steps)
    reach, peak = fit.reach, design.peak_lr
    if reach is None:
        return
    yield from fit.plan_notes(design.total_steps, peak)
    if fit.trained_with is not None:
        yield from fit.trained_with.family_notes(fit.law.family, design.total_steps, [peak], (), ())
    steepest, lowest = _greatest_loss(design, 1), float(design.lrs[design.warmup_steps :].min()) / peak
    if steepest > reach.steepest * (1 + EQUAL_RATES):
        yield f"drops by {steepest:.2%} of the peak rate in one update, fitted runs by at most {reach.steepest:.2%}"
    if lowest < reach.lowest * (1 - EQUAL_RATES):
        yield f"falls to {lowest:.2%} of the peak rate, fitted runs to no less than {reach.lowest:.2%}"


def _greatest_loss(design: Design, updates: int) -> float:
    """Most that the rate loses over so many updates from the end of warmup on, as a share of the peak rate."""
    lrs = design.lrs[max(0, design.warmup_steps - 1) :]
    after = np.append(lrs, np.full(updates, lrs[-1]))[updates:]
    return float(np.max(lrs - after)) / design.peak_lr
