"""The verb that reads what other tools log: import."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from fmjax._checks import require
from fmjax.cli import output
from fmjax.cli.app import app
from fmjax.cli.options import SIZE
from fmjax.importers import SOURCES, Columns, Imported, import_logs
from fmjax.records import plain
from fmjax.run_folder import write_runs
from fmjax.runs import parse_schedule, select
from fmjax.schedules import WSD, Constant, Cosine, Schedule, Step


@app.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option("--from", "tool", type=click.Choice(list(SOURCES)), help="The tool; by default the first that fits.")
@click.option("--runs", default="*", show_default=True, help="Runs to take: names and globs, separated by commas.")
@click.option("--loss", help="Column of the losses.")
@click.option("--validation", is_flag=True, help="Take the validation loss where there is one.")
@click.option("--rate", help="Column of the learning rates.")
@click.option("--step", help="Column of the steps.")
@click.option("--schedule", help="Schedule of all runs, where no rate is logged, as a manifest has it.")
@click.option("--total-steps", type=int, help="Updates of the runs, where the log does not reach their end.")
@click.option("--peak-lr", type=float, help="Peak rate, where multipliers of it are logged.")
@click.option("--tokens-per-step", type=float, help="Tokens per update; steps in tokens are divided by it.")
@SIZE
@click.option("--join", is_flag=True, help="Give runs logged only from their branch on the rows of their stem.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
def import_(
    source: Path,
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
    as_json: bool,
) -> None:
    """Make runs of what another tool logged; SOURCE is a file, or a folder searched for logs.

    \b
    Example:
      fmjax import wandb_export.csv -o runs/
      fmjax import trainer_state.json -o runs/ --validation
      fmjax import logs/ --from nanochat --schedule 'kind = "wsd", peak_lr = 0.02, ...' -o runs/
    """
    require(not target.exists(), f"{target}: expected a folder that does not exist yet, found one")
    with output.stages("reading"):
        found = import_logs(
            source,
            source=tool,
            columns=Columns(step, loss, rate, validation),
            schedule=None if schedule is None else parse_schedule(schedule),
            total_steps=total_steps,
            peak_lr=peak_lr,
            tokens_per_step=tokens_per_step,
            model_size=model_size,
            join=join,
        )
        chosen = {curve.name for curve in select([one.curve for one in found], runs)}
        found = tuple(one for one in found if one.curve.name in chosen)
        write_runs([one.curve for one in found], target)
    if as_json:
        click.echo(json.dumps({"folder": str(target), "runs": [_dict(one) for one in found]}, indent=1))
    else:
        _print(found, target)


def _dict(one: Imported) -> dict[str, Any]:
    found = one.recognised
    return plain(
        {
            "name": one.curve.name,
            "rows": one.curve.step.size,
            "total_steps": int(one.curve.schedule.total_steps),
            "loss": one.loss,
            "rate": one.rate,
            "schedule": schedule_text(one.curve.schedule),
            "rate_error": None if found is None else found.error,
            "notes": one.notes,
        }
    )


def _print(found: Sequence[Imported], folder: Path) -> None:
    out = output.console()
    columns = ("run", "loss", "rate", "schedule", "rows", "updates", "rate off by")
    table = output.new_table(f"{len(found)} runs in {folder}", columns, text=4)
    for one in found:
        curve, recognised = one.curve, one.recognised
        off = "-" if recognised is None else f"{recognised.error:.2%}"
        sizes = (f"{curve.step.size}", f"{int(curve.schedule.total_steps)}")
        table.add_row(*map(escape, (curve.name, one.loss, one.rate or "-")), schedule_text(curve.schedule), *sizes, off)
    out.print(table)
    for note in dict.fromkeys(note for one in found for note in one.notes):
        of = [one.curve.name for one in found if note in one.notes]
        where = "" if len(of) == len(found) else f"{', '.join(of[:4])}{', ...' if len(of) > 4 else ''}: "
        out.print(f"[dim]note: {escape(where + note)}[/dim]")


def schedule_text(schedule: Schedule) -> str:
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
