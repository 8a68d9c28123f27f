"""Optax code, without fmjax: ``schedule`` is a function of the update count that any Optax optimiser takes.

Checked with Optax 0.2.8; formulas in its ``schedules/_schedule.py`` and ``schedules/_join.py``.
"""

import math
from collections.abc import Callable

import numpy as np

from fmjax.exporters.layout import commented
from fmjax.exporters.phases import check_kind, negligible, rate, rounding
from fmjax.exporters.snippets import knots_snippet, optax_snippet
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated


def text(schedule: Schedule) -> str:
    """Optax code of a schedule; can express every schedule of fmjax.

    >>> print(text(Cosine(peak_lr=1e-3, total_steps=1000, final_lr=1e-4, warmup_steps=50)))
    import optax
    <BLANKLINE>
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.001, 50, 1000, end_value=0.0001)
    """
    check_kind(schedule, "optax", tuple(_CODE))
    return commented(rounding(schedule), _CODE[type(schedule)](schedule))


def _constant(schedule: Schedule) -> str:
    peak, warmup = rate(schedule, "peak_lr"), int(schedule.warmup_steps)
    if not warmup:
        return _code(f"optax.constant_schedule({peak!r})")
    return _code(f"optax.warmup_constant_schedule({rate(schedule, 'init_lr')!r}, {peak!r}, {warmup})")


def _cosine(schedule: Cosine) -> str:
    peak, final, init = (rate(schedule, field) for field in ("peak_lr", "final_lr", "init_lr"))
    warmup, total = int(schedule.warmup_steps), int(schedule.total_steps)
    if warmup == total:
        return _constant(schedule)
    if not warmup:
        return _code(f"optax.cosine_decay_schedule({peak!r}, {total}, alpha={final!r} / {peak!r})")
    return _code(f"optax.warmup_cosine_decay_schedule({init!r}, {peak!r}, {warmup}, {total}, end_value={final!r})")


def _step(schedule: Step) -> str:
    peak, init, warmup = rate(schedule, "peak_lr"), rate(schedule, "init_lr"), int(schedule.warmup_steps)
    starts = [math.ceil(boundary) for boundary in schedule.boundaries]
    first = min([int(schedule.total_steps), *starts[:1]])
    pieces = [(0, f"optax.linear_schedule({init!r}, {peak!r}, {warmup})")] if warmup and first else []
    pieces += [(warmup, f"optax.constant_schedule({peak!r})")] if warmup < first else []
    steps = zip(starts, schedule.lrs, strict=True)
    pieces += [(start, f"optax.constant_schedule({float(lr)!r})") for start, lr in steps]
    listed = "".join(f"        {piece},\n" for _, piece in pieces)
    boundaries = [start for start, _ in pieces[1:]]
    return _code(f"optax.join_schedules(\n    [\n{listed}    ],\n    boundaries={boundaries},\n)")


def _tabulated(schedule: Tabulated) -> str:
    rates = np.asarray(schedule.lrs, float)
    return knots_snippet(np.arange(rates.size), rates, within=negligible(rates))


def _code(schedule: str) -> str:
    return f"import optax\n\nschedule = {schedule}"


_CODE: dict[type, Callable[..., str]] = {
    Constant: _constant,
    Cosine: _cosine,
    WSD: optax_snippet,
    Step: _step,
    Tabulated: _tabulated,
}
