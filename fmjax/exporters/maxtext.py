"""MaxText YAML (checked with maxtext 0.2.5).

Keys: ``lr_schedule_type``, ``wsd_decay_steps_fraction``, ``wsd_decay_style``, ``warmup_steps_fraction``,
``learning_rate_final_fraction``, ``learning_rate``, ``learning_rate_schedule_steps``, ``steps``. Formula in its
``create_learning_rate_schedule``: decays reach the final rate at the last step of the schedule, where those of fmjax
are one step short of it; a schedule one step longer than the run gives the same rates.
"""

from fmjax.exporters.layout import commented, yaml
from fmjax.exporters.phases import Phases, fraction, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine"}
_LONGER = "the decay of MaxText ends with the last schedule step, hence one schedule step more than steps"


def text(schedule: Schedule) -> str:
    """MaxText config of a schedule.

    Raises:
      ValueError: for Step and Tabulated, 1-sqrt and exponential decay, warmup into the anneal, and an ``init_lr`` other
        than 0.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=999, anneal_ratio=199 / 999, warmup_steps=50)))
    # the decay of MaxText ends with the last schedule step, hence one schedule step more than steps
    steps: 999
    learning_rate_schedule_steps: 1000
    learning_rate: 0.001
    learning_rate_final_fraction: 0.0
    warmup_steps_fraction: 0.05
    lr_schedule_type: wsd
    wsd_decay_steps_fraction: 0.2
    wsd_decay_style: linear
    """
    plan = phases(schedule, "maxtext", _DECAYS)
    length = plan.total + 1 if plan.anneal else plan.total
    table: dict[str, str | float] = {
        "steps": plan.total,
        "learning_rate_schedule_steps": length,
        "learning_rate": plan.peak,
        "learning_rate_final_fraction": plan.final_ratio,
        "warmup_steps_fraction": fraction(plan.warmup, length),
    }
    return commented([*plan.remarks, *([_LONGER] if plan.anneal else [])], yaml(table | _kind(plan, length)))


def _kind(plan: Phases, length: int) -> dict[str, str | float]:
    if plan.decay == "cosine" and plan.anneal and not plan.stable:
        return {"lr_schedule_type": "cosine"}
    if not plan.anneal:
        return {"lr_schedule_type": "wsd", "wsd_decay_steps_fraction": 0.0}
    decay = fraction(plan.anneal + 1, length)
    return {"lr_schedule_type": "wsd", "wsd_decay_steps_fraction": decay, "wsd_decay_style": plan.decay}
