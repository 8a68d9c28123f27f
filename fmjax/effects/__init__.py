"""What a law sees of a schedule: recursions over updates, the same from a few, and tracking inside an optimiser."""

from fmjax.effects.recursions import annealing_area, annealing_momentum, forward_effect
from fmjax.effects.tracking import TrackAnnealingState, annealing_state, track_annealing

__all__ = [
    "TrackAnnealingState",
    "annealing_area",
    "annealing_momentum",
    "annealing_state",
    "forward_effect",
    "track_annealing",
]
