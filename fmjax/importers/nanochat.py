"""nanochat and modded-nanogpt: their lines ``step:i/T val_loss:x ...`` and ``step i/T (...) | loss: x | lrm: y | ...``.

nanochat prints a running mean of the training loss and the rate as a multiplier of its peak (``lrm``); modded-nanogpt
prints validation losses and no rate.
"""

import re
from pathlib import Path

from fmjax.importers.source import Source, begins
from fmjax.importers.tables import Table, line_columns

_ROW = r"(?i)^\s*step[: ]\s*(?P<v>\d+)(?:/\d+)?\b"
_CELL = r"(?i)(?:^|[\s|]){key}\s*:\s*(?P<v>[-+]?\d[\d.]*(?:e[-+]?\d+)?)(?:[^\d.]|$)"
_KEYS = ("loss", "val_loss", "validation bpb", "train_loss", "lrm", "lr")


def _accepts(path: Path) -> bool:
    return path.suffix in (".txt", ".log", ".out", "") and bool(re.search(_ROW, begins(path, 2**18), re.MULTILINE))


def _read(path: Path) -> list[Table]:
    return [Table("", line_columns(path, _ROW, _CELL, _KEYS))]


SOURCE = Source(
    name="nanochat",
    title="nanochat or modded-nanogpt",
    accepts=_accepts,
    read=_read,
    step=("step",),
    loss=("loss", "train_loss"),
    validation=("val_loss", "val loss", "validation bpb"),
    rate=("lr", "learning_rate"),
    first=0,
    multiplier=("lrm", "lr_multiplier"),
    smoothed=("loss",),
)
