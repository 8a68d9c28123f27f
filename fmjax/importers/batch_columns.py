"""The batch that a column has in each row, as stages; with a counter beside it, at the very updates."""

from typing import NamedTuple

import numpy as np

from fmjax.schedules.batch_stages import BatchStages

SAME = 1e-3
"""Relative difference up to which what a counter grows by agrees with a batch."""

LEAST_STAGE_ROWS = 2
"""Rows of the last stage at the least, and of every stage where the batch does not only rise or fall."""

WHOLE = 0.02
"""Distance from a whole number up to which a counter tells the update of a change."""


class StagesSeen(NamedTuple):
    """Stages of a batch, and how closely the rows tell where they begin."""

    stages: BatchStages
    most_off: tuple[int, ...] = ()
    """Updates by which the begin of each stage after the first may be off."""
    length: float | None = None
    """What a counter beside the batch grows by for each of its units, such as the tokens of a sequence."""

    def unsure(self, updates: int) -> float:
        """Share of what a run of so many updates consumes that is unsure, as changes may lie elsewhere."""
        change = np.abs(np.diff(self.stages.tokens)) * np.array(self.most_off)
        return float(change.sum() / self.stages.until(updates))

    @property
    def one(self) -> float | None:
        """The batch where it does not change."""
        return self.stages.tokens[0] if len(self.stages.tokens) == 1 else None

    def times(self, factor: float) -> "StagesSeen":
        """The same in another unit, of which each of these has so many."""
        tokens = tuple(factor * size for size in self.stages.tokens)
        return self._replace(stages=BatchStages(self.stages.starts, tokens), length=None)


class BatchRows(NamedTuple):
    """The batch by row."""

    update: np.ndarray
    """``[rows]`` the last update that each has seen, rising."""
    batch: np.ndarray
    """``[rows]`` the batch of that update."""
    spent: np.ndarray
    """``[rows]`` what was consumed by its end; NaN where unknown."""
    bad: str = ""
    """The first batch that is no number above zero; such rows are left out."""

    @classmethod
    def of(cls, key: str, step: np.ndarray, batch: np.ndarray) -> "BatchRows":
        """The rows that have a batch; of a step that occurs again the later one.

        Args:
          key: the column of the batch.
          step: ``[rows]`` the last update that each row has seen, NaN for rows that do not count.
          batch: ``[rows]`` the batch, NaN where a row has none.
        """
        there = np.isfinite(step) & ~np.isnan(batch)
        fit = there & (batch > 0) & np.isfinite(batch)
        row = int(np.argmax(there & ~fit))
        bad = f"row {row + 1}: {key!r}: expected a batch above zero, found {batch[row]:g}"
        update, kept = _last_of_each(step, fit)
        return cls(update, batch[kept], np.full(kept.size, np.nan), bad if (there & ~fit).any() else "")

    def beside(self, step: np.ndarray, spent: np.ndarray) -> "BatchRows":
        """The same with what a counter has at their steps, which may stand in rows of its own."""
        update, kept = _last_of_each(step, np.isfinite(step) & np.isfinite(spent))
        counter = dict(zip(update.tolist(), spent[kept].tolist(), strict=True))
        return self._replace(spent=np.array([counter.get(at, np.nan) for at in self.update.tolist()]))

    @property
    def changes(self) -> np.ndarray:
        """Places of the rows after which the batch is another."""
        return np.flatnonzero(~np.isclose(self.batch[1:], self.batch[:-1], rtol=1e-9, atol=0.0))

    @property
    def has_stages(self) -> bool:
        """Whether its changes are those of a ramp, or of stages of two rows at least; the last one has two anyway.

        A batch that goes up and down from row to row is that of packed or last batches, or a mean over rows; one that
        is another in most rows counts something.
        """
        if not self.changes.size:
            return True
        stages = np.split(self.batch, self.changes + 1)
        sizes, steps = [stage.size for stage in stages[1:]], np.diff([stage[0] for stage in stages])
        is_ramp = bool((steps > 0).all() or (steps < 0).all())
        long = sizes[-1] >= LEAST_STAGE_ROWS and (is_ramp or min(sizes) >= LEAST_STAGE_ROWS)
        return long and 2 * len(stages) <= self.batch.size

    def stages(self) -> StagesSeen:
        """The stages: each change where a counter has it, else in the middle of the updates that it may lie at."""
        sizes, length = self.batch[np.append(0, self.changes + 1)], self._length()
        lag = self._lag(length)
        starts, most_off = [0], []
        for place, is_one in zip(self.changes.tolist(), _is_one_step(sizes).tolist(), strict=True):
            first, last = int(self.update[place]) + 1, int(self.update[place + 1])
            told = None if length is None else self._told(place, length, lag)
            if told is None or not first <= told <= last:
                told, is_one = (first + last) // 2, False
            starts.append(told)
            most_off.append(0 if is_one else max(told - first, last - told))
        return StagesSeen(BatchStages(tuple(starts), tuple(map(float, sizes))), tuple(most_off), length)

    def _length(self) -> float | None:
        """What the counter grows by for each unit of the batch; None where it does not follow the batch."""
        even = np.setdiff1d(np.arange(self.batch.size - 1), self.changes)
        grown = np.diff(self.spent)[even] / (np.diff(self.update) * self.batch[1:])[even]
        known = grown[np.isfinite(grown)]
        if not known.size or not known[0] > 0 or (np.abs(known / known[0] - 1) > SAME).any():
            return None
        near = float(np.median(known))
        return float(round(near)) if abs(near - round(near)) < SAME * near else near

    def _lag(self, length: float | None) -> int:
        """1 where the counter has what was consumed before each row's update, else 0."""
        if length is None or not np.isfinite(self.spent[0]):
            return 0
        return int(round(self.update[0] + 1 - self.spent[0] / (length * self.batch[0])) == 1)

    def _told(self, place: int, length: float, lag: int) -> int | None:
        """The update at which the batch changes after a row, from what was consumed until the next; None if unclear."""
        (old, new), count = self.batch[place : place + 2], np.diff(self.update[place : place + 2])[0]
        of_old = (new * count - np.diff(self.spent[place : place + 2])[0] / length) / (new - old)
        if not abs(of_old - np.rint(of_old)) < WHOLE:
            return None
        return int(self.update[place]) + 1 - lag + int(np.rint(of_old))


def _last_of_each(step: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The steps of the rows that count, rising, and the last row of each."""
    places = np.flatnonzero(counts)[::-1]
    update, last = np.unique(step[places], return_index=True)
    return update, places[last]


def _is_one_step(sizes: np.ndarray) -> np.ndarray:
    """``[changes]`` whether a change is as small as any, by difference or by factor, so that it skips no stage."""
    if sizes.size < 2:
        return np.ones(0, bool)
    found = [np.abs(np.diff(values)) for values in (sizes, np.log(sizes))]
    return np.any([np.isclose(step, step.min(), rtol=1e-6, atol=0.0) for step in found], axis=0)
