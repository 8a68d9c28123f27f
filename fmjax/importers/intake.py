"""``import_logs``: logs of training tools as runs, whatever they call their columns."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np

from fmjax._checks import choose, positive, require, within
from fmjax.curves.loss_curve import LossCurve
from fmjax.importers.logs import Log, Reader, way_out
from fmjax.importers.restarts import RunRows
from fmjax.importers.source import Columns, Source, files_below, is_told, matching, only, read_files, refusing
from fmjax.importers.tables import Table
from fmjax.importers.tools import SOURCES
from fmjax.schedules.batch_stages import Batch, batch_of, joined_batch
from fmjax.schedules.kinds import Schedule
from fmjax.schedules.recognition import Recognised, recognise

AS_NAMED = Columns()
"""The columns that the source names."""


@dataclass(frozen=True)
class Imported:
    """A run made of a log, and what was found on the way."""

    curve: LossCurve
    loss: str
    """Column that the losses come from."""
    rate: str | None
    """Column of the rates; None where the schedule was given."""
    recognised: Recognised | None
    """How the logged rates were recognised; None where the schedule was given."""
    notes: tuple[str, ...]
    """What was found, dropped and guessed, a sentence each."""
    step: str = ""
    """Column of the steps."""
    tool: str = ""
    """The name of the source."""
    files: tuple[str, ...] = ()
    """The files that the rows come from."""
    dropped: int = 0
    """Rows with a loss that are not in the curve."""


def import_logs(
    path: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    source: str | None = None,
    columns: Columns = AS_NAMED,
    schedule: Schedule | None = None,
    total_steps: int | None = None,
    peak_lr: float | None = None,
    tokens_per_step: Batch | str | None = None,
    sequence_length: float | None = None,
    model_size: float | None = None,
    join: bool = False,
) -> tuple[Imported, ...]:
    r"""Reads the runs of a log, of several, or of all logs below a folder.

    Where steps fall back a run was resumed, and the earlier rows from there on do not count; where they begin anew, the
    next run begins (``restarts.runs_by_steps``). Rates may be logged at other steps than losses, one update off, as
    multipliers of the peak, and be zero after the last update; the schedule is recognised from them
    (``recognition.recognise``). A run that cannot be read is left out with a warning, where others can.

    Args:
      path: a file, a folder that is searched for files of the source, or several of these.
      source: one of ``importers.SOURCES``; by default the first that knows the files.
      columns: columns to take instead of those that the source names.
      schedule: the schedule of all runs, where no rate is logged.
      total_steps: updates of all runs, where the log does not reach their end.
      peak_lr: peak rate that logged rates, or multipliers of it, are scaled to.
      tokens_per_step: tokens per update; steps logged in tokens are divided by it. Of a batch that changes
        ``BatchStages``, or text such as "65536@0,131072@2000"; by default taken from a counter of tokens beside the
        steps, or a column of batches, that shows such stages (``batch_changes.batch_in_log``).
      sequence_length: tokens of a sequence, where logs count batches in sequences. Without ``tokens_per_step`` the
        batch of each run is then taken from its log, also where it does not change.
      model_size: number of parameters of all runs.
      join: whether runs logged only from where they branch off get the earlier rows of their stem: of the runs logged
        from the start until there, at the rate that the branch begins with, the one of nearest loss.

    Raises:
      ValueError: no logs, or no run that can be read: naming the file and run, what was expected and what was found.

    >>> from tempfile import TemporaryDirectory
    >>> from fmjax.schedules import WSD
    >>> with TemporaryDirectory() as folder:
    ...     log = Path(folder, "small.csv")
    ...     rows = [f"{step},{2 + 50 / (step + 50)},{WSD(1e-3, 1000, 0.3)(step)}" for step in range(0, 1000, 10)]
    ...     _ = log.write_text("\n".join(["step,loss,lr", *rows]))
    ...     (run,) = import_logs(log)
    >>> run.curve.name, round(float(run.curve.schedule.anneal_ratio), 3)
    ('small', 0.3)
    """
    paths = [Path(path)] if isinstance(path, str | PathLike) else list(map(Path, path))
    require(paths, "expected a file or folder of logs, found none")
    for one in paths:
        require(one.exists(), f"{one}: expected a file or folder of logs, found none")
    with within(", ".join(map(str, paths[:3])) + ", ..." * (len(paths) > 3)):
        refused: list[str] = []
        tool, tables = _read(paths, source, columns, refused)
        batch = None if tokens_per_step is None else batch_of(tokens_per_step, "tokens_per_step")
        length = None if sequence_length is None else positive(sequence_length, "sequence_length")
        reader = Reader(tool, columns, schedule is None, peak_lr, batch, length)
        reader = reader.counting_as(tables)
        tables = [part for table in tables for part in _by_label(reader, table, refused, len(tables) > 1)]
        logs = list(_logs(reader, tables, refused))
        del tables
        runs = [replace(run, tool=tool.name) for run in _each(logs, schedule, total_steps, join, refused)]
        require(runs, next(iter(refused), "expected runs, found none"))
    for reason in refused:
        warnings.warn(f"{reason}: left out", stacklevel=2)
    sized = (replace(run.curve, model_size=model_size) for run in runs)
    return tuple(replace(run, curve=curve) for run, curve in zip(runs, sized, strict=True))


def _read(
    paths: Sequence[Path], source: str | None, columns: Columns, refused: list[str]
) -> tuple[Source, list[Table]]:
    """The source and the runs; of sources that read files alike, the first that finds its losses there."""
    files = [(file, path) for path in paths for file in files_below(path)]
    found = [file.resolve() for file, _ in files]
    for i, file in enumerate(found):
        require(found.index(file) == i, f"{files[i][0]} is named twice; name it once")
    if source is not None:
        tool = SOURCES[choose(source, SOURCES, "source")]
        return tool, read_files(tool, files, columns, refused)
    failed: list[str] = []
    seen: list[Table] = []
    for tool in SOURCES.values():
        if any(is_told(tool, file) for file, _ in files):
            told: list[str] = []
            with refusing(failed):
                tables = read_files(tool, files, columns, told)
                kinds = (tool.loss, tool.validation) if columns.loss is None else (only(columns.loss),)
                if any(matching(table.columns, *kinds) for table in tables):
                    refused += told
                    return tool, tables
                seen += tables
    names = dict.fromkeys(name for table in seen for name in (*table.columns, *table.others))
    hint = f"; {way_out(list(names))}" if names else ""
    unknown = f"expected logs of a known tool with a loss, found none{hint} (known: {', '.join(SOURCES)})"
    raise ValueError(next(iter(failed), unknown))


def _of_run(name: str) -> AbstractContextManager[None]:
    return within(f"run {name!r}")


def _by_label(reader: Reader, table: Table, refused: list[str], beside_others: bool) -> list[Table]:
    """The table of each run that a column names."""
    parts: list[Table] = []
    with refusing(refused), _of_run(table.name):
        parts = reader.tables(table)
    first = f"{table.name}/" if beside_others and len(parts) > 1 else ""
    return [part._replace(name=f"{first}{part.name}") for part in parts]


def _logs(reader: Reader, tables: Sequence[Table], refused: list[str]) -> Iterator[Log]:
    for table in tables:
        runs: list[tuple[str, RunRows]] = []
        with refusing(refused), _of_run(table.name):
            runs = reader.runs(table)
        for name, rows in runs:
            with refusing(refused), _of_run(name):
                yield reader.log(table, name, rows)


def _each(
    logs: Sequence[Log], schedule: Schedule | None, total_steps: int | None, join: bool, refused: list[str]
) -> Iterator[Imported]:
    for log in logs:
        with refusing(refused), _of_run(log.name):
            yield _imported(_joined(log, logs) if join else log, schedule, total_steps)


def _imported(log: Log, schedule: Schedule | None, total_steps: int | None) -> Imported:
    recognised = None if schedule is not None else _recognised(log, total_steps)
    known = recognised.schedule if recognised is not None else schedule
    assert known is not None
    loss, after = log.loss.before(int(known.total_steps) + 1), log.loss.step > int(known.total_steps)
    notes = (*log.notes, *(recognised.notes if recognised is not None else ()))
    if after.any():
        notes = (*notes, f"{after.sum()} rows after the schedule's end were left out")
    if log.begins_late:
        notes = (*notes, f"losses start at step {log.loss.step[0]}; a branch may be joined to its stem")
        notes += ("before that the batch is taken to be the first that is logged",) * log.reads_batch
    curve = LossCurve(log.name, loss.step, loss.value, known, tokens_per_step=log.batch)
    dropped = log.dropped + int(after.sum())
    return Imported(
        curve, log.loss_key, log.rate_key, recognised, notes, log.step_key, files=log.files, dropped=dropped
    )


def _recognised(log: Log, total_steps: int | None) -> Recognised:
    """The schedule in the rates; where losses go on after the last rate, the run does."""
    assert log.rate is not None
    if total_steps is None and log.total_steps is not None and log.total_steps > max(log.rate.step[-1], 0):
        total_steps = log.total_steps
    if total_steps is None and log.loss.step[-1] > log.rate.step[-1]:
        total_steps = int(log.loss.step[-1]) + 1
    return recognise(log.rate.step, log.rate.value, total_steps=total_steps)


# ---------------------------------------------------------------------------------------------------------------------
# Branches
# ---------------------------------------------------------------------------------------------------------------------


def _joined(log: Log, logs: Sequence[Log]) -> Log:
    """The log with the earlier rows of its stem."""
    if not log.begins_late:
        return log
    stems = list(_stems(log, logs))
    start = int(log.loss.step[0])
    require(stems, f"logged only from step {start} on, and no other run has its rate there")
    stem = min(stems, key=lambda other: abs(np.log(_last(other, start) / log.loss.value[0])))
    rate = None if log.rate is None or stem.rate is None else stem.rate.before(int(log.rate.step[0])).then(log.rate)
    note = f"rows before step {start} are those of {stem.name!r}"
    loss, batch = stem.loss.before(start).then(log.loss), joined_batch(stem.batch, log.batch, start)
    return log._replace(loss=loss, rate=rate, notes=(*log.notes, note), batch=batch)


def _stems(branch: Log, logs: Sequence[Log]) -> Iterable[Log]:
    """Runs logged from their start until the branch begins, at a rate that it may begin with.

    Its first row may come an interval after the first drop of the rate, which the steepest of the usual anneals,
    1-sqrt, takes to 1 - sqrt(interval / updates left).
    """
    start, end = branch.loss.step[[0, -1]]
    drop = np.sqrt(2 * branch.loss.interval / max(end + 1 - start, 1))
    for other in logs:
        covers = not other.begins_late and other.loss.step[-1] >= start - 2 * other.loss.interval
        if other is branch or not covers or branch.rate is None or other.rate is None:
            continue
        first = branch.rate.value[0] / other.rate.before(int(start)).value[-1]
        if 1 - drop - 0.01 <= first <= 1.01:
            yield other


def _last(log: Log, step: int) -> float:
    """The loss of the last row before a step."""
    return float(log.loss.before(step).value[-1])
