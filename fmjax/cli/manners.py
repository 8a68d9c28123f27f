"""Manners that all verbs share: --quiet, and help in sections."""

from collections.abc import Iterable
from typing import Any

import click

VERBS = {
    "Fit": ("fit", "evaluate", "select", "bootstrap", "prior"),
    "Plan": ("recommend", "forecast", "search", "optimize", "transfer"),
    "Exchange": ("import", "export", "report"),
    "Other": ("demo", "bench", "completion"),
}
"""Verbs by purpose, the most used first."""

ARGUMENTS = {
    "runs": "Manifest runs.toml, or the folder that holds it.",
    "fit_file": "What fmjax fit -o or fmjax select -o wrote.",
    "sources": "Files, or folders that are searched for logs; the tool's name may stand first.",
    "plan": "What recommend, search, optimize or forecast wrote with -o; - for standard input.",
}
"""What arguments are, by the parameter's name."""

OPTIONS = {
    "Fit": (
        "--law",
        "--law-option",
        "--train",
        "--prior",
        "--residual",
        "--drop-before",
        "--end-weight",
        "--over-weight",
    ),
    "Cluster": ("--scheduler", "--share"),
    "Output": ("--folder", "--table", "--plot", "--csv", "--output", "--json", "--quiet", "--help"),
}
"""Sections of a verb's help by option; all others come before."""

_SUMMARY = 200

_QUIET = "fmjax.quiet"


def quiet() -> bool:
    """Whether --quiet was given, before or after the verb."""
    ctx = click.get_current_context(silent=True)
    return ctx is not None and bool(ctx.meta.get(_QUIET))


def note(text: str) -> None:
    """One line on stderr, unless quiet."""
    if not quiet():
        click.echo(f"fmjax: {text}", err=True)


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta[_QUIET] = True


def quiet_option() -> click.Option:
    """The option --quiet."""
    said = "No progress, notes and warnings; and no table where -o writes a file."
    return click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_be_quiet, help=said)


class Verb(click.Command):
    """A verb with --quiet, whose help has sections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.params.append(quiet_option())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes arguments and options, section by section."""
        section_of = {flag: section for section, flags in OPTIONS.items() for flag in flags}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", "Options", *OPTIONS)}
        for param in self.get_params(ctx):
            if isinstance(param, click.Argument) and param.name in ARGUMENTS:
                sections["Arguments"].append((param.human_readable_name, ARGUMENTS[param.name]))
            elif (record := param.get_help_record(ctx)) is not None:
                sections[section_of.get(max(param.opts, key=len), "Options")].append(record)
        for title, rows in sections.items():
            _write(formatter, title, rows)


class Verbs(click.Group):
    """The verbs, which its help lists by purpose."""

    command_class = Verb

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.params.append(quiet_option())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a section for each purpose."""
        known = {name for names in VERBS.values() for name in names}
        others = [name for name in self.list_commands(ctx) if name not in known]
        for purpose, names in VERBS.items():
            listed = [*names, *(others if purpose == "Other" else ())]
            found = [(name, self.commands[name]) for name in listed if name in self.commands]
            _write(formatter, purpose, [(name, verb.get_short_help_str(_SUMMARY)) for name, verb in found])


def _write(formatter: click.HelpFormatter, title: str, rows: Iterable[tuple[str, str]]) -> None:
    found = list(rows)
    if found:
        with formatter.section(title):
            formatter.write_dl(found)
