"""Writes the reference, static pages that need no network: docstrings of public names, and the help of every verb.

    python .ci/reference.py [FOLDER]

Formulas between dollars become MathML, which browsers draw by themselves.
"""

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pdoc
from jinja2 import ChoiceLoader, DictLoader
from latex2mathml.converter import convert

import fmjax
from fmjax.cli.commands import app

ROOMS = ("schedules", "effects", "curves", "laws", "datasets", "plotting", "importers", "exporters")
"""Folders of the package that users import from."""

COMMANDS = "command_line.html"

NAVIGATION = """
{% extends "default/module.html.jinja2" %}
{% block nav_submodules %}
    {% set top = "../" * module.modulename.count(".") %}
    <h2>Pages</h2>
    <ul>
        {% for name in all_modules %}
            <li><a href="{{ top }}{{ name.replace(".", "/") }}.html">{{ name }}</a></li>
        {% endfor %}
        <li><a href="{{ top }}COMMANDS">command line</a></li>
    </ul>
{% endblock %}
""".replace("COMMANDS", COMMANDS)
"""What the pages of the reference have on their left: links to all of them."""

FORMULA = re.compile(r"\$([^$]+)\$")

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fmjax: command line</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }}
pre {{ overflow-x: auto; background: #f6f8fa; padding: 1rem }}
</style>
<a href="fmjax.html">fmjax</a>
<h1>Command line</h1>
<p>{contents}</p>
{verbs}
</html>
"""


def write(folder: Path) -> None:
    """Writes the pages into ``folder``."""
    to_html = pdoc.render.env.filters["to_html"]
    pdoc.render.env.filters["to_html"] = lambda text: with_formulas(text, to_html)
    pdoc.render.configure(docformat="google", show_source=False)
    pages = DictLoader({"module.html.jinja2": NAVIGATION})
    pdoc.render.env.loader = ChoiceLoader([pages, pdoc.render.env.loader])
    rooms = [f"fmjax.{room}" for room in ROOMS if room not in fmjax.__all__]  # pdoc finds those by itself
    pdoc.pdoc("fmjax", *rooms, f"!fmjax\\.(?!({'|'.join(ROOMS)})$)", output_directory=folder)
    (folder / COMMANDS).write_text(command_line(), encoding="utf-8")


def with_formulas(text: str, to_html: Any) -> str:
    """Markdown as HTML, with formulas as MathML that Markdown has not touched."""
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        formulas.append(convert(match[1]))
        return f"FORMULA{len(formulas) - 1}END"

    made = to_html(FORMULA.sub(keep, text))
    return re.sub(r"FORMULA(\d+)END", lambda match: formulas[int(match[1])], made)


def command_line() -> str:
    """A page with the help of the command and of every verb."""
    verbs = dict(helps(app, click.Context(app, info_name="fmjax", terminal_width=100)))
    contents = " · ".join(f'<a href="#{anchor(name)}">{name}</a>' for name in verbs)
    parts = (f'<h2 id="{anchor(name)}">{name}</h2>\n<pre>{html.escape(text)}</pre>' for name, text in verbs.items())
    return PAGE.format(contents=contents, verbs="\n".join(parts))


def helps(command: click.Command, ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Name and help of a command, then those of its verbs."""
    yield ctx.command_path, command.get_help(ctx)
    for name in command.list_commands(ctx) if isinstance(command, click.Group) else ():
        verb = command.get_command(ctx, name)
        if verb is not None and not verb.hidden:
            yield from helps(verb, click.Context(verb, info_name=name, parent=ctx))


def anchor(name: str) -> str:
    """A verb's place on the page."""
    return name.replace(" ", "-")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "reference"))
