"""Megatron-LM: event files with ``lm loss`` and ``learning-rate``, and the lines ``iteration ... | lm loss: ...``.

Iterations count from 1.
"""

import re
from pathlib import Path

from fmjax.importers import tensorboard
from fmjax.importers.source import Source, begins
from fmjax.importers.tables import Table, line_columns

_ROW = r"iteration\s+(?P<v>\d+)/\s*\d+\s*\|"
_CELL = r"\|\s*{key}:\s*(?P<v>[-+0-9.eE]+)\s*(?:\||$)"
_KEYS = ("lm loss", "learning rate")


def _accepts(path: Path) -> bool:
    return tensorboard.is_event_file(path) or bool(re.search(_ROW, begins(path, 2**20)))


def _read(path: Path) -> list[Table]:
    if tensorboard.is_event_file(path):
        return tensorboard.read(path)
    return [Table("", line_columns(path, _ROW, _CELL, _KEYS))]


SOURCE = Source(
    name="megatron",
    title="Megatron-LM",
    accepts=_accepts,
    read=_read,
    place=lambda path: path.parent if tensorboard.is_event_file(path) else path.with_suffix(""),
    step=(tensorboard.STEP,),
    loss=("lm loss",),
    validation=("lm loss validation",),
    rate=("learning-rate", "learning rate"),
    first=1,
    tells=("lm loss",),
)
