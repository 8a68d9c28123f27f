"""What the verb does that reads what other tools log: import."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from fmjax._checks import require
from fmjax._json import Record, plain
from fmjax.cli import output
from fmjax.cli.answers import Answer
from fmjax.curves.manifest import select_runs
from fmjax.curves.writing import write_runs
from fmjax.importers import SOURCES, Columns, Imported, import_logs
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.tables import parse_schedule, schedule_table


@dataclass(frozen=True)
class RunFolder(Record):
    """A folder of runs, and where each comes from."""

    folder: Path
    runs: Sequence[Imported]

    def to_dict(self) -> dict[str, object]:
        """The record as plain values."""
        return {"folder": str(self.folder), "runs": [_dict(one) for one in self.runs]}


def import_(
    sources: Sequence[Path],
    target: Path,
    tool: str | None,
    runs: str,
    loss: str | None,
    validation: bool,
    rate: str | None,
    step: str | None,
    schedule: str | None,
    total_steps: int | None,
    peak_lr: float | None,
    tokens_per_step: float | None,
    model_size: float | None,
    join: bool,
) -> Answer:
    """Runs of what another tool logged, in a folder."""
    if tool is None and len(sources) > 1 and str(sources[0]) in SOURCES and not sources[0].exists():
        tool, sources = str(sources[0]), sources[1:]
    require(not target.exists(), f"{target}: expected a folder that does not exist yet, found one")
    with output.stages("reading"):
        found = import_logs(
            sources,
            source=tool,
            columns=Columns(step, loss, rate, validation),
            schedule=None if schedule is None else parse_schedule(schedule),
            total_steps=total_steps,
            peak_lr=peak_lr,
            tokens_per_step=tokens_per_step,
            model_size=model_size,
            join=join,
        )
        chosen = {curve.name for curve in select_runs([one.curve for one in found], runs)}
        found = tuple(one for one in found if one.curve.name in chosen)
        write_runs([one.curve for one in found], target)
    return Answer(RunFolder(target, found), lambda: _print(found, target))


def _dict(one: Imported) -> object:
    found = one.recognised
    return plain(
        {
            "name": one.curve.name,
            "rows": one.curve.step.size,
            "total_steps": int(one.curve.schedule.total_steps),
            "loss": one.loss,
            "rate": one.rate,
            "schedule": _schedule_dict(one.curve.schedule),
            "rate_error": None if found is None else found.error,
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
    for note in dict.fromkeys(note for one in found for note in one.notes):
        of = [one.curve.name for one in found if note in one.notes]
        where = "" if len(of) == len(found) else f"{', '.join(of[:4])}{', ...' if len(of) > 4 else ''}: "
        out.print(f"[dim]note: {escape(where + note)}[/dim]")


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
