"""What the verb does that reads what other tools log: import."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from fmjax._checks import require
from fmjax._json import Record, plain
from fmjax.cli import output
from fmjax.cli.answers import Answer
from fmjax.cli.manners import note
from fmjax.curves.manifest import select_runs
from fmjax.curves.writing import write_runs
from fmjax.importers import SOURCES, Columns, Imported, import_logs, is_sweep, read_sweep
from fmjax.schedules.batch_stages import batch_of
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.tables import parse_schedule, schedule_table


@dataclass(frozen=True)
class RunFolder(Record):
    """A folder of runs, and where each comes from."""

    folder: Path | None
    """None where nothing was written."""
    runs: Sequence[Imported]
    refused: Sequence[str]
    """Why other runs and files could not be read."""

    def to_dict(self) -> dict[str, object]:
        """The record as plain values."""
        folder = None if self.folder is None else str(self.folder)
        return {"folder": folder, "runs": [_dict(one) for one in self.runs], "refused": list(self.refused)}


def import_(
    sources: Sequence[Path],
    target: Path | None,
    check: bool,
    tool: str | None,
    runs: str,
    loss: str | None,
    validation: bool,
    rate: str | None,
    step: str | None,
    schedule: str | None,
    total_steps: int | None,
    peak_lr: float | None,
    tokens_per_step: float | str | None,
    sequence_length: float | None,
    model_size: float | None,
    join: bool,
) -> Answer:
    """Runs of what another tool logged, in a folder."""
    if tool is None and len(sources) > 1 and str(sources[0]) in SOURCES and not sources[0].exists():
        tool, sources = str(sources[0]), sources[1:]
    require(check or target is not None, "expected -o FOLDER, or --check to write nothing")
    if target is not None and not check:
        require(not target.exists(), f"{target}: expected a folder that does not exist yet, found one")
    with output.stages("reading"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if tool is None and all(map(is_sweep, sources)):
            in_column = "expected a column sequence_length in a table with one row a run"
            require(sequence_length is None, f"--sequence-length: {in_column}, found the option")
            batch = None if tokens_per_step is None else batch_of(tokens_per_step, "tokens_per_step")
            given = {"tokens_per_step": batch, "model_size": model_size}
            found = tuple(one for path in sources for one in _of_sweep(path, schedule or "", loss, validation, given))
        else:
            found = import_logs(
                sources,
                source=tool,
                columns=Columns(step, loss, rate, validation),
                schedule=None if schedule is None else parse_schedule(schedule),
                total_steps=total_steps,
                peak_lr=peak_lr,
                tokens_per_step=tokens_per_step,
                sequence_length=sequence_length,
                model_size=model_size,
                join=join,
            )
    refused = [str(one.message) for one in caught]
    for reason in refused:
        note(f"warning: {reason}")
    chosen = {curve.name for curve in select_runs([one.curve for one in found], runs)}
    found = tuple(one for one in found if one.curve.name in chosen)
    if target is not None and not check:
        write_runs([one.curve for one in found], target)
    folder = None if check else target
    return Answer(
        RunFolder(folder, found, refused), lambda: _print_check(found) if folder is None else _print(found, folder)
    )


def _of_sweep(
    path: Path, schedule: str, loss: str | None, validation: bool, given: Mapping[str, Any]
) -> Iterator[Imported]:
    """The runs of a table with one row a run."""
    for run in read_sweep(path, schedule, loss, validation, given):
        sized = () if run.size is None else (f"model sizes from the column {run.size!r}",)
        notes = ("one row a run: the loss after its last update", *sized)
        yield Imported(run.curve, run.loss, run.rate, None, notes, tool="sweep", files=(str(path),))


def _dict(one: Imported) -> object:
    found = one.recognised
    return plain(
        {
            "name": one.curve.name,
            "rows": one.curve.step.size,
            "total_steps": int(one.curve.schedule.total_steps),
            "files": one.files,
            "tool": one.tool,
            "step": one.step,
            "loss": one.loss,
            "rate": one.rate,
            "schedule": _schedule_dict(one.curve.schedule),
            "tokens_per_step": one.curve.tokens_per_step,
            "rate_error": None if found is None else found.error,
            "dropped_rows": one.dropped,
            "notes": one.notes,
        }
    )


def _schedule_dict(schedule: Schedule) -> dict[str, object]:
    """The schedule as a manifest has it; of a table, whose rates are in the run's file, the length."""
    if isinstance(schedule, Tabulated):
        return {"kind": "tabulated", "total_steps": schedule.total_steps}
    return schedule_table(schedule)


def _print(found: Sequence[Imported], folder: Path) -> None:
    out = output.console()
    columns = ("run", "loss", "rate", "schedule", "rows", "updates", "rate off by")
    table = output.new_table(f"{len(found)} runs in {folder}", columns, text=4)
    for one in found:
        curve, recognised = one.curve, one.recognised
        off = "-" if recognised is None else f"{recognised.error:.2%}"
        sizes = (f"{curve.step.size}", f"{int(curve.schedule.total_steps)}")
        table.add_row(*map(escape, (curve.name, one.loss, one.rate or "-")), _in_words(curve.schedule), *sizes, off)
    out.print(table)
    for text in dict.fromkeys(text for one in found for text in one.notes):
        of = [one.curve.name for one in found if text in one.notes]
        where = "" if len(of) == len(found) else f"{', '.join(of[:4])}{', ...' if len(of) > 4 else ''}: "
        out.print(f"[dim]note: {escape(where + text)}[/dim]")


def _print_check(found: Sequence[Imported]) -> None:
    """For each file what was read, from which columns, what was recognised, dropped and guessed."""
    out = output.console()
    for files in dict.fromkeys(one.files for one in found):
        mine = [one for one in found if one.files == files]
        out.print(f"[bold]{escape(', '.join(files))}[/bold]: {mine[0].tool}, {len(mine)} runs", soft_wrap=True)
        for one in mine:
            for line in _checked(one):
                out.print(escape(f"  {line}"), soft_wrap=True)


def _checked(one: Imported) -> Iterator[str]:
    curve, recognised = one.curve, one.recognised
    columns = (f"steps {one.step!r}" if one.step else "", f"losses {one.loss!r}", f"rates {one.rate!r}")
    read = f"{curve.step.size} rows at steps {curve.step[0]} to {curve.step[-1]}"
    yield f"{curve.name}: {read} from {', '.join(filter(None, columns[: 3 if one.rate else 2]))}"
    off = "as given" if recognised is None else f"off by {recognised.error:.2%} at most in the logged rows"
    yield f"  schedule: {_in_words(curve.schedule)}, {int(curve.schedule.total_steps)} updates, {off}"
    yield f"  dropped: {one.dropped} rows"
    yield from (f"  note: {text}" for text in one.notes)


def _in_words(schedule: Schedule) -> str:
    """A schedule in a few words."""
    if not isinstance(schedule, Constant | Cosine | WSD | Step):
        return "as logged"
    peak, warmup = f"peak {float(schedule.peak_lr):.4g}", int(schedule.warmup_steps)
    kind = type(schedule).__name__.lower()
    if isinstance(schedule, WSD):
        kind = f"WSD, {schedule.decay}, R = {float(schedule.anneal_ratio):.3f}"
    if isinstance(schedule, WSD | Cosine) and float(schedule.final_lr):
        kind += f" to {float(schedule.final_lr):.3g}"
    if isinstance(schedule, Step):
        kind = f"{len(schedule.boundaries)} steps"
    return f"{kind}, {peak}" + (f", warmup {warmup}" if warmup else "")
