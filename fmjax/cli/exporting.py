"""What the verb does that writes a schedule as the code or config of a trainer: export."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from fmjax._checks import choose, require, within
from fmjax._json import Record
from fmjax.cli.answers import Answer, write_file, write_text
from fmjax.cli.schedule_files import best_plan, matching_plans, read_planned
from fmjax.exporters import EXPORTERS, export
from fmjax.schedules.kinds import Schedule
from fmjax.schedules.tables import parse_schedule, schedule_table


@dataclass(frozen=True)
class Exported(Record):
    """A schedule and its text for a trainer."""

    to: str
    schedule: Schedule
    text: str

    def to_dict(self) -> dict[str, object]:
        """The record as plain values."""
        return {"to": self.to, "schedule": schedule_table(self.schedule), "text": self.text}


def export_(plan: Path | None, to: str, text: str | None, target: Path | None, **which: float | str | None) -> Answer:
    """A schedule as the code or config of a trainer."""
    choose(to, EXPORTERS, "trainer")
    wanted = {key: value for key, value in which.items() if value is not None}
    schedule = _schedule(plan, text, wanted)
    exported = export(schedule, to)
    if target is not None:
        write_file(target, lambda part: write_text(part, exported))
    return Answer(Exported(to, schedule, exported), lambda: None if target else click.echo(exported))


def _schedule(plan: Path | None, text: str | None, wanted: Mapping[str, float | str]) -> Schedule:
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
