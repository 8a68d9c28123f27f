"""Rollouts in blocks against the scan over every update, in float64 and float32."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from fmjax.effects.updates import Block, One
from fmjax.laws import ForwardMomentum, ForwardOnly, IntrinsicMomentum, Law, LRAnnealing, make_law
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated, lrs
from fmjax.searching.rollout import BLOCK_SIZES, MARGIN, final_effects

LONGEST = 20_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Both(Law):
    """Two laws side by side, so that one compiled program follows both."""

    momentum: Any
    area: Any
    name = "both"
    blocks = True

    def init(self, dtype):
        return self.momentum.init(dtype), self.area.init(dtype)

    def step(self, state, update):
        return self.momentum.step(state[0], update), self.area.step(state[1], update)

    def observe(self, state):
        momentum, area = self.momentum.observe(state[0]), self.area.observe(state[1])
        return {**momentum, "log_S_rho": area["log_S"], "S2": area["S2"]}


PUBLISHED = Both(ForwardMomentum(), LRAnnealing(rho=0.5))
AS_PEAK = replace(PUBLISHED, warmup="as-peak")
LAWS = {
    "published": PUBLISHED,
    "other-memories": Both(ForwardMomentum(beta1=0.98, beta2=0.99, eps=1e-6), LRAnnealing(decay=0.98, rho=0.5)),
}
each_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
FLOOR = 0.1
"""Below this, errors of M and S2 are not relative: a warmup takes a few times this from both."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OneOf:
    """The schedule ``which`` of several, so that one compiled program follows them all."""

    which: Any
    schedules: tuple[Any, ...]

    total_steps = property(lambda self: self._pick([s.total_steps for s in self.schedules]))
    warmup_steps = property(lambda self: self._pick([s.warmup_steps for s in self.schedules]))

    @property
    def kinks(self):
        kinks = [[*s.kinks, *[0] * 3][:3] for s in self.schedules]
        return tuple(self._pick(column) for column in zip(*kinks, strict=True))

    def _pick(self, values):
        return jnp.stack([jnp.asarray(value, float) for value in values])[self.which]

    def __call__(self, count):
        return self._switch([s.__call__ for s in self.schedules], count)

    def drop(self, count):
        return self._switch([s.drop for s in self.schedules], count)

    def _switch(self, functions, count):
        branches = [lambda count, f=f: jnp.asarray(f(count), count.dtype) for f in functions]
        return jax.lax.switch(self.which, branches, count)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scaled:
    """A schedule with all rates multiplied."""

    schedule: Any
    scale: Any

    total_steps = property(lambda self: self.schedule.total_steps)
    warmup_steps = property(lambda self: self.schedule.warmup_steps)
    kinks = property(lambda self: self.schedule.kinks)

    def __call__(self, count):
        return self.scale * self.schedule(count)

    def drop(self, count):
        return self.scale * self.schedule.drop(count)


RATIOS = (0.011, 0.1003, 0.5, 1.0)


def families(total, warmup, ratio=0.1003):
    """A schedule of every kind and decay."""
    base = {"peak_lr": 1e-3, "total_steps": total, "warmup_steps": warmup, "init_lr": 1e-5}
    return {
        "constant": Constant(**base),
        "cosine": Cosine(**base, final_lr=1e-5 * (ratio < 0.1)),
        "step": Step(**base, boundaries=(total // 3, total // 2 + 7), lrs=(ratio * 1e-3, 8e-4)),
    } | {
        decay: WSD(**base, anneal_ratio=ratio, decay=decay, final_lr=1e-5 * (0.1 < ratio < 1 or decay == "exponential"))
        for decay in DECAYS
    }


KINDS = tuple(families(9, 0))
each_kind = pytest.mark.parametrize("kind", KINDS)


def rolled(law, kind, schedules, **options):
    return final_effects(law, OneOf(KINDS.index(kind), tuple(schedules.values())), **options)


rates_of = jax.jit(lambda schedule, count: schedule(count) * jnp.ones(count.size))
scanned = jax.jit(lambda law, lrs, at: law.effects(lrs, at))


def rates(schedule, warmup="as-scheduled"):
    """The rate of every update, in float64."""
    with jax.enable_x64(True):
        every = np.asarray(rates_of(schedule, np.arange(LONGEST)))[: schedule.total_steps]
    end = min(schedule.warmup_steps, every.size - 1) if warmup == "as-peak" else 0
    return np.concatenate([np.full(end, every[end]), every[end:]])


def by_scan(law, schedule):
    """Final effects by the scan over every update; padded, so that it is compiled once a law."""
    every = rates(schedule, law.warmup)
    with jax.enable_x64(True):
        effects = scanned(law, np.pad(every, (0, LONGEST - every.size)), np.array([every.size - 1]))
    return {key: float(value[0]) for key, value in effects.items()}


def assert_close(found, expected, *, forward, annealing):
    """Relative errors: ``forward`` of S, ``annealing`` of M and S2."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key.startswith("log_S"):
            assert float(found[key]) == pytest.approx(value, rel=0, abs=forward), key
        else:
            assert float(found[key]) == pytest.approx(value, rel=annealing, abs=annealing * FLOOR), key


# ------------------------------------------------------------------------------------------------ float64


@each_law
@each_kind
@pytest.mark.parametrize("ratio", RATIOS)
def test_long_runs_are_the_scan(law, kind, ratio):
    schedules = families(LONGEST, 500, ratio)
    expected = by_scan(law, schedules[kind])
    assert_close(rolled(law, kind, schedules), expected, forward=1e-8, annealing=1e-6)


@each_law
@each_kind
@pytest.mark.parametrize(
    ("total", "warmup", "ratio"),
    [(LONGEST, 15_000, 0.5), (12_345, 777, 0.1003), (3_000, 0, 1.0), (700, 10, 1.0)],
    ids=["overlap", "odd", "whole", "short"],
)
def test_other_runs_are_the_scan(law, kind, total, warmup, ratio):
    schedules = families(total, warmup, ratio)
    expected = by_scan(law, schedules[kind])
    assert_close(rolled(law, kind, schedules), expected, forward=1e-6, annealing=1e-6)


@each_law
@each_kind
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (2, 1), (9, 9), (90, 20), (500, 0)])
def test_runs_too_short_for_blocks_are_exact(law, kind, total, warmup):
    schedules = families(total, warmup, 0.5)
    expected = by_scan(law, schedules[kind])
    assert_close(rolled(law, kind, schedules), expected, forward=1e-12, annealing=1e-11)


@pytest.mark.parametrize("kind", ["linear", "1-sqrt"])
def test_anneals_to_zero_wherever_blocks_end(kind):
    """The root of a rate near zero is too steep for a block."""
    for total in range(LONGEST - 32, LONGEST):
        schedules = families(total, 0, 1.0)
        expected = by_scan(PUBLISHED, schedules[kind])
        assert_close(rolled(PUBLISHED, kind, schedules), expected, forward=5e-9, annealing=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "step", "1-sqrt"])
@pytest.mark.parametrize(
    ("total", "warmup"), [(LONGEST, 500), (LONGEST, 19_000), (60, 20), (60, 60)], ids=["long", "late", "short", "all"]
)
def test_warmup_as_peak(kind, total, warmup):
    kinds = {name: families(total, warmup, 0.5)[name] for name in ("cosine", "step", "1-sqrt")}
    expected = by_scan(AS_PEAK, kinds[kind])
    found = final_effects(AS_PEAK, OneOf(list(kinds).index(kind), tuple(kinds.values())))
    assert_close(found, expected, forward=1e-7, annealing=1e-6)
    assert abs(by_scan(PUBLISHED, kinds[kind])["log_S"] - expected["log_S"]) > 1e-3


@pytest.mark.parametrize("kind", ["cosine", "step", "1-sqrt"])
def test_the_sum_of_rates_at_a_million_updates(kind):
    """Schedules by themselves, against a sum in NumPy."""
    schedule = families(10**6, 500)[kind]
    found = final_effects(ForwardOnly(rho=0.5), schedule)
    with jax.enable_x64(True):
        every = np.asarray(lrs(schedule))
    expected = {"log_S": np.log(1e-3 * np.sqrt(every / 1e-3).sum())}
    assert_close(found, expected, forward=1e-9, annealing=0)


@each_kind
@pytest.mark.parametrize("peak", [0.1, 10.0])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 5e-8), ("float32", 1e-5)])
def test_noise_is_remembered_as_by_the_scan(kind, peak, dtype, rtol):
    """Memories that fade within an update, over a block and over the whole run."""
    law = IntrinsicMomentum(rho=0.8, xi=0.6)
    schedules = {name: Scaled(schedule, peak) for name, schedule in families(LONGEST, 500, 0.5).items()}
    with jax.enable_x64(True):
        every = rates(schedules[kind])
        expected = scanned(law, np.pad(every, (0, LONGEST - every.size)), np.array([every.size - 1]))
    found = rolled(law, kind, schedules, dtype=dtype)
    np.testing.assert_allclose(found["S"], expected["S"][0], rtol=rtol)
    np.testing.assert_allclose(found["E"], expected["E"][0], rtol=rtol)


@pytest.mark.parametrize("name", ["multi-power", "functional"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-6), ("float32", 3e-5)])
def test_terms_of_memories_are_those_of_every_update(name, dtype, rtol):
    """Levels of open exponents have kinks; the terms of the loss read from them do not."""
    law, schedule = make_law(name), families(LONGEST, 500, 0.5)["1-sqrt"]
    truth = synthetic.TRUTH[name]
    exponents = np.array([truth[exponent.name] for exponent in law.exponents])
    with jax.enable_x64(True):
        every, found = jnp.asarray(rates(schedule)), final_effects(law, schedule, dtype=dtype)
        followed = {
            key: value[0]
            for key, value in law.effects(every, jnp.array([every.size - 1]), schedule.warmup_steps).items()
        }
        terms, expected = (
            law.basis({**{key: jnp.asarray(x, float) for key, x in row.items()}, "log_N": 0.0}, exponents)
            for row in (found, followed)
        )
        np.testing.assert_allclose(terms, expected, rtol=rtol)


# ------------------------------------------------------------------------------------------------ float32


@pytest.mark.slow
@each_law
@each_kind
@pytest.mark.parametrize("ratio", RATIOS)
def test_float32_is_close_at_a_million_updates(law, kind, ratio):
    schedules = families(10**6, 500, ratio)
    narrow, wide = (rolled(law, kind, schedules, dtype=dtype) for dtype in ("float32", "float64"))
    assert {value.dtype for value in narrow.values()} == {np.dtype("float32")}
    assert {value.dtype for value in wide.values()} == {np.dtype("float64")}
    assert_close(narrow, {key: float(value) for key, value in wide.items()}, forward=1e-5, annealing=1e-5)


# ------------------------------------------------------------------------------------------------ update by update


@dataclass(frozen=True)
class Peaks(Law):
    """A law that takes single updates alone: the sum of squared rates, and the highest rate."""

    name = "peaks"

    def init(self, dtype):
        return jnp.zeros((), dtype), jnp.zeros((), dtype)

    def step(self, state, update):
        assert isinstance(update, One)
        total, highest = state
        return total + update.lr**2, jnp.maximum(highest, update.lr)

    def observe(self, state):
        return {"squares": state[0], "highest": state[1]}


jax.tree_util.register_dataclass(Peaks)


def test_a_law_without_blocks_sees_every_update():
    schedule = families(LONGEST, 500, 0.5)["step"]
    found, every = final_effects(Peaks(), schedule), rates(schedule)
    assert float(found["highest"]) == every.max()
    np.testing.assert_allclose(found["squares"], np.sum(every**2), rtol=1e-9)


@dataclass(frozen=True)
class Seen(ForwardOnly):
    """Notes what kinds of updates it is traced with."""

    sizes_seen = []  # noqa: RUF012

    def step(self, state, update):
        self.sizes_seen.append(update.size if isinstance(update, Block) else 1)
        return super().step(state, update)


jax.tree_util.register_dataclass(Seen)


def test_a_law_with_blocks_sees_blocks():
    Seen.sizes_seen.clear()
    final_effects(Seen(), families(LONGEST, 500)["linear"])
    assert set(Seen.sizes_seen) == set(BLOCK_SIZES)


def test_a_table_goes_update_by_update():
    """Rates with a jump far from any kink that a schedule would tell of."""
    every = rates(families(LONGEST, 500)["linear"])
    every[7_777:7_780] *= 3
    table, law = Tabulated(every), LRAnnealing()
    assert_close(final_effects(law, table), by_scan(law, table), forward=1e-12, annealing=1e-11)


def test_blocks_keep_away_from_kinks():
    """A rate that is rough for a while after each kink: only updates taken one by one see that."""
    schedule = families(LONGEST, 500)["step"]
    rough = MARGIN * BLOCK_SIZES[1]

    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Rough:
        schedule: Any

        total_steps = property(lambda self: self.schedule.total_steps)
        warmup_steps = property(lambda self: self.schedule.warmup_steps)
        kinks = property(lambda self: self.schedule.kinks)

        def __call__(self, count):
            since = jnp.stack([count - kink for kink in self.kinks])
            near = ((since >= 0) & (since < rough)).any(axis=0)
            return self.schedule(count) * jnp.where(near & (count % 2 == 1), 0.5, 1.0)

        def drop(self, count):
            return self(count - 1) - self(count)

    found = final_effects(ForwardOnly(), Rough(schedule))
    expected = {"log_S": np.log(rates(Rough(schedule)).sum())}
    assert expected["log_S"] < np.log(rates(schedule).sum()) - 1e-3
    assert_close(found, expected, forward=1e-9, annealing=0)
