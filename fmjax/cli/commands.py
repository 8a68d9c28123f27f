"""The command with all its verbs."""

from fmjax.cli import completing, exporting, fitting, importing, planning, reporting
from fmjax.cli.app import app, run

__all__ = ["app", "completing", "exporting", "fitting", "importing", "planning", "reporting", "run"]
