"""Megatron-LM and GPT-NeoX: event files with ``lm loss`` and ``learning-rate``, and printed lines.

Iterations count from 1.
"""

from collections.abc import Sequence
from pathlib import Path

from fmjax.importers import tensorboard
from fmjax.importers.printed_lines import PRINTED
from fmjax.importers.source import Source
from fmjax.importers.tables import Table

_LINES = PRINTED["megatron"]


def _accepts(path: Path) -> bool:
    return tensorboard.is_event_file(path) or _LINES.accepts(path)


def _read(path: Path, named: Sequence[str] = ()) -> list[Table]:
    if tensorboard.is_event_file(path):
        return tensorboard.read(path)
    assert _LINES.read_named is not None
    return _LINES.read_named(path, named)


SOURCE = Source(
    name="megatron",
    title=_LINES.title,
    accepts=_accepts,
    read=_read,
    read_named=_read,
    place=lambda path: path.parent if tensorboard.is_event_file(path) else _LINES.place(path),
    step=(tensorboard.STEP,),
    loss=("lm_loss", "train_lm_loss", "lm_loss_training_lm_loss"),
    validation=(
        "validation_lm_loss",
        "lm loss validation",
        "validation/lm_loss",
        "lm-loss-validation/lm loss validation",
    ),
    rate=("learning_rate", "train_learning_rate", "learning_rate_learning_rate"),
    first=1,
    tells=("lm loss", "lm_loss", "lm-loss"),
)
