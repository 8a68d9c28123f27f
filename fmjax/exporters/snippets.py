"""Schedules as Optax code, knots and CSV: what other exporters, plans and designs are written with."""

import numpy as np
from numpy.typing import ArrayLike

from fmjax.schedules.kinds import WSD, Schedule, lrs
from fmjax.schedules.knots import WITHIN, thinned

_ANNEALS = {
    "linear": "optax.linear_schedule({peak!r}, {final!r}, {steps})",
    "cosine": "optax.cosine_decay_schedule({peak!r}, {steps}, alpha={final!r} / {peak!r})",
    "1-sqrt": "lambda count: {final!r} + ({peak!r} - {final!r}) * (1 - jnp.sqrt(jnp.clip(count / {steps}, 0, 1)))",
    "exponential": "optax.exponential_decay({peak!r}, {steps}, {final!r} / {peak!r}, end_value={final!r})",
}


def optax_snippet(schedule: WSD) -> str:
    """Optax code, without fmjax, for a schedule with concrete fields; the anneal is rounded to whole updates.

    >>> print(optax_snippet(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50)))
    import optax
    <BLANKLINE>
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0.0, 0.001, 50),
            optax.constant_schedule(0.001),
            optax.linear_schedule(0.001, 0.0, 200),
        ],
        boundaries=[50, 800],
    )
    """
    total, warmup = int(schedule.total_steps), int(schedule.warmup_steps)
    steps = schedule.anneal_steps
    peak, final, init = (float(rate) for rate in (schedule.peak_lr, schedule.final_lr, schedule.init_lr))
    rise = f"optax.linear_schedule({init!r}, {peak!r}, {warmup})"
    stable, anneal = (
        f"optax.constant_schedule({peak!r})",
        _ANNEALS[schedule.decay].format(peak=peak, final=final, steps=steps),
    )
    if warmup <= total - steps:
        pieces = ([(rise, warmup)] if warmup else []) + [(stable, total - steps), (anneal, total)]
        return _imports(anneal) + "schedule = " + _join(pieces)
    falling = "warmup = " + rise + "\nanneal = " + _join([(stable, total - steps), (anneal, total)])
    both = "\n\n\ndef schedule(count):\n    return jnp.minimum(warmup(count), anneal(count))"
    return _imports("jnp") + falling + both


def _imports(code: str) -> str:
    return ("import jax.numpy as jnp\n" if "jnp" in code else "") + "import optax\n\n"


def _join(pieces: list[tuple[str, int]]) -> str:
    """Optax code that joins (piece, the count it ends at)."""
    listed = "".join(f"        {piece},\n" for piece, _ in pieces)
    return f"optax.join_schedules(\n    [\n{listed}    ],\n    boundaries={[end for _, end in pieces[:-1]]},\n)"


def knots_snippet(steps: ArrayLike, rates: ArrayLike, *, within: float = WITHIN) -> str:
    """Code without fmjax for a piecewise-linear schedule, which any Optax optimiser takes; see ``thinned``.

    >>> print(knots_snippet([0, 100, 300, 400], [0.0, 1e-3, 1e-3, 1e-5]))
    import jax.numpy as jnp
    <BLANKLINE>
    steps = [0, 100, 300, 400]
    rates = [0.0, 0.001, 0.001, 1e-05]
    <BLANKLINE>
    <BLANKLINE>
    def schedule(count):
        return jnp.interp(count, jnp.array(steps), jnp.array(rates))
    """
    at, lr = (array.tolist() for array in thinned(steps, rates, within=within))
    function = "def schedule(count):\n    return jnp.interp(count, jnp.array(steps), jnp.array(rates))"
    return f"import jax.numpy as jnp\n\nsteps = {at}\nrates = {lr}\n\n\n{function}"


def csv_text(schedule: Schedule) -> str:
    """A schedule as CSV with the columns ``step`` and ``lr``, one row an update.

    >>> print(csv_text(WSD(peak_lr=0.5, total_steps=3, anneal_ratio=1 / 3)))
    step,lr
    0,0.5
    1,0.5
    2,0.5
    """
    rows = (f"{step},{lr!r}" for step, lr in enumerate(np.asarray(lrs(schedule), float).tolist()))
    return "\n".join(["step,lr", *rows])
