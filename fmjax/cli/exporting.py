"""The verb that writes a schedule as the code or config of a trainer: export."""

import json
from pathlib import Path
from typing import Any

import click

from fmjax._checks import choose, require, within
from fmjax.cli.app import app
from fmjax.cli.options import FILE, JSON, writable, write_file, write_text
from fmjax.cli.parameters import Known
from fmjax.cli.schedule_files import best_plan, matching_plans, read_planned
from fmjax.exporters import EXPORTERS, export
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.kinds import Schedule
from fmjax.schedules.tables import parse_schedule, schedule_table


@app.command("export")
@click.argument("plan", type=click.Path(path_type=Path), required=False)
@click.option("--to", type=Known(EXPORTERS), required=True, help=f"The trainer: {' | '.join(EXPORTERS)}.")
@click.option("--schedule", "text", help="A schedule instead of a file, as a manifest has it.")
@click.option("--total-steps", type=int, help="Which schedule of the file: its length in updates.")
@click.option("--peak-lr", type=float, help="Which one: its peak rate, to three digits.")
@click.option("--decay", type=Known(DECAYS), help=f"Which one: the shape of its anneal, {' | '.join(DECAYS)}.")
@click.option("--final-lr", type=float, help="Which one: the rate its anneal ends at.")
@click.option("--alternative", help='Which one of a forecast: its name there, such as planned or "R = 0.2".')
@click.option("-o", "--output", "target", type=FILE, callback=writable, help="File to write the text to.")
@JSON
def export_(plan: Path | None, to: str, text: str | None, target: Path | None, as_json: bool, **which: Any) -> None:
    """Print a schedule as the code or config of a trainer.

    The schedule is the best of the file, or the one that the options choose; of schedules that differ in length, choose
    one by --total-steps. Only the text goes to standard output. Where a trainer cannot give exactly these rates, a
    comment in the text says how far off they are; where it cannot express the schedule at all, an error says why.

    \b
    Example:
      fmjax export plan.json --to maxtext
      fmjax export plan.json --to pytorch --peak-lr 1e-3 --decay linear -o schedule.py
      fmjax export --schedule 'kind = "wsd", total_steps = 1000, peak_lr = 1e-3, anneal_ratio = 0.2' --to optax
    """
    choose(to, EXPORTERS, "trainer")
    wanted = {key: value for key, value in which.items() if value is not None}
    schedule = _schedule(plan, text, wanted)
    exported = export(schedule, to)
    if target is not None:
        write_file(target, lambda part: write_text(part, exported))
    if as_json:
        found = {"to": to, "schedule": schedule_table(schedule), "text": exported}
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    elif target is None:
        click.echo(exported)


def _schedule(plan: Path | None, text: str | None, wanted: dict[str, Any]) -> Schedule:
    require(
        (plan is None) != (text is None),
        f"expected a file or --schedule, found {'neither' if plan is None else 'both'}",
    )
    if text is not None:
        require(not wanted, "the schedule is given by --schedule; other options choose one of a file")
        return parse_schedule(text)
    assert plan is not None
    found = read_planned(plan)
    with within(plan):
        return best_plan(matching_plans(found, wanted)).schedule
