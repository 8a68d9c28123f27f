"""Schedules as text that other programs run."""

from fmjax.schedules import WSD

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
    steps = max(1, round(float(schedule.anneal_ratio) * total))
    peak, final, init = (float(rate) for rate in (schedule.peak_lr, schedule.final_lr, schedule.init_lr))
    rise = f"optax.linear_schedule({init!r}, {peak!r}, {warmup})"
    stable, anneal = f"optax.constant_schedule({peak!r})", _ANNEALS[schedule.decay].format(**locals())
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
