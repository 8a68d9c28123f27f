"""nanotron YAML (checked with 0.4; 1-sqrt needs a later one).

Keys of ``optimizer.learning_rate_scheduler``: ``learning_rate``, ``lr_warmup_steps``, ``lr_warmup_style``,
``lr_decay_starting_step``, ``lr_decay_steps``, ``lr_decay_style``, ``min_decay_lr``; ``train_steps`` of ``tokens``.
Formula in its ``helpers.py``, ``lr_scheduler_builder``. A linear warmup over 0 steps would give update 0 a rate of
zero, so a run without warmup has the style constant.
"""

from fmjax.exporters.layout import commented, yaml
from fmjax.exporters.phases import phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine", "1-sqrt": "1-sqrt"}


def text(schedule: Schedule) -> str:
    """Config of nanotron for a schedule.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and an ``init_lr`` other than 0.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50)))
    tokens:
      train_steps: 1000
    optimizer:
      learning_rate_scheduler:
        learning_rate: 0.001
        lr_warmup_steps: 50
        lr_warmup_style: linear
        lr_decay_starting_step: 800
        lr_decay_steps: 200
        lr_decay_style: linear
        min_decay_lr: 0.0
    """
    plan = phases(schedule, "nanotron", _DECAYS)
    scheduler = {
        "learning_rate": plan.peak,
        "lr_warmup_steps": plan.warmup,
        "lr_warmup_style": "linear" if plan.warmup else "constant",
        "lr_decay_starting_step": plan.total - plan.anneal,
        "lr_decay_steps": plan.anneal or 1,  # after the run; 0 is another case to nanotron
        "lr_decay_style": plan.decay or "linear",
        "min_decay_lr": plan.final,
    }
    optimizer = {"learning_rate_scheduler": scheduler}
    return commented(plan.remarks, yaml({"tokens": {"train_steps": plan.total}, "optimizer": optimizer}))
