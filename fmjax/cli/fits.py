"""What the verbs that fit, compare, search and measure print."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from fmjax.benchmarking import HOSTS, MEASURED_LAW, Benchmark
from fmjax.cli.output import console, duration, interval, new_table, number, print_notes
from fmjax.fitting.comparison import Comparison
from fmjax.fitting.records import MEAN_ERRORS, Evaluation, FitResult, RunMetrics
from fmjax.fitting.resampling import Bootstrap
from fmjax.fitting.selection import Selection
from fmjax.scaling.prior_learning import LearnedPrior
from fmjax.searching.results import SearchResult
from fmjax.searching.shares import ShareResult

CELLS_IN_TABLE = 40
"""Cells of a search shown in a table; the rest is in the JSON."""

OF_MODEL = {"model_size": "parameters", "tokens_per_step": "tokens a step"}
"""Columns of what was told of the model."""


def print_fit(result: FitResult) -> None:
    """Parameters, status and the table of fitted runs."""
    out = console()
    out.print(f"[bold]{result.law.name}[/bold]: {result.message}; {result.rows} rows, objective {result.objective:.6g}")
    out.print("  ".join(f"{name} = {number(value, '.6g')}" for name, value in result.params.items()))
    out.print(_runs_table("Fitted runs", result.runs))
    print_notes(result.notes)


def print_prior(found: LearnedPrior) -> None:
    """Each exponent with its prior, and what each set said of it."""
    out = console()
    columns = (
        "exponent",
        "prior",
        "+-",
        "between sets",
        "shipped",
        "+-",
        "set",
        "its estimate",
        "+-",
        "moved the prior",
    )
    table = new_table(f"{found.law}: prior on its exponents, from {len(found.fits)} sets", columns, text=0)
    for one in found.exponents:
        own = (f"{one.mean:.3f}", f"{one.sd:.3f}", f"{one.between:.3f}", *(f"{x:.3f}" for x in one.shipped))
        table.add_row(one.name, *own, "" if one.sets else "none", "", "", "")
        for of in one.sets:
            told = (f"{of.estimate:.3f}", f"{of.sd:.3f}", f"{of.moved:+.2f} sd")
            table.add_row("", "", "", "", "", "", escape(of.name), *told)
    out.print(table)
    print_notes(found.notes)


def print_evaluation(evaluation: Evaluation) -> None:
    """The fit in a line and the table of all runs."""
    out, result = console(), evaluation.fit
    out.print(f"[bold]{result.law.name}[/bold]: {result.message}; {result.rows} rows, objective {result.objective:.6g}")
    out.print("  ".join(f"{name} = {number(value, '.6g')}" for name, value in result.params.items()))
    unseen = [run for run in evaluation.runs if run.name not in evaluation.trained]
    out.print(_runs_table("Fitted runs", [run for run in evaluation.runs if run.name in evaluation.trained]))
    if unseen:
        out.print(_runs_table("Unseen runs", unseen))
    out.print(_mean_errors(evaluation))
    print_notes(result.notes)


def _mean_errors(evaluation: Evaluation) -> str:
    """Mean errors, and that of unseen runs without the noise that fitted runs share with them, where there is any."""
    means = [number(getattr(evaluation, name), ".3f") for name in MEAN_ERRORS]
    paired = f" ({means[2]} % without the noise that fitted runs share)" if means[2] != means[1] else ""
    return f"mean error: fitted {means[0]} %, unseen {means[1]} %{paired}"


def print_comparison(found: Comparison) -> None:
    """The table of laws, the best first, and what its columns mean."""
    first = found.entries[0].evaluation
    unseen = len(first.runs) - len(first.trained)
    columns = (
        "law",
        "unseen %",
        "paired %",
        "worst %",
        "final loss %",
        "fitted %",
        "parameters",
        "criterion",
        "seconds",
        "status",
    )
    table = new_table(f"{len(first.trained)} runs fitted, {unseen} unseen", columns)
    for entry in found.entries:
        evaluation = entry.evaluation
        unseen_errors = (evaluation.test_mape_percent, evaluation.test_paired_mape_percent)
        errors = (*unseen_errors, entry.worst_percent, entry.final_loss_percent)
        fitted = (number(evaluation.train_mape_percent, ".3f"), f"{entry.parameters}", number(entry.information, ".0f"))
        shown = (*(number(error, ".3f") for error in errors), *fitted, f"{entry.seconds:.1f}", evaluation.fit.message)
        table.add_row(evaluation.fit.law.name, *shown)
    out = console()
    out.print(table)
    judged = "unseen runs" if unseen else "the fitted runs, for want of unseen ones"
    out.print("[dim]paired: without the noise that fitted runs share; laws are ranked by it[/dim]")
    out.print(f"[dim]worst row and final loss: {judged}; criterion: lower is better, of the fitted rows alone[/dim]")
    print_notes(first.fit.notes)


def _runs_table(title: str, runs: Sequence[RunMetrics]) -> Table:
    table = new_table(title, ("run", "mean error %", "worst %", "R2", "final loss", "predicted"))
    for run in runs:
        errors = (number(run.mape_percent, ".3f"), number(run.worst_percent, ".3f"), number(run.r2))
        table.add_row(run.name, *errors, number(run.final_loss), number(run.final_loss_predicted))
    return table


def print_selection(selection: Selection, evaluation: Evaluation) -> None:
    """The chosen options, the runners-up, how flat the choice is, and the error on unseen runs."""
    out, names = console(), list(selection.flat)
    out.print(f"[bold]{selection.law.name}[/bold], chosen by {selection.by}: {selection.score:.6g}")
    options = selection.law.options()
    table = new_table("Best of the grid", (*names, "score"), text=0)
    for candidate in selection.candidates[:6]:
        table.add_row(*(f"{candidate.options[name]}" for name in names), f"{candidate.score:.6g}")
    out.print(table)
    for name in names:
        low, high = selection.flat[name]
        value = options[name] if isinstance(options[name], str) else f"{options[name]:.6g}"
        span = f"as good from {low} to {high}" if low != high else "no other value of the grid is as good"
        out.print(f"{name} = {value} ({span})")
    out.print(_mean_errors(evaluation))
    print_notes(evaluation.fit.notes)


def print_bootstrap(found: Bootstrap) -> None:
    """The table of parameters with their intervals."""
    table = new_table(f"{found.fit.law.name}: {len(found.params)} samples", ("parameter", "value", "90 % interval"))
    for name, value in found.fit.params.items():
        table.add_row(name, f"{value:.6g}", interval(found.interval(name), ".6g"))
    console().print(table)
    if found.failed:
        console().out(f"{found.failed} samples could not be fitted and do not count")
    print_notes(found.fit.notes)


def print_search(result: SearchResult) -> None:
    """The table of cells."""
    told = [name for name in OF_MODEL if any(getattr(cell, name) is not None for cell in result.cells[:CELLS_IN_TABLE])]
    columns = (
        "total steps",
        "peak rate",
        "decay",
        "final rate",
        "best ratio",
        "anneal",
        "near-optimal",
        "predicted loss",
    )
    table = new_table(f"{result.candidates} candidates", (*(OF_MODEL[name] for name in told), *columns), text=0)
    for cell in result.cells[:CELLS_IN_TABLE]:
        edge, model = " (edge)" if cell.at_edge else "", [cell.shown(name, ".4g") for name in told]
        rates = (cell.shown("total_steps", ""), cell.shown("peak_lr"), cell.decay, f"{cell.final_lr:.3g}")
        anneal = (f"{number(cell.best_ratio, '.3g')}{edge}", f"{cell.anneal_steps or '-'}")
        found = (*anneal, interval(cell.interval), number(cell.loss, ".5f"))
        table.add_row(*model, *rates, *found)
    out = console()
    out.print(table)
    if any(set(cell.outside) - {"loss"} for cell in result.cells[:CELLS_IN_TABLE]):
        out.out("* outside the fitted runs")
    if len(result.cells) > CELLS_IN_TABLE:
        out.out(f"... and {len(result.cells) - CELLS_IN_TABLE} more cells; --json or -o has all")
    if len(result.cells) > 1 and result.top:
        best = result.top[0]
        of_model = "".join(f", {getattr(best, name):.4g} {OF_MODEL[name]}" for name in told)
        where = (
            f"{best.decay} over {best.anneal_ratio:.3g} of {best.total_steps} updates from {best.peak_lr:.4g}{of_model}"
        )
        out.out(f"best of all: {where}, predicted loss {best.loss:.5f}")
    print_notes(result.notes)


def print_share(done: ShareResult) -> None:
    """What became of a share, and what the folder lacks."""
    out = console()
    out.print(f"share {done.share}: {done.parts} of {done.parts_of_search} parts in {done.folder}, {done.computed} new")
    lacks = f"{done.missing} parts of the search are missing" if done.missing else "no part of the search is missing"
    out.print(f"{lacks}; the same command without --share merges them", highlight=False)


def print_benchmark(found: Benchmark) -> None:
    """The machine and its limits, then tables of searches, fits and capacities."""
    out, about = console(), found.environment
    versions = f"fmjax {about['fmjax']}, JAX {about['jax']}, Python {about['python']}"
    out.print(f"[bold]{about['devices']} x {about['device']}[/bold], {about['cores']} cores; {versions}")
    peaks = ", ".join(
        f"{rate / 1e9:.3g}e9 multiply-adds/s in {dtype}" for dtype, rate in found.multiply_adds_per_s.items()
    )
    out.print(f"memory {found.memory_bytes_per_s / 1e9:.3g} GB/s; {peaks}")
    table = new_table(
        "Search: million candidate-updates/s",
        ("law", "dtype", "candidates", "updates", "compile s", "M/s", "Gflop/s done", "of peak", "scan M/s"),
        text=2,
    )
    by_law = [(one.law, one.search, f"{one.scan_updates_per_s / 1e6:.3g}") for one in found.laws]
    for law, rate, scan in [*((MEASURED_LAW.name, rate, "") for rate in found.search), *by_law]:
        speed = (
            f"{rate.candidate_updates_per_s / 1e6:.0f}",
            f"{rate.flops_per_s / 1e9:.2f}",
            f"{rate.fraction_of_peak:.1%}",
        )
        counts = (f"{rate.candidates}", f"{rate.total_steps}", f"{rate.compile_seconds:.1f}")
        table.add_row(law, rate.dtype, *counts, *speed, scan)
    out.print(table)
    table = new_table("Fits", ("lanes", "rows", "compile s", "fits/s"), text=0)
    for fit in found.fits:
        table.add_row(f"{fit.lanes}", f"{fit.rows}", f"{fit.compile_seconds:.1f}", f"{fit.fits_per_s:.0f}")
    out.print(table)
    table = new_table("Capacity at the best rate", ("candidate-updates", "this machine", f"{HOSTS} of them"), text=0)
    for capacity in found.capacities:
        times = (duration(capacity.seconds), duration(capacity.seconds_on_hosts))
        table.add_row(f"{capacity.candidate_updates:.0e}", *times)
    out.print(table)
