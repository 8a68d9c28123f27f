"""Megatron-LM command-line flags (checked with Megatron Core 0.16.1).

Flags: ``--lr``, ``--min-lr``, ``--lr-decay-style``, ``--lr-wsd-decay-style``, ``--lr-wsd-decay-iters``,
``--lr-decay-iters``, ``--lr-warmup-iters``, ``--lr-warmup-init``, ``--train-iters``. Formula in its
``OptimizerParamScheduler.get_lr``, for a batch size that does not change. Its exponential decay,
min + (max - min)(2 0.5^x - 1), is another than that of fmjax.
"""

from fmjax._checks import require
from fmjax.exporters.layout import commented
from fmjax.exporters.phases import Phases, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine", "1-sqrt": "minus_sqrt"}


def text(schedule: Schedule) -> str:
    r"""Megatron-LM flags of a schedule.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and warmup to the end of the run.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50)))
    --train-iters 1000 \
    --lr 0.001 \
    --min-lr 0.0 \
    --lr-warmup-iters 50 \
    --lr-warmup-init 0.0 \
    --lr-decay-iters 1000 \
    --lr-decay-style WSD \
    --lr-wsd-decay-style linear \
    --lr-wsd-decay-iters 200
    """
    plan = plan_of(schedule, "megatron")
    flags = {
        "train-iters": plan.total,
        "lr": plan.peak,
        "min-lr": plan.final,
        "lr-warmup-iters": plan.warmup,
        "lr-warmup-init": plan.init,
        "lr-decay-iters": plan.total,
    }
    listed = [f"--{flag} {value}" for flag, value in (flags | style_of(plan)).items()]
    return commented(plan.remarks, " \\\n".join(listed))


def plan_of(schedule: Schedule, trainer: str) -> Phases:
    """The phases of a schedule that a scheduler of Megatron Core can do.

    Raises:
      ValueError: naming the trainer, where it cannot.
    """
    plan = phases(schedule, trainer, _DECAYS, init_lr=True)
    rest = f"{trainer}: expected a warmup shorter than the run, got {plan.warmup} of {plan.total} updates"
    require(plan.warmup < plan.total, rest)
    return plan


def style_of(plan: Phases) -> dict[str, str | int]:
    """The style of the decay, by the names of the flags."""
    if not plan.anneal:
        return {"lr-decay-style": "constant"}
    if not plan.stable and plan.decay in ("linear", "cosine"):
        return {"lr-decay-style": plan.decay}
    return {"lr-decay-style": "WSD", "lr-wsd-decay-style": plan.decay, "lr-wsd-decay-iters": plan.anneal}
