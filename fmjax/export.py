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
    steps = round(float(schedule.anneal_ratio) * total)
    peak, final, init = (float(rate) for rate in (schedule.peak_lr, schedule.final_lr, schedule.init_lr))
    anneal = _ANNEALS[schedule.decay].format(peak=peak, final=final, steps=steps)
    pieces = [f"optax.constant_schedule({peak!r})", anneal]
    boundaries = [total - steps]
    if warmup:
        pieces.insert(0, f"optax.linear_schedule({init!r}, {peak!r}, {warmup})")
        boundaries.insert(0, warmup)
    imports = "import jax.numpy as jnp\nimport optax" if "jnp" in anneal else "import optax"
    listed = "".join(f"        {piece},\n" for piece in pieces)
    return f"{imports}\n\nschedule = optax.join_schedules(\n    [\n{listed}    ],\n    boundaries={boundaries},\n)"
