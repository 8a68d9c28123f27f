"""What the work of a verb ends with, and how that is drawn, written and printed."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import click

from fmjax._files import write_whole, writing


class WithJson(Protocol):
    """A result of the library."""

    def to_json(self) -> str:
        """The result as JSON."""
        ...


class Answer(NamedTuple):
    """What a verb found."""

    found: WithJson
    show: Callable[[], None]
    """Prints it as tables."""
    draw: Callable[[Path], None] | None = None
    """Draws it to a file."""


DELIVERING = ("as_json", "target", "plot")
"""Parameters of --json, -o and --plot."""


def deliver(work: Callable[..., Answer], given: Mapping[str, object]) -> None:
    """Does the work of a verb, draws and writes its answer, and prints it as JSON or as tables.

    Work that names one of the parameters ``DELIVERING`` is given it, as all others. Work that names ``target`` writes
    that file itself.
    """
    named = inspect.signature(work).parameters
    answer = work(**{name: value for name, value in given.items() if name in named or name not in DELIVERING})
    plot, target = given.get("plot"), None if "target" in named else given.get("target")
    if isinstance(plot, Path) and answer.draw is not None:
        write_file(plot, answer.draw)
    text = answer.found.to_json() if given["as_json"] or target is not None else ""
    if isinstance(target, Path):
        write_file(target, lambda part: write_text(part, text))
    if given["as_json"]:
        click.echo(text)
    else:
        answer.show()


def write_file(target: Path, write: Callable[[Path], None]) -> None:
    """Writes a file whole or not at all; what goes wrong names the file."""
    with writing(target):
        try:
            write_whole(target, write)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Writes text and a last newline."""
    path.write_text(text + "\n", encoding="utf-8")
