"""A batch that changes during a run: tokens an update in stages, as ramps at the start and doublings are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import positive, require, whole
from fmjax._json import AsText
from fmjax._types import Array, Real

_NOTATION = "TOKENS@UPDATE,TOKENS@UPDATE,... from update 0 on, such as 65536@0,131072@2000"


@partial(jax.tree_util.register_dataclass, data_fields=["starts", "tokens"], meta_fields=[])
@dataclass(frozen=True)
class BatchStages(AsText):
    """Tokens an update: ``tokens[k]`` from update ``starts[k]`` on, until the next stage begins.

    Manifests, JSON and the command line write it as text, TOKENS@UPDATE of each stage. ``batch_of`` reads and checks.

    Args:
      starts: first update of each stage, rising, the first of them 0.
      tokens: tokens an update of each stage.

    >>> ramp = BatchStages.from_text("65536@0,131072@2000")
    >>> ramp.starts, str(ramp), f"{ramp:.2g}"
    ((0, 2000), '65536@0,131072@2000', '6.6e+04@0,1.3e+05@2000')
    >>> float(ramp.until(2001)) == 2000 * 65536 + 131072
    True
    """

    starts: tuple[int, ...]
    tokens: tuple[float, ...]

    @classmethod
    def from_text(cls, text: str) -> "BatchStages":
        """Reads what ``str`` writes; ``batch_of`` also checks it.

        Raises:
          ValueError: another notation.
        """
        try:
            pairs = [(int(start), float(tokens)) for tokens, start in (part.split("@") for part in text.split(","))]
        except ValueError:
            raise ValueError(f"expected {_NOTATION}, got {text!r}") from None
        return cls(tuple(start for start, _ in pairs), tuple(tokens for _, tokens in pairs))

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, form: str) -> str:
        shown = (f"{tokens:{form}}" if form else _exact(tokens) for tokens in self.tokens)
        return ",".join(f"{tokens}@{start}" for tokens, start in zip(shown, self.starts, strict=True))

    @property
    def falls(self) -> bool:
        """Whether any stage has a smaller batch than the one before."""
        return bool(min(np.diff(self.tokens), default=0.0) < 0)

    def until(self, count: Real) -> np.ndarray:
        """Tokens of the first ``count`` updates, of one count or many."""
        ends = np.append(self.starts[1:], np.inf)
        spent = np.clip(np.asarray(count, float)[..., None], self.starts, ends) - self.starts
        return np.asarray(spent @ np.array(self.tokens, float))

    def updates(self, tokens: Real) -> np.ndarray:
        """Updates that so many tokens are enough for, with a fraction; the inverse of ``until``."""
        seen, starts = np.asarray(tokens, float), np.array(self.starts, float)
        before = self.until(starts)
        stage = np.maximum(np.searchsorted(before, seen, side="right") - 1, 0)
        return np.asarray(starts[stage] + (seen - before[stage]) / np.array(self.tokens, float)[stage])

    def shares(self, update: Array) -> jax.Array:
        """``[stages, updates]`` 1 where an update lies in a stage, else 0, under ``jit`` too."""
        return stage_shares(jnp.stack([jnp.asarray(start) for start in self.starts]), update)


Batch: TypeAlias = float | BatchStages
"""Tokens an update: one number, or stages."""

Batches: TypeAlias = float | str | BatchStages | Sequence[float | str | BatchStages] | np.ndarray
"""One or many of them, as users hand them in."""


def stage_shares(starts: Array, update: Array) -> jax.Array:
    """``[..., stages, updates]`` which stage an update lies in, from the first update of each, ``[..., stages]``.

    An update that stands for many may lie between two; those that it stands for are of one stage.
    """
    starts, update = jnp.asarray(starts), jnp.asarray(update)
    begun = (update[..., None, :] >= starts[..., :, None] - 0.5).astype(jnp.result_type(float))
    return begun - jnp.concatenate([begun[..., 1:, :], jnp.zeros_like(begun[..., :1, :])], axis=-2)


def _exact(tokens: float) -> str:
    return f"{tokens:.0f}" if float(tokens).is_integer() else repr(float(tokens))


def batch_of(value: object, name: str) -> Batch:
    """Tokens an update as a number above zero or as checked stages; stages of one batch are a number.

    Raises:
      ValueError: naming what was expected and what was found.

    >>> batch_of("4e5@0,4e5@100", "tokens_per_step")
    400000.0
    """
    if isinstance(value, str) and "@" in value:
        try:
            value = BatchStages.from_text(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not isinstance(value, BatchStages):
        require(not isinstance(value, list | tuple), f"{name}: expected a number or {_NOTATION}, got {value!r}")
        return positive(value, name)
    starts, tokens = [whole(start, name) for start in value.starts], [positive(size, name) for size in value.tokens]
    require(len(starts) == len(tokens), f"{name}: expected as many starts as batches, got {len(starts)}, {len(tokens)}")
    rising = starts[:1] == [0] and all(np.diff(starts) > 0)
    require(rising, f"{name}: expected stages that start at update 0 and rise, got {starts}")
    kept = [i for i in range(len(tokens)) if i == 0 or tokens[i] != tokens[i - 1]]
    found = BatchStages(tuple(starts[i] for i in kept), tuple(tokens[i] for i in kept))
    return found if len(kept) > 1 else found.tokens[0]


def require_within(batch: Batch | None, total_steps: int, name: str) -> None:
    """Refuses stages that a run of so many updates does not reach."""
    last = batch.starts[-1] if isinstance(batch, BatchStages) else 0
    require(last < total_steps, f"{name}: a stage begins at update {last}, but the run has {total_steps} updates")


def tokens_until(batch: Batch, count: int) -> float:
    """Tokens of the first ``count`` updates."""
    return float(batch.until(count)) if isinstance(batch, BatchStages) else batch * count


def joined_batch(before: Batch | None, after: Batch | None, at: int) -> Batch | None:
    """One batch until an update and another from there on, where both are known, else the latter.

    >>> str(joined_batch(BatchStages((0, 100), (64.0, 128.0)), 256.0, 400))
    '64@0,128@100,256@400'
    """
    if before is None or after is None or before == after:
        return after
    first, then = (one if isinstance(one, BatchStages) else BatchStages((0,), (one,)) for one in (before, after))
    early = [pair for pair in zip(first.starts, first.tokens, strict=True) if pair[0] < at]
    late = [(max(start, at), size) for start, size in zip(then.starts, then.tokens, strict=True)]
    late = [pair for pair, end in zip(late, [*then.starts[1:], np.inf], strict=True) if end > at]
    starts, tokens = zip(*early, *late, strict=True)
    return batch_of(BatchStages(starts, tokens), "tokens_per_step")


def mean_batch(batch: Batch | None, total_steps: int) -> float | None:
    """Mean tokens an update of a run; None where unknown."""
    return tokens_until(batch, total_steps) / total_steps if isinstance(batch, BatchStages) else batch


def changes_of(batch: Batch | None) -> tuple[int, ...]:
    """Updates at which a batch changes."""
    return batch.starts[1:] if isinstance(batch, BatchStages) else ()


def batch_sizes(batches: Iterable[Batch | None]) -> list[float]:
    """Every number of tokens an update that is known of runs, those of all stages."""
    each = (batch.tokens if isinstance(batch, BatchStages) else (batch,) for batch in batches)
    return [size for sizes in each for size in sizes if size is not None]


class StageArrays(NamedTuple):
    """The batches of runs side by side, ``[runs, stages]``: later stages of runs with fewer never begin."""

    starts: np.ndarray
    tokens: np.ndarray
    """NaN where unknown."""

    @classmethod
    def of(cls, batches: Sequence[Batch | None]) -> "StageArrays":
        """The batches of runs, as many stages of each as the most of them have."""
        known = [float("nan") if one is None else one for one in batches]
        each = [one if isinstance(one, BatchStages) else BatchStages((0,), (one,)) for one in known]
        width = max(len(one.starts) for one in each)
        starts = [[*one.starts, *(width - len(one.starts)) * [np.inf]] for one in each]
        tokens = [[*one.tokens, *(width - len(one.tokens)) * one.tokens[-1:]] for one in each]
        return cls(np.array(starts, float), np.array(tokens, float))

    @property
    def change(self) -> bool:
        """Whether the batch of any run changes."""
        return self.starts.shape[1] > 1
