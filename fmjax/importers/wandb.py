"""Weights & Biases: charts downloaded as CSV, and histories exported as CSV, JSON lines or Parquet.

A chart's header is ``Step`` and, for each run, ``RUN - KEY`` with ``RUN - KEY__MIN`` and ``RUN - KEY__MAX``; charts of
loss and rate downloaded one by one into a folder are put together by run. A history has ``_step`` beside the keys that
the run logged; the run is named by the file.
"""

from pathlib import Path

import numpy as np

from fmjax._checks import require
from fmjax.importers.source import Source, begins
from fmjax.importers.tables import READERS, Table, csv_columns, parquet_names

BOUNDS = ("__MIN", "__MAX")
"""Ends of the columns that a chart has beside each of its lines."""


def _accepts(path: Path) -> bool:
    start = begins(path)
    chart = path.suffix == ".csv" and " - " in start.split("\n")[0] and start.lstrip('\ufeff"').startswith("Step")
    history = path.suffix in READERS and "_step" in (parquet_names(path) if path.suffix == ".parquet" else start)
    return chart or history


def _read(path: Path) -> list[Table]:
    require(path.suffix in READERS, f"expected one of {', '.join(READERS)}, found {path.suffix or 'no ending'}")
    columns = csv_columns(path, but=BOUNDS) if path.suffix == ".csv" else READERS[path.suffix](path)
    if "_step" in columns:
        return [Table("", columns)]
    require("Step" in columns, f"expected a column Step or _step, found {', '.join(list(columns)[:8]) or 'none'}")
    return _runs_of_chart(columns)


def _runs_of_chart(columns: dict[str, np.ndarray]) -> list[Table]:
    step = columns["Step"]
    runs: dict[str, dict[str, np.ndarray]] = {}
    for title, column in columns.items():
        run, dash, key = title.rpartition(" - ")
        if dash:
            runs.setdefault(run, {"_step": step})[key] = column
    require(runs, "expected columns 'RUN - KEY', found none with numbers")
    return [Table(run, found) for run, found in runs.items()]


SOURCE = Source(
    name="wandb",
    title="Weights & Biases",
    accepts=_accepts,
    read=_read,
    step=("trainer/global_step", "train/global_step", "global_step", "_step"),
    loss=("train/loss", "train_loss", "training_loss", "*train*/loss", "loss", "*loss_metrics/global_avg_loss"),
    validation=("eval/loss", "val/loss", "val_loss", "validation/loss", "valid*loss", "*eval*loss*", "*val*loss*"),
    rate=("train/learning_rate", "train/lr", "learning_rate", "lr", "optim/learning_rate", "*learning*rate*", "*/lr*"),
)
