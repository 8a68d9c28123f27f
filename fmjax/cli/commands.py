"""The command with all its verbs."""

from fmjax.cli import completing, exchange_verbs, fit_verbs, plan_verbs
from fmjax.cli.app import app, run

__all__ = ["app", "completing", "exchange_verbs", "fit_verbs", "plan_verbs", "run"]
