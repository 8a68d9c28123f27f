"""Parameter types of the command line: lists and ranges of numbers, known names, and options by name."""

from collections.abc import Iterable
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem

Assigned: TypeAlias = tuple[str, float | str]
"""A name and its value."""

Trials: TypeAlias = tuple[str, tuple[float | str, ...]]
"""A name and the values to try."""


class Numbers(click.ParamType):
    """A comma list taken as it is, or LO:HI:N, spaced geometrically or linearly."""

    name = "numbers"

    def __init__(self, *, geometric: bool = False) -> None:
        self.geometric = geometric

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How the help names a value of this type."""
        return "A,B,...|LO:HI:N"

    def convert(
        self, value: str | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """The numbers that the text stands for."""
        if not isinstance(value, str):
            return value
        try:
            return self._range(value) if ":" in value else tuple(float(item) for item in value.split(","))
        except ValueError:
            return self.fail(f"expected numbers A,B,... or a range LO:HI:N, got {value!r}", param, ctx)

    def _range(self, text: str) -> tuple[float, ...]:
        import numpy as np  # takes longer to import than help and completion may take, which need no range

        low, high, count = (kind(part) for kind, part in zip((float, float, int), text.split(":"), strict=True))
        if count < 1 or not np.isfinite([low, high]).all() or (self.geometric and min(low, high) <= 0):
            raise ValueError(text)
        space = np.geomspace if self.geometric else np.linspace
        return tuple(float(f"{x:.12g}") for x in space(low, high, int(count)))


class BatchSizes(Numbers):
    """One batch, or several where asked for, in tokens an update; or the text of one that changes during the run."""

    name = "batches"

    def __init__(self, *, several: bool) -> None:
        super().__init__(geometric=True)
        self.several = several

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How the help names a value of this type."""
        return "A,B,...|LO:HI:N|A@0,B@STEP,..." if self.several else "A|A@0,B@STEP,..."

    def convert(  # type: ignore[override]
        self, value: str | float | tuple[float, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | float | tuple[float, ...]:
        """The numbers; text as it is, which the library reads and checks."""
        if not isinstance(value, str) or "@" in value:
            return value
        found = super().convert(value, param, ctx)
        if not self.several and len(found) != 1:
            self.fail(f"expected one number, or stages such as 65536@0,131072@2000, got {value!r}", param, ctx)
        return found if self.several else found[0]


class Known(click.ParamType):
    """One of the known names; the library says which are, and which is near, where it is none."""

    name = "name"

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What to add where the option is missing."""
        return f"Choose from: {', '.join(self.names)}"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        return [CompletionItem(name) for name in self.names if name.startswith(incomplete)]


class Names(Known):
    """A comma list of known names."""

    name = "names"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How the help names a value of this type."""
        return "A,B,..."

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names in the list."""
        return tuple(item.strip() for item in value.split(",")) if isinstance(value, str) else value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The list so far with each name that its last item may become."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(before + comma + item.value) for item in super().shell_complete(ctx, param, last)]


class Assignment(click.ParamType):
    """NAME=VALUE, or NAME=A,B,... where several values can be given; numbers where they read as such."""

    name = "assignment"

    def __init__(self, *, several: bool = False) -> None:
        self.several = several

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How the help names a value of this type."""
        return "NAME=A,B,..." if self.several else "NAME=VALUE"

    def convert(
        self, value: str | Assigned | Trials, param: click.Parameter | None, ctx: click.Context | None
    ) -> Assigned | Trials:
        """The name and its value, a tuple where there may be several."""
        if not isinstance(value, str):
            return value
        name, equals, text = value.partition("=")
        if not equals:
            self.fail(f"expected {'NAME=A,B,...' if self.several else 'NAME=VALUE'}, got {value!r}", param, ctx)
        if self.several:
            return name, tuple(map(_number_or_text, text.split(",")))
        return name, _number_or_text(text)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


GEOMETRIC = Numbers(geometric=True)
NUMBERS = Numbers()
ONE_BATCH_SIZE = BatchSizes(several=False)
BATCH_SIZES = BatchSizes(several=True)
LAW_OPTION = Assignment()
GRID_AXIS = Assignment(several=True)
