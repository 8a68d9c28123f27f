"""Any table with a column of steps and one of losses: CSV, Parquet, JSON lines, JSON arrays; the file names the run."""

from fmjax.importers.column_names import COUNTERS, HELD_OUT, LOSSES, RATES
from fmjax.importers.contents import ending
from fmjax.importers.source import Source
from fmjax.importers.tables import READERS, Table, is_table

SOURCE = Source(
    name="csv",
    title="CSV, Parquet or JSON",
    accepts=is_table,
    read=lambda path: [Table("", READERS.get(ending(path), READERS[".csv"])(path))],
    step=COUNTERS,
    loss=LOSSES,
    validation=HELD_OUT,
    rate=RATES,
)
