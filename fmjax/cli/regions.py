"""What ``recommend`` prints of a plan over several batches, model sizes or lengths."""

from collections.abc import Sequence

from rich.markup import escape

from fmjax.cli.output import console, interval, new_table, number
from fmjax.exporters.snippets import optax_snippet
from fmjax.planning.batch_growth import GROWTH_COLUMNS, Growth
from fmjax.planning.recommendation import Choice, Recommendation
from fmjax.planning.regions import AS_GOOD, NEAR_COLUMNS, Region, Tradeoff

MOST_NEAR = 30
"""Near-optimal choices in a table; the rest is in the JSON."""


def print_regions(found: Recommendation, *, trade: bool) -> None:
    """The answer, the choice for each budget, all that are as good as the best, and what others cost."""
    out, best = console(), found.best
    out.print(_answer(best, found.best_region))
    _print_budgets(found)
    _print_near(found.best_region)
    for one in found.regions:
        if trade and one.batches:
            _print_tradeoffs(f"{one.budget.named}: what a batch costs at equal tokens", one.batches)
        if one.sizes:
            _print_tradeoffs(f"{one.budget.named}: what a model size costs at equal compute", one.sizes)
    for growth in found.growths:
        _print_growth(growth)
    growing = [note for one in found.growths for note in one.notes]
    notes = dict.fromkeys((*best.notes, *(note for one in found.regions for note in one.notes), *growing, *found.notes))
    for note in notes:
        out.print(f"[dim]note: {escape(note)}[/dim]")
    out.out(f"\n{optax_snippet(best.schedule)}")


def _answer(best: Choice, region: Region) -> str:
    cell = best.cell
    batch = "" if cell.tokens_per_step is None else f"{cell.tokens_per_step:.4g} tokens an update, "
    size = "" if cell.model_size is None else f" of {cell.model_size:.3g} parameters"
    if region.budget.flops is not None:
        ends = _ends(region, "model_size"), _ends(region, "total_tokens")
        size += f" ({ends[0]}) on {_total(region)} tokens ({ends[1]})"
    return (
        f"[bold]Train a model{size} with {batch}peak rate {cell.peak_lr:.4g}, {cell.total_steps} updates, the last "
        f"{best.schedule.anneal_steps} ({100 * cell.best_ratio:.0f} %) annealing, {cell.decay}[/bold]: "
        f"predicted final loss {cell.loss:.4f} ({interval(cell.loss_interval, '.4f')})"
    )


BUDGET_COLUMNS = (
    *("tokens a step", "90 %", "updates", "peak rate", "90 %"),
    *("ratio", "anneal", "loss", "90 %", "regret"),
)
"""Columns of the best choices, after what they are for and the size."""

COMPUTE_COLUMNS = ("parameters", "90 %", "tokens", "90 %")
"""The columns of what is chosen for an amount of compute, in place of that of the size."""


def _print_budgets(found: Recommendation) -> None:
    by_compute = any(region.budget.flops for region in found.regions)
    columns = ("for", *(COMPUTE_COLUMNS if by_compute else ("parameters",)), *BUDGET_COLUMNS)
    out, table = console(), new_table(f"{found.law.name}: best choice", columns, text=1)
    outside = False
    for region in found.regions:
        choice = found.choices[region.points[region.best].choice]
        cell = choice.cell
        outside |= bool(cell.outside)
        size = _for_compute(region) if by_compute else ("",)
        batch = (cell.shown("tokens_per_step", ".4g"), interval(region.intervals.get("tokens_per_step")))
        rate = (cell.shown("peak_lr"), interval(region.intervals.get("peak_lr"), ".2g"))
        anneal = (f"{cell.best_ratio:.2g}{' (edge)' if cell.at_edge else ''}", f"{choice.schedule.anneal_steps}")
        loss = (f"{cell.loss:.4f}", interval(cell.loss_interval, ".4f"), number(100 * region.regret, ".2f") + " %")
        table.add_row(region.budget.named, *size, *batch, cell.shown("total_steps", ""), *rate, *anneal, *loss)
    out.print(table)
    if outside:
        out.out("* outside the fitted runs")


def _for_compute(region: Region) -> tuple[str, ...]:
    size = region.points[region.best].cell.shown("model_size")
    return size, _ends(region, "model_size"), _total(region), _ends(region, "total_tokens")


def _ends(region: Region, axis: str) -> str:
    return interval(region.intervals.get(axis), ".2g")


def _total(region: Region) -> str:
    return number(region.tokens or float("nan"), ".3g")


def _print_near(region: Region) -> None:
    """All choices that are as good as the best of a region."""
    near, out = region.near, console()
    title = f"{region.budget.named}: {len(near)} of {len(region.points)} choices are near-optimal"
    table = new_table(title, ("tokens a step", *NEAR_COLUMNS), text=0)
    for point in near[:MOST_NEAR]:
        table.add_row(*point.row)
    out.print(table)
    out.out(f"near-optimal: within {100 * AS_GOOD:g} % of the best, or within the expected error (+-)")
    if len(near) > MOST_NEAR:
        out.out(f"... and {len(near) - MOST_NEAR} more; --json or -o has all")


def _print_growth(growth: Growth) -> None:
    """What ends a run as well as a falling rate, and the updates it saves."""
    table = new_table(growth.title, GROWTH_COLUMNS, text=1)
    for way in growth.ways:
        table.add_row(*way.row)
    console().print(table)


TRADE_COLUMNS = (
    *("parameters", "tokens", "tokens a step", "updates", "saved", "peak rate", "ratio", "anneal"),
    *("loss", "excess %", "90 % interval"),
)


def _print_tradeoffs(title: str, steps: Sequence[Tradeoff]) -> None:
    table = new_table(f"{title}, each at its best rate", TRADE_COLUMNS, text=0)
    for step in steps:
        cell = step.cell
        tokens = "-" if cell.mean_batch is None else f"{cell.mean_batch * cell.total_steps:.3g}"
        updates = (cell.shown("total_steps", ""), f"{step.updates_saved:+d}")
        rate = (cell.shown("peak_lr"), f"{cell.best_ratio:.2g}", f"{cell.anneal_steps}")
        ends = " ... ".join(f"{100 * x:+.2f}" for x in step.excess_interval)
        batch = cell.shown("tokens_per_step", ".4g")
        over = (f"{cell.loss:.4f}", f"{100 * step.excess:+.2f}", ends)
        table.add_row(cell.shown("model_size"), tokens, batch, *updates, *rate, *over)
    console().print(table)
