"""MaxText: metrics as JSON lines, with ``step``, ``learning/loss`` and ``learning/current_learning_rate``."""

from pathlib import Path

from fmjax.importers.contents import begins
from fmjax.importers.source import Source
from fmjax.importers.tables import Table, json_columns


def _accepts(path: Path) -> bool:
    return "learning/current_learning_rate" in begins(path) and path.suffix in (".jsonl", ".json", ".txt")


SOURCE = Source(
    name="maxtext",
    title="MaxText",
    accepts=_accepts,
    read=lambda path: [Table("", json_columns(path))],
    step=("step",),
    loss=("learning/loss", "learning/lm_loss"),
    validation=("eval/avg_loss", "evaluation/avg_loss", "evaluation/loss"),
    rate=("learning/current_learning_rate",),
    first=0,
)
