"""What a log says of one run: its losses and rates by step, whatever the tool calls them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fmjax._checks import positive, require
from fmjax.importers.batch_changes import batch_in_log
from fmjax.importers.column_names import Preference
from fmjax.importers.restarts import RunRows, has_rival_rates, runs_by_steps
from fmjax.importers.run_labels import epochs_of, runs_by_label
from fmjax.importers.source import Columns, Source, matching, only
from fmjax.importers.tables import Table
from fmjax.schedules.batch_stages import Batch, BatchStages

SMOOTHED_FROM = 0.7
"""Correlation of the noise in successive rows from which losses count as smoothed; a running mean that forgets a tenth
of itself in every row has 0.75 to 0.85, measured in the blocks used here, and noise of itself correlated by 0.7 has
0.6."""

BLOCK = 100
"""Rows over which the loss's own trend is taken to be a parabola."""

MOST_LOGGED_UPDATES = 10**8
"""Steps from which on a log's steps can be no updates."""

_WAY_OUT = ", as a run that diverged logs; cut the log before that row, or name other runs"

_STEP_OPTION = "; 'step' names it"


class LoggedRows(NamedTuple):
    """Numbers by step."""

    step: np.ndarray
    """``[rows]`` the last update that each has seen, rising."""
    value: np.ndarray

    @classmethod
    def of(cls, step: np.ndarray, value: np.ndarray) -> "LoggedRows":
        """The finite values by step; of a step that occurs again the later one."""
        finite = np.isfinite(step) & np.isfinite(value)
        require(finite.any(), "expected rows with a step and a number, found none")
        step, value = step[finite], value[finite]
        if not (np.diff(step) > 0).all():
            order = np.argsort(step, kind="stable")
            step, value = step[order], value[order]
            last = np.append(np.diff(step) > 0, True)
            step, value = step[last], value[last]
        return cls(step.astype(np.int64), value)

    @property
    def interval(self) -> float:
        """Updates from row to row."""
        return float(np.median(np.diff(self.step))) if self.step.size > 1 else 1.0

    def before(self, step: int) -> "LoggedRows":
        """The rows before a step."""
        return LoggedRows(*(column[self.step < step] for column in self))

    def then(self, others: "LoggedRows") -> "LoggedRows":
        """These rows and later ones."""
        return LoggedRows(*(np.concatenate(columns) for columns in zip(self, others, strict=True)))


class Log(NamedTuple):
    """The log of one run."""

    name: str
    loss: LoggedRows
    rate: LoggedRows | None
    """None where none is needed."""
    loss_key: str
    rate_key: str | None
    notes: tuple[str, ...]
    total_steps: int | None = None
    """Planned number of updates, where the file has it."""
    step_key: str = ""
    files: tuple[str, ...] = ()
    dropped: int = 0
    """Rows with a loss that do not count."""
    batch: Batch | None = None
    """Tokens an update, as told or as the log shows them."""
    reads_batch: bool = False
    """Whether the log shows them."""

    @property
    def begins_late(self) -> bool:
        """Whether rows before the first one are missing."""
        return bool(self.loss.step[0] > 2 * self.loss.interval)


def first_step(step: np.ndarray) -> int:
    """1 where rows are those after 1, 2, ... or after k, 2 k, ... updates, else 0.

    >>> [first_step(np.array(step)) for step in ([0, 1, 2], [1, 2, 3], [9, 19, 29], [10, 20, 30])]
    [0, 1, 0, 1]
    """
    step = step[np.isfinite(step)]
    step = step if (np.diff(step) > 0).all() else np.unique(step)
    interval = np.median(np.diff(step)) if step.size > 1 else 0
    return int(interval > 0 and step[0] == interval and not (step % interval).any())


@dataclass(frozen=True)
class Reader:
    """Finds step, loss and rate in the columns of a source; see ``import_logs``."""

    source: Source
    columns: Columns
    needs_rate: bool
    peak_lr: float | None
    tokens_per_step: Batch | None
    sequence_length: float | None = None
    """Tokens of a sequence, for logs that count batches in sequences."""
    first: int = 0
    """What the row after the first update has for a step."""

    def counting_as(self, tables: Sequence[Table]) -> "Reader":
        """The reader that counts as the source does, or as any of the tables tells by its most frequent losses."""
        if self.source.first is not None:
            return replace(self, first=self.source.first)
        return replace(self, first=max(map(self._told_first, tables), default=0))

    def _told_first(self, table: Table) -> int:
        try:
            return first_step(table.columns[self._step_key(table)][self._is_frequent(table)])
        except ValueError:  # the table is refused where its log is read
            return 0

    def _is_frequent(self, table: Table) -> np.ndarray:
        """Which rows have a loss, of that loss that most rows have."""
        found = [np.isfinite(table.columns[key]) for key in self._loss_keys(table)]
        return max(found, key=lambda rows: int(rows.sum()))

    def _has_loss(self, table: Table) -> np.ndarray:
        return np.isfinite(table.columns[self._loss_keys(table)[0]])

    def _step_key(self, table: Table) -> str:
        """The first of the known counters that most rows with a loss have."""
        found = self._named(table, self.columns.step, (self.source.step,), "steps")
        if len(found) == 1:
            return found[0]
        loss = self._has_loss(table)
        most = (key for key in found if 2 * np.isfinite(table.columns[key][loss]).sum() >= loss.sum())
        return next(most, found[0])

    def tables(self, table: Table) -> list[Table]:
        """The table of each run that a column names; see ``runs_by_label``."""
        return runs_by_label(table, table.columns[self._step_key(table)], table.columns[self._loss_keys(table)[0]])

    def runs(self, table: Table) -> list[tuple[str, RunRows]]:
        """The runs in a table, by name: several where its steps begin anew."""
        step, losses = self._steps(table), table.columns[self._loss_keys(table)[0]]
        found = runs_by_steps(step, losses)
        if len(found) == 1:
            return [(table.name, found[0])]
        epoch = epochs_of(table)
        rising = epoch is not None and (np.diff([np.nanmin(epoch[run.mask(step)]) for run in found]) > 0).all()
        require(not rising, f"steps begin anew in each epoch: name a column that counts all updates{_STEP_OPTION}")
        note = f"steps begin anew in the log: it holds {len(found)} runs"
        return [(f"{table.name}-{i}", RunRows(run.spans, (note, *run.notes))) for i, run in enumerate(found, 1)]

    def log(self, table: Table, name: str, run: RunRows) -> Log:
        """The log of one of a table's runs."""
        step, (loss_key, *others) = self._steps(table), self._loss_keys(table)
        kept = run.mask(step)
        step, losses = np.where(kept, step, np.nan), table.columns[loss_key]
        bad = np.isfinite(step) & (losses <= 0)
        first = int(np.argmax(bad))
        require(
            not bad.any(), f"row {first + 1}: {loss_key!r}: expected losses above zero, got {losses[first]:g}{_WAY_OUT}"
        )
        loss = LoggedRows.of(step, losses)
        notes = (
            *table.notes,
            *run.notes,
            *self._notes_on_losses(loss_key, others, loss),
            *_notes_on_steps(step, losses, loss),
        )
        known = np.isfinite(losses) & run.all_rows(losses.size)
        log = Log(name, loss, None, loss_key, None, notes, table.total_steps, self._step_key(table), table.files)
        log = log._replace(dropped=int(known.sum()) - loss.step.size, batch=self.tokens_per_step)
        length = self.sequence_length if self.tokens_per_step is None else None
        shown = batch_in_log(table, self._step_key(table), step, int(loss.step[-1]) + 1, length)
        if shown is not None:
            batch, said = shown.checked(self.tokens_per_step)
            notes = (*notes, said)
            log = log._replace(batch=batch, notes=notes, reads_batch=batch is not self.tokens_per_step)
        elif length is not None:
            notes = (*notes, f"sequence_length: no column has the batch, so that {length:g} was not used")
            log = log._replace(notes=notes)
        if not self.needs_rate:
            return log
        rate_key, rate, more = self._rate(table, kept)
        require(not has_rival_rates(step, rate), f"{rate_key!r}: steps have several rates, as of runs that are mixed")
        rates = LoggedRows.of(step, rate)
        return log._replace(rate=rates, rate_key=rate_key, notes=(*notes, *more, *_notes_on_the_end(loss, rates)))

    def _steps(self, table: Table) -> np.ndarray:
        """``[rows]`` the last update that each row has seen."""
        key = self._step_key(table)
        step = table.columns[key]
        if "token" in key.lower():
            require(self.tokens_per_step is not None, f"column {key!r} counts tokens: give the tokens per step")
            batch = self.tokens_per_step or 0.0
            least = batch.tokens[0] if isinstance(batch, BatchStages) else batch
            few = (step > 0) & (step < least)
            row = int(np.argmax(few))
            small = (
                f"row {row + 1}: {step[row]:.15g} tokens are less than one update of {least:g}; the batch was smaller"
            )
            require(not few.any(), f"{small} at first: give steps in updates")
            step = np.rint(batch.updates(step) if isinstance(batch, BatchStages) else step / batch) - 1
        else:
            step = np.where(step == 0, 0, step - self.first)
        bad = ~np.isnan(step) & ((step < 0) | (step != np.floor(step)) | (step >= MOST_LOGGED_UPDATES))
        if bad.any():
            row = int(np.argmax(bad))
            found = f"got {table.columns[key][row]:.15g}"
            require(
                False, f"row {row + 1}: {key!r}: expected a count of updates below {MOST_LOGGED_UPDATES:g}, {found}"
            )
        return step

    def _loss_keys(self, table: Table) -> list[str]:
        training, validation = self.source.loss, self.source.validation
        kinds = (validation, training) if self.columns.validation else (training, validation)
        return self._named(table, self.columns.loss, kinds, "losses")

    def _notes_on_losses(self, key: str, others: Sequence[str], loss: LoggedRows) -> tuple[str, ...]:
        more = (f"took the losses {key!r}; there are also {', '.join(map(repr, others[:4]))}",)
        smoothed = (f"the losses {key!r} are smoothed: noise and intervals will seem too small",)
        is_smoothed = bool(matching({key: loss.value}, self.source.smoothed)) or correlation(loss.value) > SMOOTHED_FROM
        return (*more * (bool(others) and self.columns.loss is None), *smoothed * is_smoothed)

    def _rate(self, table: Table, kept: np.ndarray) -> tuple[str, np.ndarray, tuple[str, ...]]:
        """The column of rates, the rates of the rows to keep, and notes on them."""
        kinds = (self.source.rate, self.source.multiplier)
        if self.columns.rate is None and not matching(table.columns, *kinds):
            raise ValueError(f"no learning rate is logged (columns: {_listed(_names(table))}); give the schedule")
        key, *others = self._named(table, self.columns.rate, kinds, "rates")
        is_share = key in matching(table.columns, self.source.multiplier)
        require(not is_share or self.peak_lr is not None, f"{key!r} is a multiplier of the rate: give the peak rate")
        rate, notes = np.where(kept, table.columns[key], np.nan), _notes_on_groups(table, [key, *others])
        if self.peak_lr is None or not np.nanmax(rate) > 0:
            return key, rate, notes
        scale = positive(self.peak_lr, "peak_lr") / (1.0 if is_share else np.nanmax(rate))
        return key, scale * rate, (*notes, f"rates are {key!r} scaled to a peak of {self.peak_lr:g}")

    def _named(
        self, table: Table, name: str | None, kinds: Sequence[Preference | Sequence[str]], what: str
    ) -> list[str]:
        """Columns of the kinds, or the one that the user names."""
        found = matching(table.columns, *(kinds if name is None else (only(name),)))
        wanted = f" named {name!r}" if name is not None else ""
        require(found, f"expected a column of {what}{wanted}; {way_out(_names(table))}")
        return found


def way_out(names: Sequence[str]) -> str:
    """The columns of numbers that are there, and the options that name those to take."""
    return f"the columns of numbers are {_listed(names)}: name them with --step and --loss"


def _names(table: Table) -> list[str]:
    return [*table.columns, *table.others]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + ", ..." * (len(names) > 20) if names else "none"


def _notes_on_steps(step: np.ndarray, value: np.ndarray, kept: LoggedRows) -> tuple[str, ...]:
    """A note where a step occurs again with another value."""
    known = np.isfinite(step) & np.isfinite(value)
    again = (kept.value[np.searchsorted(kept.step, step[known])] != value[known]).sum()
    return (f"{again} steps were logged again with other losses: the later row counts",) if again else ()


def _notes_on_the_end(loss: LoggedRows, rate: LoggedRows) -> tuple[str, ...]:
    """A note where losses cease to be numbers before the rates do."""
    ends = loss.step[-1], rate.step[-1]
    text = f"losses end at step {ends[0]}, rates go on to {ends[1]}: later losses are no numbers"
    return (text,) if ends[1] > ends[0] + 2 * max(loss.interval, rate.interval) else ()


def correlation(loss: np.ndarray) -> float:
    """Correlation of the noise of successive rows in the later half of a run; NaN for less than two blocks of rows."""
    late = np.log(loss[loss.size // 2 :])
    blocks = late.size // BLOCK
    if blocks < 2:
        return float("nan")
    rows = late[-blocks * BLOCK :].reshape(blocks, BLOCK).T
    trend = np.vander(np.linspace(-1, 1, BLOCK), 3)
    noise = rows - trend @ np.linalg.lstsq(trend, rows, rcond=None)[0]
    power = np.maximum((noise**2).sum(0), 1e-300)
    return float(np.median((noise[1:] * noise[:-1]).sum(0) / power))


def _notes_on_groups(table: Table, keys: Sequence[str]) -> tuple[str, ...]:
    """A note where several parameter groups log rates of different shape."""
    first = table.columns[keys[0]]
    differ = [repr(key) for key in keys[1:] if not _proportional(first, table.columns[key])]
    text = f"{len(keys)} columns of rates, took {keys[0]!r}; of another shape: {', '.join(differ[:4])}"
    return (text,) if differ else ()


def _proportional(a: np.ndarray, b: np.ndarray) -> bool:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    return a.size > 0 and bool(np.allclose(a * np.max(b, initial=0), b * np.max(a, initial=0), rtol=1e-3))
