"""Hugging Face Trainer: ``trainer_state.json``, the rows of its ``log_history``: step, loss, learning_rate, eval_loss.

A row of step s comes after s updates; its loss is the mean since the row before.
"""

from pathlib import Path
from typing import Any

import numpy as np

from fmjax._checks import require
from fmjax.importers.contents import begins, bytes_of, ending
from fmjax.importers.source import Source
from fmjax.importers.tables import Table, columns_of, parsed, read_json_object, struct_columns


def _accepts(path: Path) -> bool:
    start = begins(path)
    rows = start.lstrip().startswith("[") and all(f'"{key}"' in start for key in ("learning_rate", "epoch", "step"))
    return ending(path) == ".json" and (path.name == "trainer_state.json" or '"log_history"' in start or rows)


def _read(path: Path) -> list[Table]:
    content = bytes_of(path)
    try:
        columns, state = _by_arrow(content)
    except ValueError:  # numbers that are not finite, rows that differ in kind, a bare list
        columns, state = _by_python(content.decode("utf-8-sig", errors="replace"))
    return [Table("", columns, total_steps=_planned(state))]


def _by_arrow(content: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The columns of the history, and the rest of the state, without an object for each number."""
    table = read_json_object(content)
    require("log_history" in table.column_names, "expected log_history")
    return struct_columns(table["log_history"]), table.drop_columns("log_history").to_pylist()[0]


def _by_python(text: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    state = parsed(text)
    history = state.get("log_history") if isinstance(state, dict) else state
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    require(rows, "expected rows in log_history, found none")
    return columns_of(rows), state if isinstance(state, dict) else {}


def _planned(state: dict[str, Any]) -> int | None:
    """Updates that the run was to have: ``max_steps``, or as the epochs done and planned have it.

    A state saved in the middle of a run has ``global_step`` updates behind it in ``epoch`` epochs.
    """
    most = state.get("max_steps")
    if isinstance(most, int) and not isinstance(most, bool) and most > 0:
        return most
    done, epoch, epochs = (state.get(key) for key in ("global_step", "epoch", "num_train_epochs"))
    known = all(isinstance(value, int | float) and value > 0 for value in (done, epoch, epochs))
    return round(done * epochs / epoch) if known else None  # type: ignore[operator]


def _place(path: Path) -> Path:
    """The folder of the run: that above ``checkpoint-N``; a file of another name is a run by itself."""
    if path.name != "trainer_state.json":
        return path.with_suffix("")
    return path.parent.parent if path.parent.name.startswith("checkpoint-") else path.parent


SOURCE = Source(
    name="huggingface",
    title="Hugging Face Trainer",
    accepts=_accepts,
    read=_read,
    place=_place,
    step=("step",),
    loss=("loss",),
    validation=("eval_loss", "eval_*_loss"),
    rate=("learning_rate",),
    first=1,
    has_whole_history=True,
)
