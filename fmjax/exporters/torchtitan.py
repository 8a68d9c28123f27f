"""torchtitan TOML (release 0.2; from 0.3 on the same names are arguments in Python; checked with 0.2.2 and 0.3.0).

Keys of ``[lr_scheduler]``: ``warmup_steps``, ``decay_ratio``, ``decay_type``, ``min_lr_factor``; ``lr`` of
``[optimizer]``, ``steps`` of ``[training]``. Formula in its ``lr_scheduler.py``, ``linear_warmup_stable_decay``: decays
are those of fmjax, but update t of the warmup gets peak (t + 1)/warmup_steps.
"""

from fmjax.exporters.layout import commented
from fmjax.exporters.phases import off, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "1-sqrt": "sqrt", "cosine": "cosine"}
_PYTHON = "TOML of torchtitan 0.2; from 0.3 on, arguments of LRSchedulersContainer.Config"


def text(schedule: Schedule) -> str:
    """Config of torchtitan for a schedule.

    The nearest warmup is one update longer where there is a stable phase to take it from.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and an ``init_lr`` other than 0.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, decay="1-sqrt")))
    # TOML of torchtitan 0.2; from 0.3 on, arguments of LRSchedulersContainer.Config
    [training]
    steps = 1000
    <BLANKLINE>
    [optimizer]
    lr = 0.001
    <BLANKLINE>
    [lr_scheduler]
    warmup_steps = 0
    decay_ratio = 0.2
    decay_type = "sqrt"
    min_lr_factor = 0.0
    """
    plan = phases(schedule, "torchtitan", _DECAYS)
    warmup = min(plan.warmup + 1, plan.total - plan.anneal) if plan.warmup else 0
    ahead = f"the warmup of torchtitan gives update t the rate (t + 1)/{warmup} of the peak"
    remarks = [f"{ahead}: {off(1 / warmup)}"] if warmup else []
    table = {
        "warmup_steps": warmup,
        "decay_ratio": plan.anneal / plan.total,
        "decay_type": f'"{plan.decay or "linear"}"',
        "min_lr_factor": plan.final_ratio,
    }
    top = f"[training]\nsteps = {plan.total}\n\n[optimizer]\nlr = {plan.peak!r}\n\n[lr_scheduler]\n"
    return commented([_PYTHON, *plan.remarks, *remarks], top + "\n".join(f"{key} = {table[key]}" for key in table))
