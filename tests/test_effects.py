"""Effects: golden numbers, a plain NumPy loop, float32, invariants, JAX transformations, and JAX's settings."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from fmjax.effects import recursions
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, lrs

PUBLISHED = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "second_moment_scale": 1e5}
NAMES = ("constant", "cosine", "wsd_linear", "wsd_1-sqrt", "wsd_exponential", "wsd_cosine", "step", "rewarm")


def momentum_loop(rates, beta1=0.9, beta2=0.999, eps=1e-8, second_moment_scale=1e5):
    m = v = total = 0.0
    found = []
    for i, rate in enumerate(rates):
        delta = rates[i - 1] - rate if i else 0.0
        m = beta1 * m + (1 - beta1) * delta
        v = beta2 * v + (1 - beta2) * delta**2
        corrected = second_moment_scale * v / (1 - beta2 ** (i + 1))
        total += m / (1 - beta1 ** (i + 1)) / (np.sqrt(corrected + eps) + eps)
        found.append(total)
    return np.array(found)


def area_loop(rates, decay=0.999):
    m, total, found = 0.0, 0.0, []
    for before, rate in zip([rates[0], *rates], rates, strict=False):
        m = decay * m + before - rate
        total += m
        found.append(total)
    return np.array(found)


def families(total):
    base = {"peak_lr": 1e-3, "total_steps": total, "warmup_steps": total // 24}
    anneals = [WSD(**base, anneal_ratio=0.3, decay=d, final_lr=1e-5) for d in ("linear", "cosine", "exponential")]
    steps = Step(**base, boundaries=(total // 3, total // 2), lrs=(1e-4, 8e-4))
    root = WSD(**base, anneal_ratio=0.25, decay="1-sqrt")
    return {"constant": Constant(**base), "cosine": Cosine(**base), "step": steps, "1-sqrt": root} | {
        anneal.decay: anneal for anneal in anneals
    }


KINDS = tuple(families(24))
EFFECTS = {"S": recursions.forward_effect, "M": recursions.annealing_momentum, "S2": recursions.annealing_area}
JITTED = {name: jax.jit(effect) for name, effect in EFFECTS.items()}
momentum, area = JITTED["M"], JITTED["S2"]
each_effect = pytest.mark.parametrize("name", EFFECTS)


@pytest.fixture(scope="module")
def rates():
    """A schedule that warms up, falls and rises again, 600 updates in float64."""
    random = np.random.default_rng(0)
    falling = np.linspace(1e-3, 1e-5, 300) * random.uniform(0.9, 1.1, 300)
    return np.concatenate([np.linspace(0, 1e-3, 100), np.full(100, 1e-3), falling, np.full(100, 5e-4)])


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("name", NAMES)
def test_golden_effects(name, shared, x64):
    kind = {"constant": Constant, "cosine": Cosine, "step": Step, "rewarm": Step}.get(name, WSD)
    fields = json.loads((shared / "golden/schedules.json").read_text())[name]["schedule"]
    schedule = kind(**{key: value for key, value in fields.items() if key in kind.__dataclass_fields__})
    golden = np.genfromtxt(shared / f"golden/features_{name}.csv", delimiter=",", names=True)
    at = golden["count"].astype(int)
    for column, effect in zip(("S", "M", "S2_lambda0999"), JITTED.values(), strict=True):
        found = np.asarray(effect(lrs(schedule)))[at]
        slack = 1e-11 * abs(golden[column][-1])
        np.testing.assert_allclose(found, golden[column], rtol=0, atol=slack, err_msg=column)


def test_golden_rowwise_effects(shared, x64):
    golden = np.genfromtxt(shared / "golden/features_irregular_rows.csv", delimiter=",", names=True)
    found = recursions.rowwise_effects(golden["step"].astype(int), golden["lr"])
    for key, value in found._asdict().items():
        np.testing.assert_allclose(value, golden[key], rtol=0, atol=1e-9 * abs(golden[key][-1]), err_msg=key)


@pytest.mark.parametrize(
    "options",
    [{}, {"beta1": 0.99, "beta2": 0.9}, {"eps": 1e-2}, {"second_moment_scale": 1.0, "eps": 1e-12}],
    ids=["published", "betas", "eps", "scale"],
)
def test_momentum_is_the_loop(options, rates, x64):
    expected = momentum_loop(rates, **options)
    found = momentum(rates, **(PUBLISHED | options))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
def test_area_is_the_loop(decay, rates, x64):
    expected = area_loop(rates, decay)
    found = area(rates, decay=decay)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("rho", [None, 1.0, 0.65, 2.0])
def test_forward_effect_is_the_sum(rho, rates, x64):
    expected = np.cumsum(1e-3 * (rates / 1e-3) ** (1.0 if rho is None else rho))
    np.testing.assert_allclose(recursions.forward_effect(rates, rho=rho), expected, rtol=1e-10)


@pytest.fixture(scope="module")
def at_24000():
    """Effects of all families at 24 000 updates, in float32 and float64; not unrolled, to compile faster."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recursions, "UNROLL", 1)
        for wide in (False, True):
            with jax.enable_x64(wide):
                many = jnp.stack([lrs(schedule) for schedule in families(24_000).values()])
                found[wide] = jax.jit(lambda many: {key: jax.vmap(effect)(many) for key, effect in EFFECTS.items()})(
                    many
                )
    return found


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_close_at_24000_updates(kind, name, at_24000):
    narrow, wide = (np.asarray(at_24000[wide][name])[KINDS.index(kind)] for wide in (False, True))
    assert (narrow.dtype, wide.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=5e-5 * np.abs(wide).max())


# ------------------------------------------------------------------------------------------------ invariants


def test_constant_rate_has_no_annealing(x64):
    steady = jnp.full(600, 3e-4)
    np.testing.assert_array_equal(momentum(steady, **PUBLISHED), np.zeros(600))
    np.testing.assert_array_equal(area(steady, decay=0.999), np.zeros(600))


@pytest.mark.parametrize("eps", [1.0, 1e2])
def test_large_eps_makes_momentum_the_area(eps, x64):
    late = np.concatenate([np.full(400, 1e-3), np.linspace(1e-3, 0.0, 200)])  # bias correction over by the anneal
    factor = 0.1 / (np.sqrt(eps) + eps)
    found = momentum(late, **(PUBLISHED | {"eps": eps}))
    np.testing.assert_allclose(found, factor * area_loop(late, 0.9), rtol=1e-4, atol=1e-12)


def test_rho_scales_as_a_power(rates, x64):
    grown = recursions.forward_effect(3 * rates, rho=0.65)
    np.testing.assert_allclose(grown, 3**0.65 * recursions.forward_effect(rates, rho=0.65), rtol=1e-10)


@pytest.mark.parametrize("warmup", [0, 100, 600, 700], ids=["none", "some", "all", "beyond"])
def test_hold_warmup(warmup, rates, x64):
    end = min(warmup, rates.size - 1)
    expected = np.concatenate([np.full(end, rates[end]), rates[end:]])
    np.testing.assert_array_equal(recursions.hold_warmup(rates, warmup), expected)


def test_rowwise_on_every_row_is_per_update(rates, x64):
    rows = recursions.rowwise_effects(np.arange(rates.size), rates)
    np.testing.assert_allclose(rows.M, momentum(rates, **PUBLISHED), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(rows.S, np.cumsum(rates) - rates[0], rtol=1e-10)


# ------------------------------------------------------------------------------------------------ transformations


@each_effect
def test_vmap_over_schedules(name, rates, x64):
    many = jnp.stack([rates, rates[::-1], 2 * rates])
    together = jax.jit(jax.vmap(EFFECTS[name]))(many)
    np.testing.assert_allclose(together, [JITTED[name](one) for one in many], rtol=1e-9, atol=1e-12)


def test_vmap_over_beta1(rates, x64):
    betas = jnp.array([0.5, 0.9, 0.99])
    together = jax.jit(jax.vmap(lambda beta1: recursions.annealing_momentum(rates, beta1=beta1)))(betas)
    for found, beta1 in zip(together, betas.tolist(), strict=True):
        np.testing.assert_allclose(found, momentum_loop(rates, beta1), rtol=1e-9, atol=1e-12)


def test_slopes_are_finite_at_a_constant_rate(monkeypatch):
    monkeypatch.setattr(recursions, "UNROLL", 1)  # compiles faster

    def total(lrs, rho):
        parts = (
            recursions.annealing_momentum(lrs),
            recursions.annealing_area(lrs),
            recursions.forward_effect(lrs, rho=rho),
        )
        return sum(part[-1] for part in parts)

    slopes = jax.jit(jax.vmap(jax.grad(total, argnums=(0, 1)), (0, None)))(jnp.array([[0.0] * 60, [1e-3] * 60]), 0.65)
    assert all(np.isfinite(slope).all() for slope in slopes)
    assert (np.abs(slopes[0]).max(axis=1) > 0).all()


def test_momentum_slope_is_a_finite_difference(rates, x64, monkeypatch):
    monkeypatch.setattr(recursions, "UNROLL", 1)  # compiles faster

    def last(scale):
        return recursions.annealing_momentum(scale * rates, eps=1e-4)[-1]

    below, above = jax.jit(jax.vmap(last))(jnp.array([1 - 1e-6, 1 + 1e-6]))
    slope = jax.jit(jax.grad(last))(1.0)
    np.testing.assert_allclose(slope, (above - below) / 2e-6, rtol=1e-6)


@each_effect
@pytest.mark.parametrize("wide", [False, True], ids=["x64-off", "x64-on"])
def test_float32_stays_float32_under_jit(name, wide):
    with jax.enable_x64(wide):
        assert jax.eval_shape(jax.jit(EFFECTS[name]), jnp.zeros(9, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize("option", [*PUBLISHED, "decay", "rho"])
def test_float64_options_leave_float32_rates_alone(option, x64):
    effect = recursions.annealing_momentum if option in PUBLISHED else JITTED["S2" if option == "decay" else "S"]
    found = jax.eval_shape(lambda rates: effect(rates, **{option: np.float64(0.5)}), jnp.zeros(9, jnp.float32))
    assert found.dtype == jnp.float32


@each_effect
def test_lists_of_whole_numbers_are_rates(name):
    assert EFFECTS[name]([2, 1, 1]).dtype == jnp.float32


def test_import_changes_no_setting():
    probe = "import jax; before = dict(jax.config.values); import fmjax; assert dict(jax.config.values) == before"
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=60)


@pytest.mark.parametrize("distance", [0.0, 1.3])
def test_convex_bound_is_the_published_sum(distance, x64):
    rates = np.random.default_rng(0).uniform(0.1, 1.0, 200)
    found = recursions.convex_bound(rates, distance=distance, gradient_norm=0.7)
    assert float(found) == pytest.approx(synthetic.convex_bound(rates, distance, 0.7), rel=1e-10)


def test_convex_bound_prefers_an_anneal():
    constant, wsd = (recursions.convex_bound(lrs(s), gradient_norm=30.0) for s in (Constant(1e-3, 900), WSD(1e-3, 900)))
    assert wsd < constant
