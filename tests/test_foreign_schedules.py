"""Schedules that fmjax did not make: tabulated count by count, as lists, and refused in a line where useless."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

import fmjax
from fmjax import WSD, LossCurve, Tabulated
from fmjax.curves.manifest import select_runs
from fmjax.schedules.kinds import lrs

T = 200


def by_hand(count):
    """A schedule that cannot be traced, as it branches on the count."""
    return 1e-3 if count < 100 else 1e-3 * (T - count) / 100


FOREIGN = {
    "onecycle": optax.cosine_onecycle_schedule(T, 2e-3),
    "linear-onecycle": optax.linear_onecycle_schedule(T, 2e-3),
    "interpolated": optax.piecewise_interpolate_schedule("linear", 1e-3, {50: 2.0, 150: 0.1}),
    "interpolated-cosine": optax.piecewise_interpolate_schedule("cosine", 1e-3, {50: 2.0, 150: 0.1}),
    "piecewise": optax.piecewise_constant_schedule(1e-3, {50: 0.5, 150: 0.1}),
    "warmup-cosine": optax.warmup_cosine_decay_schedule(0.0, 1e-3, 20, T),
    "joined": optax.join_schedules([optax.linear_schedule(0, 1e-3, 20), optax.constant_schedule(1e-3)], [20]),
    "constant": optax.constant_schedule(1e-3),
    "number": lambda count: 1e-3,
    "by-hand": by_hand,
}


@pytest.mark.parametrize("schedule", FOREIGN.values(), ids=FOREIGN.keys())
def test_each_count_has_the_rate_that_the_schedule_gives_it_alone(schedule):
    alone = np.array([float(schedule(count)) for count in range(T)])
    np.testing.assert_allclose(lrs(schedule, T), alone, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(Tabulated.from_schedule(schedule, T).lrs, alone, rtol=1e-5, atol=1e-12)


def test_a_schedule_of_arrays_is_refused():
    with pytest.raises(ValueError, match=r"expected one rate a count, got shape \(200, 2\) for 200 counts"):
        lrs(lambda count: jnp.stack([count, count]), T)


@pytest.mark.parametrize("of", [list, tuple, np.array, jnp.array])
def test_rates_may_be_a_list(of):
    rates = [1e-3 * min(1.0, (T - t) / 80) for t in range(T)]
    table, shape = Tabulated(of(rates)), WSD(1e-3, T, 0.4)
    step = np.arange(0, T, 10)
    loss = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], np.array(rates))[step]
    fit = fmjax.fit("chinchilla", [LossCurve("a", step, loss, table), LossCurve("b", step, 1.01 * loss, shape)])
    assert fit.ok
    assert fit.trained_with.total_steps == (T, T)
    assert len(jax.tree.leaves(Tabulated(of(rates)))) == 2


def test_traced_rates_in_a_list():
    found = jax.grad(lambda lr: Tabulated([lr, 2 * lr])(1))(0.5)
    assert float(found) == 2.0


def test_rates_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match=r"lrs: expected a list of rates, got \['high'\]"):
        Tabulated(["high"])


@pytest.mark.parametrize("rates", [np.zeros(T), [0.0] * T])
def test_rates_of_zero_are_refused_with_the_run(rates):
    with pytest.raises(ValueError, match="run 'still': lrs: expected a rate above zero, found only zeros"):
        LossCurve("still", [0, 10], [3.0, 2.0], Tabulated(rates))


# ------------------------------------------------------------------------------------------------ awkward names


@pytest.fixture
def named():
    run = LossCurve("plain", [0, 10], [3.0, 2.0], WSD(1e-3, T), split="test")
    return [dataclasses.replace(run, name=name) for name in ("plain", "lr=1,wd=2", "split:test")]


def names(runs):
    return [run.name for run in runs]


def test_a_name_with_a_comma_or_like_a_split_selects_its_run(named):
    assert names(select_runs(named, "lr=1,wd=2")) == ["lr=1,wd=2"]
    assert names(select_runs(named, "split:test")) == ["split:test"]
    assert names(select_runs(named[:2], "split:test")) == ["plain", "lr=1,wd=2"]
    assert names(select_runs(named, "lr=1?wd=2,plain")) == ["plain", "lr=1,wd=2"]


def test_a_name_taken_for_a_list_is_told_with_a_way_out(named):
    with pytest.raises(ValueError, match=r"the name 'lr=1,wd=2' is read as a list or a split; write 'lr=1\?wd=2'"):
        select_runs(named, "plain,lr=1,wd=2")


def test_a_log_named_twice_is_refused(tmp_path, command_line):
    log = tmp_path / "log.csv"
    log.write_text("step,loss,lr\n" + "".join(f"{t},{3 - t / T},1e-3\n" for t in range(0, T, 10)))
    for paths in ((log, log), (tmp_path, log)):
        code, _, err = command_line("import", *paths, "-o", tmp_path / "runs")
        assert code == 2
        assert f"{log} is named twice; name it once" in err
