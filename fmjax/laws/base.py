"""What a law is: effects of a schedule, and a loss that is linear in its coefficients given its exponents."""

import dataclasses
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from fmjax._checks import known_options
from fmjax._types import Array, Dtype, Real
from fmjax.effects import recursions
from fmjax.effects.updates import Update
from fmjax.effects.weighted import WeightedUpdates
from fmjax.laws.terms import ALPHA, BETA, Coefficient, Exponent, Option
from fmjax.schedules.batch_stages import Batch, BatchStages

L = TypeVar("L", bound="type[Law]")

NEEDS_BATCH = "the fit spans several batch sizes, so tokens_per_step is needed"

NEEDS_FAMILY = "the fitted runs are of several families, so family is needed"

ONE_BATCH = 1e-3
"""Relative difference up to which two batch sizes count as one."""

WARMUPS = ("as-scheduled", "without-rise", "as-peak")
"""How a law counts warmup.

"as-scheduled" takes the rates as they are. A law that adds up drops of the rate then counts the rise of warmup as a
negative drop, an anneal backwards, which stays in its sum for good. Fitted runs that all have the same warmup hide
this in other parameters; a plan without warmup then misses by as much. "without-rise" keeps the rates and counts drops
from the end of warmup on, as the authors of arXiv 2503.12811 do. "as-peak" counts warmup as if at the peak rate, which
also leaves no rise.
"""

Row: TypeAlias = Mapping[str, Array]
"""Effects at one logged row, by name; ``log_N``, the log of the model size, is always there."""


@dataclass(frozen=True)
class Law:
    """loss(row) = sum_j c_j phi_j(row; theta): one schedule's effects by a recursion, one row's basis by a formula.

    A subclass gives ``name``, ``coefficients``, ``exponents``, the recursion ``init``/``step``/``observe`` and
    ``basis``. Everything is written for one schedule and one row; ``effects`` and ``predict`` hold the only ``scan``
    and ``vmap``. Options are leaves of the pytree, so a batch of laws can be vmapped; these two are static:

    Args:
      warmup: how warmup counts, one of ``WARMUPS``.
      sizes: whether terms in the model size N are there; ``fit`` sets it where the runs' sizes differ. With one size
        they could not be told from L0.
    """

    name: ClassVar[str]
    tunable: ClassVar[tuple[Option, ...]] = ()
    """Options beside ``warmup`` and ``sizes``."""
    weighted: ClassVar[bool] = False
    """Whether the law gives ``row_effects`` as sums over updates, so that a few weighted updates stand for all."""
    scales: ClassVar[bool] = False
    """Whether the law gives ``scaled``, so that one schedule stands for all that are multiples of it."""
    size_term: ClassVar[tuple[str, str]] = ("B", "beta")
    """Names of the coefficient and the exponent of the term in the model size."""
    warmup: str = field(default="as-scheduled", kw_only=True, metadata={"static": True})
    sizes: bool = field(default=False, kw_only=True, metadata={"static": True})

    def __init_subclass__(cls) -> None:
        # Guard: a law that changes the recursion of another must not keep that one's sums, which would be plausible
        # and wrong. It follows every update, unless it gives its own. Nor may it keep how that one's effects scale.
        own = vars(cls)
        if "scaled" in own:
            cls.scales = True
        elif own.keys() & {"init", "step", "observe", "row_effects"}:
            cls.scales = False
        if "row_effects" in own:
            cls.weighted = True
        elif own.keys() & {"init", "step", "observe"}:
            cls.weighted, cls.row_effects = False, Law.row_effects  # type: ignore[method-assign]

    @property
    def squares_rate(self) -> Real | None:
        """Share that an average of squares forgets at each update, of a law whose effects take its root."""
        return None

    @property
    def spans_batches(self) -> bool:
        """Whether terms in the batch size, in tokens an update, are there."""
        return False

    @property
    def stages(self) -> BatchStages | None:
        """The stages of the batch to predict for, where it changes and the law has it in it."""
        return None

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        """Parameters in which the loss is linear; here those of ``powers``."""
        size = (Coefficient(self.size_term[0], 0.0),) if self.sizes else ()
        return (Coefficient("L0", 0.0), Coefficient("A", 0.0), *size)

    @property
    def exponents(self) -> tuple[Exponent, ...]:
        """Parameters in which it is not; here those of ``powers``."""
        return (ALPHA, Exponent(self.size_term[1], *BETA)) if self.sizes else (ALPHA,)

    @property
    def choices(self) -> dict[str, tuple[float, ...]]:
        """Options worth choosing on the data, with the values ``select`` tries."""
        return {option.name: option.tried for option in self.tunable if option.tried}

    def option(self, name: str) -> Option:
        """The option of this name."""
        return next(option for option in self.tunable if option.name == name)

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families of models that have terms of their own."""
        return ()

    @property
    def family(self) -> str | None:
        """The family of models to predict for, where families have terms of their own."""
        return None

    @property
    def size_in_level(self) -> bool:
        """Whether each family has one size, so that its level holds what its size does."""
        return False

    def spanning(
        self, sizes: Sequence[float | None], batches: Sequence[Batch | None], families: Sequence[str | None] = ()
    ) -> "Law":
        """The law with the terms that runs of these sizes, tokens an update and families can tell, one each a run."""
        return dataclasses.replace(self, sizes=len(set(sizes)) > 1)

    def for_batch(self, tokens_per_step: Batch) -> "Law":
        """The law that predicts runs of this batch size, where it has terms in it; here as it is."""
        return self

    def for_family(self, family: str | None) -> "Law":
        """The law that predicts runs of this family, where families have terms of their own; here as it is."""
        return self

    def level_of(self, params: Mapping[str, float]) -> float:
        """The lowest loss that parameters by name leave to the longest runs, of the family to predict for."""
        return params.get("L0", 0.0)

    def suited_to(self, peak_lrs: Set[float]) -> "Law":
        """The law with exponents closed that runs of these peak rates cannot tell; here as it is."""
        return self

    def settled(self, vector: np.ndarray) -> tuple["Law", np.ndarray]:
        """A law that predicts the same and is cheaper to follow, now that its parameters are known, with its vector."""
        return self, vector

    def powers(self, row: Row, log_x: Real, exponents: jax.Array) -> tuple[Real, ...]:
        """The terms that laws share: 1, x^-alpha and, with sizes, N^-beta."""
        size = (jnp.exp(-exponents[1] * row["log_N"]),) if self.sizes else ()
        return (1.0, jnp.exp(-exponents[0] * log_x), *size)

    def init(self, dtype: Dtype) -> Any:
        """State before the first update."""
        raise NotImplementedError

    def step(self, state: Any, update: Update) -> Any:
        """State after an update."""
        raise NotImplementedError

    def observe(self, state: Any) -> Row:
        """Effects that ``basis`` needs, read from the state."""
        raise NotImplementedError

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        """``[coefficients]`` phi of one row for given exponents."""
        raise NotImplementedError

    @property
    def parameters(self) -> tuple[Coefficient | Exponent, ...]:
        """All parameters in the order of parameter vectors: coefficients, then exponents."""
        return (*self.coefficients, *self.exponents)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of ``parameters``."""
        return tuple(p.name for p in self.parameters)

    def options(self) -> dict[str, Real | str | None]:
        """Options as plain values, as they are stored with a fit."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def counted(self, lrs: jax.Array, warmup_steps: Real) -> Update:
        """The updates of one schedule ``lrs[T]`` as the law counts them, by its ``warmup``."""
        if self.warmup == "as-peak":
            lrs = recursions.hold_warmup(lrs, warmup_steps)
        drops = recursions.drops(lrs)
        if self.warmup == "without-rise":
            drops = jnp.where(jnp.arange(lrs.size) > warmup_steps, drops, 0.0)
        return Update(lrs, drops)

    def effects(self, lrs: jax.Array, at: jax.Array, warmup_steps: Real = 0) -> Row:
        """Effects of one schedule ``lrs[T]`` after the updates ``at[rows]``, each ``[rows]``."""
        return self._followed(self.counted(lrs, warmup_steps), at)

    def row_effects(self, updates: WeightedUpdates, at: Array) -> Row:
        """The same from updates that stand for all of one schedule, after those at the places ``at[rows]``.

        Rates and drops are as the law counts them. Laws that are not ``weighted`` need every update.
        """
        return self._followed(Update(updates.lr, updates.drop), at)

    def scaled(self, row: Row, factor: Real) -> Row:
        """Effects of a schedule each rate of which is ``factor`` times that of one with the effects ``row``.

        Laws whose effects do not follow from those leave it out.
        """
        raise NotImplementedError

    def _followed(self, updates: Update, at: Array) -> Row:
        """Effects by the recursion."""

        def advance(state: Any, update: Update) -> tuple[Any, Row]:
            state = self.step(state, update)
            return state, self.observe(state)

        history = jax.lax.scan(advance, self.init(jnp.result_type(updates.lr)), updates, unroll=recursions.UNROLL)[1]
        return {key: value[at] for key, value in history.items()}

    def final_basis(
        self, lrs: jax.Array, last: jax.Array, log_n: jax.Array, exponents: jax.Array, warmup_steps: Real = 0
    ) -> jax.Array:
        """``[coefficients]`` phi after the update ``last`` of one schedule ``lrs[T]``.

        By the recursion; laws whose terms are sums over updates there, and quicker to differentiate so, give the sums.
        """
        row = {key: value[0] for key, value in self.effects(lrs, last[None], warmup_steps).items()}
        return self.basis({**row, "log_N": log_n}, exponents)

    def final_loss(
        self, lrs: jax.Array, params: jax.Array, log_n: Real = 0.0, *, warmup_steps: Real | None = None
    ) -> jax.Array:
        """Predicted loss after the last update of one schedule ``lrs[T]``: a pure function of rates and parameters.

        Args:
          lrs: ``[T]`` learning rate of each update.
          params: ``[parameters]`` such as ``FitResult.vector``.
          log_n: logarithm of the model size over that of the fit's smallest; only laws fitted over sizes heed it.
          warmup_steps: updates of warmup in ``lrs``, which laws may count in their own way; by default those in which
            the rate rises to its peak.

        >>> from fmjax.laws import LRAnnealing
        >>> from fmjax.schedules import WSD
        >>> def loss(ratio):
        ...     lrs = WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=ratio)(jnp.arange(1000))
        ...     return LRAnnealing(decay=0.99).final_loss(lrs, jnp.array([2.5, 0.4, 3.0, 0.5]))
        >>> bool(jax.jit(jax.grad(loss))(0.1) < 0 < jax.jit(jax.grad(loss))(0.9))
        True
        """
        split, last = len(self.coefficients), jnp.asarray(lrs.size - 1)
        warmup_steps = recursions.rising_start(lrs) if warmup_steps is None else warmup_steps
        phi = self.final_basis(lrs, last, jnp.asarray(log_n, lrs.dtype), params[split:], warmup_steps)
        return phi @ params[:split]

    def predict(self, rows: Row, params: jax.Array) -> jax.Array:
        """Predicted loss ``[rows]`` for a parameter vector ``[parameters]``."""
        split = len(self.coefficients)
        phi = jax.vmap(self.basis, in_axes=(0, None))(rows, params[split:])
        return phi @ params[:split]


def register(law: L) -> L:
    """Makes a dataclass a pytree whose static fields are structure and whose other fields are leaves.

    Use this in place of ``jax.tree_util.register_dataclass``.
    """
    # Guard: ``jit`` finds compiled programs by the structure of their arguments. For a law that is its class and its
    # static fields. With ``register_dataclass`` the structures of two classes compare equal when their static fields
    # are equal, and all laws have the same two. Now and then ``jit`` then runs the program of one law for another, and
    # returns a plausible wrong loss. Nodes registered one class at a time never compare equal.
    fields = dataclasses.fields(law)
    static, leaves = ([f.name for f in fields if bool(f.metadata.get("static")) == is_] for is_ in (True, False))

    def flatten(law: Law) -> tuple[tuple[object, ...], tuple[object, ...]]:
        return tuple(getattr(law, name) for name in leaves), tuple(getattr(law, name) for name in static)

    def unflatten(structure: tuple[Any, ...], children: tuple[Any, ...]) -> Law:
        return law(**dict(zip(static, structure, strict=True)), **dict(zip(leaves, children, strict=True)))

    jax.tree_util.register_pytree_node(law, flatten, unflatten)
    return known_options(law.name)(law)


class Ahead(NamedTuple):
    """The updates of one schedule as they are seen from the last one, ``[T]`` each; nothing comes after it."""

    lr: jax.Array
    drop: jax.Array
    forward: jax.Array
    """S after each update."""
    since: jax.Array
    """What S grows by after each update until the last."""

    @classmethod
    def of(cls, updates: Update, last: jax.Array) -> "Ahead":
        """The updates ``[T]`` until ``last``; rates and drops of later ones are 0."""
        seen = jnp.arange(jnp.size(updates.lr)) <= last
        lr, drop = (jnp.where(seen, values, 0.0) for values in (updates.lr, updates.drop))
        return cls(lr, drop, jnp.cumsum(lr), jnp.cumsum(lr[::-1])[::-1] - lr)


LOG_OF_NOTHING = -80.0
"""What stands for the logarithm of zero."""


def safe_log(x: Real) -> jax.Array:
    """Log x, with a large negative number (and no slope) at x <= 0 in place of -inf."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), LOG_OF_NOTHING)


def scaled_log(log_x: Array, factor: Real, power: Real | None = None) -> jax.Array:
    """The ``safe_log`` of factor^power x from that of x; no power is 1."""
    grown = jnp.log(factor) * (1.0 if power is None else power)
    return jnp.where(log_x > LOG_OF_NOTHING, log_x + grown, log_x)


def stack(*terms: Real) -> jax.Array:
    """Terms of a basis as one array; plain numbers take the others' shape and dtype."""
    return jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, terms)))
