r"""``learn_prior``: what one's own earlier sets of runs have shown of a law's exponents, for fits of few runs.

Each set is fitted by itself under a prior, of mean m and standard deviation s. What the runs of the set say of an
exponent is its posterior with that prior taken out again: precisions subtract, and so do means times precisions. The
sets then count as draws about a common mean, between which the exponent varies by tau (random effects). The law's own
prior is held of the common mean, once and not once for each set.

A new set has the exponent of the common mean, give or take tau. A few sets hardly show tau: two that agree by chance
show none. So the spread sd of the law's own prior counts as the m = 4 sets that it came from:

    tau^2 <- ((m - 1) sd^2 + (k - 1) tau^2) / (m - 1 + k - 1)     over k sets that show the exponent

The mean of k sets errs by tau^2 / k on that account, of which random effects have seen only the scatter that there is;
the rest is added. So one set alone is widened by the spread of the law's own prior, as a set and as what a new one has.

Reference: DerSimonian and Laird (1986), random effects.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax._json import Record, plain
from fmjax._names import PREFERRED_LAWS
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import evaluate
from fmjax.fitting.options import ONE_FIT, FitOptions, fitting_verb
from fmjax.fitting.priors import KnownExponents, LearnedExponent
from fmjax.fitting.records import FitResult
from fmjax.laws import LAWS, Law, make_law
from fmjax.laws.terms import Gaussian
from fmjax.scaling.power_laws import random_effects

PRIOR_FORMAT = 1
"""Version of the JSON of a prior."""

SHIPPED_SETS = 4
"""Sets of runs behind the law's own priors."""

WEAK = 100.0
"""How much wider than the law's own a prior is that stands for none."""

LEAST_TOLD = 0.1
"""Share of the precision of an exponent that a set must give, beside the law's own prior, to be used."""


class SetEstimate(NamedTuple):
    """What the runs of one set say of an exponent."""

    name: str
    """The set's."""
    estimate: float
    sd: float
    """Mean and standard deviation, of the runs without the prior they were fitted under."""
    moved: float = 0.0
    """How far the set moved the learned mean, in standard deviations of the law's own prior."""


class ExponentPrior(NamedTuple):
    """A learned prior on an exponent."""

    name: str
    mean: float
    sd: float
    shipped: Gaussian
    """The law's own."""
    between: float
    """Standard deviation between sets, part of ``sd``."""
    sets: tuple[SetEstimate, ...]
    """Those that were used; with none the prior is the law's own."""

    def to_dict(self) -> dict[str, object]:
        """As plain values."""
        return {**self._asdict(), "shipped": self.shipped._asdict(), "sets": [one._asdict() for one in self.sets]}


@dataclass(frozen=True)
class LearnedPrior(Record):
    """A prior on the exponents of a law, learned from sets of runs; ``prior`` is what fits take."""

    law: str
    exponents: tuple[ExponentPrior, ...]
    fits: dict[str, FitResult]
    """The fit of each set."""
    notes: tuple[str, ...] = ()

    @property
    def prior(self) -> KnownExponents:
        """What fits take as ``prior``."""
        return KnownExponents(self.law, {one.name: (one.mean, one.sd) for one in self.exponents})

    def to_dict(self) -> dict[str, object]:
        """The prior as plain values for JSON; ``fmjax fit --prior`` reads it."""
        sets = [{"name": name, "runs": len(fit.runs), "status": fit.status} for name, fit in self.fits.items()]
        exponents = [one.to_dict() for one in self.exponents]
        return plain(
            {"format": PRIOR_FORMAT, "law": self.law, "exponents": exponents, "sets": sets, "notes": self.notes}
        )


@fitting_verb
def learn_prior(
    sets: Mapping[str, Sequence[LossCurve]],
    *,
    law: str = PREFERRED_LAWS[0],
    progress: Callable[[str], None] | None = None,
    options: FitOptions = ONE_FIT,
) -> LearnedPrior:
    """Learns a prior on a law's exponents from sets of earlier runs.

    Args:
      sets: runs by the name of their set, such as a ladder. Runs of a set share data and recipe.
      law: name of the law.
      progress: called with a few words before each set.
      options: of the fits. Their ``prior`` is what sets are fitted under: the law's own, or None for none; then the
        sets alone make the prior.

    Returns:
      The prior; fits take its ``prior``. An exponent that no set shows keeps the law's own.

    Raises:
      ValueError: as for ``fit``; no sets, or a law without priors.

    >>> import fmjax
    >>> found = learn_prior({"demo": fmjax.datasets.demo_runs()}, options=fmjax.FitOptions(starts=1))
    >>> new = fmjax.fit("intrinsic-momentum", fmjax.datasets.demo_runs()[:3], prior=found.prior, starts=1)
    >>> [one.name for one in new.prior]
    ['alpha', 'xi']
    """
    require(sets, "expected at least one set of runs, found none")
    shipped = _shipped(make_law(law))
    known = [name for name in LAWS if _shipped(make_law(name))]
    require(shipped, f"{law} has no priors on its exponents; laws that have: {', '.join(known)}")
    fits = {name: _fit_of_set(name, curves, law, shipped, options, progress) for name, curves in sets.items()}
    usable = {name: fit for name, fit in fits.items() if fit.ok}
    notes = tuple(f"{name} is not used: {fit.message}" for name, fit in fits.items() if not fit.ok)
    exponents = tuple(_learned(name, own, usable, options.prior is None) for name, own in shipped.items())
    silent = ", ".join(one.name for one in exponents if not one.sets)
    notes += (f"no set shows {silent}; the law's own prior stays",) if silent else ()
    return LearnedPrior(law, exponents, fits, notes)


def _shipped(law: Law) -> dict[str, Gaussian]:
    """The law's own prior of each exponent that has one, over sizes and batches."""
    full = law.spanning((1.0, 2.0), (1.0, 2.0))
    return {exponent.name: exponent.prior for exponent in full.exponents if exponent.prior is not None}


def _fit_of_set(
    name: str,
    curves: Sequence[LossCurve],
    law: str,
    shipped: Mapping[str, Gaussian],
    options: FitOptions,
    progress: Callable[[str], None] | None,
) -> FitResult:
    """The set's fit under the law's own prior, or under one so wide that it says nothing.

    Over one size and batch as over many: options such as rho, which a fit of one peak rate leaves alone, are as there,
    so that exponents mean the same.
    """
    if progress is not None:
        progress(f"fitting {len(curves)} runs of {name}")
    width = WEAK if options.prior is None else 1.0
    held = {exponent: (own.mean, own.sd * width) for exponent, own in shipped.items()}
    given = held if options.prior in (None, "default") else options.prior
    try:
        own = dataclasses.replace(options, prior=given)
        return evaluate(make_law(law).suited_to({1.0}), curves, train=curves, options=own).fit
    except ValueError as error:
        raise ValueError(f"set {name!r}: {error}") from None


def _learned(name: str, shipped: Gaussian, fits: Mapping[str, FitResult], alone: bool) -> ExponentPrior:
    found = {of: next((one for one in fit.prior if one.name == name), None) for of, fit in fits.items()}
    shown = [_of_runs_alone(of, one, shipped) for of, one in found.items() if one is not None]
    sets = [one for one in shown if one is not None]
    mean, sd, between = combined(sets, shipped, alone)
    moved = []
    for one in sets:
        without = combined([other for other in sets if other is not one], shipped, alone)[0]
        moved.append(one._replace(moved=(mean - without) / shipped.sd))
    return ExponentPrior(name, mean, sd, shipped, between, tuple(moved))


def _of_runs_alone(of: str, found: LearnedExponent, shipped: Gaussian) -> SetEstimate | None:
    """The posterior less the prior it was found under; None where that was nearly all of it."""
    if not (np.isfinite(found.estimate_sd) and found.sd > 0):
        return None
    precision = found.estimate_sd**-2 - found.sd**-2
    if precision < LEAST_TOLD / (1 - LEAST_TOLD) * shipped.sd**-2:
        return None
    mean = (found.estimate * found.estimate_sd**-2 - found.mean * found.sd**-2) / precision
    return SetEstimate(of, float(mean), float(precision**-0.5))


def combined(sets: Sequence[SetEstimate], shipped: Gaussian, alone: bool = False) -> tuple[float, float, float]:
    """Mean and standard deviation of the prior that estimates of sets make, and the part of it between sets.

    Args:
      sets: estimates of one exponent.
      shipped: the law's own prior, held of the mean.
      alone: whether it is not, so that the sets alone make the mean.
    """
    if not sets:
        return shipped.mean, shipped.sd, shipped.sd
    y, own = np.array([one.estimate for one in sets]), np.array([one.sd for one in sets])
    scatter, (mean,), ((variance,),) = random_effects(np.ones((y.size, 1)), y, own)
    if not alone:
        precision = 1 / variance + shipped.sd**-2
        mean, variance = (mean / variance + shipped.mean * shipped.sd**-2) / precision, 1 / precision
    own_worth, worth = SHIPPED_SETS - 1, y.size - 1
    between = np.sqrt((own_worth * shipped.sd**2 + worth * scatter**2) / (own_worth + worth))
    unseen = max(0.0, between**2 - scatter**2) / y.size
    return float(mean), float(np.sqrt(variance + unseen + between**2)), float(between)
