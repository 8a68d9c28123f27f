"""Parameter types of the command line: lists and ranges of numbers, and law options."""

from typing import Any

import click
import numpy as np


class Numbers(click.ParamType):
    """A comma list taken as it is, or LO:HI:N, spaced geometrically or linearly."""

    name = "numbers"

    def __init__(self, *, geometric: bool = False) -> None:
        self.geometric = geometric

    def get_metavar(self, param: click.Parameter, ctx: Any = None) -> str:
        """How the help names a value of this type."""
        return "A,B,...|LO:HI:N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers that the text stands for."""
        if not isinstance(value, str):
            return value
        try:
            return self._range(value) if ":" in value else tuple(float(item) for item in value.split(","))
        except ValueError:
            return self.fail(f"expected numbers A,B,... or a range LO:HI:N, got {value!r}", param, ctx)

    def _range(self, text: str) -> tuple[float, ...]:
        low, high, count = text.split(":")
        if (
            int(count) < 1
            or not np.isfinite([float(low), float(high)]).all()
            or (self.geometric and min(float(low), float(high)) <= 0)
        ):
            raise ValueError(text)
        space = np.geomspace if self.geometric else np.linspace
        return tuple(float(f"{x:.12g}") for x in space(float(low), float(high), int(count)))


class Names(click.ParamType):
    """A comma list of names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names in the list."""
        return tuple(item.strip() for item in value.split(",")) if isinstance(value, str) else value


class LawOption(click.ParamType):
    """NAME=VALUE, the value a number where it reads as one."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The option's name and value."""
        if not isinstance(value, str):
            return value
        key, equals, text = value.partition("=")
        if not equals:
            self.fail(f"expected NAME=VALUE, got {value!r}", param, ctx)
        try:
            return key, float(text)
        except ValueError:
            return key, text


class GridAxis(click.ParamType):
    """NAME=A,B,...: the values of an option to try."""

    name = "name=values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The option's name and its values, numbers where they read as such."""
        if not isinstance(value, str):
            return value
        key, equals, text = value.partition("=")
        if not equals:
            self.fail(f"expected NAME=A,B,..., got {value!r}", param, ctx)
        return key, tuple(LAW_OPTION.convert(f"{key}={item}", param, ctx)[1] for item in text.split(","))


RATES = Numbers(geometric=True)
NUMBERS = Numbers()
NAMES = Names()
LAW_OPTION = LawOption()
GRID_AXIS = GridAxis()
