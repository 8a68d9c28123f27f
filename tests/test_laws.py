"""One suite for every law: what makes it a law, and what its effects and losses are in plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from fmjax.fitting import objective
from fmjax.fitting.objective import Rows
from fmjax.laws import LAWS, Coefficient, Exponent, IntrinsicMomentum, Law, LRAnnealing, make_law
from fmjax.laws.base import safe_log
from fmjax.schedules.kinds import WSD

SCHEDULE = WSD(peak_lr=1e-3, total_steps=60, anneal_ratio=0.4, warmup_steps=10, init_lr=1e-4)
AT = np.array([0, 5, 10, 33, 59])
SIZE = 5e6
LAWS_AND_SIZES = {
    f"{name}{'-sizes' if sizes else ''}": dataclasses.replace(law(), sizes=sizes)
    for name, law in LAWS.items()
    for sizes in (False, True)
}
each_law = pytest.mark.parametrize("law", LAWS_AND_SIZES.values(), ids=LAWS_AND_SIZES.keys())


FOLLOWED = {"multi-power": 1e-6, "functional": 1e-6, "convex-bound": 1e-6}
"""How closely laws are followed that have power-law kernels."""


def remembering(law):
    """The law with the memory that ``synthetic`` gives it; exponents stay open."""
    return dataclasses.replace(law, decay=synthetic.DECAY) if isinstance(law, LRAnnealing) else law


def truth(law):
    params = synthetic.sized_truth(law.name) if law.sizes else synthetic.TRUTH[law.name]
    return jnp.array([params[name] for name in law.parameter_names])


@pytest.fixture(scope="module")
def rows():
    """Effects of one schedule at ``AT`` by law name, in float64."""
    with jax.enable_x64(True):
        lrs = synthetic.rates(SCHEDULE)
        found = {name: jax.jit(remembering(law()).effects)(lrs, AT) for name, law in LAWS.items()}
        return {name: {**row, "log_N": jnp.full(AT.size, np.log(SIZE))} for name, row in found.items()}


# ------------------------------------------------------------------------------------------------ what a law is


@each_law
def test_names_and_bounds(law):
    assert len(set(law.parameter_names)) == len(law.parameter_names) == len(law.parameters)
    assert all(isinstance(p, Coefficient) for p in law.coefficients)
    assert all(isinstance(p, Exponent) for p in law.exponents)
    assert all(p.lower < p.upper for p in law.parameters)
    assert all(e.lower < start < e.upper for e in law.exponents for start in e.starts)


@each_law
def test_size_terms_are_there_only_with_sizes(law):
    assert [name in law.parameter_names for name in law.size_term] == [law.sizes] * 2


@each_law
def test_basis_is_linear_in_the_coefficients(law, rows, x64):
    row, (first, second) = rows[law.name], np.random.default_rng(0).uniform(0.1, 1, (2, len(law.coefficients)))
    exponents = truth(law)[len(law.coefficients) :]

    def predict(coefficients):
        return law.predict(row, jnp.concatenate([jnp.asarray(coefficients), exponents]))

    together = predict(2 * first - 3 * second)
    np.testing.assert_allclose(together, 2 * predict(first) - 3 * predict(second), rtol=1e-9)
    columns = np.stack([predict(unit) for unit in np.eye(len(law.coefficients))], axis=-1)
    np.testing.assert_allclose(columns @ first, predict(first), rtol=1e-10)


@each_law
def test_slopes_are_finite_differences(law, rows, x64):
    row, params = rows[law.name], np.asarray(truth(law))
    nudges = 1e-6 * np.diag(np.maximum(np.abs(params), 0.1))
    values = jax.jit(jax.vmap(law.predict, (None, 0)))(row, np.concatenate([params + nudges, params - nudges]))
    expected = np.subtract(*np.split(np.asarray(values), 2)) / (2 * nudges.sum(axis=1, keepdims=True))
    slopes = jax.jit(jax.jacfwd(law.predict, argnums=1))(row, params)
    np.testing.assert_allclose(slopes.T, expected, rtol=1e-6, atol=1e-7)
    assert (np.abs(slopes).max(axis=0) > 0).all()


@each_law
def test_losses_are_the_formula(law, rows, x64):
    params = dict(zip(law.parameter_names, truth(law).tolist(), strict=True))
    expected = synthetic.losses(law.name, params, synthetic.rates(SCHEDULE), SIZE)[AT]
    np.testing.assert_allclose(law.predict(rows[law.name], truth(law)), expected, rtol=FOLLOWED.get(law.name, 1e-10))


@pytest.mark.parametrize("name", [name for name in LAWS if name != "intrinsic-momentum"])
def test_effects_are_gathered_after_each_update(name, rows):
    lrs = synthetic.rates(SCHEDULE)
    known = {
        "log_S": np.log(synthetic.forward(name, lrs)),
        "log_t": np.log(np.arange(1, lrs.size + 1)),
        "M": synthetic.momentum(lrs),
        "S2": synthetic.area(lrs),
    }
    found = {key: value for key, value in rows[name].items() if key in known}
    assert found
    for key, value in found.items():
        np.testing.assert_allclose(value, known[key][AT], rtol=1e-9, atol=1e-12, err_msg=key)


def test_noise_is_remembered_in_the_sum_of_rates(x64):
    lrs = synthetic.rates(SCHEDULE)
    found = jax.jit(IntrinsicMomentum(rho=0.8, xi=0.625).effects)(lrs, AT)
    expected = [synthetic.noise_memory(lrs, forget)[AT] for forget in (0.3, 1, 3, 10, 30, 100, 300)]
    np.testing.assert_allclose(found["E"].T, expected, rtol=1e-9)
    np.testing.assert_allclose(found["S"], synthetic.forward("intrinsic-momentum", lrs)[AT], rtol=1e-9)


@pytest.mark.parametrize(
    ("rho", "xi"),
    [(0.5, 0.3), (1.0, 1.0), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((0.5, 1.0), (1.0, 0.3)))],
)
def test_open_exponents_predict_what_given_ones_do(rho, xi, x64):
    lrs, params = synthetic.rates(SCHEDULE), {**synthetic.TRUTH["intrinsic-momentum"], "rho": rho, "xi": xi}
    vector = np.array([params[name] for name in IntrinsicMomentum().parameter_names])
    for law in (IntrinsicMomentum(rho=rho), IntrinsicMomentum(xi=xi), IntrinsicMomentum()):
        closed, rest = IntrinsicMomentum().settled(vector)
        effects = [{**jax.jit(each.effects)(lrs, AT), "log_N": np.zeros(AT.size)} for each in (law, closed)]
        mine = np.array([params[name] for name in law.parameter_names])
        np.testing.assert_allclose(law.predict(effects[0], mine), closed.predict(effects[1], rest), rtol=1e-6)


@pytest.mark.parametrize("name", ["multi-power", "functional", "intrinsic-momentum"])
def test_chunks_remember_what_the_recursion_does(name, x64):
    law, schedule = LAWS[name](), WSD(peak_lr=1e-3, total_steps=150, anneal_ratio=0.4, warmup_steps=10)
    lrs, at = synthetic.rates(schedule), np.array([0, 63, 64, 100, 149])
    chunks, recursion = jax.jit(law.effects)(lrs, at), jax.jit(lambda lrs: Law.effects(law, lrs, at))(lrs)
    for key, value in recursion.items():
        np.testing.assert_allclose(chunks[key], value, rtol=1e-9, atol=1e-15, err_msg=key)


@pytest.mark.parametrize("name", LAWS)
def test_float32_rates_give_float32_losses(name, x64):
    law = LAWS[name]()

    def loss(lrs, params):
        return law.predict(law.effects(lrs, jnp.array([3])), params)

    shapes = jax.ShapeDtypeStruct((9,), jnp.float32), jax.ShapeDtypeStruct((len(law.parameters),), jnp.float32)
    assert jax.eval_shape(loss, *shapes).dtype == jnp.float32


RHO_LAWS = ["forward-momentum", "lr-annealing", "forward-only"]


@pytest.mark.parametrize("name", RHO_LAWS)
def test_rho_reaches_the_forward_effect(name, x64):
    lrs = synthetic.rates(SCHEDULE)
    found = jax.jit(LAWS[name](rho=0.65).effects)(lrs, AT)["log_S"]
    np.testing.assert_allclose(found, np.log(np.cumsum(1e-3 * (lrs / 1e-3) ** 0.65))[AT], rtol=1e-10)


@pytest.mark.parametrize("name", RHO_LAWS)
def test_a_rate_of_zero_predicts_a_number(name):
    law = LAWS[name]()
    value, slope = jax.jit(jax.value_and_grad(lambda lrs: law.effects(lrs, jnp.array([2]))["log_S"][0]))(jnp.zeros(3))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert safe_log(0.0) == -80.0


# ------------------------------------------------------------------------------------------------ limits

STILL = {"intrinsic-momentum", "multi-power", "functional", "forward-only"}
"""Laws in the schedule's own time: at a rate of zero nothing moves."""


@pytest.fixture(scope="module")
def stopped():
    """Effects by law name of the same schedule followed by forty updates at a rate of zero."""
    with jax.enable_x64(True):
        lrs, at = np.concatenate([synthetic.rates(SCHEDULE), np.zeros(40)]), np.append(AT, 99)
        found = {name: jax.jit(remembering(law()).effects)(lrs, at) for name, law in LAWS.items()}
        return {name: {**row, "log_N": jnp.full(at.size, np.log(SIZE))} for name, row in found.items()}


@pytest.mark.parametrize("name", LAWS)
def test_what_follows_a_row_changes_nothing(name, rows, stopped):
    for key, value in rows[name].items():
        np.testing.assert_allclose(stopped[name][key][:-1], value, rtol=1e-10, atol=1e-15, err_msg=key)


@each_law
def test_a_rate_of_zero(law, stopped, x64):
    losses = np.asarray(law.predict(stopped[law.name], truth(law)))
    assert np.isfinite(losses).all()
    if law.name in STILL:
        assert losses[-1] == pytest.approx(losses[-2], rel=1e-6)


@each_law
def test_the_order_of_rows_does_not_matter(law, rows, x64):
    row, order = rows[law.name], np.random.default_rng(0).permutation(AT.size)
    shuffled, losses = {key: value[order] for key, value in row.items()}, 3.0 + np.arange(AT.size)
    weights = 1.0 + np.arange(AT.size)
    first = value("log", law, Rows(row, losses), weights)
    assert value("log", law, Rows(shuffled, losses[order]), weights[order]) == pytest.approx(first, rel=1e-10)


def value(residual, law, rows, weights):
    return float(objective.value(law, residual, rows, weights, objective.Objective(), truth(law)))


# ------------------------------------------------------------------------------------------------ options


@each_law
def test_options_round_trip(law):
    assert make_law(law.name, **law.options()) == law


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("intrinsic-momentum", {"rho": 0.65, "xi": 0.5}),
        ("forward-momentum", {"beta1": 0.5, "beta2": 0.9, "eps": 1e-4, "second_moment_scale": 1.0, "rho": 0.5}),
        ("lr-annealing", {"decay": 0.99, "rho": 0.65, "warmup": "as-peak"}),
        ("multi-power", {"warmup": "as-peak"}),
        ("functional", {"warmup": "as-peak"}),
        ("convex-bound", {"warmup": "as-peak"}),
        ("forward-only", {"rho": 0.65}),
        ("chinchilla", {"sizes": True}),
        ("kaplan", {"sizes": True}),
    ],
    ids=list(LAWS),
)
def test_options_are_kept(name, options):
    law = make_law(name, **options)
    assert options.items() <= law.options().items()
    assert law.name == name


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_every_option_is_declared_with_a_range(law):
    of_runs = ["warmup", "sizes", "batches", "size_unit", "batch_unit", "tokens_per_step"]
    of_runs += ["families", "family", "size_in_level"]
    held = [field.name for field in dataclasses.fields(law) if field.name not in of_runs]
    assert sorted(held) == sorted(option.name for option in law.tunable)
    for option in law.tunable:
        ends = [option.lower, option.upper, *option.tried]
        assert all(option.scale.holds(value) and option.lower <= value <= option.upper for value in ends), option
        places = [float(option.scale.value(option.scale.place(value))) for value in ends]
        assert places == pytest.approx(ends, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lr-anealing", {}, "unknown law 'lr-anealing'; did you mean 'lr-annealing'"),
        ("power", {}, "unknown law 'power'.*known: intrinsic-momentum"),
        ("lr-annealing", {"decy": 0.9}, "unknown option of lr-annealing 'decy'; did you mean 'decay'"),
        ("chinchilla", {"rho": 0.9}, "unknown option of chinchilla 'rho'"),
    ],
    ids=["near-law", "no-law", "near-option", "other-laws-option"],
)
def test_unknown_names(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_law(name, **options)


def test_a_batch_of_memories_is_vmapped(x64):
    lrs, decays = synthetic.rates(SCHEDULE), [0.0, 0.9, synthetic.DECAY]
    batch = LRAnnealing(decay=jnp.array(decays))
    found = jax.jit(jax.vmap(lambda law: law.effects(lrs, AT)["S2"]))(batch)
    expected = [synthetic.area(lrs, decay=decay)[AT] for decay in decays]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", LAWS)
def test_warmup_and_sizes_are_static(name):
    leaves, structure = jax.tree.flatten(make_law(name, warmup="as-peak", sizes=True))
    assert not {"as-peak", True} & set(leaves)
    assert jax.tree.unflatten(structure, leaves).options() == make_law(name, warmup="as-peak", sizes=True).options()


def test_jit_tells_laws_apart():
    structures = [jax.tree.structure(law()) for law in LAWS.values()]
    assert all(a != b for i, a in enumerate(structures) for b in structures[:i])
