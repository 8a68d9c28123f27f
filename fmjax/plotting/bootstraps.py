"""Pictures of a bootstrap: where its samples put the parameters of a law."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fmjax._checks import choose, require
from fmjax._names import LEVEL
from fmjax.fitting.resampling import Bootstrap
from fmjax.plotting.style import COLORS, Path, axes_or_new, new_axes, picture, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PARAMETERS = 6
"""Parameters in one picture, unless they are named."""

PANEL_INCHES = 1.9
"""Inches of a panel in the grid."""


def bootstrap_histogram(found: Bootstrap, name: str, ax: "Axes | None" = None) -> "Axes":
    """How often the samples have each value of a parameter; its 90 % interval shaded, the full fit's value a line."""
    ax, (low, high) = axes_or_new(ax), found.interval(name)
    ax.hist(_samples(found, name), bins=20, color=COLORS[0], alpha=0.7)
    ax.axvspan(low, high, color=COLORS[0], alpha=0.12, lw=0)
    ax.axvline(found.fit.params[name], color=COLORS[1], lw=1.2)
    ax.set(xlabel=name, ylabel="samples")
    title(ax, f"{name} {found.fit.params[name]:.4g} [{low:.4g}, {high:.4g}]", size=7)
    _few_ticks(ax)
    return ax


def bootstrap_cloud(found: Bootstrap, x: str, y: str, ax: "Axes | None" = None) -> "Axes":
    """The samples' values of two parameters against each other as dots; the full fit's where the lines cross."""
    ax = axes_or_new(ax)
    ax.plot(_samples(found, x), _samples(found, y), ".", ms=3, alpha=0.5, color=COLORS[0], rasterized=True)
    ax.axvline(found.fit.params[x], color=COLORS[1], lw=0.8)
    ax.axhline(found.fit.params[y], color=COLORS[1], lw=0.8)
    ax.set(xlabel=x, ylabel=y)
    _few_ticks(ax)
    return ax


def bootstrap_clouds(
    found: Bootstrap, axes: np.ndarray | None = None, *, names: Sequence[str] | None = None
) -> np.ndarray:
    """A cloud for each pair of parameters below the diagonal, and their histograms on it.

    Args:
      found: a bootstrapped fit.
      axes: ``[parameters, parameters]`` axes to draw on, returned; by default those of a new figure.
      names: the parameters to show; by default those that vary, and of more than six those with most distinct values.

    Raises:
      ValueError: an unknown name, or no parameter varies.
    """
    shown = _shown(found, names)
    axes = new_axes(len(shown), len(shown), _size(shown)) if axes is None else axes
    for i, y in enumerate(shown):
        for j, x in enumerate(shown[:i]):
            bootstrap_cloud(found, x, y, axes[i, j])
        bootstrap_histogram(found, y, axes[i, i]).set(ylabel="", yticks=[])
        for ax in axes[i, i + 1 :]:
            ax.set_axis_off()
    for ax in [*axes[:-1].ravel(), *axes[:, 1:].ravel()]:
        ax.label_outer(remove_inner_ticks=True)
    for ax in axes[-1]:
        ax.tick_params(axis="x", labelrotation=35)
    axes[0, 0].figure.align_labels()
    return axes


def _samples(found: Bootstrap, name: str) -> np.ndarray:
    names = found.fit.law.parameter_names
    return found.params[:, names.index(choose(name, names, "parameter"))]


def _shown(found: Bootstrap, names: Sequence[str] | None) -> list[str]:
    if names is not None:
        return list(names)
    samples = {name: _samples(found, name) for name in found.fit.law.parameter_names}
    varying = [name for name, values in samples.items() if np.ptp(values) > 1e-9 * np.abs(values).max()]
    require(varying, "no parameter varies between the bootstrap samples")
    chosen = sorted(varying, key=lambda name: -np.unique(samples[name]).size)[:MOST_PARAMETERS]
    return [name for name in varying if name in chosen]


def _size(shown: Sequence[str]) -> tuple[float, float]:
    return max(4.0, PANEL_INCHES * len(shown)), max(3.0, PANEL_INCHES * len(shown))


def _few_ticks(ax: "Axes") -> None:
    """At most four ticks a side with plain numbers as labels, not offsets."""
    ax.locator_params(nbins=4)
    ax.ticklabel_format(useOffset=False)


def save_bootstrap(found: Bootstrap, path: Path, *, names: Sequence[str] | None = None) -> None:
    """Draws ``bootstrap_clouds``, and writes the picture to ``path``."""
    shown = _shown(found, names)
    with picture(path, *_size(shown)) as figure:
        figure.suptitle(_title(found), x=0.01, ha="left", fontsize=9)
        bootstrap_clouds(found, figure.subplots(len(shown), len(shown), squeeze=False), names=shown)


def _title(found: Bootstrap) -> str:
    many = f"{len(found.params)} samples by {found.method}"
    return f"{found.fit.law.name}: {many}; fit (orange), {100 * LEVEL:g} % intervals (shaded)"
