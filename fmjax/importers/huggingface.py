"""Hugging Face Trainer: ``trainer_state.json``, the rows of its ``log_history``: step, loss, learning_rate, eval_loss.

A row of step s comes after s updates; its loss is the mean since the row before.
"""

from pathlib import Path
from typing import Any

from fmjax._checks import require
from fmjax.importers.source import Source, begins
from fmjax.importers.tables import Table, columns_of, parsed


def _accepts(path: Path) -> bool:
    return path.suffix == ".json" and (path.name == "trainer_state.json" or '"log_history"' in begins(path))


def _read(path: Path) -> list[Table]:
    state = parsed(path.read_text(encoding="utf-8-sig"))
    history = state.get("log_history") if isinstance(state, dict) else None
    rows = [row for row in history if isinstance(row, dict)] if isinstance(history, list) else []
    require(rows, "expected rows in log_history, found none")
    return [Table("", columns_of(rows), total_steps=_planned(state))]


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
