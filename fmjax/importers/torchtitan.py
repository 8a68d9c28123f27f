"""torchtitan: event files with ``loss_metrics/global_avg_loss`` and the rate as ``lr``; steps count from 1."""

from fmjax.importers.source import Source
from fmjax.importers.tensorboard import STEP, is_event_file, read

SOURCE = Source(
    name="torchtitan",
    title="torchtitan",
    accepts=is_event_file,
    read=read,
    place=lambda path: path.parent,
    step=(STEP,),
    loss=("loss_metrics/global_avg_loss",),
    validation=("validation_metrics/loss",),
    rate=("lr", "optimizer/lr*", "lr/*"),
    first=1,
    tells=("loss_metrics/global_avg_loss",),
)
