"""The same loss by a falling rate, by a growing batch, or by both, at equal tokens: what each saves of the updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import positive, require
from fmjax._json import Record, plain
from fmjax._types import HostNumbers
from fmjax.fitting.metrics import percentile_interval
from fmjax.fitting.records import FitResult
from fmjax.laws.base import ONE_BATCH
from fmjax.planning.regions import AS_GOOD
from fmjax.schedules.batch_stages import Batch, BatchStages
from fmjax.searching.sweeps import SEARCHED_RATIOS, search

DOUBLINGS = (1, 2, 3, 4)
"""How often the batch doubles, of those tried."""

GROWTH_SHARES = tuple(np.linspace(0.05, 0.95, 19).round(2).tolist())
"""Shares of the tokens, at the end, over which it doubles."""

WAYS = ("falling rate", "growing batch", "both", "as good, fewest updates")
"""Names of the ways compared; the last is missing where no growing batch is as good as the falling rate."""

NOT_SEEN = (
    "no fitted run changes its batch: that a run follows a new batch as it follows a new rate is taken from the law"
)
"""Note on fits of runs of one batch each."""


GROWTH_COLUMNS = ("", "tokens an update", "updates", "saved", "ratio", "loss", "excess %", "90 % interval")
"""Columns of a table of ways."""


class Way(NamedTuple):
    """One way to spend the tokens of a run."""

    name: str
    total_steps: int
    tokens_per_step: Batch
    anneal_ratio: float
    """Share of the updates spent annealing; 0 for a constant rate."""
    loss: float
    """Predicted final loss."""
    excess: float
    """Predicted loss over that of the falling rate, minus 1."""
    excess_interval: tuple[float, float]
    """Bootstrap interval of it; NaN without samples."""
    updates_saved: int
    """Updates fewer than those of the falling rate."""

    @property
    def row(self) -> tuple[str, ...]:
        """What stands under ``GROWTH_COLUMNS``, as texts."""
        ratio = f"{self.anneal_ratio:.2g}" if self.anneal_ratio else "constant"
        run = (f"{self.tokens_per_step:.4g}", f"{self.total_steps}", f"{self.updates_saved:+d}", ratio)
        low, high = (f"{100 * end:+.2f}" for end in self.excess_interval)
        return (self.name, *run, f"{self.loss:.4f}", f"{100 * self.excess:+.2f}", f"{low} ... {high}")


@dataclass(frozen=True)
class Growth(Record):
    """Ways to spend the same tokens at one peak rate, from one batch on; the first is the falling rate."""

    total_tokens: float
    peak_lr: float
    ways: tuple[Way, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What a table of them is headed."""
        spent = f"{self.total_tokens:.3g} tokens at peak rate {self.peak_lr:.3g}"
        return f"{spent}: a falling rate, a growing batch, or both"

    def moved(self, loss: float) -> "Growth":
        """The same with losses moved by one factor, so that the falling rate has this one."""
        factor = loss / self.ways[0].loss
        ways = tuple(way._replace(loss=way.loss * factor) for way in self.ways)
        return Growth(self.total_tokens, self.peak_lr, ways, self.notes)

    def to_dict(self) -> dict[str, object]:
        """The comparison as plain values for JSON."""
        told = {"total_tokens": self.total_tokens, "peak_lr": self.peak_lr}
        return plain({**told, "ways": [way._asdict() for way in self.ways], "notes": self.notes})


def grown(tokens_per_step: float, total_tokens: float, share: float, doublings: int) -> BatchStages:
    """A batch that doubles over the last share of the tokens, each doubled batch on as many of them.

    >>> str(grown(1e5, 1e8, 0.5, 2))
    '100000@0,200000@500,400000@625'
    """
    sizes = tokens_per_step * 2.0 ** np.arange(doublings + 1)
    spent = np.append(1 - share, np.full(doublings - 1, share / doublings)) * total_tokens
    starts = np.rint(np.cumsum(spent / sizes[:-1])).astype(int)
    return BatchStages((0, *starts.tolist()), tuple(sizes.tolist()))


def compare_growth(
    result: FitResult,
    *,
    total_tokens: float,
    tokens_per_step: float,
    peak_lr: float,
    anneal_ratio: HostNumbers = SEARCHED_RATIOS,
    samples: np.ndarray | None = None,
    **plan: Any,
) -> Growth:
    """Compares ways to end a run at equal tokens: its rate falls, its batch grows at a constant rate, or both.

    The batch doubles one to four times over a last share of the tokens. Of each way that of least predicted loss is
    returned, and of all that are as good as the falling rate (within 0.1 %) the one of fewest updates, if any.

    Args:
      result: a fit of runs whose batches determine the terms in the batch size.
      total_tokens: tokens of the run.
      tokens_per_step: tokens an update that it begins with.
      peak_lr: its peak rate.
      anneal_ratio: ratios to search.
      samples: ``[samples, parameters]`` bootstrap samples, for intervals.
      **plan: ``model_size``, ``family``, ``decay``, ``final_lr``, ``warmup_steps`` and ``init_lr``, as for ``search``.

    Raises:
      ValueError: as for ``search``; the law as fitted has no batch size in it; or no doubled batch lies within those of
        the fitted runs.

    >>> import fmjax
    >>> result = fmjax.fit("intrinsic-momentum", fmjax.datasets.proxy_runs("batches", "0.1M-lr0.0025-*"))
    >>> found = compare_growth(result, total_tokens=1e7, tokens_per_step=2048, peak_lr=2.5e-3)
    >>> [way.name for way in found.ways]
    ['falling rate', 'growing batch', 'both', 'as good, fewest updates']
    """
    needed = f"{result.law.name} as fitted has no batch size in it: the runs need several, or one that changes"
    require(result.law.spans_batches, f"tokens_per_step: {needed}")
    tokens, batch = positive(total_tokens, "total_tokens"), positive(tokens_per_step, "tokens_per_step")
    kinds, notes = _growths(result, batch, tokens)
    fixed: dict[str, Any] = {**plan, "total_tokens": tokens, "peak_lr": peak_lr}
    fixed |= {"keep_losses": True, "samples": samples}
    falling = search(result, **fixed, tokens_per_step=[batch, *kinds], anneal_ratio=anneal_ratio)
    steady: dict[str, Any] = {**fixed, "final_lr": peak_lr, "decay": "linear", "anneal_ratio": [0.5]}
    constant = search(result, **steady, tokens_per_step=kinds)
    ratios = np.append(0.0, falling.anneal_ratio)
    steps = np.array([cell.total_steps for cell in falling.cells])
    losses = np.stack([_joined(*of) for of in zip(_each(constant), _each(falling), strict=True)])
    ways = tuple(_ways([batch, *kinds], ratios, steps, losses))
    worse = (f"no growing batch is as good as the falling rate (within {100 * AS_GOOD:g} %)",)
    notes = (*(worse if len(ways) < len(WAYS) else ()), *notes, *falling.notes)
    return Growth(tokens, float(peak_lr), ways, notes)


def _growths(result: FitResult, batch: float, tokens: float) -> tuple[list[BatchStages], tuple[str, ...]]:
    """The growing batches within those of the fitted runs, and notes."""
    ends = None if result.reach is None else result.reach.tokens_per_step
    most = np.inf if ends is None else ends[1] * (1 + ONE_BATCH)
    each = [grown(batch, tokens, share, times) for times in DOUBLINGS for share in GROWTH_SHARES]
    each = [one for one in each if one.tokens[-1] <= most and one.starts[1] > 0 and min(np.diff(one.starts)) > 0]
    each = [one for one in each if one.until(one.starts[-1] + 1) <= tokens]
    largest = f"the largest of the fitted runs, {most / (1 + ONE_BATCH):g} tokens an update"
    require(each, f"tokens_per_step: no batch that {batch:g} doubles to lies within {largest}")
    notes = (f"batches beyond {largest}, are not compared",) if batch * 2 ** DOUBLINGS[-1] > most else ()
    runs = result.trained_with
    seen = runs is not None and any(isinstance(one, BatchStages) for one in runs.tokens_per_step)
    return each, notes if seen else (*notes, NOT_SEEN)


def _each(found: Any) -> list[np.ndarray]:
    """Losses ``[batches, ratios]`` of a search, then those under each sample."""
    return [found.losses, *(() if found.sample_losses is None else found.sample_losses)]


def _joined(constant: np.ndarray, falling: np.ndarray) -> np.ndarray:
    """``[batches, 1 + ratios]`` losses at a constant rate, then at each ratio; of the first batch only the latter."""
    return np.concatenate([np.append(np.full((1, 1), np.inf), constant, axis=0), falling], axis=1)


def _ways(batches: Sequence[Batch], ratios: np.ndarray, steps: np.ndarray, losses: np.ndarray) -> list[Way]:
    """The ways chosen by the first of the losses ``[1 + samples, batches, ratios]``; ratio 0 is a constant rate."""
    mean, places = losses[0], np.arange(losses[0].size).reshape(losses[0].shape)
    first = int(places[0, np.argmin(mean[0])])
    growing, both = (int(of.ravel()[np.argmin(mean.ravel()[of.ravel()])]) for of in (places[1:, :1], places[1:, 1:]))
    good = places[1:][mean[1:] <= mean.ravel()[first] * (1 + AS_GOOD)]
    fewest = sorted(good.tolist(), key=lambda at: (steps[at // ratios.size], mean.ravel()[at]))[:1]
    over = losses.reshape(len(losses), -1)

    def way(name: str, at: int) -> Way:
        place, ratio = divmod(at, ratios.size)
        excess = over[:, at] / over[:, first] - 1
        ends = percentile_interval(excess[1:]) if len(excess) > 1 else (float("nan"), float("nan"))
        saved = int(steps[0] - steps[place])
        loss = float(over[0, at])
        return Way(name, int(steps[place]), batches[place], float(ratios[ratio]), loss, float(excess[0]), ends, saved)

    return [way(name, at) for name, at in zip(WAYS, (first, growing, both, *fewest), strict=False)]
