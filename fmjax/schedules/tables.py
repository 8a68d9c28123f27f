"""Schedules as tables of a manifest and as text of the command line, and back."""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fmjax._checks import choose, finite, require, whole, within
from fmjax._types import HostNumbers
from fmjax.schedules.batch_stages import Batch, batch_of
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import WSD, Constant, Cosine, Schedule, Step, Tabulated
from fmjax.schedules.knots import thinned

KINDS: dict[str, type] = {
    "constant": Constant,
    "cosine": Cosine,
    "wsd": WSD,
    "step": Step,
    "tabulated": Tabulated,
}
"""Schedules by the ``kind`` a manifest gives; the other keys of its table are the fields of the class."""

MOST_UPDATES = 10**8
"""Updates from which on a run is taken for a mistake."""


def table_fields(table: object, required: Sequence[str], optional: Sequence[str], what: str) -> dict[str, Any]:
    """The fields of a table, each read as its key asks; ``what`` is what its keys are called.

    Raises:
      ValueError: no table, an unknown key, one that is missing, or a value of another type.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table, got {table!r}")
    for key in table:
        choose(key, (*required, *optional), what)
    for key in required:
        require(key in table, f"missing key {key!r} (expected {', '.join(required)})")
    return {key: _READERS[key](value, key) if key in _READERS else _number(value, key) for key, value in table.items()}


def _text(value: object, what: str) -> str:
    require(isinstance(value, str) and value, f"{what}: expected a text in quotes, got {value!r}")
    return str(value)


def _number(value: object, what: str) -> float:
    require(type(value) in (int, float), f"{what}: expected a number, got {value!r}")  # true and false are ints too
    return finite(value, what)


def _batch(value: object, what: str) -> Batch:
    staged = isinstance(value, str) and "@" in value
    return batch_of(value if staged else _number(value, what), what)


def _count(value: object, what: str) -> int:
    return whole(_number(value, what), what)


def _rates(value: object, what: str) -> HostNumbers:
    return value if isinstance(value, np.ndarray) else _numbers(value, what)


def _numbers(value: object, what: str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: expected a list of numbers, got {value!r}")
    return tuple(_number(item, what) for item in value)


def schedule_from(table: object, what: str = "schedule") -> Schedule:
    """The schedule of a manifest's table, or of JSON: ``kind`` and the fields of its class.

    Raises:
      ValueError: an unknown kind or field, one that is missing, or a value out of its range.

    >>> schedule_from({"kind": "constant", "peak_lr": 0.001, "total_steps": 10})
    Constant(peak_lr=0.001, total_steps=10, warmup_steps=0, init_lr=0.0)
    """
    with within(what):
        if not isinstance(table, Mapping):
            raise ValueError(f"expected a table with kind and its fields, got {table!r}")
        require("kind" in table, f"missing key 'kind' (known kinds: {', '.join(KINDS)})")
        kind = KINDS[choose(table["kind"], KINDS, "schedule kind")]
        if kind is Tabulated and "steps" in table:
            table = _between_knots(table)
        fields = dataclasses.fields(kind)
        required = [f.name for f in fields if f.default is dataclasses.MISSING]
        optional = [f.name for f in fields if f.name not in required] + ["anneal_steps"] * (kind is WSD)
        given = table_fields({k: v for k, v in table.items() if k != "kind"}, required, optional, "schedule key")
        schedule: Schedule = kind(**_with_anneal_ratio(given) if kind is WSD else given)
        check_schedule(schedule)
    return schedule


def knots_table(schedule: Tabulated, within: float = 1e-6) -> dict[str, object]:
    """The table of a tabulated schedule as a few updates with straight lines between them, within a share of the peak.

    >>> knots_table(Tabulated(np.linspace(1.0, 0.0, 101)))
    {'kind': 'tabulated', 'steps': [0, 100], 'lrs': [1.0, 0.0], 'warmup_steps': 0}
    """
    rates = np.asarray(schedule.lrs, float)
    steps, kept = thinned(np.arange(rates.size), rates, within=within)
    knots = {"steps": steps.tolist(), "lrs": kept.tolist()}
    return {"kind": "tabulated", **knots, "warmup_steps": int(schedule.warmup_steps)}


def _between_knots(table: Mapping[str, object]) -> dict[str, object]:
    """The table with the rate of every update up to the last of ``steps``."""
    steps, rates = (np.array(_numbers(table.get(key), key)) for key in ("steps", "lrs"))
    require(steps.size == rates.size > 0, f"expected a rate for each of {steps.size} steps, got {rates.size}")
    rise = steps[0] == 0 and (np.diff(steps) > 0).all() and (steps == np.floor(steps)).all()
    require(rise, f"steps: expected whole numbers that rise from 0, got {steps[:3].tolist()} ...")
    require(steps[-1] < MOST_UPDATES, f"steps: expected fewer than {MOST_UPDATES} updates, got {steps[-1]:g}")
    every = np.interp(np.arange(int(steps[-1]) + 1), steps, rates)
    return {key: value for key, value in table.items() if key != "steps"} | {"lrs": every}


def schedule_table(schedule: Schedule) -> dict[str, object]:
    """The table that ``schedule_from`` makes a schedule with concrete fields of; plain values for TOML and JSON.

    >>> schedule_table(Constant(peak_lr=0.001, total_steps=10))
    {'kind': 'constant', 'peak_lr': 0.001, 'total_steps': 10, 'warmup_steps': 0, 'init_lr': 0.0}
    """
    kinds = {kind: name for name, kind in KINDS.items()}
    fields = vars(schedule).items()
    plain = {key: value if isinstance(value, str) else np.asarray(value).tolist() for key, value in fields}
    return {"kind": kinds[type(schedule)], **plain}


def parse_schedule(text: str) -> Schedule:
    """A schedule from what stands between the braces of a manifest's ``schedule = { ... }``.

    >>> parse_schedule("kind = 'cosine', total_steps = 100, peak_lr = 1e-3").final_lr
    0.0
    """
    try:
        return schedule_from(tomllib.loads(f"schedule = {{ {text} }}")["schedule"], "schedule")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"schedule: expected KEY = VALUE, ..., got {text!r} ({error})") from None


def _with_anneal_ratio(given: dict[str, Any]) -> dict[str, Any]:
    found = [key for key in ("anneal_ratio", "anneal_steps") if key in given]
    require(len(found) == 1, f"expected one of anneal_ratio and anneal_steps, found {' and '.join(found) or 'neither'}")
    if "anneal_steps" not in given:
        return given
    total, steps = given["total_steps"], given["anneal_steps"]
    require(0 < steps <= total, f"expected anneal_steps above zero and up to total_steps = {total}, got {steps:g}")
    return {k: v for k, v in given.items() if k != "anneal_steps"} | {"anneal_ratio": steps / total}


_READERS: dict[str, Callable[[object, str], object]] = {
    "name": _text,
    "file": _text,
    "split": _text,
    "data_order": _text,
    "family": _text,
    "decay": _text,
    "schedule": schedule_from,
    "tokens_per_step": _batch,
    "total_steps": _count,
    "warmup_steps": _count,
    "boundaries": _numbers,
    "lrs": _rates,
}  # every other key is a number
