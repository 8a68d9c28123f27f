"""The command with all its verbs."""

from fmjax.cli import fitting, planning
from fmjax.cli.app import app, run

__all__ = ["app", "fitting", "planning", "run"]
