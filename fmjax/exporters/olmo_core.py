"""OLMo-core Python (3.0 or later, checked with ai2-olmo-core 3.0.0).

``ComposableScheduler`` is a list of stages, each a straight line or half a cosine of so many updates from one rate to
another; formula in its ``optim/scheduler.py``. OLMo-core counts updates from 1, so the first stage is one update
longer, or a stage of one update goes before it, of which no update gets its rate.
"""

from collections.abc import Iterator
from typing import NamedTuple

from fmjax.exporters.layout import commented
from fmjax.exporters.phases import Phases, phases
from fmjax.schedules.kinds import Schedule

_DECAYS = {"linear": "linear", "cosine": "cosine"}
_SHIFTED = "OLMo-core counts updates from 1: the first stage has one update more to give the same rates"
_IMPORTS = """from olmo_core.optim import AdamWConfig
from olmo_core.optim.scheduler import ComposableScheduler, ComposableSchedulerStage
from olmo_core.train import Duration
"""


class _Stage(NamedTuple):
    """A stage by the names of ``ComposableSchedulerStage``."""

    duration: int
    start_lr: float
    end_lr: float
    shape: str = "linear"


def text(schedule: Schedule) -> str:
    """OLMo-core code of a schedule.

    Raises:
      ValueError: for Step and Tabulated, 1-sqrt and exponential decay, and warmup into the anneal.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, decay="cosine")))
    # OLMo-core counts updates from 1: the first stage has one update more to give the same rates
    from olmo_core.optim import AdamWConfig
    from olmo_core.optim.scheduler import ComposableScheduler, ComposableSchedulerStage
    from olmo_core.train import Duration
    <BLANKLINE>
    max_duration = Duration.steps(1000)
    optim = AdamWConfig(lr=0.001)
    scheduler = ComposableScheduler(
        stages=[
            ComposableSchedulerStage(duration=801, start_lr=0.001, end_lr=0.001, shape='linear'),
            ComposableSchedulerStage(duration=200, start_lr=0.001, end_lr=0.0, shape='cosine'),
        ],
    )
    """
    plan = phases(schedule, "olmo-core", _DECAYS, init_lr=True)
    code = f"{_IMPORTS}\nmax_duration = Duration.steps({plan.total})\noptim = AdamWConfig(lr={plan.peak!r})\n"
    listed = "".join(f"        ComposableSchedulerStage({_arguments(stage)}),\n" for stage in _stages(plan))
    return commented(
        [*plan.remarks, _SHIFTED], f"{code}scheduler = ComposableScheduler(\n    stages=[\n{listed}    ],\n)"
    )


def _stages(plan: Phases) -> Iterator[_Stage]:
    first = 1
    if plan.warmup:
        yield _Stage(1, plan.init, plan.init)
        yield _Stage(plan.warmup, plan.init, plan.peak)
        first = 0
    if plan.stable + first:
        yield _Stage(plan.stable + first, plan.peak, plan.peak)
    if plan.anneal:
        yield _Stage(plan.anneal, plan.peak, plan.final, plan.decay)


def _arguments(stage: _Stage) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in stage._asdict().items())
