"""Choices of peak rate, batch and model size for a budget: the best, all that are as good, and what others cost."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmjax._json import plain
from fmjax.fitting.metrics import percentile_interval
from fmjax.planning.targets import Budget
from fmjax.searching.results import Cell, continuous_best

AS_GOOD = 1e-3
"""Relative excess of the predicted loss up to which a choice counts as near-optimal."""

AXES = ("peak_lr", "tokens_per_step", "model_size")
"""Fields of a cell that a region chooses."""

Ends = tuple[float, float]


NEAR_COLUMNS = ("peak rate", "decay", "parameters", "updates", "ratio", "anneal", "loss", "excess %", "+- %")
"""Columns of a table of choices, after that of the batch."""


class Point(NamedTuple):
    """One choice of a region, at its best annealing ratio."""

    choice: int
    """Place among the choices of the recommendation."""
    cell: Cell
    excess: float
    """Predicted loss over that of the best choice, minus 1."""
    error: float
    """Standard deviation of that excess over bootstrap samples; NaN without them."""

    @property
    def is_near(self) -> bool:
        """Whether it is near-optimal: worse by at most ``AS_GOOD``, or by no more than its expected error."""
        return self.excess <= np.nanmax([AS_GOOD, self.error])

    @property
    def row(self) -> tuple[str, ...]:
        """The batch, and what stands under ``NEAR_COLUMNS``, as texts."""
        cell, error = self.cell, f"{100 * self.error:.2f}" if np.isfinite(self.error) else "-"
        where = (cell.shown("tokens_per_step", ".4g"), cell.shown("peak_lr"), cell.decay, cell.shown("model_size"))
        anneal = (cell.shown("total_steps", ""), f"{cell.best_ratio:.2g}", f"{cell.anneal_steps}")
        return (*where, *anneal, f"{cell.loss:.4f}", f"{100 * self.excess:.2f}", error)


class OverRateAndBatch(NamedTuple):
    """Choices over peak rate and batch, each at its best ratio and, of several, size; NaN where nothing was tried."""

    rates: np.ndarray
    batches: np.ndarray
    """Tokens an update; 0 where none was told."""
    excess: np.ndarray
    """``[batches, rates]`` least excess."""
    near: np.ndarray
    """``[batches, rates]`` whether any is near-optimal."""

    @property
    def is_map(self) -> bool:
        """Whether there are several of both."""
        return min(self.excess.shape) > 1


class Tradeoff(NamedTuple):
    """The best choice at one batch, or at one model size, against the best of all."""

    choice: int
    cell: Cell
    excess: float
    """Predicted loss over that of the best of all, minus 1."""
    excess_interval: Ends
    updates_saved: int
    """Updates fewer than those of the best of all; below zero where it needs more."""


class Region(NamedTuple):
    """The choice for one budget, among all peak rates, batches and, for a budget of compute, model sizes."""

    budget: Budget
    points: tuple[Point, ...]
    best: int
    """Place among ``points``."""
    regret: float
    """Mean relative excess of the best choice over what is best in each bootstrap sample; NaN without them."""
    intervals: dict[str, Ends]
    """Bootstrap intervals of the best peak rate, batch and size, of those with more than one value; for a budget of
    compute also of the tokens of a run, ``total_tokens``, which follow from the size."""
    batches: tuple[Tradeoff, ...]
    """The trade between loss and updates at equal tokens: the best of each batch, the smallest first."""
    sizes: tuple[Tradeoff, ...]
    """The frontier at equal compute: the best of each model size, the smallest first."""
    not_compared: int
    """Choices that are not among ``points``, as their peak rate or batch lies outside the fitted runs."""

    @property
    def near(self) -> tuple[Point, ...]:
        """The near-optimal choices, the best first."""
        return tuple(sorted((point for point in self.points if point.is_near), key=lambda point: point.excess))

    @property
    def tokens(self) -> float | None:
        """Tokens of the best choice; None where no batch is known."""
        cell = self.points[self.best].cell
        return None if cell.mean_batch is None else cell.mean_batch * cell.total_steps

    @property
    def notes(self) -> tuple[str, ...]:
        """What was chosen at the edge of what was tried, and how many choices were not compared."""
        names = {"peak_lr": "peak rate", "tokens_per_step": "batch", "model_size": "model size"}
        said = f"{self.budget.named}: the best {{}} lies at the edge of those tried"
        notes = [said.format(name) for axis, name in names.items() if self._at_edge(axis)]
        notes += [f"{self.budget.named}: {note}" for note in self._open_ends()]
        if self.not_compared:
            every = len(self.points) + self.not_compared
            left = f"{self.not_compared} of {every} choices are not compared: rate or batch outside the fitted runs"
            notes.append(f"{self.budget.named}: {left}")
        return tuple(notes)

    @property
    def over_rate_and_batch(self) -> OverRateAndBatch:
        """The points as a table."""
        rates = np.unique([point.cell.peak_lr for point in self.points])
        batches = np.unique([point.cell.mean_batch or 0.0 for point in self.points])
        excess, near = np.full((batches.size, rates.size), np.nan), np.zeros((batches.size, rates.size), bool)
        for point in self.points:
            at = np.searchsorted(batches, point.cell.mean_batch or 0.0), np.searchsorted(rates, point.cell.peak_lr)
            excess[at] = np.fmin(excess[at], point.excess)
            near[at] |= point.is_near
        return OverRateAndBatch(rates, batches, excess, near)

    def _tried(self, axis: str) -> list[float]:
        return sorted({getattr(point.cell, axis) for point in self.points} - {None})

    def _at_edge(self, axis: str) -> bool:
        """Whether the best of an axis is the first or last value tried, so that a better one may lie outside."""
        tried = self._tried(axis)
        return len(tried) > 1 and getattr(self.points[self.best].cell, axis) in (tried[0], tried[-1])

    def _open_ends(self) -> Iterator[str]:
        """Where the interval of the size ends only because no further sizes were compared; see ``_at_edge``."""
        if "model_size" not in self.intervals:
            return
        tried, ends = self._tried("model_size"), self.intervals["model_size"]
        best = self.points[self.best].cell.model_size
        for end, offered, name in zip(ends, (tried[0], tried[-1]), ("smallest", "largest"), strict=True):
            if best != offered and abs(end / offered - 1) < 1e-6:
                reached = f"the interval of the best model size reaches the {name} compared, {offered:.3g}"
                yield f"{reached}: {'smaller' if name == 'smallest' else 'larger'} ones may be as good"

    def span(self, axis: str) -> Ends:
        """Least and greatest value of an axis among the near-optimal choices."""
        values = [getattr(point.cell, axis) for point in self.near]
        return min(values), max(values)

    def to_dict(self) -> dict[str, object]:
        """The region as plain values for JSON; choices by their place."""
        points = [
            {"choice": one.choice, "excess": one.excess, "error": one.error, "near": bool(one.is_near)}
            for one in self.points
        ]
        steps = {"batches": self.batches, "sizes": self.sizes}
        record = {**self.budget._asdict(), "best": self.points[self.best].choice, "regret": self.regret}
        record |= {"best_model_size": self.points[self.best].cell.model_size, "best_tokens": self.tokens}
        record |= {"intervals": self.intervals, "notes": self.notes, "points": points}
        return plain({**record, **{name: [_tradeoff_dict(step) for step in of] for name, of in steps.items()}})


def _tradeoff_dict(step: Tradeoff) -> dict[str, object]:
    cell = step.cell
    where = {"model_size": cell.model_size, "tokens_per_step": cell.tokens_per_step, "total_steps": cell.total_steps}
    found = {"peak_lr": cell.peak_lr, "anneal_ratio": cell.best_ratio, "loss": cell.loss}
    rest = {"excess": step.excess, "excess_interval": step.excess_interval, "updates_saved": step.updates_saved}
    return {"choice": step.choice, **where, **found, **rest}


def region_of(
    budget: Budget,
    choices: Sequence[int],
    cells: Sequence[Cell],
    losses: np.ndarray,
    slack: np.ndarray,
    *,
    not_compared: int = 0,
) -> Region:
    """The region of a budget.

    Args:
      budget: what it is for.
      choices: place of each cell among the choices of the recommendation.
      cells: the cells, each at its best annealing ratio.
      losses: ``[samples, cells]`` losses of bootstrap samples, drawn jointly.
      slack: ``[samples, cells]`` loss at the sample's own best ratio over that at the cell's.
      not_compared: how many choices were left out of the cells, as they lie outside the fitted runs.
    """
    mean = np.array([cell.loss for cell in cells])
    best = int(np.argmin(mean))
    over = losses / losses[:, [best]] - 1
    error = over.std(axis=0) if len(losses) else np.full(len(cells), np.nan)
    excess = mean / mean[best] - 1
    points = tuple(Point(*one) for one in zip(choices, cells, excess.tolist(), error.tolist(), strict=True))
    least = (losses * slack).min(axis=1)
    regret = float(np.mean(losses[:, best] / least - 1)) if len(losses) else float("nan")
    intervals = {axis: _interval(axis, cells, losses) for axis in AXES}
    intervals["total_tokens"] = _tokens_interval(budget, intervals["model_size"])
    steps = _Tradeoffs(points, best, over)
    return Region(
        budget=budget,
        points=points,
        best=best,
        regret=regret,
        intervals={axis: ends for axis, ends in intervals.items() if ends is not None},
        batches=steps.along("tokens_per_step") if budget.total_tokens is not None else (),
        sizes=steps.along("model_size") if budget.flops is not None else (),
        not_compared=not_compared,
    )


def _interval(axis: str, cells: Sequence[Cell], losses: np.ndarray) -> Ends | None:
    """Bootstrap interval of the best value of an axis, all else being best; None for one value or without samples."""
    values = np.array([getattr(cell, axis) or np.nan for cell in cells], float)
    tried = np.unique(values[np.isfinite(values)])
    if tried.size < 2 or not len(losses):
        return None
    profile = np.stack([losses[:, values == value].min(axis=1) for value in tried], axis=1)
    return percentile_interval(np.exp(continuous_best(np.log(tried), profile)))


def _tokens_interval(budget: Budget, sizes: Ends | None) -> Ends | None:
    """Tokens at the ends of an interval of the size, for a budget of compute: the larger the model the fewer."""
    if budget.flops is None or sizes is None:
        return None
    low, high = (budget.tokens(size) or np.nan for size in reversed(sizes))
    return low, high


class _Tradeoffs(NamedTuple):
    """What the best of each value of an axis is made from."""

    points: tuple[Point, ...]
    best: int
    over: np.ndarray
    """``[samples, points]`` loss over that of the best of all, minus 1."""

    def along(self, axis: str) -> tuple[Tradeoff, ...]:
        """The best point of each value of an axis, by rising value."""
        value: Callable[[int], float] = lambda i: getattr(self.points[i].cell, axis) or 0.0  # noqa: E731
        every = range(len(self.points))
        bests = [
            min((i for i in every if value(i) == tried), key=lambda i: self.points[i].cell.loss)
            for tried in sorted(set(map(value, every)))
        ]
        return tuple(map(self._step, bests)) if len(bests) > 1 else ()

    def _step(self, place: int) -> Tradeoff:
        point, updates = self.points[place], self.points[self.best].cell.total_steps
        own = self.over[:, place]
        ends = percentile_interval(own) if own.size else (float("nan"), float("nan"))
        return Tradeoff(point.choice, point.cell, point.excess, ends, updates - point.cell.total_steps)
