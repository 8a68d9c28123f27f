"""The verb that reads what other tools log: import."""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from fmjax._checks import require
from fmjax._json import plain
from fmjax.cli import output
from fmjax.cli.app import app
from fmjax.cli.manners import note
from fmjax.cli.parameters import Known
from fmjax.curves.manifest import select_runs
from fmjax.curves.writing import write_runs
from fmjax.importers import SOURCES, Columns, Imported, import_logs, is_sweep, read_sweep
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.tables import parse_schedule, schedule_table


@app.command("import")
@click.argument("sources", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--check", is_flag=True, help="Write nothing; show what was read, recognised, dropped and guessed.")
@click.option("--from", "tool", type=Known(SOURCES), help=f"The tool; the first that fits of {' | '.join(SOURCES)}.")
@click.option("--runs", default="*", show_default=True, help="Runs to take: names and globs, separated by commas.")
@click.option("--loss", help="Column of the losses.")
@click.option("--validation", is_flag=True, help="Take the validation loss where there is one.")
@click.option("--rate", help="Column of the learning rates.")
@click.option("--step", help="Column of the steps.")
@click.option("--schedule", help="Schedule of all runs, where no rate is logged, as a manifest has it.")
@click.option("--total-steps", type=int, help="Updates of the runs, where the log does not reach their end.")
@click.option("--peak-lr", type=float, help="Peak rate, where multipliers of it are logged.")
@click.option("--tokens-per-step", type=float, help="Tokens per update; steps in tokens are divided by it.")
@click.option("--model-size", type=float, help="Parameters of the model, where all runs have the same.")
@click.option("--join", is_flag=True, help="Give runs logged only from their branch on the rows of their stem.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
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
    tokens_per_step: float | None,
    model_size: float | None,
    join: bool,
    as_json: bool,
) -> None:
    """Make runs of what another tool logged.

    Writes a folder with the manifest runs.toml and a CSV file for each run, and prints which columns were taken and
    which schedule the rates tell of, with the largest error of any logged rate. A table with one row a run becomes runs
    of one row each; --schedule then has the fields that all of them share.

    \b
    Example:
      fmjax import wandb_export.csv -o runs/
      fmjax import trainer_state.json -o runs/ --validation
      fmjax import levanter logs/*.jsonl -o runs/ --tokens-per-step 4194304
      fmjax import logs/ --check
      fmjax import sweep.csv --schedule 'kind = "cosine", warmup_steps = 2000, final_lr = 1e-5' -o runs/
      fmjax import logs/ --from nanochat --schedule 'kind = "wsd", peak_lr = 0.02, ...' -o runs/
    """
    if tool is None and len(sources) > 1 and str(sources[0]) in SOURCES and not sources[0].exists():
        tool, sources = str(sources[0]), sources[1:]
    require(check or target is not None, "expected -o FOLDER, or --check to write nothing")
    if target is not None and not check:
        require(not target.exists(), f"{target}: expected a folder that does not exist yet, found one")
    with output.stages("reading"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if tool is None and all(map(is_sweep, sources)):
            given = {"tokens_per_step": tokens_per_step, "model_size": model_size}
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
    if as_json:
        folder = None if check else str(target)
        click.echo(json.dumps({"folder": folder, "runs": [_dict(one) for one in found], "refused": refused}, indent=1))
    elif check:
        _print_check(found)
    else:
        assert target is not None
        _print(found, target)


def _of_sweep(
    path: Path, schedule: str, loss: str | None, validation: bool, given: Mapping[str, float | None]
) -> Iterator[Imported]:
    """The runs of a table with one row a run."""
    for run in read_sweep(path, schedule, loss, validation, given):
        notes = ("one row a run: the loss after its last update",)
        yield Imported(run.curve, run.loss, run.rate, None, notes, tool="sweep", files=(str(path),))


def _dict(one: Imported) -> dict[str, Any]:
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
            "rate_error": None if found is None else found.error,
            "dropped_rows": one.dropped,
            "notes": one.notes,
        }
    )


def _schedule_dict(schedule: Schedule) -> dict[str, Any]:
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
