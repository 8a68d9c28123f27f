"""Loss curves that ship with the package."""

from pathlib import Path

from fmjax.curves.loss_curve import LossCurve
from fmjax.curves.manifest import load_runs, select_runs

PROXY_RUNS = Path(__file__).parent / "proxy_runs" / "runs.toml"
"""Manifest of the shipped curves of dense models, one batch size and its double."""

SETS = {
    "dense": PROXY_RUNS,
    "moe": PROXY_RUNS.parent / "moe" / "runs.toml",
    "batches": PROXY_RUNS.parent / "batches" / "runs.toml",
}
"""Manifests by the first word that ``proxy_runs`` takes."""

DEMO_RUNS = PROXY_RUNS.with_name("demo.toml")
"""Manifest of those that ``fmjax demo`` shows."""


def proxy_runs(*selection: str) -> tuple[LossCurve, ...]:
    """Byte-level transformers, trained under many schedules on the Python standard library's source.

    ``proxy_runs/README.md`` beside the manifest says how; names are built as ``0.1M-lr0.0025-T4000-wsd-linear-0.2``.

    Args:
      selection: which runs: names, globs and ``split:LABEL``, each an argument or comma-separated. They are dense
        models of four sizes; a first argument "moe" picks among mixtures of experts instead, and "batches" among
        dense models of one size at several batch sizes.

    Raises:
      ValueError: nothing matches.

    >>> [int(curve.schedule.total_steps) for curve in proxy_runs("0.1M-lr0.0025-T*-wsd-linear-0.2")]
    [4000, 2000, 1000]
    >>> sorted({curve.tokens_per_step for curve in proxy_runs("batches", "0.1M-lr0.0025-*")})[:3]
    [256.0, 512.0, 1024.0]
    """
    kind, chosen = (selection[0], selection[1:]) if selection and selection[0] in SETS else ("dense", selection)
    return select_runs(load_runs(SETS[kind]), ",".join(chosen) or "*")


def demo_runs() -> tuple[LossCurve, ...]:
    """The runs that ``fmjax demo`` shows: those of ``proxy_runs`` of one size, peak rate and length.

    >>> {curve.split for curve in demo_runs()} == {"train", "test"}
    True
    """
    return load_runs(DEMO_RUNS)
