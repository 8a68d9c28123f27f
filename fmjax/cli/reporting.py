"""The verb that writes a page to pass on: report."""

import json
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import fmjax
from fmjax import report
from fmjax._checks import require
from fmjax.cli import output, plans
from fmjax.cli.app import app
from fmjax.cli.manners import Verb
from fmjax.cli.options import (
    DECAY,
    FILE,
    FINALS,
    INIT,
    JSON,
    PEAK,
    RATIO,
    SIZE,
    STEPS,
    WARMUP,
    candidates,
    plan_options,
    planning_law,
    read_fit,
    with_fits,
    writable,
)
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.fitting.options import MANY_FITS
from fmjax.planning.recommendation import Recommendation
from fmjax.searching.results import SearchResult

MOST_CANDIDATES = 2**22
"""Schedules of a search whose losses are kept for the charts."""

OF_FITS = ("law_name", "law_options", "train", "residual", "drop_before", "end_weight", "over_weight")
"""Options that a fit read from a file leaves nothing to say for."""


class _AsGiven(Verb):
    """A command that knows the arguments it was given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps the arguments for the page."""
        ctx.meta["given"] = shlex.join([*ctx.command_path.split(), *args])
        return super().parse_args(ctx, args)


@app.command(name="report", cls=_AsGiven)
@plan_options
@STEPS
@PEAK
@RATIO
@DECAY
@FINALS
@WARMUP
@INIT
@SIZE
@click.option("-o", "--output", "target", type=FILE, callback=writable, required=True, help="HTML file to write.")
@JSON
@click.pass_context
def report_(
    ctx: click.Context, /, runs: Path, target: Path, as_json: bool, total_steps: Sequence[float], **options: Any
) -> None:
    """Write a recommendation, with its charts and how it was made, to an HTML page that needs no network.

    RUNS may also be a fit, a .json file that fmjax fit -o wrote; the page is then of a search with it.

    \b
    Example:
      fmjax report runs.toml --total-steps 50000 --peak-lr 5e-4,1e-3,2e-3 -o report.html
      fmjax report fit.json --total-steps 24000 --peak-lr 1e-4:1e-3:16 --anneal-ratio 0.01:0.99:99 -o report.html
    """
    report.chart_script()  # before any work, for where plotly is not there
    write = _of_search if runs.is_file() and runs.suffix.lower() == ".json" else _of_recommendation
    page, found = write(ctx, runs, total_steps, **options)
    report.write_report(page, target)
    if as_json:
        click.echo(json.dumps({"file": str(target), **found.to_dict()}, indent=1, allow_nan=False))
        return
    show: Any = plans.print_recommendation if isinstance(found, Recommendation) else output.print_search
    show(found)
    output.console().out(f"\n{target}: {target.stat().st_size / 1e6:.1f} MB; any browser opens it, without a network")


Made = tuple[str, Recommendation | SearchResult]
"""A page, and what it shows."""


def _of_recommendation(
    ctx: click.Context,
    runs: Path,
    total_steps: Sequence[float],
    *,
    law_name: str | None,
    law_options: Sequence[tuple[str, Any]],
    train: str,
    final_lr: Sequence[float] | None,
    **options: Any,
) -> Made:
    target: dict[str, Any] = {"total_steps": _one(total_steps, "--total-steps")}
    target["final_lr"] = None if final_lr is None else _one(final_lr, "--final-lr")
    law, curves = planning_law(law_name, law_options), select_runs(load_runs(runs), train)
    with output.stages("reading") as stage:
        found = fmjax.recommend(curves, law=law, progress=stage, **target, **with_fits(options, MANY_FITS))
    page = report.recommendation_page(found, curves, command=ctx.meta["given"], inputs=_files(runs))
    return page, found


def _of_search(ctx: click.Context, runs: Path, total_steps: Sequence[float], **options: Any) -> Made:
    for name in OF_FITS:
        flag = "--" + name.replace("law_name", "law").replace("law_options", "law-option").replace("_", "-")
        require(ctx.get_parameter_source(name) is ParameterSource.DEFAULT, f"{flag}: {runs} is fitted already")
    grid = {name: value for name, value in options.items() if name not in OF_FITS}
    count = candidates({"total_steps": total_steps, **grid})
    require(count <= MOST_CANDIDATES, f"expected at most {MOST_CANDIDATES} schedules for a report, found {count}")
    fit = read_fit(runs)
    with output.progress("searching") as step:
        found = fmjax.search(fit, total_steps=total_steps, keep_losses=True, progress=step, **grid)
    page = report.search_page(found, fit, command=ctx.meta["given"], inputs=[runs])
    return page, found


def _one(values: Sequence[float], flag: str) -> float:
    require(len(values) == 1, f"{flag}: expected one value to plan for, found {len(values)}")
    return values[0]


def _files(runs: Path) -> list[Path]:
    """The manifest, which has been read without complaint, and the files it names."""
    manifest = runs / "runs.toml" if runs.is_dir() else runs
    named = tomllib.loads(manifest.read_text(encoding="utf-8-sig"))["runs"]
    return [manifest, *dict.fromkeys(manifest.parent / run["file"] for run in named)]
