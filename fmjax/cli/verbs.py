"""How a verb is declared.

Its options and its help stand in a file that imports no JAX: help and completion need nothing more. Its work is done by
the function of the same name in another file, which is imported when the verb is called. That function takes the
options and returns an ``Answer``, which is then drawn, written and printed.
"""

import functools
from collections.abc import Callable
from importlib import import_module

import click

from fmjax.cli.answers import deliver
from fmjax.cli.app import app
from fmjax.cli.manners import Verb
from fmjax.cli.options import JSON, OUTPUT, PLOT, Adds, together


def verb(
    module: str, *options: Adds, plot: str = "", output: Adds = OUTPUT, cls: type[Verb] = Verb
) -> Callable[[Callable[[], None]], click.Command]:
    """Declares a verb by a function without a body, whose name is the verb's and whose docstring is its help.

    Args:
      module: where its work is done, below ``fmjax.cli``.
      options: arguments and options, in the order of the help; --json is added, and --quiet by ``Verb``.
      plot: what --plot draws; there is no such option without it.
      output: the option -o.
      cls: the command's class.
    """

    def declare(declared: Callable[[], None]) -> click.Command:
        @functools.wraps(declared)
        def call(**given: object) -> None:
            deliver(getattr(import_module(f"fmjax.cli.{module}"), declared.__name__), given)

        drawing = (PLOT(plot),) if plot else ()
        complete = together(*options, *drawing, output, JSON)(call)
        return app.command(declared.__name__.rstrip("_"), cls=cls)(complete)

    return declare
