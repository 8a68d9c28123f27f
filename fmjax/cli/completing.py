"""The verb that prints a shell's completion script: completion."""

import click
from click.shell_completion import get_completion_class

from fmjax.cli.app import app

SHELLS = ("bash", "zsh", "fish")
"""Shells that completion scripts are known for."""


@app.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes verbs, options and values in a shell.

    \b
    Example:
      fmjax completion bash

    \b
    To have it in every shell, add this line to ~/.bashrc or ~/.zshrc (zsh: below compinit):
      eval "$(fmjax completion bash)"
      eval "$(fmjax completion zsh)"
    or write a file once:
      fmjax completion fish > ~/.config/fish/completions/fmjax.fish
    """
    script = get_completion_class(shell)
    assert script is not None
    click.echo(script(app, {}, "fmjax", "_FMJAX_COMPLETE").source())
