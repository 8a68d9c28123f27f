"""``track_annealing``: S and M of the schedule in the optimiser's state, whatever the optimiser is wrapped in."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fmjax
from fmjax.effects.tracking import TrackAnnealingState, annealing_state
from fmjax.schedules.kinds import lrs

T = 4000
SCHEDULES = {
    "constant": fmjax.Constant(1e-3, T, 100),
    "cosine": fmjax.Cosine(1e-3, T, 1e-4, 100),
    "wsd": fmjax.WSD(1e-3, T, 0.3, warmup_steps=100),
    "1-sqrt": fmjax.WSD(1e-3, T, 0.3, "1-sqrt", warmup_steps=100),
    "step": fmjax.Step(1e-3, T, (2000, 3000, 3600), (1e-4, 1e-3, 1e-4), 100),
    "optax": optax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, T, 1e-4),
}
PARAMS = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
GRADIENTS = jax.tree.map(np.ones_like, PARAMS)


def run(optimizer, state, updates=T):
    """The state after so many updates, as one scan."""

    def step(carry, _):
        params, state = carry
        changes, state = optimizer.update(jax.tree.map(jnp.asarray, GRADIENTS), state, params)
        return (optax.apply_updates(params, changes), state), None

    return jax.jit(lambda state: jax.lax.scan(step, (PARAMS, state), None, length=updates)[0][1])(state)


def expected(schedule, updates=T, **options):
    """S and M by the functions on the rates, in float64."""
    with jax.enable_x64(True):
        rates = np.asarray(lrs(schedule, updates), np.float64)
        M = fmjax.annealing_momentum(rates, **options)[-1]
        return float(np.sum(rates)), float(M)


def check(state, schedule, updates=T, rtol=1e-6, **options):
    found, (S, M) = annealing_state(state), expected(schedule, updates, **options)
    assert (found.S.dtype, int(found.count)) == (jnp.float32, updates)
    np.testing.assert_allclose([found.S, found.M], [S, M], rtol=rtol, atol=1e-9)
    np.testing.assert_allclose(found.lr, schedule(updates - 1), rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_state_has_forward_effect_and_annealing_momentum(name):
    schedule = SCHEDULES[name]
    optimizer = optax.chain(optax.adamw(schedule), fmjax.track_annealing(schedule))
    check(run(optimizer, optimizer.init(PARAMS)), schedule)


def test_coefficients_of_momentum():
    options = {"beta1": 0.95, "beta2": 0.99, "eps": 1e-9, "second_moment_scale": 1e4}
    optimizer = fmjax.track_annealing(SCHEDULES["wsd"], **options)
    check(run(optimizer, optimizer.init(PARAMS)), SCHEDULES["wsd"], **options)


def test_updates_are_left_alone():
    optimizer = fmjax.track_annealing(0.1)
    updates, state = optimizer.update(GRADIENTS, optimizer.init(PARAMS))
    assert updates is GRADIENTS
    assert annealing_state(state).lr == np.float32(0.1)


def by_factory(learning_rate):
    return optax.chain(optax.adamw(learning_rate), fmjax.track_annealing(learning_rate))


@pytest.mark.parametrize("factory", [by_factory, fmjax.track_annealing], ids=["chain", "alone"])
@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_inject_hyperparams(factory, name):
    schedule = SCHEDULES[name]
    optimizer = optax.inject_hyperparams(factory)(learning_rate=schedule)
    check(run(optimizer, optimizer.init(PARAMS)), schedule)


def test_inject_hyperparams_with_bfloat16_parameters_follows_the_rate_that_is_used():
    schedule = fmjax.WSD(1e-3, 400, 0.5)
    optimizer = optax.inject_hyperparams(by_factory)(learning_rate=schedule)
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
    state = optimizer.init(half)
    for _ in range(3):
        _, state = optimizer.update(half, state, half)
    found = annealing_state(state)
    assert (found.S.dtype, found.lr) == (jnp.float32, np.float32(state.hyperparams["learning_rate"]))


def test_rate_set_by_hand():
    optimizer = optax.inject_hyperparams(by_factory)(learning_rate=1e-3)
    state = optimizer.init(PARAMS)
    rates = np.array([1e-3, 1e-3, 5e-4, 5e-4, 1e-4], np.float32)
    for rate in rates:
        state.hyperparams["learning_rate"] = jnp.asarray(rate)
        _, state = optimizer.update(GRADIENTS, state, PARAMS)
    found = annealing_state(state)
    with jax.enable_x64(True):
        M = fmjax.annealing_momentum(rates.astype(np.float64))[-1]
    np.testing.assert_allclose([found.S, found.M], [rates.sum(), M], rtol=1e-6)


def test_multi_steps_counts_updates_that_are_made():
    schedule = fmjax.WSD(1e-3, 500, 0.4)
    optimizer = optax.MultiSteps(by_factory(schedule), every_k_schedule=4)
    state = run(optimizer, optimizer.init(PARAMS), 4 * 500 + 3)
    check(state, schedule, 500)


def test_updates_that_are_skipped_do_not_count():
    schedule = fmjax.WSD(1e-3, 10, 0.5)
    optimizer = optax.apply_if_finite(by_factory(schedule), max_consecutive_errors=5)
    state, update = optimizer.init(PARAMS), jax.jit(lambda *args: optimizer.update(*args)[1])
    for i in range(12):
        gradients = jax.tree.map(lambda leaf, bad=i in (3, 4): leaf * np.float32(np.nan if bad else 1.0), GRADIENTS)
        state = update(gradients, state, PARAMS)
    check(state, schedule, 10)


def test_another_schedule_from_a_checkpoint_on():
    """The drop to the new schedule's rate is seen, not the new schedule's own drop there."""
    first, second = fmjax.Constant(1e-3, 100), fmjax.WSD(4e-4, 200, 0.25)
    state = run(by_factory(first), by_factory(first).init(PARAMS), 100)
    found = annealing_state(run(by_factory(second), state, 100))
    with jax.enable_x64(True):
        rates = np.concatenate([lrs(first), np.asarray(lrs(second))[100:]]).astype(np.float64)
        M = float(fmjax.annealing_momentum(rates)[-1])
    np.testing.assert_allclose([found.S, found.M], [rates.sum(), M], rtol=1e-6)


DEVICES = """
import fmjax, jax, numpy as np, optax
from fmjax.effects import annealing_state
from jax.sharding import NamedSharding, PartitionSpec

schedule, n = fmjax.WSD(1e-3, 50, 0.4), len(jax.devices())
optimizer = optax.chain(optax.adamw(schedule), fmjax.track_annealing(schedule))
params, update = np.ones((n, 3), np.float32), lambda params, state: optimizer.update(params, state, params)[1]

mesh = jax.make_mesh((n,), ("x",))
sharded = jax.device_put(params, NamedSharding(mesh, PartitionSpec("x")))
state, step = optimizer.init(sharded), jax.jit(update)
many = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * n), optimizer.init(params[0]))
parallel = jax.pmap(update)
for _ in range(50):
    state, many = step(sharded, state), parallel(params, many)
found, copies = annealing_state(state), annealing_state(many)
print(n, found.S, found.M, *copies.S, *copies.M)
"""


def test_pmap_and_sharding():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, S, M, *copies = (float(x) for x in done.stdout.split())
    np.testing.assert_allclose([S, M], expected(fmjax.WSD(1e-3, 50, 0.4), 50), rtol=1e-6)
    assert (count, copies) == (2, [S, S, M, M])


def test_one_compilation():
    optimizer = by_factory(SCHEDULES["wsd"])
    traces = []

    @jax.jit
    def step(state):
        traces.append(None)
        return optimizer.update(GRADIENTS, state, PARAMS)[1]

    state = optimizer.init(PARAMS)
    for _ in range(3):
        state = step(state)
    assert len(traces) == 1


def test_state_is_found_by_field_and_inside_jit():
    optimizer = optax.MultiSteps(optax.chain(optax.clip(1.0), by_factory(1e-3)), 2)
    state = optimizer.init(PARAMS)
    assert isinstance(jax.jit(annealing_state)({"train": (PARAMS, state)}), TrackAnnealingState)
    assert optax.tree.get(state, "M") == 0.0


@pytest.mark.parametrize(
    ("optimizer", "found"), [(optax.adam(0.1), 0), (optax.chain(*[fmjax.track_annealing(1)] * 2), 2)]
)
def test_none_or_two_are_refused(optimizer, found):
    with pytest.raises(ValueError, match=f"expected one track_annealing in the optimiser's state, found {found}"):
        annealing_state(optimizer.init(PARAMS))


def test_saved_and_restored_by_orbax(tmp_path):
    checkpoint = pytest.importorskip("orbax.checkpoint")
    schedule = SCHEDULES["cosine"]
    optimizer = by_factory(schedule)
    half = run(optimizer, optimizer.init(PARAMS), T // 2)
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "half", half)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "half", optimizer.init(PARAMS))
    whole = run(optimizer, optimizer.init(PARAMS), T)
    again = run(optimizer, restored, T // 2)
    check(again, schedule)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), whole, again))
