"""Batches that change within a log, by a column of batches or by what it counts beside its updates."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fmjax._checks import require
from fmjax.importers.batch_columns import SAME, WHOLE, BatchRows, StagesSeen
from fmjax.importers.column_names import LOGGED_BATCHES, SPENT, plain_name, ranked
from fmjax.importers.tables import Table
from fmjax.schedules.batch_stages import Batch, BatchStages

LEAST_INTERVALS = 2
"""Intervals between rows that a stage has at least: counters that are printed with few digits have none."""

MOST_UNSURE = 0.01
"""Share of what the run consumes up to which changes may lie elsewhere, for stages to be taken."""

MOST_SHOWN = 8
"""Stages up to which a note has all of them, where no user has to give them."""

_FORM = "tokens_per_step takes tokens in this form"


class BatchInLog(NamedTuple):
    """What a log shows of the batch in one column."""

    key: str
    seen: StagesSeen | None
    """None where the column shows none that can be trusted."""
    updates: int
    """Updates until the last loss."""
    in_tokens: bool
    """Whether it counts tokens, and not sequences."""
    note: str = ""
    """What is said in place of stages."""
    bad: str = ""
    """A batch in the column that is no number above zero."""

    def checked(self, told: Batch | None) -> tuple[Batch | None, str]:
        """The batch of the run and a note.

        Raises:
          ValueError: one batch is told for a run whose batch changes, or a batch in the column is malformed.
        """
        if self.seen is None:
            return told, self.note
        if self.seen.one is not None:
            return self.seen.one, f"{self.key!r} is the same throughout, {self.seen.one:g} tokens an update"
        said = self._said(self.seen)
        require(told is None or isinstance(told, BatchStages), f"{said}; {_FORM}, got {told}")
        require(told is not None or not self.bad, self.bad)
        adopted = self.seen.stages if told is None and self.in_tokens and self._is_sure(self.seen) else told
        return adopted, said if adopted is not None else f"{said}; {_FORM}"

    def _is_sure(self, seen: StagesSeen) -> bool:
        return not any(seen.most_off) or seen.unsure(self.updates) <= MOST_UNSURE

    def _said(self, seen: StagesSeen) -> str:
        """The stages in words, and how far off they may be."""
        unit, off, is_sure = "tokens" if self.in_tokens else "samples", max(seen.most_off), self._is_sure(seen)
        stages = _shown(seen.stages, in_full=not (self.in_tokens and is_sure))
        apart = f"; rows lie apart, so that changes may be up to {off} updates off" * (off > 0)
        unsure = "" if is_sure else f", {100 * seen.unsure(self.updates):.2g} % of all {unit}: too much to take them"
        return f"{self.key!r}: the batch changes, {stages} {unit} an update{apart}{unsure}"


def _shown(stages: BatchStages, *, in_full: bool) -> str:
    """The stages as text; of many only the first and the last one, but in full where a user has to give them."""
    parts = str(stages).split(",")
    if in_full or len(parts) <= MOST_SHOWN:
        return ",".join(parts)
    return f"{','.join(parts[:4])},...,{parts[-1]} ({len(parts)} stages)"


def batch_in_log(
    table: Table, key: str, step: np.ndarray, updates: int, sequence_length: float | None = None
) -> BatchInLog | None:
    """What a log shows of a batch that changes, in a counter beside the steps or in a column of batches; None if none.

    A counter comes first. A column of batches gives every value as a stage; where rows are further apart than an
    update, a counter tells at which update it changed, or the middle of those that may be it is taken.

    Args:
      table: the rows.
      key: the column of the steps.
      step: ``[rows]`` the last update that each row has seen, NaN for rows that do not count.
      updates: updates until the last loss.
      sequence_length: tokens of a sequence, by which batches in sequences are tokens; a column of batches that do not
        change is then taken too.
    """
    best = min(_found(table, key, step, updates), key=_rank, default=None)
    if best is None or best.seen is None:
        return best
    if sequence_length is None:
        return best if best.seen.one is None else None
    return best if best.in_tokens else best._replace(seen=best.seen.times(sequence_length), in_tokens=True)


def _rank(found: BatchInLog) -> int:
    """Batches that change come first, then columns that give none, then batches that do not change."""
    return 1 if found.seen is None else 2 * (found.seen.one is not None)


def _found(table: Table, key: str, step: np.ndarray, updates: int) -> Iterator[BatchInLog]:
    """What counters and the best column of batches show, the most telling first."""
    counters = [name for name in ranked(table.columns, SPENT) if name != key]
    columns = [name for name in ranked(table.columns, LOGGED_BATCHES) if name != key]
    yield from _in_counters(_stages, table, step, counters, updates)
    for name in columns[:1]:
        rows = BatchRows.of(name, step, table.columns[name])
        if rows.update.size:
            yield _in_column(name, rows, table, step, counters, updates)
    yield from _in_counters(_ramp, table, step, counters, updates)


def _in_counters(
    form: Callable[[np.ndarray, np.ndarray], StagesSeen | None],
    table: Table,
    step: np.ndarray,
    counters: Sequence[str],
    updates: int,
) -> Iterator[BatchInLog]:
    for name in counters:
        seen = form(step, table.columns[name])
        if seen is not None:
            yield BatchInLog(name, seen, updates, _counts_tokens(name))


def _counts_tokens(name: str) -> bool:
    return "token" in plain_name(name)


def _in_column(
    name: str, rows: BatchRows, table: Table, step: np.ndarray, counters: Sequence[str], updates: int
) -> BatchInLog:
    """What a column of batches shows, with the counter beside it that places the changes best."""
    even = [other for other in counters if rows.changes.size and _grows_evenly(step, table.columns[other])]
    if even or not rows.has_stages:
        doubt = f"changes, but {even[0]!r} grows evenly" if even else "goes up and down"
        said = f"{name!r} {doubt}, {rows.batch.min():g} ... {rows.batch.max():g}: it gives the run no batch"
        return BatchInLog(name, None, updates, False, said)
    beside = {other: rows.beside(step, table.columns[other]).stages() for other in counters}
    best = min(beside, key=lambda other: sum(beside[other].most_off), default="")
    seen = beside[best] if best else rows.stages()
    if not _counts_tokens(name) and seen.length is not None and _counts_tokens(best):
        return BatchInLog(name, seen.times(seen.length), updates, True, bad=rows.bad)
    return BatchInLog(name, seen, updates, _counts_tokens(name), bad=rows.bad)


def _grows_evenly(step: np.ndarray, spent: np.ndarray) -> bool:
    """Whether a counter shows that the batch of an update does not change, as where one of a device does."""
    count, spent = _by_count(step, spent)
    each = np.diff(spent) / np.diff(count)
    return each.size >= 2 * LEAST_INTERVALS and each.min() > 0 and bool((np.abs(each / each[0] - 1) <= SAME).all())


def _by_count(step: np.ndarray, spent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Updates so far and what was consumed, of the rows that have both; of a step that occurs again the first."""
    there = np.isfinite(step) & np.isfinite(spent)
    last, first = np.unique(step[there], return_index=True)
    return last + 1, spent[there][first]


def _ends_of(each: np.ndarray, same: float = SAME) -> np.ndarray:
    """Places of the intervals in which a counter begins to grow by another batch."""
    return np.flatnonzero(np.abs(np.diff(each)) > same * np.abs(each[1:])) + 1


def _stages(step: np.ndarray, spent: np.ndarray) -> StagesSeen | None:
    """The stages of a counter; None of one that grows evenly, or whose growth is not that of a few batches."""
    count, spent = _by_count(step, spent)
    if count.size < 2 * LEAST_INTERVALS + 1:
        return None
    each = np.diff(spent) / np.diff(count)
    runs = [run for run in np.split(np.arange(each.size), _ends_of(each)) if run.size >= LEAST_INTERVALS]
    between = each.size - sum(run.size for run in runs)
    if len(runs) < 2 or between >= len(runs) or min(each[run[0]] for run in runs) <= 0:
        return None
    sizes = [float(each[run[0]]) for run in runs]
    blur = max(float(np.abs(each[run] / each[run[0]] - 1).max()) for run in runs)  # by the digits of the counter
    starts = [0]
    for before, after, old, new in zip(runs, runs[1:], sizes, sizes[1:], strict=False):
        begin, end = before[-1] + 1, after[0]  # rows between which the batch changed
        if end - begin > 1 or abs(new - old) <= SAME * new:
            return None
        updates = count[end] - count[begin]
        of_old = float((spent[end] - spent[begin] - new * updates) / (old - new))
        if abs(of_old - round(of_old)) > WHOLE + 2 * blur * updates * new / abs(new - old):
            return None  # a third batch lies between the two
        starts.append(round(float(count[begin] + of_old)))
    lag = round(float(count[0] - spent[0] / sizes[0]))  # 1 where rows count what was spent before their update
    starts = [0, *(start - lag if lag == 1 else start for start in starts[1:])]
    exact = [round(size) if abs(size - round(size)) < SAME * size else size for size in sizes]
    return StagesSeen(BatchStages(tuple(starts), tuple(map(float, exact))), (0,) * (len(starts) - 1))


def _ramp(step: np.ndarray, spent: np.ndarray) -> StagesSeen | None:
    """The stages of a counter whose batch rises or falls in many small steps; None of another.

    Between two rows it is the mean, so that what is consumed until each row is exact, and so are stages where every
    update has a row. The batch is steady at the end; in most intervals it is that of the one before.
    """
    count, spent = _by_count(step, spent)
    if count.size < 2 * LEAST_INTERVALS + 1:
        return None
    first = (spent[1] - spent[0]) / (count[1] - count[0])
    lags = bool(abs(count[0] - spent[0] / first - 1) < WHOLE) if first > 0 else False
    count, spent = _from_the_start(count - lags, spent)
    span, each = np.diff(count), np.diff(spent) / np.diff(count)
    ends = _ends_of(each, same=1e-6)
    steps = np.diff(each)[ends - 1]
    is_ramp = ends.size > 0 and bool((steps > 0).all() or (steps < 0).all())
    steady = 2 * (ends.size + 1) <= each.size and each.size - ends[-1:].sum() >= LEAST_INTERVALS
    if not (is_ramp and steady and each.min() > 0):
        return None
    most_off = np.maximum(span[ends - 1], span[ends]) - 1
    stages = BatchStages((0, *map(int, count[ends])), tuple(each[np.append(0, ends)].tolist()))
    return StagesSeen(stages, tuple(map(int, most_off)))


def _from_the_start(count: np.ndarray, spent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The counts from nothing on, where the mean batch before the first row goes on as those after it."""
    if not (count[0] > 0 and spent[0] > 0):
        return count, spent
    mean, next_ones = spent[0] / count[0], np.diff(spent) / np.diff(count)
    goes_on = (next_ones[0] - mean) * (next_ones[-1] - mean) >= 0 and abs(next_ones[0] - mean) < mean
    return (np.append(0, count), np.append(0.0, spent)) if goes_on else (count, spent)
