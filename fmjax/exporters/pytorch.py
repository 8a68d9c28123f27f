"""PyTorch code, without fmjax: a ``torch.optim.lr_scheduler.LambdaLR``, stepped once after each update.

LambdaLR multiplies the optimiser's own rate, here the peak rate, and is at count 0 for the first update; checked with
PyTorch 2.13, formula in its ``optim/lr_scheduler.py``.
"""

import math
from collections.abc import Callable

import numpy as np

from fmjax._checks import positive
from fmjax.exporters.layout import commented
from fmjax.exporters.phases import anneal_updates, check_kind, negligible, rate, rounding
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.knots import thinned

_ANNEALS = {
    "linear": "{span} * (1 - done)",
    "cosine": "{span} * (1 + math.cos(math.pi * done)) / 2",
    "1-sqrt": "{span} * (1 - math.sqrt(done))",
    "exponential": "{peak!r} * ({final!r} / {peak!r}) ** done",
}

_TORCH = "from torch.optim import AdamW\nfrom torch.optim.lr_scheduler import LambdaLR"


def text(schedule: Schedule) -> str:
    """PyTorch code of a schedule; can express every schedule of fmjax.

    Raises:
      ValueError: for a table without a rate above zero, as LambdaLR needs one to multiply.

    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2)))
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR
    <BLANKLINE>
    <BLANKLINE>
    def rate(count):
        done = min(max((count - 800) / 200, 0), 1)
        return 0.001 * (1 - done)
    <BLANKLINE>
    <BLANKLINE>
    optimizer = AdamW(model.parameters(), lr=0.001)
    scheduler = LambdaLR(optimizer, lambda count: rate(count) / 0.001)
    """
    check_kind(schedule, "pytorch", tuple(_CODE))
    numbers, lines = _CODE[type(schedule)](schedule)
    peak = _peak(schedule)
    code = f"\n\ndef rate(count):\n{_indented(lines)}\n\n\noptimizer = AdamW(model.parameters(), lr={peak!r})\n"
    code += f"scheduler = LambdaLR(optimizer, lambda count: rate(count) / {peak!r})"
    return commented(rounding(schedule), _imports(code) + numbers + code)


def _peak(schedule: Schedule) -> float:
    greatest = float(np.max(schedule.lrs)) if isinstance(schedule, Tabulated) else rate(schedule, "peak_lr")
    return positive(greatest, "pytorch: greatest rate")


def _imports(code: str) -> str:
    plain = [f"import {name}\n" for name in ("bisect", "math") if f"{name}." in code]
    return "".join([*plain, "\n" if plain else "", "import numpy as np\n" if "np." in code else "", _TORCH, "\n"])


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _rise(schedule: Schedule) -> str:
    """The warmup as an expression, empty if there is none."""
    peak, init, warmup = rate(schedule, "peak_lr"), rate(schedule, "init_lr"), int(schedule.warmup_steps)
    return f"{_span(init, peak)} * min(count / {warmup}, 1)" if warmup else ""


def _span(low: float, high: float) -> str:
    """Begin of an expression that is low or high where what follows is 0 or 1."""
    return f"{low!r} + ({high!r} - {low!r})" if low else repr(high)


def _smooth(schedule: Schedule) -> tuple[str, list[str]]:
    peak, final, anneal = rate(schedule, "peak_lr"), rate(schedule, "final_lr"), anneal_updates(schedule)
    rise = _rise(schedule)
    if not anneal:
        return "", [f"return {rise or repr(peak)}"]
    shape = _ANNEALS[getattr(schedule, "decay", "cosine")]
    fall = shape.format(span=_span(final, peak), peak=peak, final=final)
    done = f"done = min(max((count - {int(schedule.total_steps) - anneal}) / {anneal}, 0), 1)"
    if not rise:
        return "", [done, f"return {fall}"]
    return "", [done, f"warmup = {rise}", f"anneal = {fall}", "return min(warmup, anneal)"]


def _step(schedule: Step) -> tuple[str, list[str]]:
    starts = [math.ceil(boundary) for boundary in schedule.boundaries]
    rates = [rate(schedule, "peak_lr"), *(float(lr) for lr in schedule.lrs)]
    risen = min([int(schedule.warmup_steps), *starts[:1]])
    warmup = [f"if count < {risen}:", f"    return {_rise(schedule)}"] if risen else []
    numbers = f"\nboundaries = {starts}\nrates = {rates}\n"
    return numbers, [*warmup, "return rates[bisect.bisect_right(boundaries, count)]"]


def _tabulated(schedule: Tabulated) -> tuple[str, list[str]]:
    rates = np.asarray(schedule.lrs, float)
    steps, kept = thinned(np.arange(rates.size), rates, within=negligible(rates))
    return f"\nsteps = {steps.tolist()}\nrates = {kept.tolist()}\n", ["return float(np.interp(count, steps, rates))"]


_CODE: dict[type, Callable[..., tuple[str, list[str]]]] = {
    Constant: _smooth,
    Cosine: _smooth,
    WSD: _smooth,
    Step: _step,
    Tabulated: _tabulated,
}
