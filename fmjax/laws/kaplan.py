"""``kaplan``: a power law in the number of updates without an irreducible loss, blind to the schedule. Baseline."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from fmjax.laws.base import Row, register
from fmjax.laws.chinchilla import Chinchilla
from fmjax.laws.terms import Coefficient


@register
@dataclass(frozen=True)
class Kaplan(Chinchilla):
    r"""$L = A t^{-\alpha} + B N^{-\beta}$ after t updates, whatever their rates.

    With one model size the second term is a constant, called L0, and the law is ``chinchilla``.

    Reference: arXiv 2001.08361, eq. 1.6.
    """

    name: ClassVar[str] = "kaplan"

    @property
    def coefficients(self) -> tuple[Coefficient, ...]:
        return super().coefficients[1:] if self.sizes else super().coefficients

    def basis(self, row: Row, exponents: jax.Array) -> jax.Array:
        terms = super().basis(row, exponents)
        return terms[1:] if self.sizes else terms
