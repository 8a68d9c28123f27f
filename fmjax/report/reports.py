"""The two pages: of a recommendation and of a search."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from fmjax._checks import require
from fmjax._files import write_whole, writing
from fmjax.curves.loss_curve import LossCurve
from fmjax.fitting.records import FitResult
from fmjax.planning.recommendation import Recommendation
from fmjax.report import answers, assumptions, curve_charts, loss_charts, quality
from fmjax.report.drawing import Chart
from fmjax.report.loss_charts import Searched
from fmjax.report.markup import Html
from fmjax.report.origin import Paths, reproduction
from fmjax.report.page import assembled, charts_section
from fmjax.report.regions import region_map
from fmjax.searching.results import NEAR, Cell, SearchResult

LINKS = {
    "answer": "Answer",
    "charts": "Charts",
    "fit": "Quality of the fit",
    "assumptions": "Assumptions and warnings",
    "reproduce": "To reproduce",
}

FIGURES = {
    "curves": (
        "Loss curves and fits",
        "Dots: measured losses; lines: the law fitted to them. Warmup is left out; a double click shows every row.",
    ),
    "residuals": (
        "Errors along the runs",
        "Predicted over measured loss, minus one, in percent; noise that runs share is drawn once.",
    ),
    "ratios": (
        "Predicted loss against annealing ratio",
        f"Thick: ratios within {NEAR:g} of the least loss, shaded for the answer; dots: the best ratio, with its "
        "intervals where there are any.",
    ),
    "map": (
        "Predicted loss over annealing ratio and peak rate",
        "Brighter is lower. The line joins the best ratio of each peak rate; the star is the answer.",
    ),
    "batches": (
        "Predicted loss over peak rate and batch",
        "Above the best, each at its best annealing ratio. Dots mark the near-optimal choices; the star is the best.",
    ),
    "rates": (
        "Learning rate of the planned run",
        "The schedule of the answer; its code ends the page.",
    ),
}
"""Title and caption of each chart."""


def recommendation_page(
    found: Recommendation, curves: Sequence[LossCurve], *, command: str | None = None, inputs: Paths = ()
) -> str:
    """A recommendation as one HTML page: the answer, charts, quality of fits, assumptions, and how to reproduce it.

    Args:
      found: what ``recommend`` returned.
      curves: the runs it was given; those that the best choice's law was fitted to are drawn, at most twelve.
      command: the command line that made it, as it is to be shown.
      inputs: files that the runs were read from, to be listed with their SHA-256.

    Returns:
      The page; it loads nothing, and needs no network.

    Raises:
      ValueError: plotly is not installed, or a file of ``inputs`` cannot be read.
    """
    cells = tuple(choice.cell for choice in found.choices)
    losses = np.stack([choice.losses for choice in found.choices])
    best = found.best
    drawn = {
        **_of_runs(best.fit, curves),
        **_of_losses(cells, found.anneal_ratio, losses, found.choices.index(best)),
        "rates": loss_charts.schedule_chart(best.schedule),
    }
    rest = (quality.quality(quality.fits_of(found)), assumptions.assumed(found))
    if found.regions and (heat := region_map(found.best_region)) is not None:
        drawn["batches"] = heat
    over = "Peak rate, batch and annealing ratio" if found.regions else "Annealing ratio"
    title = f"{over} for {found.total_steps} updates"
    return _page(title, answers.recommended(found), drawn, rest, reproduction(command, inputs, best.schedule))


def search_page(
    result: SearchResult,
    fit: FitResult,
    *,
    curves: Sequence[LossCurve] = (),
    command: str | None = None,
    inputs: Paths = (),
) -> str:
    """A search as one HTML page: its best schedule, charts, quality of the fit, assumptions, and how to reproduce it.

    Args:
      result: what ``search`` returned; with ``keep_losses=True`` losses are drawn as well.
      fit: the fit it predicted with.
      curves: runs to draw with their fits, at most twelve.
      command: the command line that made it, as it is to be shown.
      inputs: files that were read, to be listed with their SHA-256.

    Returns:
      The page; it loads nothing, and needs no network.

    Raises:
      ValueError: plotly is not installed, or a file of ``inputs`` cannot be read.
    """
    cells = tuple(result.cells)
    offered = [i for i, cell in enumerate(cells) if cell.is_offered]
    require(offered, f"no cell of the search has a best ratio: {'; '.join(result.notes)}")
    at = min(offered, key=lambda i: cells[i].loss)
    best, schedule = cells[at], cells[at].schedule(result.warmup_steps, result.init_lr)
    losses = {} if result.losses is None else _of_losses(cells, result.anneal_ratio, result.losses, at)
    drawn = {**_of_runs(fit, curves), **losses, "rates": loss_charts.schedule_chart(schedule)}
    rest = (quality.quality([(f"{fit.law.name}", fit, ())]), assumptions.assumed_of_search(fit, best, result.notes))
    answer = answers.searched(result, best, schedule, fit)
    return _page(f"Best of {result.candidates} schedules", answer, drawn, rest, reproduction(command, inputs, schedule))


def write_report(page: str, path: str | PathLike[str]) -> None:
    """Writes a page to a file, whole or not at all.

    Raises:
      ValueError: the file cannot be written.
    """
    with writing(Path(path)):
        write_whole(Path(path), lambda part: part.write_text(page, encoding="utf-8", newline="\n"))


def _of_runs(fit: FitResult, curves: Sequence[LossCurve]) -> dict[str, Chart]:
    fitted = {run.name for run in fit.runs}
    drawn = curve_charts.drawn_runs(fit, [curve for curve in curves if curve.name in fitted])
    if not drawn.runs:
        return {}
    return {"curves": curve_charts.curves_chart(drawn.runs), "residuals": curve_charts.residuals_chart(drawn)}


def _of_losses(cells: tuple[Cell, ...], ratios: np.ndarray, losses: np.ndarray, best: int) -> dict[str, Chart]:
    rising = np.argsort(ratios)
    found = Searched(cells, ratios[rising], losses[:, rising], best)
    heat = loss_charts.loss_map(found)
    return {"ratios": loss_charts.losses_chart(found)} | ({} if heat is None else {"map": heat})


def _page(title: str, answer: Html, drawn: dict[str, Chart], rest: Sequence[Html], origin: Html) -> str:
    shown = charts_section({key: said for key, said in FIGURES.items() if key in drawn})
    return assembled(title, (answer, shown, *rest, origin), LINKS, drawn)
