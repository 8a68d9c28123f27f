"""Hugging Face ``TrainingArguments`` (transformers 4.49 or later, checked with 5.23).

Keys: ``learning_rate``, ``max_steps``, ``warmup_steps``, ``lr_scheduler_type`` with ``lr_scheduler_kwargs``.
Formulas in its ``optimization.py``: ``get_wsd_schedule``, ``get_cosine_schedule_with_warmup`` and their neighbours. The
warmup of ``warmup_stable_decay`` starts at ``min_lr_ratio``, the others at zero.
"""

from fmjax._checks import require
from fmjax.exporters.layout import call, commented
from fmjax.exporters.phases import Phases, off, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine", "1-sqrt": "1-sqrt"}


def text(schedule: Schedule) -> str:
    """Hugging Face code of a schedule.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and an ``init_lr`` that is neither
        0 nor ``final_lr``.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50)))
    from transformers import TrainingArguments
    <BLANKLINE>
    arguments = TrainingArguments(
        learning_rate=0.001,
        max_steps=1000,
        warmup_steps=50,
        lr_scheduler_type='warmup_stable_decay',
        lr_scheduler_kwargs={'num_decay_steps': 200, 'warmup_type': 'linear',
                             'decay_type': 'linear', 'min_lr_ratio': 0.0},
    )
    """
    arguments, remarks = trainer_arguments(schedule, "huggingface")
    return commented(
        remarks, "from transformers import TrainingArguments\n\narguments = " + call("TrainingArguments", arguments)
    )


def trainer_arguments(schedule: Schedule, trainer: str) -> tuple[dict[str, object], list[str]]:
    """Arguments of the Trainer for a schedule, and remarks on how its rates differ.

    Raises:
      ValueError: naming the trainer, where it cannot express the schedule.
    """
    plan = phases(schedule, trainer, _DECAYS, init_lr=True)
    starts = (0.0, plan.final)
    require(plan.init in starts, f"{trainer}: expected a warmup from init_lr 0 or final_lr, got {plan.init!r}")
    kind, options = _scheduler(plan)
    arguments = {
        "learning_rate": plan.peak,
        "max_steps": plan.total,
        "warmup_steps": plan.warmup,
        "lr_scheduler_type": kind,
    } | ({"lr_scheduler_kwargs": options} if options else {})
    return arguments, [*plan.remarks, *_start(plan, kind)]


def _scheduler(plan: Phases) -> tuple[str, dict[str, object]]:
    """Name and arguments of the scheduler that gives these rates, or the nearest."""
    if not plan.anneal:
        return "constant_with_warmup", {}
    if plan.stable == 0 and plan.init == 0 and plan.decay == "cosine":
        return ("cosine_with_min_lr", {"min_lr": plan.final}) if plan.final else ("cosine", {})
    if plan.stable == 0 and plan.init == 0 and plan.decay == "linear":
        return "polynomial", {"lr_end": plan.final, "power": 1.0}
    shapes = {"warmup_type": "linear", "decay_type": plan.decay}
    return "warmup_stable_decay", {"num_decay_steps": plan.anneal} | shapes | {"min_lr_ratio": plan.final_ratio}


def _start(plan: Phases, kind: str) -> list[str]:
    if kind != "warmup_stable_decay" or not plan.warmup or plan.init == plan.final:
        return []
    return [f"the warmup of {kind} starts at min_lr_ratio, not at zero: {off(plan.final_ratio)}"]
