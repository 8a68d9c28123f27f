"""Loss-curve laws, one file each; to add one, write its file and name its class in ``LAWS``."""

from typing import Any

from fmjax._checks import choose, finite, require
from fmjax.laws.base import WARMUPS, Law, Row
from fmjax.laws.chinchilla import Chinchilla
from fmjax.laws.convex_bound import ConvexBound
from fmjax.laws.forward_momentum import ForwardMomentum
from fmjax.laws.forward_only import ForwardOnly
from fmjax.laws.functional import Functional
from fmjax.laws.intrinsic_momentum import IntrinsicMomentum
from fmjax.laws.kaplan import Kaplan
from fmjax.laws.lr_annealing import LRAnnealing
from fmjax.laws.multi_power import MultiPower
from fmjax.laws.terms import Coefficient, Exponent, Option

LAWS: dict[str, type[Law]] = {
    law.name: law
    for law in (
        IntrinsicMomentum,
        ForwardMomentum,
        LRAnnealing,
        MultiPower,
        Functional,
        ConvexBound,
        ForwardOnly,
        Chinchilla,
        Kaplan,
    )
}
"""Laws by the name the command line and stored fits use."""

__all__ = [
    "LAWS",
    "Chinchilla",
    "Coefficient",
    "ConvexBound",
    "Exponent",
    "ForwardMomentum",
    "ForwardOnly",
    "Functional",
    "IntrinsicMomentum",
    "Kaplan",
    "LRAnnealing",
    "Law",
    "MultiPower",
    "Option",
    "Row",
    "check_options",
    "make_law",
]


def make_law(name: str, /, **options: Any) -> Law:
    """The law called ``name`` with the given options.

    Raises:
      ValueError: unknown law or option, with the nearest known name.

    >>> make_law("lr-annealing", decay=0.99).options()["decay"]
    0.99
    """
    made = LAWS[choose(name, LAWS, "law")](**options)
    check_options(made)
    return made


def check_options(law: Law) -> None:
    """Checks that each of a law's options has a value that it may have; None where that is the default.

    Raises:
      ValueError: naming the law and the option.
    """
    choose(law.warmup, WARMUPS, "warmup mode")
    for option in law.tunable:
        value, said = getattr(law, option.name), f"{law.name}: {option.name}"
        if value is None and getattr(type(law), option.name) is None:
            continue
        number = finite(value, said)
        require(option.scale.holds(number), f"{said}: expected a number {option.scale.range}, got {number:g}")
