"""What a recommendation is for: model sizes, batches and lengths, and which of them it chooses among."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fmjax._checks import require, whole
from fmjax._types import HostNumbers
from fmjax.fitting.fitted_runs import FittedRuns
from fmjax.fitting.records import ONE_SIZE
from fmjax.schedules.batch_stages import Batch, Batches, BatchStages, require_within
from fmjax.searching.grid import axis_of, batch_axis, lengths_of, told_axis

FLOPS_PER_TOKEN = 6.0
"""Operations of training for each parameter and token, C = 6 N D. Source: arXiv 2001.08361, section 2.1."""

SIZES_TRIED = 25
"""Model sizes tried for a compute budget where none are told."""


class Budget(NamedTuple):
    """What a choice is made for; what is not told is None."""

    model_size: float | None = None
    total_steps: int | None = None
    total_tokens: float | None = None
    flops: float | None = None

    @property
    def named(self) -> str:
        """The budget in words.

        >>> Budget(model_size=4e8, total_tokens=2e10).named
        '4e+08 parameters, 2e+10 tokens'
        """
        forms = ("{:.3g} parameters", "{} updates", "{:.3g} tokens", "{:.3g} operations")
        return ", ".join(form.format(value) for form, value in zip(forms, self, strict=True) if value is not None)

    def tokens(self, model_size: float | None) -> float | None:
        """Tokens of a run within the budget; None where its updates are told."""
        if self.flops is None or model_size is None:
            return self.total_tokens
        return self.flops / (FLOPS_PER_TOKEN * model_size)

    def updates(self, model_size: float | None, tokens_per_step: Batch | None) -> int:
        """Updates of a run within the budget: as told, or the whole number nearest to tokens over tokens an update."""
        tokens = self.tokens(model_size)
        if tokens is None or tokens_per_step is None:
            assert self.total_steps is not None
            return self.total_steps
        return int(lengths_of(None, np.array([tokens]), batch_axis([tokens_per_step]))[0])


class Target(NamedTuple):
    """A run to plan, but for its rates."""

    budget: int
    """Place of its budget among those of the plan."""
    total_steps: int
    model_size: float | None
    tokens_per_step: Batch | None


class Targets(NamedTuple):
    """The runs to plan, with one choice for each budget: of the batch, and for a budget of compute of the size too."""

    budgets: tuple[Budget, ...]
    each: tuple[Target, ...]

    @property
    def joint(self) -> bool:
        """Whether they differ in more than their rates, so that one fit must predict all of them."""
        return len(self.each) > 1 or self.budgets[0].flops is not None

    @classmethod
    def of(
        cls,
        runs: FittedRuns,
        *,
        total_steps: HostNumbers | None,
        total_tokens: HostNumbers | None,
        flops: HostNumbers | None,
        model_size: HostNumbers | None,
        tokens_per_step: Batches | None,
    ) -> "Targets":
        """The targets that are told, one value or many of each.

        Raises:
          ValueError: no length or two kinds of it; or batches or sizes to choose among that the runs cannot tell apart.
        """
        told = {"total_steps": total_steps, "total_tokens": total_tokens, "flops": flops}
        lengths = [name for name, value in told.items() if value is not None]
        expected = "expected one of total_steps, total_tokens and flops"
        require(len(lengths) == 1, f"{expected}, found {' and '.join(lengths) or 'none'}")
        by_tokens = total_steps is None
        batches = batch_axis(runs.only_batch if by_tokens and tokens_per_step is None else tokens_per_step)
        missing = "tokens_per_step is needed: updates follow from it, and the fitted runs have no batch size in common"
        require(not by_tokens or batches is not None, missing)
        sizes = told_axis(model_size, "model_size")
        _check_batches(runs, batches)
        _check_sizes(runs, sizes, for_flops=flops is not None)
        if flops is not None:
            sizes = _sizes_around(runs) if sizes is None else sizes
            budgets = [Budget(flops=budget) for budget in _values(told_axis(flops, "flops"))]
        else:
            counts = _values(_updates(total_steps)), _values(told_axis(total_tokens, "total_tokens"))
            pairs = [(size, steps, tokens) for size in _values(sizes) for steps in counts[0] for tokens in counts[1]]
            budgets = [Budget(size, None if s is None else int(s), tokens) for size, s, tokens in pairs]
        found = cls(tuple(budgets), tuple(_targets(budgets, sizes, batches)))
        for target in found.each:
            changes = isinstance(target.tokens_per_step, BatchStages)
            alone = "expected one target, or numbers to choose among"
            require(not (changes and found.joint), f"tokens_per_step: {alone}, found {target.tokens_per_step}")
            require_within(target.tokens_per_step, target.total_steps, "tokens_per_step")
        return found


def _values(axis: np.ndarray | None) -> list[float | None]:
    return [None] if axis is None else axis.tolist()


def _updates(total_steps: HostNumbers | None) -> np.ndarray | None:
    if total_steps is None:
        return None
    return np.array([whole(steps, "total_steps", least=1) for steps in axis_of(total_steps, "total_steps").tolist()])


def _targets(budgets: list[Budget], sizes: np.ndarray | None, batches: np.ndarray | None) -> Iterator[Target]:
    for place, budget in enumerate(budgets):
        for size in [budget.model_size] if budget.flops is None else _values(sizes):
            for batch in _values(batches):
                yield Target(place, budget.updates(size, batch), size, batch)


def _check_batches(runs: FittedRuns, batches: np.ndarray | None) -> None:
    """Refuses batches to choose among where the runs show nothing of them."""
    if batches is None or batches.size < 2:
        return
    unknown, count = sum(tokens is None for tokens in runs.tokens_per_step), len(runs.tokens_per_step)
    require(
        not unknown, f"tokens_per_step: to choose among batches every run needs one; {unknown} of {count} have none"
    )
    only = runs.only_batch
    had = f"all fitted runs have one, {only or 0:g} tokens an update"
    require(only is None, f"tokens_per_step: to choose among batches the runs need several; {had}")


def _check_sizes(runs: FittedRuns, sizes: np.ndarray | None, *, for_flops: bool) -> None:
    """Refuses sizes to choose among where the runs show nothing of them."""
    known = {size for size in runs.model_size if size is not None}
    unknown, count = sum(size is None for size in runs.model_size), len(runs.model_size)
    several = for_flops or (sizes is not None and sizes.size > 1)
    require(not (several and unknown), f"model_size: every run needs one to plan for; {unknown} of {count} have none")
    require(not several or len(known) > 1, f"model_size: {ONE_SIZE}; it can plan for that size alone")


def _sizes_around(runs: FittedRuns) -> np.ndarray:
    """From half the smallest fitted size to four times the largest."""
    known = [size for size in runs.model_size if size is not None]
    return np.geomspace(min(known) / 2, 4 * max(known), SIZES_TRIED)
