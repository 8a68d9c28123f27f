"""What the verbs that plan a run print."""

import numpy as np
from rich.markup import escape
from rich.table import Table

from fmjax.cli.output import console, interval, new_table, number, print_notes
from fmjax.exporters.snippets import knots_snippet, optax_snippet
from fmjax.planning.forecasts import Forecast
from fmjax.planning.recommendation import Recommendation
from fmjax.scaling.power_laws import OptimaPowerLaw
from fmjax.scaling.transfers import PUBLISHED, CellTransfer, Chosen, Transfer
from fmjax.searching.designs import Designs


def print_recommendation(found: Recommendation) -> None:
    """The answer first, then the table of peak rates, notes and the schedule as code."""
    out, best = console(), found.best
    cell = best.cell
    out.print(
        f"[bold]Anneal over the last {100 * cell.best_ratio:.0f} % of {cell.total_steps} updates[/bold] "
        f"({cell.anneal_steps} of them; {interval(cell.interval)} is within 0.001), {cell.decay}, "
        f"from peak rate {cell.peak_lr:.4g}: "
        f"predicted final loss {cell.loss:.4f}"
    )
    columns = (
        "peak rate",
        "decay",
        "best ratio",
        "90 % interval",
        "near-optimal",
        "regret",
        "predicted loss",
        "90 % interval",
        "left-out %",
        "fitted on",
    )
    table = new_table(f"{found.law.name}, {found.total_steps} updates", columns, text=0)
    for choice in found.choices:
        fitted = f"{len(choice.fit.runs)} {'at this rate' if choice.per_rate else 'runs'}"
        ratio = (f"{choice.cell.best_ratio:.3g}", interval(choice.cell.ratio_interval, ".2f"))
        loss = (f"{choice.cell.loss:.4f}", interval(choice.cell.loss_interval, ".4f"))
        values = (*ratio, interval(choice.cell.interval), number(choice.regret), *loss)
        error = number(choice.held_out_mape_percent, ".3f")
        table.add_row(f"{choice.cell.peak_lr:.4g}", choice.cell.decay, *values, error, fitted)
    out.print(table)
    for note in dict.fromkeys(note for choice in found.choices for note in choice.notes):
        of = [f"{choice.cell.peak_lr:.4g}" for choice in found.choices if note in choice.notes]
        where = "" if len(of) == len(found.choices) else f"peak rate {', '.join(dict.fromkeys(of))}: "
        out.print(f"[dim]note: {where}{note}[/dim]")
    print_notes(found.notes)
    out.out(f"\n{optax_snippet(best.schedule)}")


def print_forecast(found: Forecast) -> None:
    """The planned schedule first, then the alternatives beside it."""
    out, planned = console(), found.planned
    low, high = planned.interval
    out.print(
        f"[bold]{escape(found.run)} ends at {planned.loss:.4f}[/bold] ({low:.4f} ... {high:.4f}) as planned; "
        f"forecast after {found.count} updates"
    )
    share = f"{100 * found.level:g} % interval"
    table = new_table(found.fit.law.name, ("schedule", "final loss", share, "than planned", share), text=1)
    for outlook in sorted(found.alternatives, key=lambda outlook: outlook.loss):
        excess = (f"{outlook.excess:+.2%}", " ... ".join(f"{x:+.2%}" for x in outlook.excess_interval))
        table.add_row(escape(outlook.name), f"{outlook.loss:.4f}", interval(outlook.interval, ".4f"), *excess)
    if found.alternatives:
        out.print(table)
    for note in found.notes:
        out.print(f"[dim]note: {note}[/dim]")


CELL = ("updates", "peak rate", "decay", "size")
OPTIMA = (*CELL, "ratios", "measured best", "90 % interval", "predicted", "90 % interval", "in updates")
CHOSEN = (*CELL, "recommended", "regret", "expected", "law alone", "regret", "copied", "regret")
KEPT_ALIKE = ("decay", "kept for all", "best", "mean cost", "worst", "at updates", "peak rate", "decay", "size")
EXPONENTS = ("of", "variable", "exponent", "90 % interval", "p of zero", "cells", "published")


def print_transfer(found: Transfer) -> None:
    """Optima of each cell, what shorter runs chose, the power laws of optima, and what else was compared."""
    out = console()
    table = new_table("Optimal annealing ratio of each cell", OPTIMA, text=0)
    for cell in found.cells:
        table.add_row(*_cell_name(cell), f"{cell.tried.distinct.size}", *_measured(cell), *_predicted(cell))
    out.print(table)
    ahead = new_table("Chosen from shorter runs among the ratios tried, and what it costs", CHOSEN, text=0)
    for cell in found.cells:
        if cell.chosen or cell.copied:
            expected = number(cell.chosen.expected if cell.chosen else np.nan)
            parts = (*_chosen(cell.chosen), expected, *_chosen(cell.law_alone), *_chosen(cell.copied))
            ahead.add_row(*_cell_name(cell), *parts)
    if ahead.row_count:
        out.print(ahead)
    kept = new_table("One choice for all cells, and the loss that it is predicted to cost", KEPT_ALIKE, text=2)
    for alike in found.one_for_all:
        costs = (
            f"{alike.value:.3g}" if alike.kept == "ratio" else f"{alike.value:.0f}",
            f"{alike.mean:.4f}",
            f"{alike.worst:.4f}",
        )
        kept.add_row(alike.decay, alike.kept, *costs, *_cell_name(found.cells[alike.worst_cell]))
    if kept.row_count:
        out.print(kept)
    exponents = new_table("Power laws: best ratio ~ variable^exponent", EXPONENTS, text=2)
    _add_exponents(exponents, "measured", found.measured)
    _add_exponents(exponents, "predicted", found.predicted)
    if exponents.row_count:
        out.print(exponents)
    else:
        out.print("no power law: fewer than two cells whose ratios bound their optimum, or no variable differs")
    for one in found.against:
        name = " ".join(_cell_name(found.cells[one.cell])[:3])
        ends = interval(one.interval)
        out.print(
            f"{name}: best ratio there {one.other.ratio:.3g}; log of there over here {one.log_ratio:.3f} ({ends})"
        )
    for note in found.notes:
        out.print(f"[dim]note: {note}[/dim]")


def _cell_name(cell: CellTransfer) -> tuple[str, ...]:
    schedule, size = cell.tried.schedule, cell.tried.model_size
    named = "-" if size is None else f"{size:.3g}"
    return f"{schedule.total_steps}", f"{schedule.peak_lr:.4g}", schedule.decay, named


def _measured(cell: CellTransfer) -> tuple[str, str]:
    if cell.measured is None:
        return "-", "-"
    return f"{cell.measured.ratio:.3f}{' (edge)' if cell.measured.at_edge else ''}", interval(cell.measured.interval)


def _predicted(cell: CellTransfer) -> tuple[str, str, str]:
    if cell.predicted is None:
        return "-", "-", "-"
    best = cell.predicted.cell
    ratio = f"{best.best_ratio:.3g}{' (edge)' if best.at_edge else ''}"
    return ratio, interval(best.ratio_interval), f"{best.anneal_steps or '-'}"


def _chosen(chosen: Chosen | None) -> tuple[str, str]:
    return ("-", "-") if chosen is None else (f"{chosen.ratio:.3g}", f"{chosen.regret:.4f}")


def _add_exponents(table: Table, of: str, law: OptimaPowerLaw | None) -> None:
    if law is None:
        return
    for name, one in law.exponents.items():
        published = f"{PUBLISHED[name]:.3g}" if name in PUBLISHED else "-"
        shown = (f"{one.value:.3f}", interval(one.interval), number(one.p_value, ".3f"))
        table.add_row(of, name, *shown, f"{law.points}", published)


DESIGNS = (
    "updates",
    "peak rate",
    "predicted loss",
    "best WSD",
    "its shape",
    "cosine",
    "to a tenth",
    "constant",
    "status",
)


def print_designs(found: Designs) -> None:
    """The gain over the best WSD and cosine of each target, notes, and the best schedule as code."""
    out = console()
    table = new_table(f"{found.law.name}: schedules that never rise after warmup", DESIGNS, text=0)
    for design in found.designs:
        wsd, target = design.wsd, (f"{design.total_steps}", f"{design.peak_lr:.4g}", f"{design.loss:.5f}")
        others = (design.cosine_loss, design.cosine_tenth_loss, design.constant_loss)
        shape = f"{wsd.decay} over {wsd.best_ratio:.3g}"
        table.add_row(*target, f"{wsd.loss:.5f}", shape, *(f"{loss:.5f}" for loss in others), design.status)
    out.print(table)
    for note in dict.fromkeys(note for design in found.designs for note in design.notes):
        out.print(f"[dim]note: {note}[/dim]")
    best = found.best
    out.out(f"\n{knots_snippet(best.steps, best.rates)}")
