"""axolotl YAML (0.9 or later, on transformers 4.49 or later), which hands its keys to the Hugging Face Trainer.

Keys: ``learning_rate``, ``max_steps``, ``warmup_steps``, ``lr_scheduler`` with ``lr_scheduler_kwargs``; the formulas
are those of ``huggingface``.
"""

from fmjax.exporters.huggingface import trainer_arguments
from fmjax.exporters.layout import commented, yaml
from fmjax.schedules.kinds import Schedule


def text(schedule: Schedule) -> str:
    """Axolotl config of a schedule.

    Raises:
      ValueError: for Step and Tabulated, exponential decay, warmup into the anneal, and an ``init_lr`` that is neither
        0 nor ``final_lr``.

    >>> from fmjax.schedules import WSD
    >>> print(text(WSD(peak_lr=1e-3, total_steps=1000, anneal_ratio=0.2, warmup_steps=50)))
    learning_rate: 0.001
    max_steps: 1000
    warmup_steps: 50
    lr_scheduler: warmup_stable_decay
    lr_scheduler_kwargs:
      num_decay_steps: 200
      warmup_type: linear
      decay_type: linear
      min_lr_ratio: 0.0
    """
    arguments, remarks = trainer_arguments(schedule, "axolotl")
    table = {key.replace("lr_scheduler_type", "lr_scheduler"): value for key, value in arguments.items()}
    return commented(remarks, yaml(table))
