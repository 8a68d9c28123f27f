"""Schedules in JSON files: what recommend, search, optimize and forecast wrote, read back as schedules."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmjax._checks import choose, require, within
from fmjax.cli.manners import note
from fmjax.planning.forecasts import alternatives_to
from fmjax.schedules.kinds import WSD, Schedule
from fmjax.schedules.tables import schedule_from

SAME_AS_ASKED = 5e-3
"""Relative difference up to which a rate that was asked for is that of the file: tables show three digits."""

EXPECTED = "expected JSON of fmjax recommend, search, optimize or forecast"


Answered: TypeAlias = Mapping[str, Any]
"""JSON of a verb."""


class Planned(NamedTuple):
    """A schedule of a file."""

    facts: dict[str, float | str]
    """What tells it from the others of the file, by the name of the option that asks for it."""
    rank: tuple[bool, float]
    """Least for the best: whether no run was trained at its peak rate, and its predicted loss."""
    schedule: Schedule


def read_planned(path: Path) -> tuple[Planned, ...]:
    """Every schedule in a file, or on standard input where the path is "-".

    Raises:
      ValueError: naming the file, what was expected and what was found.
    """
    with within("standard input" if str(path) == "-" else path):
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{EXPECTED}, but {error}") from None
        keys = set(record) if isinstance(record, Mapping) else set()
        for needed, read in _READERS.items():
            if keys.issuperset(needed):
                try:
                    return tuple(read(record))
                except (KeyError, TypeError, AttributeError) as error:
                    raise ValueError(f"{EXPECTED}, found a damaged one ({type(error).__name__} {error})") from None
        raise ValueError(f"{EXPECTED}, found {_described(record)}")


def _described(record: object) -> str:
    if not isinstance(record, Mapping):
        return f"{record!r:.40}"
    if {"law", "params", "lanes"} <= set(record):
        return "a fit; fmjax search or optimize finds schedules with it"
    return f"keys {', '.join(map(str, list(record)[:5]))}" if record else "nothing"


def _choices(record: Answered) -> list[Planned]:
    return [_cell(choice, choice, not choice["known_rate"]) for choice in record["choices"]]


def _cells(record: Answered) -> list[Planned]:
    offered = [cell for cell in record["cells"] if cell["best_ratio"] is not None]
    require(offered, f"no cell of the search has a best ratio: {'; '.join(record.get('notes', ()))}")
    return [_cell(cell, record) for cell in offered]


def _cell(cell: Answered, warmup: Answered, unknown: bool = False) -> Planned:
    facts = {key: cell[key] for key in ("total_steps", "peak_lr", "decay", "final_lr")}
    shape = {key: warmup[key] for key in ("warmup_steps", "init_lr")}
    schedule = schedule_from({"kind": "wsd", **facts, "anneal_ratio": cell["best_ratio"], **shape})
    assert isinstance(schedule, WSD)
    return Planned(facts, (unknown, _number(cell["loss"], "loss")), schedule.in_whole_updates())


def _designs(record: Answered) -> list[Planned]:
    return [_design(design) for design in record["designs"]]


def _design(design: Answered) -> Planned:
    facts = {key: design[key] for key in ("total_steps", "peak_lr")}
    rates = np.interp(np.arange(facts["total_steps"]), design["steps"], design["rates"])
    schedule = schedule_from({"kind": "tabulated", "lrs": rates.tolist(), "warmup_steps": design["warmup_steps"]})
    return Planned(facts, (False, _number(design["loss"], "loss")), schedule)


def _outlooks(record: Answered) -> list[Planned]:
    require(record["planned"]["loss"] is not None, f"the forecast has no numbers: {record['message']}")
    planned = schedule_from(record["schedule"])
    schedules = {"planned": planned, **alternatives_to(planned, record["count"], record.get("final_lr", 0.0))}
    outlooks = [one for one in (record["planned"], *record["alternatives"]) if one["name"] in schedules]
    return [Planned({"alternative": one["name"]}, (False, one["loss"]), schedules[one["name"]]) for one in outlooks]


_READERS: dict[tuple[str, ...], Callable[[Answered], list[Planned]]] = {
    ("best", "choices"): _choices,
    ("candidates", "cells"): _cells,
    ("best", "designs"): _designs,
    ("planned", "alternatives"): _outlooks,
}
"""What reads a file, by the keys it is known by."""


def matching_plans(found: Sequence[Planned], wanted: Mapping[str, float | str]) -> list[Planned]:
    """The schedules with these facts; of numbers, those nearest to what is wanted.

    Raises:
      ValueError: naming the option that asks for what no schedule has.
    """
    left = list(found)
    for key, value in wanted.items():
        with within(_flag(key)):
            known = list(dict.fromkeys(one.facts[key] for one in left if key in one.facts))
            require(known, f"the schedules of this file are told by {', '.join(map(_flag, left[0].facts))}")
            if isinstance(value, str):
                nearest: float | str = choose(value, map(str, known), key)
            else:
                nearest = _nearest([float(one) for one in known], value)
            left = [one for one in left if one.facts[key] == nearest]
    return left


def best_plan(found: Sequence[Planned]) -> Planned:
    """The schedule of least predicted loss, of rates that runs were trained at if there are any; it is named on stderr.

    Raises:
      ValueError: there is none, or they are of several lengths, of which the longest would always be best.
    """
    require(found, "expected at least one schedule, found none")
    lengths = list(dict.fromkeys(int(one.schedule.total_steps) for one in found))
    require(len(lengths) == 1, f"found schedules of {', '.join(map(str, lengths))} updates: choose by --total-steps")
    chosen = min(found, key=lambda one: one.rank)
    differ = {key: x for key, x in chosen.facts.items() if len({one.facts[key] for one in found}) > 1}
    if differ:
        told = ", ".join(
            f"{_flag(key)} {x:.6g}" if isinstance(x, float) else f"{_flag(key)} {x}" for key, x in differ.items()
        )
        note(f"note: the best of {len(found)} schedules: {told}")
    return chosen


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _nearest(known: Sequence[float], value: float) -> float:
    nearest = min(known, key=lambda one: abs(one - value))
    listed = ", ".join(f"{one:.6g}" for one in known[:8]) + (", ..." if len(known) > 8 else "")
    require(abs(nearest - value) <= SAME_AS_ASKED * abs(value), f"expected one of {listed}, got {value:g}")
    return nearest


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{name}: expected a number, found {value!r}")
    return value
