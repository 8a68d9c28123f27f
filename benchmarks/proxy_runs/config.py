"""What a run is: everything that decides its loss curve, as frozen dataclasses."""

from dataclasses import dataclass, field

import numpy as np

from fmjax.schedules.kinds import Constant, Schedule, lrs


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the transformer.

    Args:
      width: size of the residual stream.
      depth: number of blocks.
      heads: attention heads of a block; width / heads must be even, for the rotary positions.
      experts: experts of a block, of which a token uses two; 0 for a dense model.
    """

    width: int = 64
    depth: int = 2
    heads: int = 2
    experts: int = 0


@dataclass(frozen=True)
class Setup:
    """All of a run but its schedule; runs of one setup differ in nothing but learning rates.

    Args:
      model: shape of the transformer.
      context: bytes the model predicts per sequence.
      batch: sequences per update.
      seed: decides the initial parameters and the data order.
      b1: AdamW's decay of the first moment.
      b2: AdamW's decay of the second moment.
      weight_decay: decoupled weight decay of matrices; gains are not decayed.
      clip_norm: global norm that gradients are clipped to.
      validation_sequences: size of the fixed validation set, in sequences.
      probe_sequences: size of two more fixed sets, one of the training text and one of another domain; 0 for none.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    context: int = 64
    batch: int = 16
    seed: int = 0
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    validation_sequences: int = 768
    probe_sequences: int = 0

    @property
    def tokens_per_step(self) -> int:
        """Bytes predicted per update."""
        return self.batch * self.context


@dataclass(frozen=True)
class RunConfig:
    """One run: a setup trained under a schedule.

    Args:
      name: the run's name, unique in its grid; also the name of its CSV file.
      schedule: an fmjax schedule with concrete fields.
      setup: all but the schedule.
      split: "train" or "test", the label that goes into the manifest.
      log_every: updates between two rows of the loss curve.
    """

    name: str
    schedule: Schedule
    setup: Setup = field(default_factory=Setup)
    split: str = "train"
    log_every: int = 50

    @property
    def total_steps(self) -> int:
        """Number of updates T."""
        return int(self.schedule.total_steps)

    @property
    def is_stem(self) -> bool:
        """Whether other runs may start from this one's checkpoints: its rate is constant."""
        return isinstance(self.schedule, Constant)

    def rates(self) -> np.ndarray:
        """Learning rate of every update, ``[T]``."""
        return np.asarray(lrs(self.schedule), np.float32)

    def logs(self, step: int) -> bool:
        """Whether the curve has a row after update ``step``; the last update always has one."""
        return step == self.total_steps - 1 or (0 <= step < self.total_steps and (step + 1) % self.log_every == 0)
