"""Learning-rate schedules: their kinds, shapes of anneals, tables of text, knots, recognition in logged rates."""

from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated, lrs
from fmjax.schedules.recognition import recognise

__all__ = ["WSD", "Constant", "Cosine", "Schedule", "Step", "Tabulated", "check_schedule", "lrs", "recognise"]
