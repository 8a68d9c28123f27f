"""What a page was made of: the command, versions, and the files read with their SHA-256."""

import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path

import jax

from fmjax._checks import within
from fmjax._version import __version__
from fmjax.exporters.snippets import optax_snippet
from fmjax.report.markup import Html, code, element, folded, pairs, section, table
from fmjax.schedules.kinds import WSD

SHOWN = 12
"""Files whose table is open at first."""

Paths = Sequence[str | PathLike[str]]


def reproduction(command: str | None, inputs: Paths, schedule: WSD) -> Html:
    """The section that says how to get the same answer, and the schedule as code."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = {"fmjax": __version__, "JAX": jax.__version__, "Python": platform.python_version(), "made": made}
    parts = [] if command is None else [element("h3", "Command"), code(command)]
    parts += [element("h3", "Versions"), pairs(versions.items())]
    if inputs:
        parts += [element("h3", "Input files"), _files(inputs)]
    return section("reproduce", "To reproduce", *parts, element("h3", "The schedule in Optax"), _optax(schedule))


def _optax(schedule: WSD) -> Html:
    return code(optax_snippet(schedule))


def _files(inputs: Paths) -> Html:
    rows = [(str(path), element("code", _sha256(Path(path)))) for path in inputs]
    found = table(("file", "SHA-256"), rows, text=2)
    return found if len(rows) <= SHOWN else folded(f"{len(rows)} files and their SHA-256", found)


def _sha256(path: Path) -> str:
    with within(path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
