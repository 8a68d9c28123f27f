"""torchtitan Python (0.3 or later), with its TOML of 0.2 as a comment; checked with 0.2.2 and 0.3.0.

From 0.3 on a run is a ``Trainer.Config`` in Python: ``LRSchedulersContainer.Config`` has ``warmup_steps``,
``decay_ratio``, ``decay_type``, ``min_lr_factor``; ``training`` has ``steps``; the rate is an argument of
``default_adamw(lr=...)``, or of each optimizer in ``OptimizersContainer.Config(optimizers=[...])``. Release 0.2 has the
same names in ``[lr_scheduler]`` and ``[training]``, and ``lr`` in ``[optimizer]``. Formula in its ``lr_scheduler.py``,
``linear_warmup_stable_decay``: decays are those of fmjax, but update t of the warmup gets peak (t + 1)/warmup_steps.
"""

from fmjax.exporters.layout import call, commented
from fmjax.exporters.phases import off, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "1-sqrt": "sqrt", "cosine": "cosine"}
_WHERE = (
    "fields of Trainer.Config, torchtitan 0.3 or later; in the TOML of 0.2 the same names stand in [training],",
    "[lr_scheduler], and lr in [optimizer]",
)
_IMPORTS = """from torchtitan.components.lr_scheduler import LRSchedulersContainer
from torchtitan.components.optimizer import default_adamw
from torchtitan.config import TrainingConfig
"""


def text(schedule: Schedule) -> str:
    """Config of torchtitan for a schedule.

    The nearest warmup is one update longer where there is a stable phase to take it from.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and an ``init_lr`` other than 0.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, decay="1-sqrt")))
    # fields of Trainer.Config, torchtitan 0.3 or later; in the TOML of 0.2 the same names stand in [training],
    # [lr_scheduler], and lr in [optimizer]
    from torchtitan.components.lr_scheduler import LRSchedulersContainer
    from torchtitan.components.optimizer import default_adamw
    from torchtitan.config import TrainingConfig
    <BLANKLINE>
    training = TrainingConfig(
        steps=1000,
    )
    optimizer = default_adamw(
        lr=0.001,
    )
    lr_scheduler = LRSchedulersContainer.Config(
        warmup_steps=0,
        decay_ratio=0.2,
        decay_type='sqrt',
        min_lr_factor=0.0,
    )
    """
    plan = phases(schedule, "torchtitan", _DECAYS)
    warmup = min(plan.warmup + 1, plan.total - plan.anneal) if plan.warmup else 0
    ahead = f"the warmup of torchtitan gives update t the rate (t + 1)/{warmup} of the peak"
    remarks = [f"{ahead}: {off(1 / warmup)}"] if warmup else []
    fall = {
        "warmup_steps": warmup,
        "decay_ratio": plan.anneal / plan.total,
        "decay_type": plan.decay or "linear",
        "min_lr_factor": plan.final_ratio,
    }
    code = f"{_IMPORTS}\ntraining = {call('TrainingConfig', {'steps': plan.total})}\n"
    code += f"optimizer = {call('default_adamw', {'lr': plan.peak})}\n"
    code += f"lr_scheduler = {call('LRSchedulersContainer.Config', fall)}"
    return commented([*_WHERE, *plan.remarks, *remarks], code)
