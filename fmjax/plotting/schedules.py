"""Pictures of schedules beside what a law sees of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import numpy as np

from fmjax.effects.recursions import annealing_momentum, forward_effect
from fmjax.plotting.style import Path, axes_or_new, legend, legend_below, look_of, picture, title
from fmjax.schedules.kinds import WSD, Schedule, lrs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Schedules: TypeAlias = Mapping[str, Schedule] | Sequence[Schedule]
"""Schedules by name, or as they are: then their kinds name them."""


def rates(schedules: Schedules, ax: "Axes | None" = None) -> "Axes":
    """Learning rate of every update of each schedule."""
    return _draw(schedules, lambda rates: rates, "learning rate", "learning rate", ax)


def forward_effects(schedules: Schedules, ax: "Axes | None" = None) -> "Axes":
    """Forward effect S, the sum of learning rates so far, after every update of each schedule."""
    return _draw(schedules, forward_effect, "forward effect S", "sum of learning rates", ax)


def annealing_momenta(schedules: Schedules, ax: "Axes | None" = None) -> "Axes":
    """Annealing momentum M after every update of each schedule."""
    return _draw(
        schedules, annealing_momentum, "annealing momentum M", "decrease of the rate through Adam's moments", ax
    )


def _draw(
    schedules: Schedules, effect: Callable[[jax.Array], jax.Array], ylabel: str, heading: str, ax: "Axes | None"
) -> "Axes":
    ax = axes_or_new(ax)
    for i, (name, schedule) in enumerate(_named(schedules)):
        with jax.enable_x64(True):
            values = np.asarray(effect(lrs(schedule)))
        ax.plot(np.arange(values.size), values, lw=1.4, alpha=0.85, **look_of(i), label=name)
    ax.set(xlabel="update", ylabel=ylabel)
    title(ax, heading)
    legend(ax)
    return ax


def _named(schedules: Schedules) -> list[tuple[str, Schedule]]:
    if isinstance(schedules, Mapping):
        return list(schedules.items())
    lengths = len({int(schedule.total_steps) for schedule in schedules})
    return [(_name(schedule) + f", T = {schedule.total_steps}" * (lengths > 1), schedule) for schedule in schedules]


def _name(schedule: Schedule) -> str:
    kind = type(schedule).__name__
    return f"{kind} {schedule.decay}, R = {schedule.anneal_ratio:.3g}" if isinstance(schedule, WSD) else kind


def save_schedules(schedules: Schedules, path: Path) -> None:
    """Draws learning rates beside forward effects and annealing momenta, and writes the picture to ``path``."""
    with picture(path, 13, 4.2) as figure:
        panels = figure.subplots(1, 3)
        for draw, ax in zip((rates, forward_effects, annealing_momenta), panels, strict=True):
            draw(schedules, ax)
        legend_below(figure, panels)
