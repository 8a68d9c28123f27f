"""Levanter: metrics as JSON lines, with ``global_step``, ``train/loss`` and ``optim/learning_rate``.

Lines of its JSON tracker are read alike, ``{"tracker": "json_logger", "event": "log", "step": s, "metrics": {...}}``,
also after what a logger puts before them; so are ``{"tag": "log", "metrics": {...}}``.
"""

from pathlib import Path

from fmjax._checks import require
from fmjax.importers.contents import begins, text_of
from fmjax.importers.source import Source
from fmjax.importers.tables import Table, columns_of, json_columns, objects_of

_TRACKER = '"json_logger"'
_HEAD = 2**20
"""Bytes in which the first metrics of the tracker are looked for: the run's configuration stands before them."""


def _accepts(path: Path) -> bool:
    start = begins(path)
    if _TRACKER in start:
        return "train/loss" in begins(path, _HEAD)
    return "optim/learning_rate" in start and "train/loss" in start and start.lstrip().startswith("{")


def _read(path: Path) -> list[Table]:
    if _TRACKER not in begins(path):
        return [Table("", json_columns(path))]
    lines = (line for line in text_of(path).splitlines() if _TRACKER in line)
    events = objects_of([line[line.index("{") :] for line in lines if "{" in line])
    rows = [row for row in events if row.get("event") == "log"]
    require(rows, "expected events of the JSON tracker with metrics, found none")
    return [Table("", columns_of(rows))]


SOURCE = Source(
    name="levanter",
    title="Levanter",
    accepts=_accepts,
    read=_read,
    step=("global_step", "metrics/global_step", "step", "_step"),
    loss=("train/loss", "metrics/train/loss"),
    validation=("eval/loss", "metrics/eval/loss", "*eval/*/loss"),
    rate=("optim/learning_rate", "metrics/optim/learning_rate"),
    first=0,
)
