"""Pictures of designed schedules."""

from typing import TYPE_CHECKING

import numpy as np

from fmjax.plotting.style import Path, axes_or_new, color_of, legend, picture, title
from fmjax.schedules.kinds import Cosine, lrs
from fmjax.searching.designs import Design, Designs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_DESIGNS = 6
"""Designs in one picture."""


def rates_of_design(design: Design, ax: "Axes | None" = None) -> "Axes":
    """A designed schedule beside the best WSD and cosine, with the losses predicted for them."""
    ax, at, last = axes_or_new(ax), np.arange(design.total_steps), float(design.rates[-1])
    init = float(design.rates[0]) if design.warmup_steps else 0.0
    cosine = Cosine(design.peak_lr, design.total_steps, design.wsd.final_lr, design.warmup_steps, init)
    ax.plot(at, design.lrs, color=color_of(0), label=f"designed: {design.loss:.4f}")
    wsd = design.wsd.schedule(design.warmup_steps, init)
    name = f"WSD {design.wsd.decay} {design.wsd.best_ratio:.2g}: {design.wsd.loss:.4f}"
    ax.plot(at, np.asarray(lrs(wsd)), "--", lw=1, color=color_of(1), label=name)
    ax.plot(at, np.asarray(lrs(cosine)), ":", lw=1, color=color_of(2), label=f"cosine: {design.cosine_loss:.4f}")
    ax.set(xlabel="update", ylabel="learning rate", ylim=(min(0.0, last), None))
    title(ax, f"{design.total_steps} updates from peak {design.peak_lr:.3g}; predicted losses")
    legend(ax)
    return ax


def save_designs(found: Designs, path: Path) -> None:
    """Draws at most six designs beside WSD and cosine, and writes the picture."""
    shown = found.designs[:MOST_DESIGNS]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with picture(path, 5 * columns, 3.6 * rows) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for design, ax in zip(shown, panels, strict=False):
            rates_of_design(design, ax)
        for ax in panels[len(shown) :]:
            ax.set_axis_off()
