"""TensorBoard event files, one run a folder; and the keys of trainers that write them."""

from pathlib import Path

from fmjax.importers.column_names import HELD_OUT, LOSSES, RATES
from fmjax.importers.contents import bytes_of
from fmjax.importers.event_records import scalars
from fmjax.importers.source import Source
from fmjax.importers.tables import Table

STEP = "step"


def is_event_file(path: Path) -> bool:
    """Whether a file is named as event files are."""
    return ".tfevents." in path.name


def read(path: Path) -> list[Table]:
    """The scalars of one event file, a table a tag; none of a file that holds other things. The run is its folder."""
    return [Table("", {STEP: step, tag: value}) for tag, (step, value) in scalars(bytes_of(path)).items()]


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
