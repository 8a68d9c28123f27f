"""What the verbs do that fit, compare, search and measure."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import jax

import fmjax
from fmjax import benchmarking, plotting
from fmjax._checks import require
from fmjax.cli import output
from fmjax.cli.answers import Answer, write_file, write_text
from fmjax.cli.fits import (
    print_benchmark,
    print_bootstrap,
    print_comparison,
    print_evaluation,
    print_fit,
    print_prior,
    print_search,
    print_selection,
    print_share,
)
from fmjax.cli.inputs import candidates, chosen_law, fits_on, read_fit, told_prior, with_fits, workers_of
from fmjax.cli.manners import note
from fmjax.cli.parameters import Assigned, Trials
from fmjax.curves.manifest import load_runs, select_runs
from fmjax.fitting.options import ONE_FIT
from fmjax.fitting.records import FitResult
from fmjax.laws import LAWS
from fmjax.searching.shares import Share, search_share

MOST_DRAWN = 10**6
"""Candidates of a search up to which each is drawn."""


class _Interrupted(click.ClickException):
    """Ctrl-C, with something to say."""

    code = 130


@contextmanager
def _resumable(folder: Path | None) -> Iterator[None]:
    """Says how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        kept = "nothing was kept" if folder is None else f"the same command goes on from {folder}"
        raise _Interrupted(f"interrupted; {kept}") from None


def fit(
    runs: Path, law_name: str, law_options: Sequence[Assigned], train: str, prior: str | None, **options: Any
) -> Answer:
    """A law fitted to runs."""
    held = told_prior(prior)
    law, curves = chosen_law(law_name, law_options), select_runs(load_runs(runs), train)
    with output.stages(f"fitting {len(curves)} runs"):
        found = fmjax.fit(law, curves, prior=held, **options)
    return Answer(found, lambda: print_fit(found), lambda part: plotting.save_fit(found, curves, part))


def evaluate(
    runs: Path, law_name: str, law_options: Sequence[Assigned], train: str, scheduler: str | None, **options: Any
) -> Answer:
    """A law, or every law, fitted to some runs and compared with all."""
    everything = law_name == "all"
    require(not (everything and law_options), "--law-option: needs one law, found --law all")
    law = None if everything else chosen_law(law_name, law_options)
    curves = load_runs(runs)
    chosen = select_runs(curves, train)
    if law is None:
        with fits_on(scheduler, options, ONE_FIT) as fits, output.progress(f"fitting {len(LAWS)} laws") as report:
            found = fmjax.compare(curves, train=chosen, laws=list(LAWS), progress=report, **fits)
        return Answer(
            found,
            lambda: print_comparison(found),
            lambda part: plotting.save_evaluations(found.evaluations, curves, part),
        )
    with fits_on(scheduler, options, ONE_FIT) as fits, output.stages(f"fitting, and predicting {len(curves)} runs"):
        evaluation = fmjax.evaluate(law, curves, train=chosen, **fits)
    return Answer(
        evaluation,
        lambda: print_evaluation(evaluation),
        lambda part: plotting.save_evaluations((evaluation,), curves, part),
    )


def search(
    fit_file: Path, folder: Path | None, plot: Path | None, scheduler: str | None, share: str | None, **grid: Any
) -> Answer:
    """The final loss of every schedule of a grid, or of one share of it."""
    result = read_fit(fit_file)
    if share is not None:
        require(plot is None, "--share: has nothing to draw; --plot goes with the search that merges the shares")
        return _search_share(result, Share.parse(share), folder, scheduler, grid)
    keep = plot is not None and folder is None and candidates(grid) <= MOST_DRAWN
    with workers_of(scheduler) as client, _resumable(folder), output.progress("searching") as report:
        found = fmjax.search(
            result, progress=report, notice=note, client=client, folder=folder, keep_losses=keep, **grid
        )
    return Answer(found, lambda: print_search(found), lambda part: plotting.save_search(found, part))


def _search_share(
    result: FitResult, share: Share, folder: Path | None, scheduler: str | None, grid: dict[str, Any]
) -> Answer:
    if folder is None:
        raise ValueError("--share: needs --folder, the same for all shares")
    searching = output.progress(f"searching, share {share}")
    with workers_of(scheduler) as client, _resumable(folder), searching as report:
        done = search_share(result, share, folder=folder, progress=report, notice=note, client=client, **grid)
    return Answer(done, lambda: print_share(done))


def bench(quick: bool, device: str | None) -> Answer:
    """How fast this machine searches and fits."""
    if device:
        benchmarking.use_device(device)
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    with output.stages("measuring") as stage:
        found = benchmarking.benchmark(quick=quick, progress=stage)
    return Answer(found, lambda: print_benchmark(found))


def select_(
    runs: Path,
    law_name: str,
    law_options: Sequence[Assigned],
    train: str,
    grid: Sequence[Trials],
    by: str,
    refine: bool,
    prior: str | None,
    scheduler: str | None,
    target: Path | None,
) -> Answer:
    """A law's options, chosen on the runs to fit."""
    law, curves = chosen_law(law_name, law_options), load_runs(runs)
    chosen = select_runs(curves, train)
    progress = output.progress(f"choosing on {len(chosen)} runs")
    with fits_on(scheduler, {"prior": prior}, ONE_FIT) as fits, progress as report:
        found = fmjax.select(law, chosen, grid=dict(grid) or None, by=by, refine=refine, progress=report, **fits)
        evaluation = fmjax.evaluate(found.law, curves, train=chosen, **fits)
    if target is not None:
        write_file(target, lambda part: write_text(part, found.fit.to_json()))
    return Answer(found, lambda: print_selection(found, evaluation))


def prior(runs: Sequence[Path], **options: Any) -> Answer:
    """A prior on exponents, from sets of earlier runs."""
    names = [str(path) for path in runs]
    for name in names:
        require(names.count(name) == 1, f"RUNS: expected each set once, found {name} {names.count(name)} times")
    sets = {str(path): load_runs(path) for path in runs}
    with output.stages("fitting") as stage:
        found = fmjax.learn_prior(sets, progress=stage, **with_fits(options, ONE_FIT))
    return Answer(found, lambda: print_prior(found))


def bootstrap(
    runs: Path, law_name: str, law_options: Sequence[Assigned], train: str, scheduler: str | None, **options: Any
) -> Answer:
    """Intervals of a law's parameters."""
    law, curves = chosen_law(law_name, law_options), select_runs(load_runs(runs), train)
    samples = output.progress(f"fitting {options['samples']} samples")
    with fits_on(scheduler, options, ONE_FIT) as fits, samples as report:
        found = fmjax.bootstrap(law, curves, progress=report, **fits)
    return Answer(found, lambda: print_bootstrap(found), lambda part: plotting.save_bootstrap(found, part))
