"""nanochat command-line flags (``scripts/base_train.py`` as of spring 2026, with ``--warmup-steps``).

Flags: ``--num-iterations``, ``--warmup-steps``, ``--warmdown-ratio``, ``--final-lr-frac``. Formula in its
``get_lr_multiplier``: the decay is linear, and update t of the warmup gets peak (t + 1)/warmup. Its rates are given per
group of parameters (``--matrix-lr`` and others) and multiplied by the root of the batch over 524 288 tokens.
"""

from fmjax.exporters.layout import commented
from fmjax.exporters.phases import off, phases
from fmjax.schedules.kinds import Schedule


def text(schedule: Schedule) -> str:
    r"""Flags of nanochat for a schedule.

    The nearest warmup is one update longer where there is a stable phase to take it from.

    Raises:
      ValueError: for Step and Tabulated, a decay that is not linear, warmup into the anneal, and an ``init_lr`` other
        than 0.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=0.02, total_steps=1000, anneal_ratio=0.5)))
    # nanochat has a rate for each group of parameters, times sqrt(batch / 524288 tokens): --matrix-lr is one
    --num-iterations 1000 \
    --matrix-lr 0.02 \
    --warmup-steps 0 \
    --warmdown-ratio 0.5 \
    --final-lr-frac 0.0
    """
    plan = phases(schedule, "nanochat", {"linear": "linear"})
    warmup = min(plan.warmup + 1, plan.total - plan.anneal) if plan.warmup else 0
    groups = "nanochat has a rate for each group of parameters, times sqrt(batch / 524288 tokens): --matrix-lr is one"
    ahead = f"the warmup of nanochat gives update t the rate (t + 1)/{warmup} of the peak"
    remarks = [f"{ahead}: {off(1 / warmup)}"] if warmup else []
    flags = {
        "num-iterations": plan.total,
        "matrix-lr": plan.peak,
        "warmup-steps": warmup,
        "warmdown-ratio": plan.anneal / plan.total,
        "final-lr-frac": plan.final_ratio,
    }
    listed = " \\\n".join(f"--{flag} {value}" for flag, value in flags.items())
    return commented([groups, *plan.remarks, *remarks], listed)
