"""Options and help of the verbs that fit, compare, search and measure; their work is in ``fmjax/cli/fitting.py``."""

from pathlib import Path

import click

from fmjax._names import CRITERIA, DEVICES, DTYPES, METHODS
from fmjax.cli.options import (
    FILE,
    FIT_FILE,
    FITTING,
    GRID,
    LAW,
    LAW_OPTIONS,
    PRIOR,
    ROWS,
    RUNS,
    SCHEDULER,
    SEED,
    SHARE_OF,
    TRAIN,
    law_option,
    one_of,
    writable,
)
from fmjax.cli.parameters import GRID_AXIS, Known
from fmjax.cli.verbs import verb


@verb("fitting", RUNS, LAW, *FITTING, plot="curves, fits and residuals")
def fit() -> None:
    """Fit a law to runs.

    Prints the parameters, whether the data determine them, and how far off each run's fitted curve is. -o writes the
    fit, which search, optimize and forecast --prior read.

    \b
    Example:
      fmjax fit runs.toml --law lr-annealing --train 'split:train' -o fit.json
    """


@verb(
    "fitting",
    RUNS,
    law_option("Law to fit, or all to compare them", ("all",)),
    *FITTING,
    SCHEDULER,
    plot="errors and residuals of each run",
)
def evaluate() -> None:
    """Fit a law, or every law, on some runs and predict the others.

    Prints the error of each run in percent of its loss, fitted and unseen runs apart; with --law all, a line for each
    law, the best on unseen runs first. Runs that --train does not take are unseen; without it there are none.

    \b
    Example:
      fmjax evaluate runs.toml --law forward-momentum --train split:train
      fmjax evaluate runs.toml --law all --train split:train --plot laws.png
    """


@verb(
    "fitting",
    FIT_FILE,
    *GRID,
    click.option("--top", type=int, default=10, show_default=True, help="Best candidates of all to report."),
    click.option(
        "--dtype",
        type=Known(DTYPES),
        default="float64",
        show_default=True,
        help="Arithmetic: float64 or float32.",
    ),
    click.option(
        "--folder", type=click.Path(path_type=Path), help="Folder to keep finished parts in, and to resume from."
    ),
    click.option("--table", is_flag=True, help="Write every candidate and its loss to Parquet files in the folder."),
    SCHEDULER,
    SHARE_OF,
    plot="loss against annealing ratio and peak rate",
)
def search() -> None:
    """Predict the final loss of every schedule in a grid.

    A cell of the grid is a length, a peak rate, a decay and a final rate. Prints the best annealing ratio of each, the
    ratios within 0.001 of its loss, and the best candidate of all; export writes it as a trainer's config.

    With --folder, a search that was interrupted goes on when the same command is given again.

    With --scheduler, the workers of a Dask cluster compute. Start dask scheduler on one machine and dask worker
    tcp://HOST:8786 on the others, with this version of fmjax; on a CPU, --nworkers CORES --nthreads 1 is best. Workers
    may come, go and die. Whoever reaches a cluster can run anything on it: use one that you trust, in a closed network
    or under TLS (--scheduler tls://HOST:8786, certificates in Dask's configuration, distributed.comm.tls).

    With --share I/N and a folder that all jobs of an array see, each job computes one share and ends; none waits for
    another. The same command without --share then merges what is there, and computes what is missing.

    \b
    Example:
      fmjax search fit.json --total-steps 24000 --peak-lr 1e-4:1e-3:16 --anneal-ratio 0.01:0.99:99
    \b
    On a Dask cluster, kept in a folder in case the scheduler is lost:
      fmjax search fit.json ... --scheduler tcp://HOST:8786 --folder found
    \b
    Shares, in a job of sbatch --array=1-64 (Slurm) or of 64 completionMode: Indexed (Kubernetes):
      fmjax search fit.json ... --folder /shared/found --share $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
      fmjax search fit.json ... --folder /shared/found --share $((JOB_COMPLETION_INDEX + 1))/64
    """


@verb(
    "fitting",
    click.option("--quick", is_flag=True, help="Fewer sizes; about a minute on two cores."),
    click.option("--device", type=click.Choice(DEVICES), help="Kind of device to measure, if not JAX's own choice."),
)
def bench() -> None:
    """Measure how fast this machine searches and fits.

    Prints searches and fits per second, beside the limits of the device, and how long larger searches would take. Takes
    some minutes, and compiles everything anew.

    \b
    Example:
      fmjax bench --quick
      fmjax bench --device cuda
    """


@verb(
    "fitting",
    RUNS,
    LAW,
    LAW_OPTIONS,
    TRAIN,
    click.option("--grid", type=GRID_AXIS, multiple=True, help="Values of an option to try; may be repeated."),
    one_of("--by", CRITERIA, "What to choose by"),
    click.option(
        "--refine/--no-refine", default=True, show_default=True, help="Refine the best of the grid by gradient."
    ),
    PRIOR,
    SCHEDULER,
    output=click.option(
        "-o", "--output", "target", type=FILE, callback=writable, help="File to write the chosen fit to."
    ),
)
def select_() -> None:
    """Choose a law's options, such as decay or beta1, on the runs to fit.

    These are the coefficients of its effects, which a fit takes as they are. Prints the chosen ones, how far each can
    move at no cost, and the errors on fitted and unseen runs. -o writes the fit, which search and optimize read.

    \b
    Example:
      fmjax select runs.toml --law forward-momentum --train split:train -o fit.json
      fmjax select runs.toml --law lr-annealing --grid decay=0.99,0.995,0.999 --no-refine
    """


@verb(
    "fitting",
    RUNS,
    LAW,
    LAW_OPTIONS,
    TRAIN,
    click.option("--samples", type=int, default=200, show_default=True, help="Bootstrap samples."),
    one_of("--method", METHODS, "What a sample redraws"),
    click.option("--block", type=int, default=10, show_default=True, help="Rows of a block."),
    PRIOR,
    SEED,
    SCHEDULER,
    plot="the samples of each parameter",
)
def bootstrap() -> None:
    """Find intervals of a law's parameters, by bootstrap.

    Fits the law to the runs and to samples of them; prints each parameter with its 90 % interval. Samples redraw the
    noise around the fit, the weights of blocks of rows, or the runs.

    \b
    Example:
      fmjax bootstrap runs.toml --law lr-annealing --law-option decay=0.99 --samples 1000
    """


@verb("fitting", click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True), *ROWS, PRIOR)
def prior() -> None:
    """Learn a prior on exponents from sets of earlier runs.

    Each RUNS is a set, such as a ladder, and is fitted by itself. The exponents of intrinsic-momentum that sets show
    make a prior: their mean over the sets, and how much they differ between them. Prints both beside the prior that
    ships with fmjax, and how far each set moved it. fit, evaluate, recommend and the other verbs that fit read it by
    --prior; few runs are then enough.

    --prior none takes the sets alone, without the prior that ships.

    \b
    Example:
      fmjax prior ladder-2023/runs.toml ladder-2024/runs.toml -o prior.json
      fmjax prior ladder-2023/runs.toml ladder-2024/runs.toml --prior none --json
    """
