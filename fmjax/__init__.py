"""fmjax: fit loss-curve laws to cheap runs and search learning-rate schedules with them."""

from fmjax import datasets, laws
from fmjax._version import __version__
from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs
from fmjax.effects.recursions import annealing_area, annealing_momentum, forward_effect
from fmjax.effects.tracking import track_annealing
from fmjax.fitting.comparison import compare
from fmjax.fitting.fits import evaluate, fit, predict
from fmjax.fitting.options import FitOptions
from fmjax.fitting.records import FitResult
from fmjax.fitting.resampling import bootstrap
from fmjax.fitting.selection import select
from fmjax.laws import (
    Chinchilla,
    ConvexBound,
    ForwardMomentum,
    ForwardOnly,
    Functional,
    IntrinsicMomentum,
    Kaplan,
    LRAnnealing,
    MultiPower,
)
from fmjax.planning.forecasts import Forecaster, forecast
from fmjax.planning.recommendation import recommend
from fmjax.scaling.batch_size import critical_batch_size
from fmjax.scaling.transfers import transfer
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated
from fmjax.searching.designs import optimize
from fmjax.searching.sweeps import search

__all__ = [
    "WSD",
    "Chinchilla",
    "Constant",
    "ConvexBound",
    "Cosine",
    "FitOptions",
    "FitResult",
    "Forecaster",
    "ForwardMomentum",
    "ForwardOnly",
    "Functional",
    "IntrinsicMomentum",
    "Kaplan",
    "LRAnnealing",
    "LossCurve",
    "MultiPower",
    "Step",
    "Tabulated",
    "__version__",
    "annealing_area",
    "annealing_momentum",
    "bootstrap",
    "compare",
    "critical_batch_size",
    "datasets",
    "evaluate",
    "fit",
    "forecast",
    "forward_effect",
    "laws",
    "load_runs",
    "optimize",
    "predict",
    "recommend",
    "search",
    "select",
    "track_annealing",
    "transfer",
]
