"""Runs as arrays under a law: the effects at every row, which rows count."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from fmjax._checks import positive, require, whole
from fmjax._devices import once_compiled
from fmjax.curves.divergence import without_diverged
from fmjax.curves.loss_curve import CurveBatch, LossCurve, bucket, pad
from fmjax.fitting.objective import Rows
from fmjax.fitting.options import FitOptions
from fmjax.fitting.row_effects import batch_effects
from fmjax.laws import Law, Row, check_options, make_law

END_SHARE = 0.1
"""Share of a run, at its end, that ``end_weight`` applies to."""


class Problem(NamedTuple):
    """Runs made into arrays under a law: prepared once, then fitted, measured and resampled."""

    law: Law
    curves: tuple[LossCurve, ...]
    batch: CurveBatch
    effects: dict[str, np.ndarray]
    """Effects at every row, ``[runs, rows]`` each, with ``log_N`` beside them."""
    keep: np.ndarray
    """``[runs, rows]`` whether a row counts: real, and not dropped as early."""
    weight: np.ndarray
    """``[runs, rows]`` weight of each row."""
    held: dict[str, np.ndarray]
    """Effects with warmup counted as if at the peak rate, where the law counts it as scheduled; else the same."""

    def under(self, law: Law) -> "Problem":
        """The same runs under this law, the same but for its options."""
        effects = held = batch_effects(law, self.batch)
        if law.warmup == "as-scheduled":
            held = batch_effects(law, self.batch, warmup="as-peak")
        return self._replace(law=law, effects=effects, held=held)

    def rows(self, used: np.ndarray) -> Rows:
        """The counting rows of the runs marked in ``used[runs]``, flat, as one set; padded to a ``bucket``."""
        index = self.row_index(used)
        effects = {key: value[index][None] for key, value in self.effects.items()}
        return Rows(effects, self.batch.loss[index][None])

    def row_weights(self, used: np.ndarray) -> np.ndarray:
        """Weight of each of ``rows(used)``; those that pad weigh nothing."""
        weights, real = self.weight[self.row_index(used)], int(np.sum(self.keep & used[:, None]))
        return np.where(np.arange(weights.size) < real, weights, 0.0)

    def run_of_row(self, used: np.ndarray) -> np.ndarray:
        """Index of the run that each of ``rows(used)`` belongs to."""
        return self.row_index(used)[0]

    def row_index(self, used: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run and row of each of ``rows(used)``."""
        run, row = np.nonzero(self.keep & used[:, None])
        extra = bucket(run.size) - run.size
        return tuple(np.pad(part, (0, extra), mode="edge") for part in (run, row))


ROWS_AT_ONCE = 1024
"""Rows predicted in one call: one shape, so that whatever a law predicts takes one program."""


@jax.jit
def _predict(law: Law, effects: Row, vectors: jax.Array) -> jax.Array:
    """Losses ``[rows]``, each row of its own effects and parameters."""
    return jax.vmap(law.predict)({key: value[:, None] for key, value in effects.items()}, vectors)[:, 0]


def predict_pairs(law: Law, effects: Row, vectors: ArrayLike, row: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Losses ``[pairs]`` of rows with effects ``[rows]`` under ``vectors[vectors, parameters]``.

    Args:
      law: the law.
      effects: effects at rows.
      vectors: parameter vectors.
      row: ``[pairs]`` which row.
      vector: ``[pairs]`` which vector.
    """
    vectors, found = np.asarray(vectors), [np.empty(0)]
    for begin in range(0, row.size, ROWS_AT_ONCE):
        pair = np.minimum(np.arange(begin, begin + ROWS_AT_ONCE), row.size - 1)
        here = {key: np.asarray(value)[row[pair]] for key, value in effects.items()}
        found.append(np.asarray(once_compiled(_predict, law, here, vectors[vector[pair]])))
    return np.concatenate(found)[: row.size]


def predict_rows(law: Law, effects: Row, vector: np.ndarray) -> np.ndarray:
    """Losses ``[rows]`` of flat rows with these effects, for one parameter vector."""
    return predict_each(law, effects, vector[None])[0]


def predict_each(law: Law, effects: Row, vectors: np.ndarray) -> np.ndarray:
    """Losses ``[vectors, rows]`` of the same rows, for each of several parameter vectors."""
    count, rows = len(vectors), len(effects["log_N"])
    vector, row = (each.ravel() for each in np.indices((count, rows)))
    return predict_pairs(law, effects, vectors, row, vector).reshape(count, rows)


def predict_batch(law: Law, effects: Row, vector: np.ndarray) -> np.ndarray:
    """Losses ``[runs, rows]`` of runs with these effects, for one parameter vector."""
    shape = effects["log_N"].shape
    flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in effects.items()}
    return predict_rows(law, flat, vector).reshape(shape)


def prepare(law: Law | str, curves: Sequence[LossCurve], *, fitted: Sequence[bool], options: FitOptions) -> Problem:
    """Pads the runs and computes the law's effects at their rows; call inside ``jax.enable_x64(True)``."""
    problem = arrange(law, curves, fitted=fitted, options=options)
    return problem.under(problem.law)


def arrange(law: Law | str, curves: Sequence[LossCurve], *, fitted: Sequence[bool], options: FitOptions) -> Problem:
    """The same without effects, where options of the law are yet to be chosen."""
    law = adapt(law, [curve for curve, is_fitted in zip(curves, fitted, strict=True) if is_fitted], curves)
    batch = pad(curves)
    keep = batch.valid & (batch.at >= whole(options.drop_before, "drop_before"))
    if options.drop_warmup:
        keep &= batch.at >= np.minimum(batch.warmup_steps[:, None], batch.at[:, -1:])
    late = batch.at >= (1 - END_SHARE) * batch.at[:, -1:]
    weight = np.where(late, positive(options.end_weight, "end_weight"), 1.0)
    return Problem(law, tuple(curves), batch, {}, keep, weight, {})


def with_rows(curves: Sequence[LossCurve], options: FitOptions) -> tuple[tuple[LossCurve, ...], tuple[str, ...]]:
    """The runs that have a row to fit and did not diverge, a note on each without rows, one on those that diverged.

    Raises:
      ValueError: no run has one.
    """
    kept = tuple(curve for curve in curves if has_rows(curve, options))
    empty = [curve for curve in curves if not has_rows(curve, options)]
    require(kept, f"no row is left to fit of {[curve.name for curve in curves]}: {_EMPTY}")
    sound, diverged = without_diverged(kept)
    return tuple(sound), (*(no_rows(curve.name) for curve in empty), *diverged)


_EMPTY = "every row was logged before the end of warmup or drop_before"


def no_rows(name: str) -> str:
    """What to say of a run without a row to fit."""
    return f"run {name!r} is left out: {_EMPTY}; log it for longer, or leave it out of the runs to fit"


def has_rows(curve: LossCurve, options: FitOptions) -> bool:
    """Whether any row of a run counts."""
    last = int(curve.schedule.total_steps) - 1
    at = np.minimum(curve.step, last)
    begin = min(int(curve.schedule.warmup_steps), last) if options.drop_warmup else 0
    return bool((at >= max(begin, options.drop_before)).any())


def adapt(law: Law | str, fitted: Sequence[LossCurve], curves: Sequence[LossCurve]) -> Law:
    """The law with its terms in the model size, and in the batch size, on where those of the fitted runs differ."""
    law = make_law(law) if isinstance(law, str) else law
    check_options(law)
    sizes = {curve.model_size for curve in fitted}
    families = {curve.family for curve in fitted if curve.family is not None}
    told = [[getattr(curve, name) for curve in fitted] for name in ("model_size", "tokens_per_step", "family")]
    law = law.spanning(*told)
    law = law.suited_to({curve.peak_lr for curve in fitted})
    for curve in curves:
        require(not law.sizes or curve.model_size, f"run {curve.name!r}: sizes differ, so model_size is needed")
        batch = not law.spans_batches or curve.tokens_per_step
        require(batch, f"run {curve.name!r}: batch sizes differ, so tokens_per_step is needed")
        named = not law.families or curve.family is not None
        require(named, f"run {curve.name!r}: families differ, so family is needed")
        fitted_too = not families or curve.family is None or curve.family in families
        others = ", ".join(sorted(families))
        require(fitted_too, f"run {curve.name!r}: expected a family that was fitted, {others}; got {curve.family!r}")
        known = law.sizes or curve.model_size in sizes
        require(known, f"run {curve.name!r}: model size {curve.model_size} differs from the one size fitted")
    return law
