"""Any CSV with a column of steps and one of losses, and Parquet and JSON lines alike; the run is named by the file."""

from fmjax.importers.column_names import COUNTERS, HELD_OUT, LOSSES, RATES
from fmjax.importers.source import Source
from fmjax.importers.tables import READERS, Table

SOURCE = Source(
    name="csv",
    title="CSV, Parquet or JSON lines",
    accepts=lambda path: path.suffix in READERS,
    read=lambda path: [Table("", READERS.get(path.suffix, READERS[".csv"])(path))],
    step=COUNTERS,
    loss=LOSSES,
    validation=HELD_OUT,
    rate=RATES,
)
