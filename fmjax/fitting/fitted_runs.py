"""What the fitted runs were trained with: plans take from it what they are not told, and are compared with it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fmjax._checks import choose, finite, require, whole
from fmjax._types import HostNumbers
from fmjax.curves.divergence import SAME_TOKENS
from fmjax.curves.loss_curve import LossCurve
from fmjax.laws.base import NEEDS_FAMILY
from fmjax.schedules.batch_stages import Batch, BatchStages, batch_of, batch_sizes, tokens_until
from fmjax.schedules.host_rates import host_rates
from fmjax.schedules.kinds import Constant

ONE_RATE = 1e-3
"""Relative difference up to which two rates count as one."""

BEGINNING = 0.25
"""Share of a run in which its first row must lie to show where its loss began."""

SHORTENED = "the warmup of the fitted runs, {} updates, is longer than the plan; shortened to {}"


class FittedRuns(NamedTuple):
    """What each fitted run was trained with; every field has one value a run."""

    warmup_steps: tuple[int, ...]
    init_lr: tuple[float | None, ...]
    """Rate of update 0 where there is a warmup."""
    final_lr: tuple[float | None, ...]
    """Rate that the run ends at, for runs whose rate falls."""
    total_steps: tuple[int, ...]
    peak_lr: tuple[float, ...]
    tokens_per_step: tuple[Batch | None, ...]
    model_size: tuple[float | None, ...]
    first_loss: tuple[float | None, ...]
    """Loss of the first row, where it was logged early in the run."""
    first_step: tuple[int, ...]
    """Step of the first row."""
    least_loss: tuple[float, ...]
    """Lowest loss of a row, or the final loss where that is lower."""
    family: tuple[str | None, ...] = ()
    """Name of the family of models; empty in fits from older files."""

    @classmethod
    def of(cls, curves: Sequence[LossCurve]) -> "FittedRuns":
        """What these runs were trained with."""
        return cls(*zip(*map(_trained_with, curves), strict=True))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "FittedRuns":
        """Reads what JSON made of one."""
        found = cls(*(tuple(record[name]) for name in cls._fields if name in record))
        batches = (None if batch is None else batch_of(batch, "tokens_per_step") for batch in found.tokens_per_step)
        return found._replace(tokens_per_step=tuple(batches))

    @property
    def warmups(self) -> tuple[int, int]:
        """Least and greatest warmup."""
        return min(self.warmup_steps), max(self.warmup_steps)

    @property
    def usual_warmup(self) -> int:
        """The middle warmup of the runs."""
        return int(_middle(self.warmup_steps))

    def usual_init(self, peak_lrs: HostNumbers) -> float:
        """The middle initial rate of runs with warmup; where they differ, as a share of the lowest of these peaks."""
        known = [(lr, lr / peak) for lr, peak in zip(self.init_lr, self.peak_lr, strict=True) if lr is not None]
        if not known:
            return 0.0
        rates, shares = zip(*known, strict=True)
        lowest = float(np.min(peak_lrs))
        return min(lowest, float(_middle(rates))) if _one(rates) else lowest * float(_middle(shares))

    @property
    def final_shares(self) -> tuple[float, ...]:
        """Final rate over peak rate, of the runs whose rate falls."""
        return tuple(lr / peak for lr, peak in zip(self.final_lr, self.peak_lr, strict=True) if lr is not None)

    @property
    def usual_final_share(self) -> float:
        """The middle final rate as a share of the peak rate; 0 where no run's rate falls."""
        return float(_middle(self.final_shares)) if self.final_shares else 0.0

    def most_loss(self, total_steps: int) -> float:
        """Highest loss that a run began with; infinite where one was not logged early, or later than the plan ends."""
        known = [loss for loss in self.first_loss if loss is not None]
        comparable = len(known) == len(self.first_loss) and total_steps > max(self.first_step)
        return max(known) if comparable else float("inf")

    @property
    def only_batch(self) -> float | None:
        """The batch that all runs have, in tokens an update; None where it is unknown or they differ."""
        known = batch_sizes(self.tokens_per_step)
        return float(known[0]) if known and None not in self.tokens_per_step and _one(known) else None

    @property
    def families(self) -> tuple[str, ...]:
        """Names of their families, in order."""
        return tuple(sorted({name for name in self.family if name is not None}))

    def family_told(self, told: str | None) -> str | None:
        """The family to plan for: the one told, or the only one of the runs; None where they name none.

        Raises:
          ValueError: none is told where there are several, or one that the runs do not name.
        """
        names = self.families
        require(told is None or names, f"family: the fitted runs name none, got {told!r}")
        require(told is not None or len(names) < 2, f"{NEEDS_FAMILY}: one of {', '.join(names)}")
        return choose(told, names, "family") if told is not None else next(iter(names), None)

    def of_family(self, family: str) -> "FittedRuns":
        """Those of one family."""
        own = [at for at, name in enumerate(self.family) if name == family]
        return FittedRuns._make(tuple(values[at] for at in own) for values in self)

    def only_size(self, family: str | None) -> float | None:
        """The model size that all runs of a family have; None where it is unknown or they differ."""
        sizes = set(() if family is None else self.of_family(family).model_size)
        return next(iter(sizes)) if len(sizes) == 1 else None

    def check_size(self, family: str | None, model_size: float) -> None:
        """Refuses another size than a family's own, of families of one size each."""
        own = self.only_size(family)
        if own is not None and abs(model_size / own - 1) > ONE_RATE:
            reason = f"family {family!r} was fitted at one size, so that its level and its size cannot be told apart"
            raise ValueError(f"model_size: {reason}; expected {own:g}, got {model_size:g}")

    def family_notes(
        self,
        family: str | None,
        total_steps: int,
        peak_lrs: Sequence[float],
        sizes: Sequence[float],
        batches: Sequence[Batch],
    ) -> tuple[str, ...]:
        """A note where a plan lies outside the runs of its own family, and within those of others."""
        if family is None:
            return ()
        own, plan = self.of_family(family), (total_steps, peak_lrs, sizes, batches)
        beyond_all = self.not_covering(*plan)
        beyond = [what for what in own.not_covering(*plan) if what not in beyond_all]
        said = f"family {family!r} has {len(own.family)} runs, and none with such {' and '.join(beyond)}"
        return (f"{said}: there the answer rests on runs of other families",) if beyond else ()

    def not_covering(
        self, total_steps: int, peak_lrs: Sequence[float], sizes: Sequence[float], batches: Sequence[Batch]
    ) -> tuple[str, ...]:
        """In what a plan of these peak rates, sizes and batches goes beyond all runs, in words."""
        runs = zip(self.tokens_per_step, self.total_steps, strict=True)
        tokens = [tokens_until(batch, steps) for batch, steps in runs if batch is not None]
        planned = [tokens_until(batch, total_steps) for batch in batches]
        found = {
            "numbers of updates": total_steps > max(self.total_steps) * (1 + ONE_RATE),
            "numbers of tokens": bool(tokens and planned) and max(planned) > max(tokens) * (1 + SAME_TOKENS),
            "peak rates": _reaches_beyond(peak_lrs, self.peak_lr),
            "model sizes": _reaches_beyond(sizes, self.model_size),
            "batches": _reaches_beyond(batch_sizes(batches), batch_sizes(self.tokens_per_step)),
        }
        return tuple(what for what, is_beyond in found.items() if is_beyond)

    def notes(self, *, batches: bool, families: bool) -> tuple[str, ...]:
        """What every verb has to say of these runs, under a law that has the batch size, and families, in it or not."""
        said = () if batches else of_batches(self.tokens_per_step)
        return said if families or len(self.families) < 2 else (*said, of_families(self.families))


def _reaches_beyond(planned: Sequence[float], had: Sequence[float | None]) -> bool:
    known = [value for value in had if value is not None]
    low, high = (min(known) * (1 - ONE_RATE), max(known) * (1 + ONE_RATE)) if known else (0.0, np.inf)
    return any(not low <= value <= high for value in planned)


def of_families(names: Sequence[str]) -> str:
    """What to say of runs of several families under a law that has none in it."""
    return f"the fitted runs are of several families, {', '.join(names)}; the law takes them for one"


def of_batches(tokens_per_step: Sequence[Batch | None]) -> tuple[str, ...]:
    """What to say of runs of several batch sizes, or one that changes, under a law that has no batch size in it."""
    known = batch_sizes(tokens_per_step)
    if not known or _one(known):
        return ()
    differ = "change during runs" if any(isinstance(of, BatchStages) for of in tokens_per_step) else "differ"
    ends = f"{min(known):g} and {max(known):g}"
    lacks = "the law does not have the batch size in it"
    return (f"batch sizes of the fitted runs {differ}, {ends} tokens a step; {lacks}",)


def _trained_with(curve: LossCurve) -> tuple[Any, ...]:
    total, warmup = int(curve.schedule.total_steps), int(curve.schedule.warmup_steps)
    begin, *end = host_rates(curve.schedule, np.array([0, max(total - 2, 0), total - 1])).tolist()
    first = float(curve.loss[0]) if curve.step.size > 1 and curve.step[0] <= BEGINNING * total else None
    return (
        warmup,
        begin if warmup else None,
        _final_rate(curve, *end) if total - warmup > 1 else None,
        total,
        curve.peak_lr,
        curve.tokens_per_step,
        curve.model_size,
        first,
        int(curve.step[0]),
        min(float(curve.loss.min()), curve.final_loss_measured),
        curve.family,
    )


def _final_rate(curve: LossCurve, before: float, last: float) -> float | None:
    """The rate a run ends at, one update after its last two; None where it does not fall."""
    if isinstance(curve.schedule, Constant) or last >= curve.peak_lr * (1 - ONE_RATE):
        return None
    known = getattr(curve.schedule, "final_lr", None)
    return max(0.0, 2 * last - before) if known is None else float(known)


def _middle(values: Sequence[float]) -> float:
    """The median; of an even number of values the lower of the two, which a run had."""
    return sorted(values)[(len(values) - 1) // 2]


def _one(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= ONE_RATE * max(values)


class PlanShape(NamedTuple):
    """Warmup, initial and final rate of a plan, and where they come from."""

    warmup_steps: int
    init_lr: float
    final_lr: Any
    """As told; where it comes from the runs, as a share of the peak rate."""
    final_is_share: bool
    taken: dict[str, float]
    """What was taken from the fitted runs; a final rate as a share of the peak rate."""
    notes: tuple[str, ...]

    def final_at(self, peak_lr: float) -> Any:
        """The final rate of a plan at a peak rate."""
        return self.final_lr * peak_lr if self.final_is_share else self.final_lr

    @classmethod
    def of(
        cls,
        runs: FittedRuns | None,
        *,
        longest_warmup: int,
        peak_lr: HostNumbers,
        warmup_steps: int | None,
        init_lr: float | None,
        final_lr: Any,
    ) -> "PlanShape":
        """The shape that is told, and where nothing is told that of the fitted runs.

        Args:
          runs: the fitted runs; None where a fit does not have them, as one from an older file.
          longest_warmup: updates of warmup that the plan has room for.
          peak_lr: peak rates of the plan, one or many.
          warmup_steps: updates of warmup, or None.
          init_lr: rate of update 0, or None.
          final_lr: rates the anneal ends at, or None.
        """
        told = {"warmup_steps": warmup_steps, "init_lr": init_lr, "final_lr": final_lr}
        usual = {"warmup_steps": 0, "init_lr": 0.0, "final_lr": 0.0}
        if runs is not None:
            warmup = max(0, min(longest_warmup, runs.usual_warmup))
            usual = {"warmup_steps": warmup, "init_lr": runs.usual_init(peak_lr), "final_lr": runs.usual_final_share}
        taken = {name: value for name, value in usual.items() if told[name] is None}
        found = {name: usual[name] if value is None else value for name, value in told.items()}
        warmup, init = whole(found["warmup_steps"], "warmup_steps"), finite(found["init_lr"], "init_lr")
        is_share = final_lr is None and runs is not None and found["final_lr"] > 0
        notes = _of_taken(runs, taken) + (() if runs is None else _of_told(runs, told, peak_lr))
        return cls(warmup, init, found["final_lr"], is_share, taken if runs is not None else {}, notes)


_WORDS = {"warmup_steps": "{:g} updates of warmup", "init_lr": "an initial rate of {:g}", "final_lr": "{}"}


def _of_taken(runs: FittedRuns | None, taken: dict[str, float]) -> tuple[str, ...]:
    if not taken:
        return ()
    final = taken.get("final_lr", 0.0)
    ends = f"a final rate of {final:.3g} times the peak rate" if final else "a final rate of 0"
    named = ", ".join(_WORDS[name].format(ends if name == "final_lr" else value) for name, value in taken.items())
    if runs is None:
        return (f"the fit does not hold what its runs were trained with; planned with {named}",)
    notes = [f"taken from the fitted runs: {named}"]
    low, high = runs.warmups
    if "warmup_steps" in taken and low != high:
        notes.append(f"the fitted runs had {low} ... {high} updates of warmup")
    if "warmup_steps" in taken and taken["warmup_steps"] < runs.usual_warmup:
        notes.append(SHORTENED.format(runs.usual_warmup, taken["warmup_steps"]))
    return tuple(notes)


def _of_told(runs: FittedRuns, told: dict[str, Any], peak_lr: HostNumbers) -> tuple[str, ...]:
    notes, (low, high) = [], runs.warmups
    warmup, final = told["warmup_steps"], told["final_lr"]
    if warmup is not None and not low <= warmup <= high:
        had = f"{low}" if low == high else f"{low} ... {high}"
        notes.append(f"the plan has {warmup:g} updates of warmup; the fitted runs had {had}")
    shares = runs.final_shares
    if final is not None and shares:
        ends = np.divide.outer(np.atleast_1d(final), np.atleast_1d(peak_lr))
        beyond = ends[(ends < min(shares) - 0.01) | (ends > max(shares) + 0.01)]
        if beyond.size:
            had = (
                f"{min(shares):.3g}"
                if max(shares) - min(shares) < ONE_RATE
                else f"{min(shares):.3g} ... {max(shares):.3g}"
            )
            notes.append(f"a final rate of {beyond[0]:.3g} times the peak rate; the fitted runs had {had} times")
    return tuple(notes)
