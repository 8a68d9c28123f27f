"""The training harness of the shipped curves: it resumes, branches and repeats to the last bit."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("benchmarks.proxy_runs", reason="benchmarks are not installed")

from benchmarks.proxy_runs import moe, runner
from benchmarks.proxy_runs.__main__ import publish, published
from benchmarks.proxy_runs.config import ModelConfig, RunConfig, Setup
from benchmarks.proxy_runs.corpus import Corpus
from benchmarks.proxy_runs.grids import GRIDS, annealed, others
from benchmarks.proxy_runs.runner import train_grid
from fmjax import datasets
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

EXPERTS = ModelConfig(16, 1, 1, experts=4)
PROBED = [replace(run, setup=replace(SETUP, model=EXPERTS, probe_sequences=8)) for run in GRID]
BATCH = np.random.default_rng(0).integers(0, 256, (2, 17)).astype(np.uint8)


@pytest.fixture(scope="module")
def block():
    return moe.init(EXPERTS, 0)["blocks"][0]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return train_grid(GRID, tmp_path_factory.mktemp("work"), workers=1, lanes=1)


def test_what_is_published_stays_beside_what_is_trained_later(tmp_path):
    rows = {run.name: [(9, 2.5), (19, 2.25 + i)] for i, run in enumerate(GRID)}
    publish(GRID[:2], rows, tmp_path)
    before = published(GRID, tmp_path)
    assert before == {run.name: rows[run.name] for run in GRID[:2]}
    publish(GRID[:3], before | {GRID[2].name: rows[GRID[2].name]}, tmp_path)
    assert [curve.loss[-1] for curve in load_runs(tmp_path / "runs.toml")] == [2.25, 3.25, 4.25]


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
    stop_and_go_on(GRID, rows, tmp_path, monkeypatch)


@training
def test_a_stopped_grid_of_mixtures_goes_on_where_it_was(probed, tmp_path, monkeypatch):
    stop_and_go_on(PROBED, probed, tmp_path, monkeypatch)


def stop_and_go_on(grid, rows, tmp_path, monkeypatch):
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
            train_grid(grid, tmp_path, workers=1, lanes=1)
    stop = None
    assert train_grid(grid, tmp_path, workers=1, lanes=1) == rows


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


def test_a_token_uses_two_experts():
    shares = moe.gates(jax.random.normal(jax.random.key(0), (3, 5, 8)))
    assert (shares > 0).sum(axis=-1).tolist() == [[2] * 5] * 3
    np.testing.assert_allclose(shares.sum(axis=-1), 1.0, rtol=1e-6)
    assert moe.gates(jnp.zeros(8)).tolist() == [0.5, 0.5] + [0.0] * 6  # ties, too


def test_experts_are_those_of_a_loop_over_tokens(block):
    x = np.random.default_rng(1).normal(size=(2, 3, 16)).astype(np.float32)
    router, up, down = (np.asarray(block[name], np.float64) for name in ("router", "up", "down"))
    for token, found in zip(x.reshape(-1, 16), np.asarray(moe.experts(block, x)[0]).reshape(-1, 16), strict=True):
        scores = token @ router
        chosen = np.argsort(scores)[-moe.USED :]
        weights = np.exp(scores[chosen]) / np.exp(scores[chosen]).sum()
        layers = [np.square(np.maximum(token @ up[:, 32 * e :][:, :32], 0)) @ down[32 * e :][:32] for e in chosen]
        np.testing.assert_allclose(found, weights @ layers, rtol=1e-4, atol=1e-6)


def test_load_balancing_is_one_for_a_uniform_router_and_most_where_all_use_the_same_experts():
    even = jnp.zeros((4, 6, 8))
    assert moe.load_balancing(even, moe.gates(even)) == pytest.approx(1.0, rel=1e-6)
    same = even + jnp.array([20.0, 20.0] + [0.0] * 6)
    assert moe.load_balancing(same, moe.gates(same)) == pytest.approx(4.0, rel=1e-6)


def test_all_parameters_of_a_mixture_have_finite_gradients():
    params = moe.init(EXPERTS, 0)
    value, gradients = jax.jit(jax.value_and_grad(moe.objective), static_argnums=2)(params, BATCH, EXPERTS)
    assert moe.loss(params, BATCH, EXPERTS) + moe.BALANCING < value < 7  # the balancing loss of a real router is over 1
    for leaf in jax.tree.leaves(gradients):
        assert jnp.isfinite(leaf).all()
        assert jnp.abs(leaf).max() > 0
    assert moe.size(params) == 16 * (3 * 16 + 16 + 4) + 2 * 2 * 16 * 32 + 3 * 16


def test_other_losses_are_of_texts_that_do_not_change():
    corpus, setup = Corpus.of_standard_library(), replace(SETUP, probe_sequences=8)
    validation, train, headers = corpus.measured_sets(setup)
    assert [len(corpus.measured_sets(SETUP))] + [len(train), len(headers)] == [1, 8, 8]
    np.testing.assert_array_equal(validation, corpus.validation_set(setup))
    assert b"#" in corpus.headers.tobytes()[:2000]
    assert not any(row.tobytes() in corpus.validation.tobytes() for row in headers)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    return train_grid(PROBED, tmp_path_factory.mktemp("probed"), workers=1, lanes=1)


@training
def test_mixtures_repeat_to_the_last_bit_and_log_three_losses(probed, tmp_path):
    assert {len(row) for rows in probed.values() for row in rows} == {4}
    assert train_grid(PROBED, tmp_path, workers=1, lanes=1) == probed
    publish(PROBED, probed, tmp_path / "out")
    assert (tmp_path / "out" / "constant.csv").read_text().startswith("step,loss,train_loss,headers_loss\n9,")
    curves = load_runs(tmp_path / "out")
    assert [curve.loss.tolist() for curve in curves] == [
        [pytest.approx(row[1], abs=1e-6) for row in rows] for rows in probed.values()
    ]


@training
def test_a_part_of_a_grid_can_be_trained_first(probed, tmp_path):
    first = train_grid(PROBED, tmp_path, workers=1, lanes=1, only="wsd-*,cos*")
    assert first == {name: rows for name, rows in probed.items() if name != "constant"}
    assert train_grid(PROBED, tmp_path, workers=1, lanes=1) == probed


@pytest.mark.parametrize("kind", sorted(datasets.SETS))
def test_shipped_folders_hold_what_their_manifests_name(kind):
    folder, curves = datasets.SETS[kind].parent, datasets.proxy_runs(kind)
    files = sorted(folder.glob("*.csv"))
    planned = {run.name: run for run in GRIDS["wide" if kind == "dense" else kind]()}
    assert [file.stem for file in files] == sorted(curve.name for curve in curves)
    assert sum(file.stat().st_size for file in files) < 500_000
    for curve in curves:
        run = planned[curve.name]
        assert curve.tokens_per_step == run.setup.tokens_per_step
        assert lrs(curve.schedule).tolist() == run.rates().tolist()
        assert curve.step.tolist() == [step for step in range(run.total_steps) if run.logs(step)]
        columns = (folder / f"{curve.name}.csv").read_text().splitlines()[0]
        assert columns == ("step,loss,train_loss,headers_loss" if run.setup.probe_sequences else "step,loss")


def test_a_first_word_picks_the_set():
    assert {curve.model_size for curve in datasets.proxy_runs("moe", "moe-0.1M-*")} == {99648}
    both = (datasets.proxy_runs(*chosen, "0.025M-*") for chosen in (("dense",), ()))
    assert len({tuple(curve.name for curve in curves) for curves in both}) == 1
    with pytest.raises(ValueError, match="matches no run"):
        datasets.proxy_runs("moe-*")


@pytest.mark.parametrize("name", sorted(set(GRIDS) - {"smoke"}))
def test_every_anneal_of_a_grid_starts_from_a_stem(name):
    grid = GRIDS[name]()
    assert len(grid) == len({run.name for run in grid}) >= 19
    for task in runner.groups(grid, across_stems=False):
        assert [run.is_stem for run in task] == [True] + [False] * (len(task) - 1)
        assert max(run.total_steps for run in task) == task[0].total_steps
