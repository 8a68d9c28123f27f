"""Schedules as code and config of the trainers people run: one file a trainer, each with one ``text(schedule)``."""

from collections.abc import Callable

from fmjax._checks import choose
from fmjax.exporters import (
    axolotl,
    huggingface,
    levanter,
    maxtext,
    megatron,
    megatron_bridge,
    nanochat,
    nanotron,
    olmo_core,
    optax,
    pytorch,
    torchtitan,
)
from fmjax.schedules.kinds import Schedule

__all__ = ["EXPORTERS", "export"]

EXPORTERS: dict[str, Callable[[Schedule], str]] = {
    "optax": optax.text,
    "pytorch": pytorch.text,
    "huggingface": huggingface.text,
    "axolotl": axolotl.text,
    "maxtext": maxtext.text,
    "levanter": levanter.text,
    "torchtitan": torchtitan.text,
    "megatron": megatron.text,
    "megatron-bridge": megatron_bridge.text,
    "nanotron": nanotron.text,
    "nanochat": nanochat.text,
    "olmo-core": olmo_core.text,
}
"""Exporters by the trainer's name."""


def export(schedule: Schedule, to: str) -> str:
    """A schedule as the code or config of one trainer.

    Step counts are whole: an anneal of no whole number of updates is rounded. Where the trainer's own formula cannot
    give every rate, the text is the nearest it can do, and a comment in it says how far off that is.

    Args:
      schedule: a schedule with concrete fields.
      to: name of the trainer, one of ``EXPORTERS``.

    Raises:
      ValueError: for an unknown trainer, and for a schedule that the trainer cannot express; it says what it can.

    >>> from fmjax.schedules import WSD
    >>> print(export(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50), to="levanter"))
    trainer:
      num_train_steps: 1000
    optimizer:
      learning_rate: 0.001
      lr_schedule: linear
      warmup: 50
      decay: 200
      min_lr_ratio: 0.0
    """
    return EXPORTERS[choose(to, EXPORTERS, "trainer")](schedule)
