"""The training harness of the shipped curves: it resumes, branches and repeats to the last bit."""

import jax
import pytest

pytest.importorskip("benchmarks.proxy_runs", reason="benchmarks are not installed")

from benchmarks.proxy_runs import runner
from benchmarks.proxy_runs.__main__ import publish
from benchmarks.proxy_runs.config import ModelConfig, RunConfig, Setup
from benchmarks.proxy_runs.grids import annealed, others, wide
from benchmarks.proxy_runs.runner import train_grid
from fmjax.curves.manifest import load_runs
from fmjax.schedules.kinds import Constant, lrs

SETUP = Setup(ModelConfig(16, 1, 1), context=16, batch=2, validation_sequences=8)
TOTAL = 40
CHOSEN = {
    "constant": Constant(0.004, TOTAL, 5),
    **annealed(0.004, TOTAL, (0.25, 0.5), 5),
    **annealed(0.004, TOTAL // 2, (0.5,), 5),
    "cosine": others(0.004, TOTAL, 5)["cosine"],
}
GRID = [RunConfig(name, schedule, SETUP, log_every=10) for name, schedule in CHOSEN.items()]


@pytest.fixture(scope="module", autouse=True)
def rank_promotion():
    """The model is written as users write models, with JAX's defaults."""
    with jax.numpy_rank_promotion("allow"):
        yield


training = pytest.mark.slow  # compiles a model


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return train_grid(GRID, tmp_path_factory.mktemp("work"), workers=1, lanes=1)


@training
def test_rows_come_where_they_are_due(rows):
    assert [step for step, _ in rows["constant"]] == [9, 19, 29, 39]
    assert rows["constant"][1] == rows["wsd-linear-0.25"][1]  # shared updates, shared rows
    assert rows["constant"][-1] != rows["wsd-linear-0.25"][-1]


@training
def test_a_branch_has_the_bits_of_a_run_of_its_own(rows, tmp_path):
    alone = next(run for run in GRID if run.name == "wsd-linear-0.25")
    assert train_grid([alone], tmp_path, workers=1, lanes=1) == {alone.name: rows[alone.name]}


@training
def test_a_stopped_grid_goes_on_where_it_was(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SAVE_EVERY", 7)
    calls, advance = [], runner.advance_lanes

    def stopping(*args):
        if len(calls) == stop:
            raise KeyboardInterrupt
        calls.append(None)
        advance(*args)

    monkeypatch.setattr(runner, "advance_lanes", stopping)
    for stop in (3, 8, 12):  # noqa: B007  # calls of all attempts together
        with pytest.raises(KeyboardInterrupt):
            train_grid(GRID, tmp_path, workers=1, lanes=1)
    stop = None
    assert train_grid(GRID, tmp_path, workers=1, lanes=1) == rows


@training
def test_several_runs_at_once_train_alike(rows, tmp_path):
    together = train_grid(GRID, tmp_path, workers=1, lanes=3)
    assert {name: [step for step, _ in found] for name, found in together.items()} == {
        name: [step for step, _ in found] for name, found in rows.items()
    }
    for name, found in together.items():
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in rows[name]], rel=1e-3), name


@training
def test_processes_give_the_same_curves(tmp_path):
    one = train_grid(GRID, tmp_path / "one", workers=2, lanes=1)
    assert train_grid(GRID, tmp_path / "two", workers=3, lanes=1) == one


@training
def test_published_runs_can_be_loaded(rows, tmp_path):
    publish(GRID, rows, tmp_path)
    curves = load_runs(tmp_path / "runs.toml")
    assert [curve.name for curve in curves] == list(rows)
    for curve, run in zip(curves, GRID, strict=True):
        assert lrs(curve.schedule).tolist() == run.rates().tolist()
        assert curve.final_loss == pytest.approx(rows[run.name][-1][1], abs=1e-6)


def test_every_anneal_of_the_shipped_grid_starts_from_a_stem():
    grid = wide()
    assert len(grid) == len({run.name for run in grid}) >= 60
    for task in runner.groups(grid, across_stems=False):
        assert [run.is_stem for run in task] == [True] + [False] * (len(task) - 1)
        assert max(run.total_steps for run in task) == task[0].total_steps
