"""Schedules: DESIGN's formulas in plain Python, golden rates, JAX transformations, Optax and host-side checks."""

import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmjax.schedules import anneals
from fmjax.schedules.checks import check_schedule
from fmjax.schedules.kinds import DECAYS, WSD, Constant, Cosine, Step, Tabulated, lrs

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
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-16)


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
        np.testing.assert_allclose(rates, golden["lr"], rtol=1e-10, atol=1e-16, err_msg=name)


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
    np.testing.assert_allclose(together, alone, rtol=1e-10)


def test_vmap_over_cosines_and_steps(x64):
    ends, at = [50.0, 100.0], [[20, 40], [30, 60]]
    cosines = jax.jit(jax.vmap(lambda end: Cosine(1e-3, end)(COUNTS)))(jnp.array(ends))
    steps = jax.jit(jax.vmap(lambda at: Step(1e-3, T, at, (5e-4, 1e-4))(COUNTS)))(jnp.array(at))
    np.testing.assert_allclose(cosines, [TRACED(Cosine(1e-3, end), COUNTS) for end in ends], rtol=1e-9, atol=1e-16)
    np.testing.assert_allclose(steps, [TRACED(Step(1e-3, T, (a, b), (5e-4, 1e-4)), COUNTS) for a, b in at], rtol=1e-10)


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


# ------------------------------------------------------------------------------------------------ drops

DROP = jax.jit(lambda schedule, count: schedule.drop(count))


def drops_of(schedule):
    """Differences of the formula; none before the first update."""
    return -np.diff([formula(int(t), schedule) for t in COUNTS], prepend=formula(0, schedule))


@each_family
def test_drops_are_differences_of_the_formula(schedule, x64):
    found = DROP(schedule, COUNTS) * np.ones(COUNTS.size)
    np.testing.assert_allclose(found, drops_of(schedule), rtol=1e-9, atol=1e-16)
    assert float(found[0]) == 0.0


EDGES = {
    "cosine-only-warms-up": Cosine(**{**WARM, "warmup_steps": T - 1}, final_lr=1e-5),
    "wsd-only-warms-up": WSD(**{**WARM, "warmup_steps": T}, anneal_ratio=0.2),
    "starts-at-its-peak": WSD(**{**WARM, "init_lr": 1e-3}, anneal_ratio=0.875, decay="1-sqrt"),
    "anneals-to-its-peak": WSD(**WARM, anneal_ratio=0.3, decay="exponential", final_lr=1e-3),
    "anneal-starts-with-the-peak": WSD(**WARM, anneal_ratio=0.8),
    "anneal-of-less-than-an-update": WSD(**WARM, anneal_ratio=0.004, decay="cosine"),
    "step-at-once": Step(**BASE, boundaries=(0, 50), lrs=(5e-4, 1e-4)),
    "step-in-warmup": Step(**WARM, boundaries=(10, 10.5, 30), lrs=(5e-4, 7e-4, 1e-4)),
}


@pytest.mark.parametrize("schedule", EDGES.values(), ids=EDGES.keys())
def test_rates_and_drops_of_edge_cases(schedule, x64):
    check_schedule(schedule)
    expected = [formula(int(t), schedule) for t in COUNTS]
    np.testing.assert_allclose(TRACED(schedule, COUNTS), expected, rtol=1e-10, atol=1e-16)
    np.testing.assert_allclose(DROP(schedule, COUNTS), drops_of(schedule), rtol=1e-9, atol=1e-16)


def test_drops_of_a_table(x64):
    rates = np.random.default_rng(0).uniform(size=T)
    expected = np.concatenate([[0.0], -np.diff(rates), np.zeros(20)])
    np.testing.assert_array_equal(DROP(Tabulated(rates), COUNTS), expected)


def many_wsd(size, seed):
    """Fields of random schedules; some of them are whole numbers, at their limits, or overlap."""
    rng = np.random.default_rng(seed)
    peak, pick = rng.uniform(1e-4, 1e-2, size), rng.uniform(size=(4, size))
    ratio = np.where(pick[0] < 0.1, 1.0, np.where(pick[0] < 0.3, np.ceil(T * pick[1]) / T, pick[1]))
    return {
        "peak_lr": peak,
        "total_steps": np.full(size, float(T)),
        "anneal_ratio": ratio,
        "final_lr": peak * np.where(pick[2] < 0.1, 1.0, np.clip(pick[2], 0.1, 1)),
        "warmup_steps": rng.integers(0, T + 1, size).astype(float),
        "init_lr": peak * np.where(pick[3] < 0.2, np.rint(5 * pick[3]), pick[3]),
    }


@each_decay
def test_random_schedules_and_their_drops_under_vmap(decay, x64):
    fields = many_wsd(150, seed=1)
    found = jax.jit(jax.vmap(lambda s: (s(COUNTS), s.drop(COUNTS))))(WSD(**fields, decay=decay))
    for i in range(150):
        one = WSD(**{name: float(values[i]) for name, values in fields.items()}, decay=decay)
        check_schedule(one)
        expected = [formula(int(t), one) for t in COUNTS], drops_of(one)
        # where 1-sqrt begins, a start off by 1e-14 of an update is 1e-7 of the rate
        slack = 2e-7 if decay == "1-sqrt" else 1e-14
        np.testing.assert_allclose([x[i] for x in found], expected, rtol=0, atol=slack * one.peak_lr, err_msg=str(one))


MILLION = 10**6
LONG = {"peak_lr": 1e-3, "total_steps": MILLION, "final_lr": 1e-5, "warmup_steps": 1000}


@pytest.mark.parametrize(
    "schedule",
    [Cosine(**LONG), *(WSD(**LONG, anneal_ratio=0.3003, decay=decay) for decay in DECAYS)],
    ids=["cosine-schedule", *DECAYS],
)
def test_float32_drops_do_not_cancel_in_long_runs(schedule, x64):
    counts = np.linspace(MILLION - 0.3003 * MILLION + 2, MILLION - 1, 1000).astype(int)
    narrow = jnp.asarray(counts, jnp.float32)
    wide = np.asarray(DROP(schedule, counts.astype(float)))
    found, plain = DROP(schedule, narrow), TRACED(schedule, narrow - 1) - TRACED(schedule, narrow)
    assert (found.dtype, plain.dtype, wide.dtype) == (np.float32, np.float32, np.float64)
    np.testing.assert_allclose(np.asarray(found, float), wide, rtol=0, atol=1e-6 * wide.max())
    early = np.s_[:950]  # a cosine ends flat, where x is 1 to seven digits
    np.testing.assert_allclose(np.asarray(found, float)[early], wide[early], rtol=1e-5)
    assert np.median(np.abs(np.asarray(plain, float) / wide - 1)) > 1e-3


def test_slopes_of_drops_are_finite_at_every_count(x64):
    fields = {"peak_lr": 1e-3, "anneal_ratio": 0.25, "total_steps": 100.0, "warmup_steps": 20.0, "final_lr": 1e-5}
    slopes = jax.jit(jax.jacfwd(lambda f: WSD(**f, decay="1-sqrt").drop(COUNTS)))(fields)  # the steepest
    chex.assert_tree_all_finite(slopes)


# ------------------------------------------------------------------------------------------------ kinks


kinks_of = jax.jit(lambda schedule: schedule.kinks)


def crossing(s):
    """Count at which the anneal falls below the warmup, by halving."""
    start = T - s.anneal_ratio * T
    low, high = start, float(s.warmup_steps)
    for _ in range(60):
        middle = (low + high) / 2
        above = anneal(middle, s, start, s.decay) > warmup(middle, s)
        low, high = (middle, high) if above else (low, middle)
    return high


KINKS = {
    "constant": (Constant(**WARM), [20]),
    "cosine": (Cosine(**WARM), [20]),
    "step": (Step(**WARM, boundaries=(50, 75), lrs=(5e-4, 1e-4)), [20, 50, 75]),
    "wsd": (WSD(**WARM, anneal_ratio=0.25), [20, 75]),
    "wsd-fraction": (WSD(**BASE, anneal_ratio=0.333), [0, 66]),
    "wsd-whole": (WSD(**BASE, anneal_ratio=1.0), [0]),
}


@pytest.mark.parametrize(("schedule", "expected"), KINKS.values(), ids=KINKS.keys())
def test_kinks_are_where_pieces_meet(schedule, expected, x64):
    assert sorted({float(kink) for kink in kinks_of(schedule)}) == expected


def test_a_table_may_have_kinks_anywhere():
    assert Tabulated(TABLE).kinks is None


@each_decay
def test_kinks_of_an_overlap(decay, x64):
    schedules = [WSD(**WARM, anneal_ratio=ratio, decay=decay, final_lr=1e-5) for ratio in (0.875, 0.953, 1.0)]
    for schedule in schedules:
        warmed, start, crossed = (float(kink) for kink in kinks_of(schedule))
        assert (warmed, start) == (20, np.floor(T - schedule.anneal_ratio * T))
        assert crossed == pytest.approx(crossing(schedule), abs=1e-8)
        assert start < crossed < warmed


def test_kinks_search_only_for_an_overlap_and_compile_once(x64):
    before = anneals._crossing._cache_size()
    assert WSD(**WARM, anneal_ratio=0.25).kinks == (20, 75, 20)
    assert anneals._crossing._cache_size() == before
    found = [WSD(**WARM, anneal_ratio=ratio, final_lr=2e-5).kinks[2] for ratio in (0.9, 0.91, 0.92)]
    assert 10 < found[0] > found[1] > found[2]
    assert anneals._crossing._cache_size() == before + 1


def test_piecewise_linear_rates_bend_at_kinks_alone(x64):
    fields = many_wsd(150, seed=2)
    rates, kinks = jax.jit(jax.vmap(lambda s: (s(COUNTS[:T]), jnp.stack(s.kinks))))(WSD(**fields))
    bends = np.abs(np.diff(rates, n=2)) > 1e-12 * fields["peak_lr"][:, None]
    away = COUNTS[1 : T - 1] - np.floor(kinks)[:, :, None]
    near = ((away == 0) | (away == 1)).any(axis=1)  # a kink may lie between an update and the next
    assert bends.sum() > 150
    assert not (bends & ~near).any()


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
