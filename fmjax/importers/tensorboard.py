"""TensorBoard event files, one run a folder; and the keys of trainers that write them."""

from pathlib import Path

import numpy as np

from fmjax._checks import require
from fmjax.importers.column_names import HELD_OUT, LOSSES, RATES
from fmjax.importers.source import Source
from fmjax.importers.tables import Table

STEP = "step"


def is_event_file(path: Path) -> bool:
    """Whether a file is named as event files are."""
    return ".tfevents." in path.name


def read(path: Path) -> list[Table]:
    """The scalars of one event file; the run is its folder."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise ValueError("reading event files needs tensorboard: pip install 'fmjax[tensorboard]'") from None
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = [_rows(tag, events.Scalars(tag), "value") for tag in events.Tags()["scalars"]]
    tensors = [_rows(tag, events.Tensors(tag), "tensor_proto") for tag in events.Tags()["tensors"]]
    found = [columns for columns in (*scalars, *tensors) if columns]
    require(found, "expected scalars in the event file, found none")
    return [Table("", columns) for columns in found]


def _rows(tag: str, events: list, field: str) -> dict[str, np.ndarray]:
    """Step and value of a tag's events; nothing for a tag of other things than numbers."""
    from tensorboard.util import tensor_util

    values = [getattr(event, field) for event in events]
    if field == "tensor_proto":
        arrays = [tensor_util.make_ndarray(value) for value in values]
        if any(array.size != 1 or array.dtype.kind not in "fiu" for array in arrays):
            return {}
        values = [float(array.reshape(())) for array in arrays]
    return {STEP: np.array([event.step for event in events], float), tag: np.array(values, float)}


SOURCE = Source(
    name="tensorboard",
    title="TensorBoard",
    accepts=is_event_file,
    read=read,
    place=lambda path: path.parent,
    step=(STEP,),
    loss=LOSSES,
    validation=HELD_OUT,
    rate=RATES,
)
