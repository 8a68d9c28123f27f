"""Levanter YAML (as in the marin repository in 2026; ``decay`` is newer than the release 1.1).

Keys of ``optimizer``: ``learning_rate``, ``lr_schedule``, ``warmup``, ``decay``, ``min_lr_ratio``; ``num_train_steps``
of ``trainer``. Formula in its ``OptimizerConfig.lr_scheduler``; numbers up to 1 are fractions of the run, larger ones
steps.
"""

from fmjax.exporters.layout import commented, yaml
from fmjax.exporters.phases import Phases, fraction, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine"}


def text(schedule: Schedule) -> str:
    """Levanter config of a schedule.

    Raises:
      ValueError: for Step and Tabulated, 1-sqrt and exponential decay, warmup into the anneal, and an ``init_lr`` other
        than 0.

    >>> from fmjax.schedules import Constant
    >>> print(text(Constant(peak_lr=1e-3, total_steps=1000, warmup_steps=50)))
    trainer:
      num_train_steps: 1000
    optimizer:
      learning_rate: 0.001
      lr_schedule: constant
      warmup: 50
    """
    plan = phases(schedule, "levanter", _DECAYS)
    warmup = fraction(1, plan.total) if plan.warmup == 1 else plan.warmup
    optimizer = {"learning_rate": plan.peak, "lr_schedule": plan.decay, "warmup": warmup}
    table = {"trainer": {"num_train_steps": plan.total}, "optimizer": optimizer | _fall(plan)}
    return commented(plan.remarks, yaml(table))


def _fall(plan: Phases) -> dict[str, str | int | float]:
    if not plan.anneal:
        return {"lr_schedule": "constant"}
    return {"decay": plan.anneal, "min_lr_ratio": plan.final_ratio}
