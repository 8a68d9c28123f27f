"""Any CSV with a column of steps and one of losses, and Parquet and JSON lines alike; the run is named by the file."""

from fmjax.importers.source import Source
from fmjax.importers.tables import READERS, Table

SOURCE = Source(
    name="csv",
    title="CSV, Parquet or JSON lines",
    accepts=lambda path: path.suffix in READERS,
    read=lambda path: [Table("", READERS.get(path.suffix, READERS[".csv"])(path))],
    step=("step", "Step", "iteration", "iter", "global_step", "update", "count", "*step*", "*iter*", "tokens"),
    loss=("loss", "Loss", "train_loss", "train/loss", "*train*loss*", "*loss*"),
    validation=("val_loss", "valid_loss", "eval_loss", "val/loss", "eval/loss", "*val*loss*", "*eval*loss*"),
    rate=("lr", "learning_rate", "learning rate", "rate", "*lr*", "*learning*rate*"),
)
