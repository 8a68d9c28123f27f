"""How files of separated values are written: separators, decimal commas, separators of thousands, no header."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import require

_DELIMITERS = (",", ";", "\t")
_ROWS = 50
"""Rows after the first that are looked at."""

_NUMBER = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?|nan|NaN")
_THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?")
_PLAIN = re.compile(r"[-+]?\d{1,3}(?:\.\d*)?")


class Dialect(NamedTuple):
    """How a file of separated values is written."""

    delimiter: str = ","
    decimal_point: str = "."
    names: list[str] | None = None
    """Names of the columns, where the file has none."""


def dialect_of(start: str) -> Dialect:
    r"""How a file is written that begins so.

    Raises:
      ValueError: numbers stand where the names of columns should, and there are more than two columns.

    >>> dialect_of("step;loss\n1;2,5\n"), dialect_of("1\t2.5\n2\t2.4\n").names
    (Dialect(delimiter=';', decimal_point=',', names=None), ['step', 'loss'])
    """
    first, *rows = start.splitlines()[: _ROWS + 1] or [""]
    outside = re.sub(r'"[^"]*"', "", first)
    delimiter = max(_DELIMITERS, key=outside.count)
    cells = [cell.strip().strip('"') for row in rows for cell in row.split(delimiter)]
    points = any(_NUMBER.fullmatch(cell) and "." in cell for cell in cells)
    commas = any(_NUMBER.fullmatch(cell) and "," in cell for cell in cells)
    return Dialect(delimiter, "," if delimiter != "," and commas and not points else ".", _names(first, delimiter))


def _names(first: str, delimiter: str) -> list[str] | None:
    """Names for the columns of a file whose first line is a row already."""
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    if not all(_NUMBER.fullmatch(cell) for cell in cells):
        return None
    require(len(cells) == 2, f"expected a first line with the names of the columns, found {first[:60]!r}")
    return ["step", "loss"]


def without_thousands(cells: Sequence[str | None]) -> np.ndarray | None:
    """Numbers written with separators of thousands; None where the cells are something else.

    A column in which every cell has one comma is left out: ``8,398`` may be a loss with a decimal comma as well.

    >>> without_thousands(["900", "1,000", None]).tolist(), without_thousands(["8,398", "7,125"])
    ([900.0, 1000.0, nan], None)
    """
    known = [cell.strip() for cell in cells if cell is not None]
    grouped = [cell for cell in known if _THOUSANDS.fullmatch(cell)]
    whole = len(grouped) + sum(bool(_PLAIN.fullmatch(cell)) for cell in known) == len(known)
    certain = len(grouped) < len(known) or any(cell.count(",") > 1 for cell in grouped)
    if not (grouped and whole and certain):
        return None
    return np.array([np.nan if cell is None else float(cell.replace(",", "")) for cell in cells])
