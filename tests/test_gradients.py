"""Gradients through fast effects, at rows and after the last update, against those through every update."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from fmjax.curves.loss_curve import LossCurve, pad
from fmjax.fitting.row_effects import RowUpdates, as_counted, effects_of, in_batch_order
from fmjax.laws import LAWS, Law, make_law
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.kinds import WSD, Cosine, lrs
from fmjax.searching.grid import Grid
from fmjax.searching.run_ends import Run, alike, end_effects, groups_of

TOTAL, WARMUP, PEAK = 1000, 60, 2e-3
ROWS = np.array([3, 61, 500, 760, TOTAL - 1])
OPTIONS = {
    "forward-momentum": {"eps": 1e-5, "rho": 0.8},
    "lr-annealing": {"decay": 0.99, "rho": 0.8},
    "forward-only": {"rho": 0.8},
}
"""Options as numbers, so that losses have slopes in them."""

SLOW_TO_COMPILE = ("multi-power", "functional")
each_law = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE)) for name in LAWS]
)
each_law_and_decay = pytest.mark.parametrize(
    ("name", "decay"),
    [
        pytest.param(
            name,
            decay,
            marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE or decay != "linear"),
        )
        for name in LAWS
        for decay in DECAYS
    ],
)


def law_and_params(name, *, known=False):
    """A law with numbers for options, and its parameters; ``known`` exponents on the rate count as options."""
    law = make_law(name, **OPTIONS.get(name, {}))
    params = np.array([synthetic.TRUTH[name][parameter] for parameter in law.parameter_names])
    return law.settled(params) if known else (law, params)


def families():
    """Schedules of every decay, a cosine, and one whose anneal begins in the warmup."""
    base = {"peak_lr": PEAK, "total_steps": TOTAL, "warmup_steps": WARMUP}
    decays = {decay: WSD(**base, anneal_ratio=0.3, decay=decay, final_lr=PEAK / 50) for decay in DECAYS}
    overlap = WSD(**{**base, "warmup_steps": TOTAL // 2}, anneal_ratio=0.9)
    return decays | {"cosine": Cosine(**base, final_lr=1e-4), "overlap": overlap}


def assert_slopes_agree(found, exact, values):
    """Slopes in values, each times the value, so that all are changes of the loss."""
    for ours, other, value in zip(*map(jax.tree.leaves, (found, exact, values)), strict=True):
        scale = np.abs(np.where(np.asarray(value) == 0, 1.0, value))
        np.testing.assert_allclose(np.asarray(ours) * scale, np.asarray(other) * scale, rtol=1e-6, atol=1e-8)


@each_law
def test_slopes_of_losses_at_rows_are_those_of_the_recursion(name, x64):
    law, params = law_and_params(name)
    schedules = families()
    batch = pad([LossCurve(key, ROWS, np.full(ROWS.size, 3.0), schedule) for key, schedule in schedules.items()])
    parts = RowUpdates.of(law, batch, law.warmup)
    log_n = np.zeros(batch.at.size)

    @jax.jit
    @partial(jax.jacrev, argnums=(0, 1))
    def fast(law, params):
        found = in_batch_order([effects_of(as_counted(law), part) for part in parts.parts], parts.places)
        flat = {key: value.reshape(-1, *value.shape[2:]) for key, value in found.items()}
        return law.predict(flat | {"log_N": log_n}, params).reshape(batch.at.shape)

    @jax.jit
    @partial(jax.jacfwd, argnums=(0, 1))
    def exact(law, params, rates, at, warmup_steps):
        return law.predict(Law.effects(law, rates, at, warmup_steps) | {"log_N": np.zeros(at.size)}, params)

    found = fast(law, params)
    for i, (schedule, at) in enumerate(zip(schedules.values(), batch.at, strict=True)):
        one = jax.tree.map(lambda x, i=i: x[i], found)
        assert_slopes_agree(one, exact(law, params, lrs(schedule), at, schedule.warmup_steps), (law, params))


def end_losses(law, params, peak_lr, final_lr, *, part, grid, runs, panels):
    """Losses ``[ratios]`` after the last update, from few updates."""
    run = Run(part.total_steps, grid.warmup_steps, grid.init_lr)
    ends = partial(end_effects, law, panels=panels, run=run, decay=part.decay)
    rates = [jnp.broadcast_to(rate, runs.peak_lr.shape) for rate in (peak_lr, final_lr)]
    found = jax.vmap(ends)(runs._replace(peak_lr=rates[0], final_lr=rates[1]))
    rows = {key: value.reshape(len(rates[0]), *value.shape[2:]) for key, value in found.items()}
    return law.predict(rows | {"log_N": np.zeros(len(rates[0]))}, params)


@each_law_and_decay
def test_slopes_of_final_losses_are_those_of_the_recursion(name, decay, x64):
    """In the options, the parameters, the peak rate and the final rate; the longest anneal begins in the warmup."""
    law, params = law_and_params(name, known=True)
    law, peak, final = jax.tree.map(float, law), PEAK, PEAK / 50
    ratios = np.array([0.95, 0.4, 0.1, 2 / TOTAL])
    ramp = {"warmup_steps": WARMUP, "init_lr": 1e-5}
    grid = Grid.of(total_steps=TOTAL, peak_lr=peak, decay=decay, final_lr=final, anneal_ratio=ratios, **ramp)
    part = grid.part(0, 1)
    groups = list(groups_of(law, part, grid, 1))
    runs, panels = alike(law, groups, part, grid, (len(groups), 1), "float64")
    ends = partial(end_losses, part=part, grid=grid, runs=runs, panels=panels)
    found = jax.jit(jax.jacrev(ends, argnums=(0, 1, 2, 3)))(law, params, peak, final)

    @jax.jit
    @partial(jax.jacfwd, argnums=(0, 1, 2, 3))
    def exact(law, params, peak_lr, final_lr, ratio):
        rates = WSD(peak_lr, TOTAL, ratio, decay, final_lr, **ramp)(jnp.arange(TOTAL))
        row = Law.effects(law, rates, jnp.array([TOTAL - 1]), WARMUP) | {"log_N": np.zeros(1)}
        return law.predict(row, params)[0]

    for i, group in enumerate(groups):
        one = jax.tree.map(lambda x, i=i: x[i], found)
        other = exact(law, params, peak, final, grid.anneal_ratio[group.ratio])
        assert_slopes_agree(one, other, (law, params, peak, final))
