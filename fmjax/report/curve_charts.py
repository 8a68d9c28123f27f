"""Charts of runs: measured losses with the fitted law, and its errors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.fits import predict
from fmjax.fitting.records import FitResult
from fmjax.fitting.shared_noise import SharedNoise, with_common_noise
from fmjax.report.drawing import MOST_ROWS, Chart, axes, label, short, short_names, spread_evenly, style

MOST_RUNS = 12
"""Runs drawn."""


SHARED_COLOR = "#777777"
"""Of noise that runs share; read on light and dark pages."""


class DrawnRun(NamedTuple):
    """A run as it is drawn: some of its rows after warmup."""

    curve: LossCurve
    rows: np.ndarray
    predicted: np.ndarray
    explained: np.ndarray
    """``predicted`` with the noise that the run shares with others."""

    @property
    def step(self) -> np.ndarray:
        """Updates of the rows drawn."""
        return self.curve.step[self.rows]

    @property
    def loss(self) -> np.ndarray:
        """Measured losses of the rows drawn."""
        return self.curve.loss[self.rows]

    @property
    def error(self) -> np.ndarray:
        """(predicted - measured)/measured in percent."""
        return 100 * (self.predicted / self.loss - 1)

    @property
    def unshared_error(self) -> np.ndarray:
        """The same without the noise that the run shares with others."""
        return 100 * (self.explained / self.loss - 1)


class DrawnRuns(NamedTuple):
    """The runs of one chart."""

    runs: list[DrawnRun]
    noise: SharedNoise | None
    """What their log losses have in common at equal steps; None without any."""


def drawn_runs(fit: FitResult, curves: Sequence[LossCurve]) -> DrawnRuns:
    """At most ``MOST_RUNS`` of the runs, evenly spread by final loss, with at most ``MOST_ROWS`` rows each."""
    ranked = sorted(curves, key=lambda curve: curve.final_loss_measured)
    shown = [ranked[i] for i in spread_evenly(len(ranked), MOST_RUNS)]
    predicted = predict(fit, shown) if shown else ()
    noise, explained = with_common_noise(shown, predicted)
    return DrawnRuns([_drawn(*run) for run in zip(shown, predicted, explained, strict=True)], noise)


def _drawn(curve: LossCurve, predicted: np.ndarray, explained: np.ndarray) -> DrawnRun:
    after = np.flatnonzero(curve.step >= min(int(curve.schedule.warmup_steps), curve.step[-1]))
    rows = after[spread_evenly(after.size, MOST_ROWS)]
    return DrawnRun(curve, rows, predicted[rows], explained[rows])


def curves_chart(runs: Sequence[DrawnRun]) -> Chart:
    """Measured losses as dots, predicted ones as lines; at first without the steep start."""
    names = short_names([run.curve.name for run in runs])
    traces = [trace for i, run in enumerate(runs) for trace in _curve(i, run, names[i])]
    late = np.concatenate([run.loss[run.step >= 0.08 * run.step[-1]] for run in runs])
    margin = 0.05 * max(float(np.ptp(late)), 1e-6)
    layout = axes("update", "loss")
    layout["yaxis"]["range"] = short([late.min() - margin, late.max() + margin])
    return {"data": traces, "layout": layout}


def _curve(i: int, run: DrawnRun, name: str) -> tuple[Chart, Chart]:
    color, dash, symbol = style(i)
    both = {"x": run.step.tolist(), "name": name, "legendgroup": str(i)}
    dots = {
        **both,
        "mode": "markers",
        "y": short(run.loss),
        "marker": {"color": color, "symbol": symbol, "size": 5, "opacity": 0.6},
        "showlegend": False,
        "meta": label(run.curve.name),
        "customdata": [list(pair) for pair in zip(short(run.predicted), short(run.error), strict=True)],
        "hovertemplate": "<b>%{fullData.meta}</b><br>update %{x}<br>loss %{y:.4f}<br>predicted %{customdata[0]:.4f}"
        "<br>error %{customdata[1]:+.2f} %<extra></extra>",
    }
    line = {
        **both,
        "mode": "lines",
        "y": short(run.predicted),
        "line": {"color": color, "dash": dash, "width": 1.8},
        "hoverinfo": "skip",
    }
    return dots, line


def residuals_chart(drawn: DrawnRuns) -> Chart:
    """Errors in percent against the share of the run done; noise that runs share once, and not in their errors."""
    runs = drawn.runs
    found = np.concatenate([run.unshared_error for run in runs])
    found = found[np.isfinite(found)]
    reach = 1.2 * float(np.quantile(np.abs(found), 0.995)) if found.size else 1.0
    layout = axes("share of the run done", "predicted over measured, %")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [0, 1.005]}
    layout["yaxis"] |= {"range": short([-reach, reach]), "zeroline": True}
    names = short_names([run.curve.name for run in runs])
    traces = [_residual(i, run, names[i]) for i, run in enumerate(runs)]
    if drawn.noise is not None:
        traces.append(_shared(drawn.noise, max(int(run.curve.schedule.total_steps) for run in runs)))
    return {"data": traces, "layout": layout}


def _shared(noise: SharedNoise, longest: int) -> Chart:
    rows = spread_evenly(noise.step.size, MOST_ROWS)
    return {
        "x": short(noise.step[rows] / longest),
        "y": short(-100 * noise.value[rows]),
        "customdata": noise.step[rows].tolist(),
        "mode": "lines",
        "name": "shared noise",
        "line": {"color": SHARED_COLOR, "width": 1.5, "dash": "dot"},
        "hovertemplate": "<b>shared noise</b><br>update %{customdata}<br>%{y:+.2f} %<extra></extra>",
    }


def _residual(i: int, run: DrawnRun, name: str) -> Chart:
    color, dash, symbol = style(i)
    return {
        "x": short(run.step / int(run.curve.schedule.total_steps)),
        "y": short(run.unshared_error),
        "customdata": run.step.tolist(),
        "mode": "lines+markers",
        "name": name,
        "meta": label(run.curve.name),
        "opacity": 0.75,
        "line": {"color": color, "dash": dash, "width": 1},
        "marker": {"color": color, "symbol": symbol, "size": 4},
        "hovertemplate": "<b>%{fullData.meta}</b><br>update %{customdata}<br>error %{y:+.2f} %<extra></extra>",
    }
