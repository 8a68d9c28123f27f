"""Levanter: metrics as JSON lines, with ``global_step``, ``train/loss`` and ``optim/learning_rate``.

Lines of its JSON tracker, ``{"tag": "log", "step": s, "metrics": {...}}``, are read alike.
"""

from pathlib import Path

from fmjax.importers.source import Source, begins
from fmjax.importers.tables import Table, json_columns


def _accepts(path: Path) -> bool:
    start = begins(path)
    return "optim/learning_rate" in start and "train/loss" in start and start.lstrip().startswith("{")


SOURCE = Source(
    name="levanter",
    title="Levanter",
    accepts=_accepts,
    read=lambda path: [Table("", json_columns(path))],
    step=("global_step", "metrics/global_step", "step", "_step"),
    loss=("train/loss", "metrics/train/loss"),
    validation=("eval/loss", "metrics/eval/loss", "*eval/*/loss"),
    rate=("optim/learning_rate", "metrics/optim/learning_rate"),
    first=0,
)
