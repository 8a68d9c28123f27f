"""What the command line prints: tables on stdout, progress and errors on stderr."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fmjax.cli.manners import quiet

WIDTH = 140
"""Columns of what is not printed on a terminal, unless $COLUMNS asks for more."""


def console() -> Console:
    """Standard output for a table and what goes with it; silent where --quiet was given and a file takes the result."""
    ctx = click.get_current_context(silent=True)
    filed = ctx is not None and ctx.params.get("target") is not None
    return terminal(silent=filed and quiet())


def terminal(*, stderr: bool = False, silent: bool = False) -> Console:
    """Standard output or stderr, without escape codes where $NO_COLOR is set, the terminal is dumb or there is none."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") in ("dumb", "unknown")
    forced = False if plain else None
    out = Console(stderr=stderr, highlight=False, force_terminal=forced, quiet=silent)
    if not (out.is_terminal or out.file.isatty()):
        out.width = max(WIDTH, out.width)
    return out


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr that vanishes when done; yields a callback (done, total)."""
    with _bar(label) as update:
        yield lambda done, total: update(completed=done, total=total)


@contextmanager
def stages(label: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr that vanishes when done; yields a callback that names the stage."""
    with _bar(label) as update:
        yield lambda stage: update(description=stage)


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., None]]:
    """Yields a function that updates the bar; there is none where stderr is no terminal that can draw it."""
    err = terminal(stderr=True)
    if quiet() or not (err.is_terminal and err.file.isatty()):
        yield lambda **_: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Speed(), TimeElapsedColumn(), _Left())
    with Progress(*columns, console=err, transient=True) as bar:
        yield partial(bar.update, bar.add_task(label, total=None))


class _Speed(ProgressColumn):
    """Items a second, where they are counted."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text(f"{task.speed:,.0f}/s" if task.speed and task.total else "")


class _Left(ProgressColumn):
    """Time left, where it can be told."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        left = task.time_remaining
        return Text(f"{timedelta(seconds=int(left))} left" if left and task.total else "")


def new_table(title: str, columns: Sequence[str], *, text: int = 1) -> Table:
    """A table whose first columns are text and whose others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < text else "right", overflow="fold" if i < text else "ellipsis")
    return table


def number(value: float, form: str = ".4f") -> str:
    """A number as text, a dash where there is none."""
    return format(value, form) if np.isfinite(value) else "-"


def print_notes(notes: Sequence[str]) -> None:
    """One line a note."""
    for note in notes:
        console().print(f"[dim]note: {escape(note)}[/dim]", highlight=False)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1000 * seconds:.3g} ms"


def interval(ends: tuple[float, float] | None, form: str = ".3g") -> str:
    """An interval as text, a dash where there is none."""
    known = ends is not None and np.isfinite(ends).all()
    return f"{ends[0]:{form}} ... {ends[1]:{form}}" if ends is not None and known else "-"
