"""Batches that change within a log, by what it counts beside its updates: tokens or samples so far."""

from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.importers.column_names import SPENT, plain_name, ranked
from fmjax.importers.tables import Table
from fmjax.schedules.batch_stages import Batch, BatchStages

SAME = 1e-3
"""Relative difference up to which two batches count as one."""

LEAST_INTERVALS = 2
"""Intervals between rows that a stage has at least: counters that are printed with few digits have none."""


class BatchChange(NamedTuple):
    """A batch that changes, in what a column counts."""

    key: str
    stages: BatchStages

    @property
    def in_tokens(self) -> bool:
        """Whether it counts tokens."""
        return "tokens" in plain_name(self.key)

    def checked(self, told: Batch | None) -> tuple[Batch | None, str]:
        """The batch of the run and a note.

        Raises:
          ValueError: one batch is told for a run whose batch changes.
        """
        seen = f"{self.key!r}: the batch changes, {self.stages} {'tokens' if self.in_tokens else 'samples'} an update"
        form = "tokens_per_step takes tokens in this form"
        require(told is None or isinstance(told, BatchStages), f"{seen}; {form}, got {told}")
        adopted = self.stages if told is None and self.in_tokens else told
        return adopted, seen if adopted is not None else f"{seen}; {form}"


def batch_change(table: Table, key: str, step: np.ndarray) -> BatchChange | None:
    """The change of batch that a counter beside the steps shows, where its stages are clear to see.

    Args:
      table: the rows.
      key: the column of the steps.
      step: ``[rows]`` the last update that each row has seen, NaN for rows that do not count.
    """
    for name in ranked(table.columns, SPENT):
        stages = None if name == key else _stages(step, table.columns[name])
        if stages is not None:
            return BatchChange(name, stages)
    return None


def _stages(step: np.ndarray, spent: np.ndarray) -> BatchStages | None:
    """The stages of a counter; None of one that grows evenly, or whose growth is not that of a few batches."""
    there = np.isfinite(step) & np.isfinite(spent)
    last, first = np.unique(step[there], return_index=True)
    count, spent = last + 1, spent[there][first]
    if count.size < 2 * LEAST_INTERVALS + 1:
        return None
    each = np.diff(spent) / np.diff(count)
    ends = np.flatnonzero(np.abs(np.diff(each)) > SAME * np.abs(each[1:])) + 1
    runs = [run for run in np.split(np.arange(each.size), ends) if run.size >= LEAST_INTERVALS]
    between = each.size - sum(run.size for run in runs)
    if len(runs) < 2 or between >= len(runs) or min(each[run[0]] for run in runs) <= 0:
        return None
    sizes = [float(each[run[0]]) for run in runs]
    starts = [0]
    for before, after, old, new in zip(runs, runs[1:], sizes, sizes[1:], strict=False):
        begin, end = before[-1] + 1, after[0]  # rows between which the batch changed
        if end - begin > 1 or abs(new - old) <= SAME * new:
            return None
        rest = spent[end] - spent[begin] - new * (count[end] - count[begin])
        starts.append(round(float(count[begin] + rest / (old - new))))
    lag = round(float(count[0] - spent[0] / sizes[0]))  # 1 where rows count what was spent before their update
    starts = [0, *(start - lag if lag == 1 else start for start in starts[1:])]
    exact = [round(size) if abs(size - round(size)) < SAME * size else size for size in sizes]
    return BatchStages(tuple(starts), tuple(map(float, exact)))
