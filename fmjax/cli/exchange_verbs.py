"""Options and help of the verbs that exchange runs, schedules and results with other tools and people."""

import shlex
from pathlib import Path

import click

from fmjax._names import DECAY_NAMES, TOOLS, TRAINERS
from fmjax.cli.manners import Verb
from fmjax.cli.options import (
    FILE,
    FLOPS,
    GRID,
    PLAN_FITTING,
    writable,
)
from fmjax.cli.parameters import ONE_BATCH_SIZE, Known
from fmjax.cli.verbs import verb


@verb(
    "importing",
    click.argument("sources", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SOURCE..."),
    click.option("--from", "tool", type=Known(TOOLS), help=f"The tool; the first that fits of {' | '.join(TOOLS)}."),
    click.option("--runs", default="*", show_default=True, help="Runs to take: names and globs, separated by commas."),
    click.option("--loss", help="Column of the losses."),
    click.option("--validation", is_flag=True, help="Take the validation loss where there is one."),
    click.option("--rate", help="Column of the learning rates."),
    click.option("--step", help="Column of the steps."),
    click.option("--schedule", help="Schedule of all runs, where no rate is logged, as a manifest has it."),
    click.option("--total-steps", type=int, help="Updates of the runs, where the log does not reach their end."),
    click.option("--peak-lr", type=float, help="Peak rate, where multipliers of it are logged."),
    click.option(
        "--tokens-per-step", type=ONE_BATCH_SIZE, help="Tokens per update; steps in tokens are divided by it."
    ),
    click.option("--sequence-length", type=float, help="Tokens of a sequence, where logs have the batch in sequences."),
    click.option("--model-size", type=float, help="Parameters of the model, where all runs have the same."),
    click.option("--join", is_flag=True, help="Give runs logged only from their branch on the rows of their stem."),
    click.option("--check", is_flag=True, help="Write nothing; show what was read, recognised, dropped and guessed."),
    output=click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Folder to make."),
)
def import_() -> None:
    """Make runs of what another tool logged.

    Writes a folder with the manifest runs.toml and a CSV file for each run, and prints which columns were taken and
    which schedule the rates tell of, with the largest error of any logged rate. A table with one row a run becomes runs
    of one row each; --schedule then has the fields that all of them share. A batch that changes is read from a counter
    of tokens or samples, or from a column of batches; notes say how far off its changes may be.

    \b
    Example:
      fmjax import logs/ --check
      fmjax import wandb_export.csv -o runs/
      fmjax import trainer_state.json -o runs/ --validation
      fmjax import levanter logs/*.jsonl -o runs/ --tokens-per-step 4194304
      fmjax import megatron/ -o runs/ --sequence-length 4096
      fmjax import sweep.csv --schedule 'kind = "cosine", warmup_steps = 2000, final_lr = 1e-5' -o runs/
      fmjax import logs/ --from nanochat --schedule 'kind = "wsd", peak_lr = 0.02, ...' -o runs/
    """


@verb(
    "exporting",
    click.argument("plan", type=click.Path(path_type=Path), required=False),
    click.option("--to", type=Known(TRAINERS), required=True, help=f"The trainer: {' | '.join(TRAINERS)}."),
    click.option("--schedule", "text", help="A schedule instead of a file, as a manifest has it."),
    click.option("--total-steps", type=int, help="Which schedule of the file: its length in updates."),
    click.option("--peak-lr", type=float, help="Which one: its peak rate, to three digits."),
    click.option(
        "--decay", type=Known(DECAY_NAMES), help=f"Which one: the shape of its anneal, {' | '.join(DECAY_NAMES)}."
    ),
    click.option("--final-lr", type=float, help="Which one: the rate its anneal ends at."),
    click.option("--alternative", help='Which one of a forecast: its name there, such as planned or "R = 0.2".'),
    output=click.option("-o", "--output", "target", type=FILE, callback=writable, help="File to write the text to."),
)
def export_() -> None:
    """Print a schedule as the code or config of a trainer.

    The schedule is the best of the file, or the one that the options choose; of schedules that differ in length, choose
    one by --total-steps. Only the text goes to standard output. Where a trainer cannot give exactly these rates, a
    comment in the text says how far off they are; where it cannot express the schedule at all, an error says why.

    \b
    Example:
      fmjax export plan.json --to maxtext
      fmjax export plan.json --to pytorch --peak-lr 1e-3 --decay linear -o schedule.py
      fmjax export --schedule 'kind = "wsd", total_steps = 1000, peak_lr = 1e-3, anneal_ratio = 0.2' --to optax
    """


class _AsGiven(Verb):
    """A command that knows the arguments it was given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps the arguments for the page."""
        ctx.meta["given"] = shlex.join([*ctx.command_path.split(), *args])
        return super().parse_args(ctx, args)


@verb(
    "reporting",
    *PLAN_FITTING,
    *GRID,
    FLOPS,
    output=click.option(
        "-o", "--output", "target", type=FILE, callback=writable, required=True, help="HTML file to write."
    ),
    cls=_AsGiven,
)
def report_() -> None:
    """Write a recommendation, with its charts and how it was made, to an HTML page that needs no network.

    RUNS may also be a fit, a .json file that fmjax fit -o wrote; the page is then of a search with it.

    \b
    Example:
      fmjax report runs.toml --total-steps 50000 --peak-lr 5e-4,1e-3,2e-3 -o report.html
      fmjax report fit.json --total-steps 24000 --peak-lr 1e-4:1e-3:16 --anneal-ratio 0.01:0.99:99 -o report.html
    """
