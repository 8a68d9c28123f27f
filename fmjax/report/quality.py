"""The section on fits: errors of each run, the law and its parameters."""

from collections.abc import Sequence

import numpy as np

from fmjax.fitting.records import FitResult, RunMetrics
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.report.formulas import description
from fmjax.report.markup import NONE, Html, element, folded, in_sequence, number_text, section, table, values


def fits_of(found: Recommendation) -> list[tuple[str, FitResult, tuple[RunMetrics, ...]]]:
    """Each fit behind a recommendation once, that of the best choice first, with what it is for."""
    served: list[list[Choice]] = []
    for choice in (found.best, *found.choices):
        alike = next((choices for choices in served if choices[0].fit is choice.fit), None)
        if alike is None:
            served.append([choice])
        else:
            alike.append(choice)
    return [(_title(choices), choices[0].fit, choices[0].held_out) for choices in served]


def _title(choices: Sequence[Choice]) -> str:
    peaks = ", ".join(dict.fromkeys(f"{choice.cell.peak_lr:.4g}" for choice in choices))
    return f"{choices[0].fit.law.name} for peak rate {peaks}"


def quality(fits: Sequence[tuple[str, FitResult, Sequence[RunMetrics]]]) -> Html:
    """How well each fit holds: the first in full, the others folded."""
    shown = [(title, _fit(fit, held_out)) for title, fit, held_out in fits]
    first, content = shown[0]
    folds = [folded(f"Also fitted: {title}", *parts) for title, parts in shown[1:]]
    return section("fit", "Quality of the fit", element("h3", first), *content, *folds)


def _fit(fit: FitResult, held_out: Sequence[RunMetrics]) -> list[Html]:
    status = f"{fit.message}; {fit.rows} rows of {len(fit.runs)} runs, objective {fit.objective:.6g}."
    parameters = [(name, _parameter(fit, name)) for name in fit.law.parameter_names]
    options = [(name, value) for name, value in fit.law.options().items() if value not in (None, False, ())]
    return [
        element("p", f"{status[:1].upper()}{status[1:]}"),
        _runs(fit.runs, held_out),
        element("h4", "The law"),
        description(fit.law),
        element("p", *_GLOSSARY, class_="dim"),
        values(parameters),
        *([element("h4", "Options of the law"), values(options)] if options else []),
    ]


_GLOSSARY = (
    "η is the learning rate of an update, S the sum of the rates so far, S₂ and M memories of how far the rate has "
    "fallen, N the number of the model's parameters; terms in N are there only where sizes of the runs differ.",
)


def _parameter(fit: FitResult, name: str) -> str:
    said = {"not determined by the runs": fit.undetermined, "at its bound": fit.at_bound}
    why = "".join(f", {text}" for text, names in said.items() if name in names)
    return f"{number_text(fit.params[name], '.6g')}{why}"


RUN_COLUMNS = ("run", "mean error %", "worst %", "R²", "final loss", "predicted", "off %")
LEFT_OUT = ("left out: mean error %", "worst %", "predicted")


def _runs(runs: Sequence[RunMetrics], held_out: Sequence[RunMetrics]) -> Html:
    out = {run.name: run for run in held_out}
    rows = [[*_errors(run), *(_left_out(out.get(run.name)) if out else ())] for run in runs]
    means = f"Mean error of the fitted runs {_mean(runs)} %" + (f", left out {_mean(held_out)} %." if out else ".")
    note = "Left out: as predicted by a fit of the other runs." if out else ""
    return in_sequence(
        [table((*RUN_COLUMNS, *(LEFT_OUT if out else ())), rows), element("p", f"{means} {note}", class_="dim")]
    )


def _errors(run: RunMetrics) -> list[str]:
    off = 100 * (run.final_loss_predicted / run.final_loss - 1)
    errors = [number_text(run.mape_percent, ".3f"), number_text(run.worst_percent, ".3f"), number_text(run.r2)]
    return [
        run.name,
        *errors,
        number_text(run.final_loss),
        number_text(run.final_loss_predicted),
        number_text(off, "+.2f"),
    ]


def _left_out(run: RunMetrics | None) -> list[str]:
    if run is None:
        return [NONE] * len(LEFT_OUT)
    return [
        number_text(run.mape_percent, ".3f"),
        number_text(run.worst_percent, ".3f"),
        number_text(run.final_loss_predicted),
    ]


def _mean(runs: Sequence[RunMetrics]) -> str:
    values = np.array([run.mape_percent for run in runs])
    known = values[np.isfinite(values)]
    return number_text(float(known.mean()) if known.size else float("nan"), ".3f")
