"""Megatron-Bridge Python (0.1 to 0.4): ``OptimizerConfig``, ``SchedulerConfig`` and ``TrainingConfig``.

The fields have the names of the flags of Megatron-LM, and the scheduler is that of Megatron Core; see ``megatron``.
"""

from fmjax.exporters.layout import call, commented
from fmjax.exporters.megatron import plan_of, style_of
from fmjax.schedules.kinds import Schedule

_IMPORTS = (
    "from megatron.bridge.training.config import SchedulerConfig\nfrom megatron.core.optimizer import OptimizerConfig"
)


def text(schedule: Schedule) -> str:
    """Megatron-Bridge code of a schedule.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and warmup to the end of the run.

    >>> from fmjax.schedules import Constant
    >>> print(text(Constant(peak_lr=1e-3, total_steps=1000, warmup_steps=50)))
    from megatron.bridge.training.config import SchedulerConfig
    from megatron.core.optimizer import OptimizerConfig
    <BLANKLINE>
    train_iters = 1000  # of TrainingConfig
    optimizer = OptimizerConfig(
        lr=0.001,
        min_lr=0.001,
    )
    scheduler = SchedulerConfig(
        lr_warmup_iters=50,
        lr_warmup_init=0.0,
        lr_decay_iters=1000,
        lr_decay_style='constant',
    )
    """
    plan = plan_of(schedule, "megatron-bridge")
    warmup: dict[str, str | float] = {
        "lr_warmup_iters": plan.warmup,
        "lr_warmup_init": plan.init,
        "lr_decay_iters": plan.total,
    }
    style: dict[str, str | float] = {key.replace("-", "_"): value for key, value in style_of(plan).items()}
    optimizer = call("OptimizerConfig", {"lr": plan.peak, "min_lr": plan.final})
    code = f"{_IMPORTS}\n\ntrain_iters = {plan.total}  # of TrainingConfig\noptimizer = {optimizer}\n"
    return commented(plan.remarks, code + "scheduler = " + call("SchedulerConfig", warmup | style))
