"""``intrinsic-momentum``: the noise of the rate, remembered in the schedule's own time S."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import choose, require
from fmjax._types import Array, Dtype, Real
from fmjax.effects.updates import Fading, Sum, Update, plus
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.base import NEEDS_BATCH, NEEDS_FAMILY, ONE_BATCH, Ahead, Law, Row, register, safe_log, stack
from fmjax.laws.memory import empty, memories, spread_over_levels
from fmjax.laws.terms import ALPHA, Coefficient, Exponent, Gaussian, Option
from fmjax.schedules.batch_stages import Batch, BatchStages, batch_sizes

FORGETTING_RATES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Rates r at which the noise is forgotten, per unit of the sum of learning rates."""

LOG_RATE_LEVELS = np.log(1e-7) + 0.4 * np.arange(42)
"""Logarithms of the learning rates at which effects are kept while rho or xi is open, from 1e-7 to 1.3."""

RHO = Exponent("rho", 0.2, 1.0, (0.5, 0.7, 0.9))
"""At most 1: an update does not get further than in proportion to its rate."""

XI = Exponent("xi", 0.1, 1.5, (0.4, 0.6, 0.8), Gaussian(0.65, 0.08))
ALPHA_STARTS = (0.2, 0.3, 0.4, 0.5, 0.65, 0.8)
ALPHA_PRIOR = Gaussian(0.5, 0.1)

# What runs of several sizes and batch sizes determine. The means and spreads are those of four independent sets of runs
# between 25M and 760M parameters; beta was told the least well.
SIZE_EXPONENTS = (
    Exponent("beta", 1e-3, 5.0, (0.1, 0.2, 0.35), Gaussian(0.25, 0.08)),
    Exponent("gamma", -0.5, 1.0, (0.05,), Gaussian(0.05, 0.02)),
    Exponent("q", -1.0, 2.0, (0.4,), Gaussian(0.4, 0.06)),
)
BATCH_EXPONENTS = (
    Exponent("kappa", -1.0, 2.0, (0.46,), Gaussian(0.46, 0.06)),
    Exponent("phi", -1.0, 1.5, (0.25,), Gaussian(0.25, 0.06)),
)

NOISE_FACTOR = Gaussian(0.0, 0.4)
"""Prior of the log of a family's noise factor over that of the first: mixtures of experts of three kinds and dense
models had 0.2 to 0.6 between them."""


class IntrinsicMomentumState(NamedTuple):
    """Sum of the rate's powers, and the noise remembered at each of ``FORGETTING_RATES``.

    Each has a column for each of ``LOG_RATE_LEVELS`` where its exponent is open, and before it an axis of the stages of
    a batch that changes.
    """

    forward: Sum
    noise: Sum
    seen: jax.Array | None = None
    """Updates so far, of a batch that changes."""


@register
@dataclass(frozen=True)
class IntrinsicMomentum(Law):
    r"""$L = L_0 + A S^{-\alpha} + \sum_j (c_j + d_j S^{-\alpha}) E_j$, with $c, d \ge 0$.

    $E_j \leftarrow E_j + (1 - e^{-r_j \eta})(\eta^\xi - E_j)$ with $E_j = 0$ before the first update, for rates $r_j$
    of ``FORGETTING_RATES``, and $S = 10^{-3} \sum (\eta / 10^{-3})^\rho$. The exponents rho and xi are fitted as alpha
    is.

    Over model sizes N and batch sizes B (tokens an update), $n = N / N_0$, $b = B / B_0$ and $\tau = b^\phi S$:

    $L = L_0 + C n^{-\beta} + n^{-\gamma} A \tau^{-\alpha} + n^q b^{-\kappa} \sum_j (c_j + d_j \tau^{-\alpha}) E_j$

    with the geometric means of the fitted runs as $N_0$ and $B_0$. The noise floor grows with the size and falls with
    the batch; the clock of the memories is the sum of rates, whatever the batch. Terms in N are there where the fitted
    runs' sizes differ, terms in B where their batches do. The exponents then have a prior; see
    ``fmjax.fitting.priors``.

    Where the batch changes during a run, each update enters with its own b: what it adds to S is weighed by $b^\phi$ in
    $\tau$, and $\eta^\xi$ by $b^{-\kappa}$ in $E_j$. Both are linear in what updates add, so effects are kept for each
    stage k of the batch and weighed when they are read: $\tau = \sum_k b_k^\phi S^{(k)}$, and
    $\sum_k b_k^{-\kappa} E_j^{(k)}$ in place of $b^{-\kappa} E_j$. Only updates of the stage feed $E_j^{(k)}$; those of
    all stages forget it.

    Runs of several families k of models, such as dense ones and mixtures of experts with active parameters as N, have a
    level $L_0 + l_k$ in place of $L_0$, and $f_k E_j$ in place of $E_j$. For the family with most runs $l_k = 0$ and
    $f_k = 1$. Where each family has one size, its level holds $C n^{-\beta}$, which is left out, and the fit predicts
    each family at its own size alone.

    At its limits: at a constant rate every $E_j$ tends to $\eta^\xi$, so the loss of a very long run tends to the noise
    floor $L_0 + \sum_j c_j \eta^\xi$ of its rate; when the rate falls, $E_j$ falls with it over $1/r_j$ of the sum of
    rates; at a rate of zero S and every $E_j$ stand still, and so does the loss.

    Data it needs: at least two curves, one of them with a long or a stepwise anneal. A constant rate and one short
    anneal do not determine it; the fit is then "undetermined". Runs of one peak rate do not determine rho. rho is at
    most 1.

    Sources: arXiv 2408.11029 has the sum of rates as a clock, and a power law in it. arXiv 2503.12811 and 2509.19189
    have memories of the rate in that clock. New here are noise floors $\eta^\xi$ in place of drops of the rate, the
    non-negative mixture of memories, the term that fades with S, and the exponent rho.

    How it is followed: ``init``, ``step`` and ``observe`` are the definition. ``effects`` gives the same for open
    exponents by matrix products, ``final_basis`` for closed ones by sums over updates, which are quicker to
    differentiate. ``RatePower`` is what an open exponent changes.

    Args:
      rho: exponent on the rate in S; None fits it, or takes 1 where all runs have one peak rate, or several sizes or
        batch sizes, among which it was 1 within its error.
      xi: exponent on the rate in E; None fits it.
      size_unit: N0; 1 where None. ``fit`` sets it.
      batch_unit: B0, likewise.
      tokens_per_step: batch to predict for, a number or ``BatchStages``; ``rows`` that have a ``log_B`` of their own do
        not need it.
      batches: whether terms in the batch size are there; ``fit`` sets it where the runs' batches differ.
      families: names of the families with terms of their own, the one with most runs first; ``fit`` sets it where the
        runs name several. ``level_NAME`` and ``noise_NAME`` (the log of f) are the parameters of all but the first.
      family: the one to predict for; ``rows`` that have a ``family`` of their own do not need it.
      size_in_level: whether each family has one size, so that C n^-beta is left out; ``fit`` sets it.
    """

    name: ClassVar[str] = "intrinsic-momentum"
    tunable: ClassVar[tuple[Option, ...]] = (Option("rho", 0.3, 1.5), Option("xi", 0.1, 1.5))
    size_term: ClassVar[tuple[str, str]] = ("C", "beta")
    rho: Real | None = None
    xi: Real | None = None
    size_unit: Real | None = None
    batch_unit: Real | None = None
    tokens_per_step: Real | BatchStages | None = None
    batches: bool = field(default=False, kw_only=True, metadata={"static": True})
    families: tuple[str, ...] = field(default=(), kw_only=True, metadata={"static": True})
    family: str | None = field(default=None, kw_only=True, metadata={"static": True})
    size_in_level: bool = field(default=False, kw_only=True, metadata={"static": True})

    @property
    def spans_batches(self) -> bool:
        return self.batches

    def spanning(
        self, sizes: Sequence[float | None], batches: Sequence[Batch | None], families: Sequence[str | None] = ()
    ) -> Law:
        law = super().spanning(sizes, batches)
        known = batch_sizes(batches)
        differ = None not in batches and max(known) > min(known) * (1 + ONE_BATCH)
        own: dict[str, Any] = {"batches": differ, "batch_unit": _mean_size(known) if differ else None}
        own["size_unit"] = _mean_size(sizes) if law.sizes else None
        named = Counter(family for family in families if family is not None)
        own["families"] = tuple(name for name, _ in named.most_common()) if len(named) > 1 else ()
        apart = len(named) > 1 and len(set(zip(families, sizes, strict=True))) == len(set(families))
        own["size_in_level"] = law.sizes and apart
        return dataclasses.replace(law, **own)

    def for_batch(self, tokens_per_step: Batch) -> "IntrinsicMomentum":
        return dataclasses.replace(self, tokens_per_step=tokens_per_step)

    def for_family(self, family: str | None) -> "IntrinsicMomentum":
        if not self.families:
            return self
        require(family is not None, f"{NEEDS_FAMILY}: one of {', '.join(self.families)}")
        return dataclasses.replace(self, family=choose(str(family), self.families, "family"))

    def level_of(self, params: Mapping[str, float]) -> float:
        own = self.families if self.family is None else (self.family,)
        return params.get("L0", 0.0) + min((params.get(f"level_{name}", 0.0) for name in own), default=0.0)

    def suited_to(self, peak_lrs: Set[float]) -> "IntrinsicMomentum":
        one = (len(peak_lrs) == 1 or self.sizes or self.batches or self.families) and self.rho is None
        return dataclasses.replace(self, rho=1.0) if one else self

    def settled(self, vector: np.ndarray) -> tuple["IntrinsicMomentum", np.ndarray]:
        fitted = [name in (RHO.name, XI.name) for name in self.parameter_names]
        values = {n: float(x) for n, x, is_ in zip(self.parameter_names, vector, fitted, strict=True) if is_}
        law: IntrinsicMomentum = dataclasses.replace(self, **values)  # type: ignore[arg-type]
        return law, vector[~np.array(fitted)]

    @property
    def _forward(self) -> "RatePower":
        """What an update adds to S, less the factor 1e-3."""
        return RatePower(RHO, 1e-3, 0.8, self.rho)

    @property
    def _noise(self) -> "RatePower":
        """The noise floor of a rate."""
        return RatePower(XI, 1.0, 0.625, self.xi)

    @property
    def _open(self) -> tuple[Exponent, ...]:
        """Exponents on the rate that are fitted."""
        return tuple(power.exponent for power in (self._forward, self._noise) if power.is_open)

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        names = [f"{kind}{rate:g}" for kind in "cd" for rate in FORGETTING_RATES]
        own = [one for one in super().coefficients if one.name != "C" or not self.size_in_level]
        levels = [Coefficient(f"level_{name}") for name in self.families[1:]]
        return (*own, *levels, *(Coefficient(name, 0.0, mixture=True) for name in names))

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        alpha = ALPHA._replace(starts=ALPHA_STARTS if self._open else ALPHA.starts, prior=ALPHA_PRIOR)
        of_size = SIZE_EXPONENTS[1:] if self.size_in_level else SIZE_EXPONENTS
        sizes, batches = (of_size if self.sizes else ()), (BATCH_EXPONENTS if self.batches else ())
        factors = (Exponent(f"noise_{name}", -3.0, 3.0, (0.0,), NOISE_FACTOR) for name in self.families[1:])
        return (alpha, *sizes, *batches, *factors, *self._open)

    @property
    def stages(self) -> BatchStages | None:
        return self.tokens_per_step if self.batches and isinstance(self.tokens_per_step, BatchStages) else None

    def init(self, dtype: Dtype) -> IntrinsicMomentumState:
        stages = () if self.stages is None else (len(self.stages.starts),)
        noise = empty(dtype, len(FORGETTING_RATES), *stages, *self._noise.shape)
        seen = jnp.zeros((), dtype) if stages else None
        return IntrinsicMomentumState(empty(dtype, *stages, *self._forward.shape), noise, seen)

    def step(self, state: IntrinsicMomentumState, update: Update) -> IntrinsicMomentumState:
        rates = jnp.asarray(FORGETTING_RATES, state.noise.total.dtype)
        if self.stages is None or state.seen is None:
            noise = update.relax(state.noise, rates, self._noise.of)
            return IntrinsicMomentumState(plus(state.forward, 1e-3 * self._forward.of(update.lr)), noise)
        here = self.stages.shares(state.seen[None])[:, 0].astype(rates.dtype)  # 1 in this update's stage, else 0
        noise = update.relax(state.noise, rates, lambda lr: jnp.tensordot(here, self._noise.of(lr), axes=0))
        forward = jnp.tensordot(here, 1e-3 * self._forward.of(update.lr), axes=0)
        return IntrinsicMomentumState(plus(state.forward, forward), noise, state.seen + 1)

    def observe(self, state: IntrinsicMomentumState) -> Row:
        noise = state.noise.total
        return {"S": state.forward.total, "E": noise if self.stages is None else jnp.swapaxes(noise, 0, 1)}

    def effects(self, lrs: jax.Array, at: jax.Array, warmup_steps: Real = 0) -> Row:
        if not self._open:
            return super().effects(lrs, at, warmup_steps)
        updates = WeightedUpdates.every(*self.counted(lrs, warmup_steps))
        return self.row_effects(updates.in_stages(self.stages), at)

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        if updates.stage is None:
            return self._sums(updates, at)

        def of_one(share: Array) -> Row:
            return self._sums(updates._replace(weight=updates.weight * share, stage=None), at)

        return jax.vmap(of_one, out_axes=1)(jnp.asarray(updates.stage))

    def _sums(self, updates: WeightedUpdates, at: Array) -> Row:
        """Effects of updates that all count by their weights."""
        forward, noise = self._forward, self._noise
        if forward.is_open:
            S = memories(updates, at, (0.0,), lambda lr, *_: 1e-3 * forward.of(lr), fading=Fading.LATER)
        else:
            S = updates.total(1e-3 * forward.of(updates.lr), at)
        E = memories(updates, at, FORGETTING_RATES, lambda lr, *_: jnp.atleast_1d(noise.of(lr)), fading=Fading.AVERAGE)
        return {"S": S.reshape(-1, *forward.shape), "E": E.reshape(*E.shape[:2], *noise.shape)}

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Real = 0
    ) -> jax.Array:
        if self._open:
            return super().final_basis(lrs, last, log_n, exponents, warmup_steps)
        seen, rates = Ahead.of(self.counted(lrs, warmup_steps), last), jnp.asarray(FORGETTING_RATES, lrs.dtype)[:, None]
        kept = -jnp.exp(-rates * seen.since[None, :]) * jnp.expm1(-rates * seen.lr[None, :])
        forward, noise = 1e-3 * self._forward.of(seen.lr), self._noise.of(seen.lr)
        row = {"S": jnp.sum(forward), "E": kept @ noise, "log_N": log_n}
        if self.stages is not None:
            share = self.stages.shares(jnp.arange(lrs.size)).astype(lrs.dtype)
            row |= {"S": share @ forward, "E": (share * noise[None]) @ kept.T}
        return self.basis(row, exponents)

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        fitted = dict(zip((exponent.name for exponent in self.exponents), exponents, strict=True))
        forward, noise = self._forward.read(row["S"], fitted), self._noise.read(row["E"], fitted)
        n, b = self._log_size(row), self._log_batch(row)
        if jnp.ndim(b):  # of each stage of the batch: its share of tau and of the noise floor
            gains, floors = jnp.exp(fitted["phi"] * b), jnp.exp(-fitted["kappa"] * b)
            forward, noise = (jnp.matmul(*of, precision="highest") for of in ((gains, forward), (floors, noise)))
            b = 0.0
        power = jnp.exp(-fitted["alpha"] * (safe_log(forward) + fitted.get("phi", 0.0) * b))
        noise = noise * jnp.exp(fitted.get("q", 0.0) * n - fitted.get("kappa", 0.0) * b)
        levels = self._is_family(row)
        for name, own in zip(self.families[1:], levels, strict=True):
            noise = noise * jnp.exp(own * fitted[f"noise_{name}"])
        size = (jnp.exp(-fitted["beta"] * n),) if "beta" in fitted else ()
        return stack(1.0, jnp.exp(-fitted.get("gamma", 0.0) * n) * power, *size, *levels, *noise, *(power * noise))

    def _is_family(self, row: Row) -> tuple[Real, ...]:
        """For each family but the first 1 where a row, or the plan, is of it, and else 0."""
        if not self.families:
            return ()
        require("family" in row or self.family is not None, f"{NEEDS_FAMILY}: {', '.join(self.families)}")
        at = row["family"] if self.family is None else self.families.index(self.family)
        return tuple(jnp.where(at == place, 1.0, 0.0) for place in range(1, len(self.families)))

    def _log_size(self, row: Row) -> Real:
        """Log n of a row; 0 without terms in the size."""
        unit = 1.0 if self.size_unit is None else self.size_unit
        return row["log_N"] - jnp.log(unit) if self.sizes else 0.0

    def _log_batch(self, row: Row) -> Real:
        """Log b of a row, by its own batch or the one to predict for; 0 without terms in the batch.

        Of a batch that changes that of each stage, ``[stages]``.
        """
        if not self.batches:
            return 0.0
        require("log_B" in row or self.tokens_per_step is not None, NEEDS_BATCH)
        batch = self.tokens_per_step
        sizes = jnp.stack([jnp.asarray(size) for size in batch.tokens]) if isinstance(batch, BatchStages) else batch
        log_b = row["log_B"] if sizes is None else jnp.log(sizes)
        return log_b - jnp.log(1.0 if self.batch_unit is None else self.batch_unit)


def _mean_size(values: Sequence[float | None]) -> float:
    """The geometric mean of sizes, of those that are known."""
    return float(np.exp(np.mean(np.log([value for value in values if value]))))


class RatePower(NamedTuple):
    r"""(lr / unit)^exponent, summed or averaged over updates, with an exponent that is known or open.

    Sums over updates are linear in what is summed. So where the exponent p is open, each update adds its power for one
    exponent p0, shared out among fixed levels of log lr; the sum is kept by levels. For any p the sum is then that over
    levels, each times (level / unit)^(p - p0): lr^(p - p0) is a smooth function of log lr, which its values at the
    levels interpolate. Fits can thus change p at every step without going through the updates again.
    """

    exponent: Exponent
    unit: float
    reference: float
    """p0, for which the levels are exact."""
    known: Real | None
    """The exponent's value; None where it is open."""

    @property
    def is_open(self) -> bool:
        """Whether the exponent is fitted."""
        return self.known is None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the power of one rate."""
        return LOG_RATE_LEVELS.shape if self.is_open else ()

    def of(self, lr: Real) -> jax.Array:
        """The power of a rate, zero at lr = 0; of an open exponent, its share of each of ``LOG_RATE_LEVELS``."""
        log_lr = jnp.log(jnp.where(lr > 0, lr, 1.0))
        exponent = self.reference if self.known is None else self.known
        power = jnp.where(lr > 0, jnp.exp(exponent * (log_lr - math.log(self.unit))), 0.0)
        return power * spread_over_levels(log_lr, LOG_RATE_LEVELS) if self.is_open else power

    def read(self, kept: Array, fitted: dict[str, jax.Array]) -> Array:
        """What was kept of powers, for the exponent's known or fitted value."""
        if not self.is_open:
            return kept
        levels = jnp.asarray(LOG_RATE_LEVELS - math.log(self.unit), kept.dtype)
        return kept @ jnp.exp((fitted[self.exponent.name] - self.reference) * levels)
