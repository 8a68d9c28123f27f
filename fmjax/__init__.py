"""fmjax: fit loss-curve laws to cheap runs and search learning-rate schedules with them.

Importing fmjax imports nothing else, not even JAX: each public name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fmjax._version import __version__

if TYPE_CHECKING:  # for type checkers and editors; when fmjax runs, ``__getattr__`` finds the names in ``_PLACES``
    from fmjax import datasets as datasets
    from fmjax import laws as laws
    from fmjax.curves.loss_curve import LossCurve as LossCurve
    from fmjax.curves.manifest import load_runs as load_runs
    from fmjax.effects.recursions import annealing_area as annealing_area
    from fmjax.effects.recursions import annealing_momentum as annealing_momentum
    from fmjax.effects.recursions import forward_effect as forward_effect
    from fmjax.effects.tracking import track_annealing as track_annealing
    from fmjax.fitting.comparison import compare as compare
    from fmjax.fitting.fits import evaluate as evaluate
    from fmjax.fitting.fits import fit as fit
    from fmjax.fitting.fits import predict as predict
    from fmjax.fitting.options import FitOptions as FitOptions
    from fmjax.fitting.records import FitResult as FitResult
    from fmjax.fitting.resampling import bootstrap as bootstrap
    from fmjax.fitting.selection import select as select
    from fmjax.laws.chinchilla import Chinchilla as Chinchilla
    from fmjax.laws.convex_bound import ConvexBound as ConvexBound
    from fmjax.laws.forward_momentum import ForwardMomentum as ForwardMomentum
    from fmjax.laws.forward_only import ForwardOnly as ForwardOnly
    from fmjax.laws.functional import Functional as Functional
    from fmjax.laws.intrinsic_momentum import IntrinsicMomentum as IntrinsicMomentum
    from fmjax.laws.kaplan import Kaplan as Kaplan
    from fmjax.laws.lr_annealing import LRAnnealing as LRAnnealing
    from fmjax.laws.multi_power import MultiPower as MultiPower
    from fmjax.planning.forecasts import Forecaster as Forecaster
    from fmjax.planning.forecasts import forecast as forecast
    from fmjax.planning.recommendation import recommend as recommend
    from fmjax.scaling.batch_size import critical_batch_size as critical_batch_size
    from fmjax.scaling.prior_learning import learn_prior as learn_prior
    from fmjax.scaling.transfers import transfer as transfer
    from fmjax.schedules.kinds import WSD as WSD
    from fmjax.schedules.kinds import Constant as Constant
    from fmjax.schedules.kinds import Cosine as Cosine
    from fmjax.schedules.kinds import Step as Step
    from fmjax.schedules.kinds import Tabulated as Tabulated
    from fmjax.searching.designs import optimize as optimize
    from fmjax.searching.sweeps import search as search

_PLACES = {
    "LossCurve": "curves.loss_curve",
    "load_runs": "curves.manifest",
    "annealing_area": "effects.recursions",
    "annealing_momentum": "effects.recursions",
    "forward_effect": "effects.recursions",
    "track_annealing": "effects.tracking",
    "compare": "fitting.comparison",
    "evaluate": "fitting.fits",
    "fit": "fitting.fits",
    "predict": "fitting.fits",
    "FitOptions": "fitting.options",
    "FitResult": "fitting.records",
    "bootstrap": "fitting.resampling",
    "select": "fitting.selection",
    "Chinchilla": "laws.chinchilla",
    "ConvexBound": "laws.convex_bound",
    "ForwardMomentum": "laws.forward_momentum",
    "ForwardOnly": "laws.forward_only",
    "Functional": "laws.functional",
    "IntrinsicMomentum": "laws.intrinsic_momentum",
    "Kaplan": "laws.kaplan",
    "LRAnnealing": "laws.lr_annealing",
    "MultiPower": "laws.multi_power",
    "Forecaster": "planning.forecasts",
    "forecast": "planning.forecasts",
    "recommend": "planning.recommendation",
    "critical_batch_size": "scaling.batch_size",
    "learn_prior": "scaling.prior_learning",
    "transfer": "scaling.transfers",
    "Constant": "schedules.kinds",
    "Cosine": "schedules.kinds",
    "Step": "schedules.kinds",
    "Tabulated": "schedules.kinds",
    "WSD": "schedules.kinds",
    "optimize": "searching.designs",
    "search": "searching.sweeps",
}
"""Public names, by the module below fmjax that defines them."""

_ROOMS = (
    *("schedules", "effects", "laws", "curves", "fitting", "searching", "exporters", "planning", "scaling"),
    *("importers", "datasets", "benchmarking", "plotting", "report", "cli"),
)
"""What lies at the root of the package; each is imported when ``fmjax.NAME`` is first used."""

__all__ = ["__version__", "datasets", "laws", *_PLACES]


if not TYPE_CHECKING:  # a type checker that saw it would take any name for one of fmjax

    def __getattr__(name: str) -> object:
        """Imports a public name or a room on its first use, and keeps it."""
        if name in _PLACES:
            found = getattr(import_module(f"fmjax.{_PLACES[name]}"), name)
        elif name in _ROOMS:
            found = import_module(f"fmjax.{name}")
        else:
            raise AttributeError(f"module 'fmjax' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
