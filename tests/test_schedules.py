"""Schedules: DESIGN's formulas in plain Python, golden rates, JAX transformations, Optax and host-side checks."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.schedules import DECAYS, WSD, Constant, Cosine, Step, Tabulated, check_schedule, lrs

T = 100
COUNTS = np.arange(T + 20)  # past the end too
TABLE = np.linspace(1e-3, 1e-4, T)
SHAPES = {
    "linear": lambda x, peak, final: final + (peak - final) * (1 - x),
    "cosine": lambda x, peak, final: final + (peak - final) * (1 + math.cos(math.pi * x)) / 2,
    "1-sqrt": lambda x, peak, final: final + (peak - final) * (1 - math.sqrt(x)),
    "exponential": lambda x, peak, final: peak * (final / peak) ** x,
}


def warmup(t, s):
    return s.init_lr + (s.peak_lr - s.init_lr) * t / s.warmup_steps if t < s.warmup_steps else s.peak_lr


def anneal(t, s, start, shape):
    return s.peak_lr if t < start else SHAPES[shape](min((t - start) / (T - start), 1.0), s.peak_lr, s.final_lr)


def formula(t, s):
    if isinstance(s, WSD):
        return min(warmup(t, s), anneal(t, s, T - s.anneal_ratio * T, s.decay))
    if isinstance(s, Cosine):
        return min(warmup(t, s), anneal(t, s, s.warmup_steps, "cosine"))
    if isinstance(s, Step):
        passed = [lr for boundary, lr in zip(s.boundaries, s.lrs, strict=True) if t >= boundary]
        return passed[-1] if passed else warmup(t, s)
    return warmup(t, s)


BASE = {"peak_lr": 1e-3, "total_steps": T}
WARM = {**BASE, "warmup_steps": 20, "init_lr": 1e-4}
FAMILIES = {
    "constant": Constant(**BASE),
    "constant-warmup": Constant(**WARM),
    "cosine": Cosine(**BASE),
    "cosine-warmup-final": Cosine(**WARM, final_lr=1e-5),
    "step": Step(**BASE, boundaries=(50, 75), lrs=(5e-4, 1e-4)),
    "step-rewarm": Step(**WARM, boundaries=(40, 60), lrs=(1e-4, 8e-4)),
    "step-none": Step(**WARM),
} | {
    f"wsd-{decay}-{name}": WSD(**kind, anneal_ratio=ratio, decay=decay, final_lr=1e-5)
    for decay in DECAYS
    for name, kind, ratio in [
        ("cold", BASE, 0.25),
        ("warm", WARM, 0.3),
        ("overlap", WARM, 0.9),
        ("whole", BASE, 1.0),
        ("whole-warm", WARM, 1.0),
        ("fraction", BASE, 0.333),
        ("one-step", BASE, 0.01),
    ]
}
TRACED = jax.jit(lambda schedule, count: schedule(count))
each_family = pytest.mark.parametrize("schedule", FAMILIES.values(), ids=FAMILIES.keys())
each_decay = pytest.mark.parametrize("decay", DECAYS)


@each_family
def test_rates_are_the_formula_at_every_count(schedule, x64):
    expected = [formula(int(t), schedule) for t in COUNTS]
    found = TRACED(schedule, COUNTS) * np.ones(COUNTS.size)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-18)


@each_family
def test_float32_keeps_its_dtype_and_agrees(schedule):
    rates = schedule(jnp.asarray(COUNTS))
    assert rates.dtype == jnp.float32
    # 1-sqrt has no finite slope where the anneal starts: there 1e-7 of x is 3e-4 of the rate
    slack = 4e-4 if getattr(schedule, "decay", "") == "1-sqrt" else 2e-6
    np.testing.assert_allclose(rates, [formula(int(t), schedule) for t in COUNTS], atol=slack * 1e-3)


@each_family
def test_float32_fields_stay_float32_with_x64_on(schedule, x64):
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), schedule)
    assert jax.eval_shape(narrow, jnp.zeros((), jnp.float32)).dtype == jnp.float32


@each_family
def test_pytree_round_trip(schedule):
    leaves, structure = jax.tree.flatten(schedule)
    assert jax.tree.unflatten(structure, leaves) == schedule
    assert all(isinstance(leaf, float | int) for leaf in leaves)


def test_decay_is_static():
    structures = {decay: jax.tree.structure(WSD(**BASE, decay=decay)) for decay in DECAYS}
    assert len(set(structures.values())) == len(DECAYS)


def test_golden_rates(shared, x64):
    kinds = {"constant": Constant, "cosine": Cosine, "wsd": WSD, "step": Step}
    for name, entry in json.loads((shared / "golden/schedules.json").read_text()).items():
        fields = dict(entry["schedule"])
        kind = kinds[fields.pop("kind")]
        if kind in (Constant, Step):
            del fields["final_lr"]
        golden = np.genfromtxt(shared / f"golden/features_{name}.csv", delimiter=",", names=True)
        rates = TRACED(kind(**fields), golden["count"])
        np.testing.assert_allclose(rates, golden["lr"], rtol=1e-12, atol=1e-18, err_msg=name)


# ------------------------------------------------------------------------------------------------ transformations


@each_decay
def test_vmap_over_every_field(decay, x64):
    fields = {
        "peak_lr": [1e-3, 2e-3, 1e-3],
        "total_steps": [T, T, 80],
        "anneal_ratio": [0.2, 1.0, 0.5],
        "final_lr": [1e-5, 1e-4, 1e-4],
        "warmup_steps": [0, 10, 40],
        "init_lr": [0.0, 1e-4, 0.0],
    }
    batch = WSD(**{k: jnp.array(v) for k, v in fields.items()}, decay=decay)
    together = jax.jit(jax.vmap(WSD.__call__, (0, None)))(batch, COUNTS)
    alone = [TRACED(WSD(**{k: v[i] for k, v in fields.items()}, decay=decay), COUNTS) for i in range(3)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_vmap_over_cosines_and_steps(x64):
    ends, at = [50.0, 100.0], [[20, 40], [30, 60]]
    cosines = jax.jit(jax.vmap(lambda end: Cosine(1e-3, end)(COUNTS)))(jnp.array(ends))
    steps = jax.jit(jax.vmap(lambda at: Step(1e-3, T, at, (5e-4, 1e-4))(COUNTS)))(jnp.array(at))
    np.testing.assert_allclose(cosines, [TRACED(Cosine(1e-3, end), COUNTS) for end in ends], rtol=1e-9, atol=1e-18)
    np.testing.assert_array_equal(steps, [TRACED(Step(1e-3, T, (a, b), (5e-4, 1e-4)), COUNTS) for a, b in at])


@each_decay
def test_slopes_are_finite_at_every_count(decay, x64):
    fields = {"peak_lr": 1e-3, "anneal_ratio": 0.25, "total_steps": 100.0, "warmup_steps": 20.0, "final_lr": 1e-5}
    slopes = jax.jit(jax.jacfwd(lambda f: WSD(**f, decay=decay)(COUNTS)))(fields)
    chex.assert_tree_all_finite(slopes)


@each_decay
def test_slopes_are_finite_differences(decay, x64):
    counts = jnp.array([5.5, 40.5, 80.5, 95.5])  # warmup, stable, anneal, anneal
    names = ("peak_lr", "anneal_ratio", "total_steps", "warmup_steps", "final_lr")
    at = np.array([1e-3, 0.303, 100.1, 20.2, 1e-5])

    def rates(vector):
        return WSD(**dict(zip(names, vector, strict=True)), decay=decay)(counts)

    nudges = 1e-6 * np.diag(at)
    values, slopes = jax.jit(lambda points: (jax.vmap(rates)(points), jax.jacrev(rates)(at)))(
        np.concatenate([at + nudges, at - nudges])
    )
    expected = (values[:5] - values[5:]) / (2 * nudges.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(slopes.T, expected, rtol=1e-6, atol=1e-12)
    assert (np.abs(slopes).max(axis=0) > 0).all()


# ------------------------------------------------------------------------------------------------ Optax


def test_agrees_with_optax_warmup_cosine():
    peer = optax.warmup_cosine_decay_schedule(1e-4, 1e-3, 20, T, 1e-5)
    ours = Cosine(**WARM, final_lr=1e-5)
    np.testing.assert_allclose(ours(COUNTS), peer(COUNTS), rtol=2e-6, atol=1e-10)


def train(optimizer, steps, start):
    def update(carry, _):
        x, state = carry
        change, state = optimizer.update(x, state, x)  # the gradient of x^2 / 2 is x
        return (optax.apply_updates(x, change), state), None

    return jax.lax.scan(update, (start, optimizer.init(start)), length=steps)[0][0]


def test_drives_sgd():
    schedule = WSD(peak_lr=0.05, total_steps=T, anneal_ratio=0.3, warmup_steps=10)
    reached = train(optax.sgd(schedule), T, jnp.ones(2))
    np.testing.assert_allclose(reached, np.prod(1 - np.asarray(lrs(schedule), float)), rtol=1e-5)


@each_decay
def test_drives_adamw(decay):
    schedule = WSD(peak_lr=0.1, total_steps=T, anneal_ratio=0.5, decay=decay, final_lr=1e-4)
    assert float(jnp.abs(train(optax.adamw(schedule), T, jnp.ones(2))).max()) < 0.1


def test_tabulates_an_optax_schedule():
    peer = optax.linear_schedule(1e-3, 0.0, T)
    table = Tabulated.from_schedule(peer, T, warmup_steps=5)
    assert (table.total_steps, table.warmup_steps) == (T, 5)
    np.testing.assert_array_equal(table(np.arange(T)), peer(np.arange(T)))


def test_lrs_of_a_constant_has_every_update():
    np.testing.assert_array_equal(lrs(Constant(0.5, 7)), np.full(7, 0.5))
    np.testing.assert_array_equal(lrs(optax.constant_schedule(0.5), 7), np.full(7, 0.5))


@pytest.mark.parametrize(("count", "index"), [(0, 0), (57, 57), (T, -1), (10 * T, -1)])
def test_table_keeps_its_last_rate(count, index, x64):
    assert float(Tabulated(TABLE)(count)) == TABLE[index]


# ------------------------------------------------------------------------------------------------ checks


@each_family
def test_good_schedules_pass(schedule):
    check_schedule(schedule)
    check_schedule(jax.tree.map(jnp.asarray, schedule))
    check_schedule(Tabulated(lrs(schedule)))


BAD = {
    "no-schedule": (optax.constant_schedule(1.0), r"got function.*Tabulated\.from_schedule"),
    "no-steps": (Constant(1e-3, 0), "total_steps: expected a whole number >= 1, got 0"),
    "half-step": (Constant(1e-3, 10.5), "total_steps: expected a whole number"),
    "endless": (Constant(1e-3, math.inf), "total_steps: expected a finite number"),
    "no-number": (Constant("high", 10), "peak_lr: expected a number, got 'high'"),
    "zero-peak": (Constant(0.0, 10), "peak_lr: expected a number above zero"),
    "nan-peak": (Cosine(math.nan, 10), "peak_lr: expected a finite number"),
    "negative-warmup": (Constant(1e-3, 10, warmup_steps=-1), "warmup_steps: expected a whole number >= 0"),
    "long-warmup": (Constant(1e-3, 10, warmup_steps=11), "warmup of 11 steps is longer than the run of 10"),
    "init-above-peak": (Constant(1e-3, 10, init_lr=2e-3), r"init_lr: expected a rate in \[0, peak_lr = 0.001\]"),
    "final-above-peak": (Cosine(1e-3, 10, final_lr=2e-3), "final_lr: expected a rate in .* got 0.002"),
    "negative-final": (WSD(1e-3, 10, final_lr=-1e-5), "final_lr: expected a rate in .* got -1e-05"),
    "zero-ratio": (WSD(1e-3, 10, 0.0), r"anneal_ratio must lie in \(0, 1\], got 0"),
    "large-ratio": (WSD(1e-3, 10, 1.5), r"anneal_ratio must lie in \(0, 1\], got 1.5"),
    "unknown-decay": (WSD(1e-3, 10, decay="linar"), "unknown decay 'linar'; did you mean 'linear'"),
    "exponential-to-zero": (WSD(1e-3, 10, decay="exponential"), "exponential decay needs a final_lr above zero"),
    "missing-rate": (Step(1e-3, 10, (2, 4), (1e-4,)), "one of lrs for each boundary, got 1 for 2"),
    "falling-boundaries": (Step(1e-3, 10, (4, 2), (1e-4, 1e-5)), r"boundaries must rise .* \[4.0, 2.0\]"),
    "negative-boundary": (Step(1e-3, 10, (-0.5,), (1e-4,)), "not be negative"),
    "negative-step-rate": (Step(1e-3, 10, (4,), (-1e-4,)), "lrs must not be negative, got -0.0001 at index 0"),
    "negative-table": (Tabulated(np.array([1e-3, -1e-3])), "lrs must not be negative, got -0.001 at index 1"),
    "square-table": (Tabulated(np.ones((2, 3))), r"lrs: expected one dimension, got shape \(2, 3\)"),
    "no-table": (Tabulated(1e-3), r"lrs: expected one dimension, got shape \(\)"),
    "nan-table": (Tabulated(np.array([math.nan, 1e-3])), "got nan at index 0"),
    "empty-table": (Tabulated(np.array([])), "total_steps: expected a whole number >= 1, got 0"),
}


@pytest.mark.parametrize(("schedule", "message"), BAD.values(), ids=BAD.keys())
def test_bad_schedules_are_named(schedule, message):
    with pytest.raises(ValueError, match=message):
        check_schedule(schedule)


def test_unknown_decay_is_named_at_the_first_call():
    with pytest.raises(ValueError, match="did you mean '1-sqrt'"):
        WSD(1e-3, 10, decay="1-sqr")(0)
