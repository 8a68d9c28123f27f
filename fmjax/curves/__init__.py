"""Runs: one loss curve, runs padded into a batch, manifests on disk."""

from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs, select_runs

__all__ = ["LossCurve", "load_runs", "select_runs"]
