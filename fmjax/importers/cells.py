"""Cells of text: labels of runs, and the cells of a column of numbers that hold none."""

from collections.abc import Mapping, Sequence

import numpy as np

from fmjax.importers.dialects import without_thousands

_BLANK = frozenset(("", "nan", "none", "null", "n/a", "na", "-"))
"""Cells, in lower case, that hold no number on purpose."""


class NumberColumns(dict[str, np.ndarray]):
    """Columns of numbers by name, beside the columns that hold text."""

    def __init__(self, columns: Mapping[str, np.ndarray], texts: Mapping[str, np.ndarray]) -> None:
        super().__init__(columns)
        self.texts = texts
        """``[rows]`` cells; of a column of numbers, those that are none, and None for the others."""


def with_texts(columns: dict[str, np.ndarray], texts: Mapping[str, Sequence[str | None]]) -> NumberColumns:
    """The columns, with those of the texts that hold numbers in most cells.

    >>> columns = with_texts({}, {"loss": ["3.0", "2.5", "diverged"], "run": ["a", "a", "b"]})
    >>> columns["loss"].tolist(), columns.texts["loss"].tolist(), columns.texts["run"].tolist()
    ([3.0, 2.5, nan], [None, None, 'diverged'], ['a', 'a', 'b'])
    """
    left: dict[str, np.ndarray] = {}
    for key, cells in texts.items():
        left[key], grouped = np.array(cells, object), without_thousands(cells)
        some = [cell for cell in cells[:: max(len(cells) // 100, 1)] if cell is not None]
        if grouped is not None:
            columns[key], left[key] = grouped, np.full(len(cells), None, object)
        elif sum(_number_in(cell) is not None for cell in some) * 2 > len(some):
            numbers = [_number_in(cell) for cell in cells]
            columns[key] = np.array(numbers, float)
            rest = [cell if number is None else None for cell, number in zip(cells, numbers, strict=True)]
            left[key] = np.array(rest, object)
    return NumberColumns(columns, left)


def notes_on_cells(key: str, cells: Sequence[str | None] | np.ndarray) -> tuple[str, ...]:
    """A note on the cells of a column of numbers that hold text.

    >>> notes_on_cells("loss", [None, "diverged", ""])
    ("row 2: 'loss' is 'diverged', no number: left out",)
    """
    rows = [i for i, cell in enumerate(cells) if cell is not None and cell.strip().lower() not in _BLANK]
    text = f"row {rows[0] + 1}: {key!r} is {cells[rows[0]]!r}, no number: left out" if rows else ""
    return (text + f", and {len(rows) - 1} rows more" * (len(rows) > 1),) if rows else ()


def _number_in(cell: str | None) -> float | None:
    """The number that text is; None where it is none."""
    try:
        return float(cell or "")
    except ValueError:
        return None
