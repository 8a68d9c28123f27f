"""Loss curves that ship with the package."""

from pathlib import Path

from fmjax.curves import LossCurve
from fmjax.runs import load_runs

PROXY_RUNS = Path(__file__).parent / "proxy_runs" / "runs.toml"
"""Manifest of the shipped curves: a byte-level transformer on the Python standard library's source."""


def proxy_runs() -> tuple[LossCurve, ...]:
    """The shipped curves; ``proxy_runs/README.md`` beside the manifest says how they were trained.

    >>> {curve.split for curve in proxy_runs()} == {"train", "test"}
    True
    """
    return load_runs(PROXY_RUNS)
