"""OLMo-core Python (checked with ai2-olmo-core 3.0.0).

Classes ``WSD``, ``CosWithWarmup`` and ``ConstantWithWarmup`` with ``warmup``, ``warmup_min_lr``, ``decay``,
``decay_min_lr``, ``alpha_f``, ``t_max``; formulas in its ``optim/scheduler.py``. OLMo-core counts updates from 1, so
that the same numbers would give each update the rate of the next; all counts here are shifted by one.
"""

from typing import Any

from fmjax._checks import require
from fmjax.exporters.layout import call, commented
from fmjax.exporters.phases import Phases, off, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine"}
_SHIFTED = "OLMo-core counts updates from 1: counts and ends are shifted by one update to give the same rates"


def text(schedule: Schedule) -> str:
    """OLMo-core code of a schedule.

    Raises:
      ValueError: for Step and Tabulated, 1-sqrt and exponential decay, cosine decay after a stable phase, and warmup
        into the anneal.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2)))
    # OLMo-core counts updates from 1: counts and ends are shifted by one update to give the same rates
    from olmo_core.optim import WSD, AdamWConfig
    from olmo_core.train import Duration
    <BLANKLINE>
    max_duration = Duration.steps(1000)
    optim = AdamWConfig(lr=0.001)
    scheduler = WSD(
        warmup=1,
        warmup_min_lr=0.0,
        decay=199,
        decay_fraction=None,
        decay_min_lr=5e-06,
    )
    """
    plan = phases(schedule, "olmo-core", _DECAYS, init_lr=True)
    name, fall = _scheduler(plan)
    start, remarks = _start(plan)
    classes = "WSD, AdamWConfig" if name == "WSD" else f"AdamWConfig, {name}"
    code = f"from olmo_core.optim import {classes}\nfrom olmo_core.train import Duration\n\n"
    code += f"max_duration = Duration.steps({plan.total})\noptim = AdamWConfig(lr={plan.peak!r})\n"
    code += "scheduler = " + call(name, {"warmup": plan.warmup + 1, "warmup_min_lr": start} | fall)
    return commented([*plan.remarks, _SHIFTED, *remarks], code)


def _scheduler(plan: Phases) -> tuple[str, dict[str, Any]]:
    if not plan.anneal:
        return "ConstantWithWarmup", {}
    if plan.decay == "cosine":
        message = f"olmo-core: expected decay linear, or cosine from the end of warmup, got cosine over {plan.anneal}"
        require(not plan.stable, f"{message} of {plan.total - plan.warmup} updates")
        return "CosWithWarmup", {"alpha_f": plan.final_ratio, "t_max": plan.total + 1}
    last = plan.final + (plan.peak - plan.final) / plan.anneal
    return "WSD", {"decay": plan.anneal - 1, "decay_fraction": None, "decay_min_lr": last}


def _start(plan: Phases) -> tuple[float, list[str]]:
    """The rate that the warmup would have had one update before update 0, which must not be negative."""
    if not plan.warmup:
        return 0.0, []
    before = plan.init - (plan.peak - plan.init) / plan.warmup
    share = 1 / (plan.warmup + 1) - plan.init / plan.peak
    remark = f"the warmup of OLMo-core gives update 0 a rate of 1/{plan.warmup + 1} of the peak: {off(share)}"
    return max(0.0, before), [remark] if share > 1e-9 else []
