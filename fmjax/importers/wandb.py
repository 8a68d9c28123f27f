"""Weights & Biases: charts downloaded as CSV, and histories exported as CSV, JSON lines or Parquet.

A chart's header is ``Step``, or the counter that it is drawn over, and, for each run, ``RUN - KEY`` with
``RUN - KEY__MIN`` and ``RUN - KEY__MAX``; charts of loss and rate downloaded one by one into a folder are put together
by run. A history has ``_step`` beside the keys that
the run logged; the run is named by the file.
"""

import re
from pathlib import Path

import numpy as np

from fmjax._checks import require
from fmjax.importers.column_names import COUNTERS, HELD_OUT, LOSSES, RATES, ranked
from fmjax.importers.contents import begins, ending
from fmjax.importers.source import Source
from fmjax.importers.tables import READERS, Table, csv_columns, is_table, parquet_names

BOUNDS = ("__MIN", "__MAX")
"""Ends of the columns that a chart has beside each of its lines."""


def _accepts(path: Path) -> bool:
    start = begins(path)
    header = start.split("\n")[0].lstrip("\ufeff")
    chart = ending(path) == ".csv" and " - " in header and bool(_axis(header.replace('"', "").split(",")[:1]))
    names = parquet_names(path) if path.suffix == ".parquet" else re.split(r"[,\"\n{}:]+\s*", start)
    return chart or (is_table(path) and "_step" in names)


def _read(path: Path) -> list[Table]:
    kind = ending(path)
    require(kind in READERS, f"expected one of {', '.join(READERS)}, found {kind or 'no ending'}")
    columns = csv_columns(path, but=BOUNDS) if kind == ".csv" else READERS[kind](path)
    if "_step" in columns:
        return [Table("", columns)]
    axis = _axis(list(columns)[:1])
    require(axis, f"expected a first column of steps, found {', '.join(list(columns)[:8]) or 'none'}")
    return _runs_of_chart(columns, axis[0])


def _axis(names: list[str]) -> list[str]:
    """Those of the names that count updates: ``Step``, or the counter that a chart was drawn over."""
    return ranked({name: np.zeros(1) for name in names}, COUNTERS)


def _runs_of_chart(columns: dict[str, np.ndarray], axis: str) -> list[Table]:
    own = "_step" if axis == "Step" else axis
    runs: dict[str, dict[str, np.ndarray]] = {}
    for title, column in columns.items():
        run, dash, key = title.rpartition(" - ")
        if dash and key != "_step":
            runs.setdefault(run, {own: columns[axis]})[key] = column
    require(runs, "expected columns 'RUN - KEY', found none with numbers")
    return [Table(run, found) for run, found in runs.items()]


SOURCE = Source(
    name="wandb",
    title="Weights & Biases",
    accepts=_accepts,
    read=_read,
    step=COUNTERS,
    loss=LOSSES,
    validation=HELD_OUT,
    rate=RATES,
)
