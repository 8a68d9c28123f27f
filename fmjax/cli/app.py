"""The ``fmjax`` command itself: its help, its exit codes and what it says of errors."""

import os
import sys
import warnings
from collections.abc import Sequence

import click
from platformdirs import user_cache_path

from fmjax._version import __version__
from fmjax.cli.manners import Verbs, note


def run(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code: 0, or 2 with one line on stderr for bad input."""
    _use_compilation_cache()
    warnings.showwarning = _one_line_warning  # type: ignore[assignment]
    try:
        app.main(list(arguments), prog_name="fmjax", standalone_mode=False)
    except click.ClickException as error:
        return _fail(error.format_message(), code=getattr(error, "code", 2))
    except ValueError as error:
        return _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        click.echo("fmjax: interrupted; nothing was written", err=True)
        return 130
    return 0


def _fail(message: str, *, code: int = 2) -> int:
    click.echo(f"fmjax: {' '.join(message.split())}", err=True)
    return code


def _one_line_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, UserWarning):  # what other libraries tell their developers is not for the terminal
        note(f"warning: {message}")


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the user has set JAX's own cache.

    JAX takes its settings from the environment when it is imported, which help and completion never do.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    for name, value in {
        "jax_compilation_cache_dir": str(user_cache_path("fmjax") / "jax"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="fmjax")
@click.pass_context
def app(ctx: click.Context) -> None:
    """Which learning-rate schedule should the expensive run use, and what loss will it reach?

    Fits loss-curve laws to the curves of a few cheap runs and searches schedules with them. Runs are read from a
    manifest runs.toml, or the folder that holds it; fmjax import makes one of what other tools logged.

    Results go to standard output, as tables or with --json as JSON; progress, notes and errors go to stderr. Files are
    written whole or not at all. fmjax VERB --help tells of each verb, with an example.

    \b
    Exit codes:
      0 done, 2 bad input (one line on stderr says what), 130 interrupted by Ctrl-C,
      1 the reader of the output has gone
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
