"""Final losses of searches against the recursion over every update: laws, decays, warmups, ratios, lengths, dtypes."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic
from test_sweep import synthetic_fit

from fmjax import search
from fmjax.laws import LAWS, Law, make_law
from fmjax.laws.base import WARMUPS
from fmjax.laws.terms import Coefficient
from fmjax.schedules.anneals import DECAYS
from fmjax.schedules.host_rates import host_rates
from fmjax.schedules.kinds import WSD
from fmjax.searching import kernels
from fmjax.searching.grid import Grid
from fmjax.searching.kernels import Kernel, Layout
from fmjax.searching.panels import NEIGHBOURS, STEEP, Counts, Moments, crossings, most_panels, panel_sizes
from fmjax.searching.run_ends import alike, groups_of

SLOW_TO_COMPILE = ("multi-power", "functional", "forward-momentum")

WEIGHTED = [name for name in LAWS if LAWS[name].weighted]
each_decay = pytest.mark.parametrize("decay", DECAYS)

effects_of_all = jax.jit(
    jax.vmap(lambda law, lrs, last, warmup: Law.effects(law, lrs, last[None], warmup), in_axes=(None, 0, 0, 0))
)


def by_recursion(fit, found, warmup_steps, init_lr):
    """Final losses ``[cells, ratios]`` by the recursion over every update, in float64."""
    law, vector = fit.law.settled(fit.vector)
    each = [(cell, ratio) for cell in found.cells for ratio in found.anneal_ratio]
    schedules = [
        WSD(cell.peak_lr, cell.total_steps, ratio, cell.decay, cell.final_lr, warmup_steps, init_lr)
        for cell, ratio in each
    ]
    longest = max(schedule.total_steps for schedule in schedules)
    rates = [np.resize(host_rates(s, np.arange(s.total_steps)), longest) for s in schedules]
    last = np.array([schedule.total_steps - 1 for schedule in schedules])
    with jax.enable_x64(True):
        if len(set(last.tolist())) == 1:
            rows = ends_of_all(law, np.stack(rates), warmup_steps)
        else:
            effects = effects_of_all(law, np.stack(rates), last, np.full(last.size, warmup_steps))
            rows = {key: value[:, 0] for key, value in effects.items()}
        rows |= {"log_N": np.zeros(last.size)}
        return np.asarray(law.predict(rows, vector)).reshape(len(found.cells), -1)


@jax.jit
def ends_of_all(law, rates, warmup_steps):
    """Effects after the last update of schedules ``[schedules, T]``; those after all of a million would take GBs."""

    def of_one(lrs):
        first = law.init(lrs.dtype)
        last, _ = jax.lax.scan(
            lambda state, update: (law.step(state, update), None), first, law.counted(lrs, warmup_steps)
        )
        return law.observe(last)

    return jax.vmap(of_one)(rates)


def assert_as_by_recursion(fit, grid, warmup_steps, init_lr, dtypes=("float64", "float32")):
    ramp, exact = {"warmup_steps": warmup_steps, "init_lr": init_lr}, None
    for dtype in dtypes:
        found = search(fit, **grid, **ramp, dtype=dtype, keep_losses=True)
        exact = by_recursion(fit, found, **ramp) if exact is None else exact
        tolerance = {"float64": 1e-8, "float32": 1e-6}[dtype]
        # the terms of a loss are as large as L0, also where they cancel in it
        np.testing.assert_allclose(found.losses, exact, rtol=tolerance, atol=tolerance * 2.5)


def final_lrs(decay):
    return (2e-7, 1e-4) if decay == "exponential" else (0.0, 1e-4)


def each_case():
    """Every law with sums, decay and count of warmup; fast ones have two decays, and one such count, for each law."""
    for place in np.ndindex(len(WEIGHTED), len(DECAYS), len(WARMUPS)):
        case = [list(axis)[i] for axis, i in zip((WEIGHTED, DECAYS, WARMUPS), place, strict=True)]
        slow = case[0] in SLOW_TO_COMPILE or sum(place) % len(WARMUPS) > 0 or sum(place[:2]) % 2 > 0
        yield pytest.param(*case, marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("name", "decay", "warmup"), list(each_case()))
def test_final_losses_are_those_of_the_recursion(name, decay, warmup):
    """Down to an anneal of one update; with a warmup of half the run, most anneals begin in it."""
    fit = synthetic_fit(name, warmup=warmup)
    for total, warmups in ((10, (0, 4)), (1000, (0, 30, 500))):
        ratios = (1 / total, 0.0313, 0.4, 0.9003, 1.0)
        grid = {"total_steps": total, "peak_lr": (5e-4, 2e-3), "anneal_ratio": ratios, "final_lr": final_lrs(decay)}
        for steps in warmups:
            assert_as_by_recursion(fit, grid | {"decay": decay}, steps, 1e-5 * (steps > 0))


CELL, LAYOUT = ("total_steps", "peak_lr", "decay", "final_lr"), Layout(2, 3, 2)
SCALING = [("lr-annealing", {"rho": 0.7}), ("lr-annealing", {}), ("forward-only", {}), ("chinchilla", {})]


def each_multiple():
    """Every law that scales and decay; each of them is in one of the fast cases."""
    for law, decay in np.ndindex(len(SCALING), len(DECAYS)):
        yield pytest.param(*SCALING[law], list(DECAYS)[decay], marks=[pytest.mark.slow] * ((law + decay) % 4 > 0))


@pytest.mark.parametrize(("name", "options", "decay"), list(each_multiple()))
def test_multiples_of_one_schedule(name, options, decay):
    """Final rates in proportion to peak rates over four orders of magnitude."""
    ratios = np.array([1e-3, 0.0313, 0.4, 0.9003, 1.0])
    axes = {"total_steps": 1000, "peak_lr": np.geomspace(1e-5, 1e-1, 5), "anneal_ratio": ratios, "decay": decay}
    for warmup_steps in (0, 500):
        final = {"final_lr": 0.02 * (decay != "linear"), "final_is_share": True}
        grid = Grid.of(**axes, **final, warmup_steps=warmup_steps, init_lr=0.0)
        cells = [SimpleNamespace(**dict(zip(CELL, grid.cell(i), strict=True))) for i in range(grid.cells)]
        for warmup in WARMUPS:
            fit = synthetic_fit(name, warmup=warmup, **options)
            exact = by_recursion(fit, SimpleNamespace(cells=cells, anneal_ratio=ratios), warmup_steps, 0.0)
            for dtype, tolerance in (("float64", 1e-8), ("float32", 1e-6)):
                kernel = Kernel(fit.law, fit.vector[None], grid, dtype, LAYOUT)
                assert kernel.law.scales
                assert grid.scales
                found = np.concatenate([losses[0] for _, losses in kernel.losses(grid.parts(LAYOUT.rows))])
                np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance * 2.5)


def test_which_grids_scale():
    axes = {"total_steps": 90, "peak_lr": (1e-3, 2e-3), "decay": "linear", "anneal_ratio": 0.5}
    zero = {"final_lr": 0.0, "warmup_steps": 9, "init_lr": 0.0}
    share = {"final_lr": 0.1, "final_is_share": True}
    for changes, scales in (
        ({}, True),
        (share, True),
        ({"init_lr": 1e-5}, False),
        ({"init_lr": 1e-5, "warmup_steps": 0}, True),
        ({"final_lr": 1e-5}, False),
        (share | {"final_lr": (0.0, 0.1)}, False),
    ):
        assert Grid.of(**axes, **zero | changes).scales == scales


MOMENTS = [
    {"beta1": 0.5, "beta2": 0.5},
    {"beta1": 0.99, "beta2": 0.9999, "eps": 1e-3, "rho": 0.7},
    {"beta1": 0.999, "beta2": 0.9, "eps": 1e-10, "second_moment_scale": 1e9},
    {"beta1": 0.99999, "beta2": 0.99, "eps": 1e-12, "second_moment_scale": 1e7},
    {"beta1": 0.0, "beta2": 0.0, "eps": 1e-6},
]


@pytest.mark.parametrize("decay", ["linear", "exponential"])
def test_moments_in_both_precisions(decay):
    grid = {"total_steps": 1000, "peak_lr": (5e-4, 2e-3), "anneal_ratio": (0.03, 0.9), "final_lr": 1e-5}
    assert_as_by_recursion(synthetic_fit("forward-momentum"), grid | {"decay": decay}, 300, 0.0)


@pytest.mark.parametrize("options", MOMENTS, ids=str)
@pytest.mark.parametrize("warmup", ["as-scheduled", pytest.param("without-rise", marks=pytest.mark.slow)])
def test_moments_of_every_pace(options, warmup):
    """Whichever average is the slower one; where the first is, the root of the second turns long after a kink."""
    fit = synthetic_fit("forward-momentum", warmup=warmup, **options)
    grid = {"total_steps": 3000, "peak_lr": 1e-3, "anneal_ratio": (0.01, 0.4, 0.95), "final_lr": 1e-5}
    assert_as_by_recursion(fit, grid | {"decay": "1-sqrt"}, 300, 0.0, dtypes=("float64",))


@dataclasses.dataclass(frozen=True)
class Own(Law):
    """A law of a user's, without sums: the sum of squared rates, and the highest rate."""

    name = "own"

    @property
    def coefficients(self):
        return Coefficient("squares"), Coefficient("highest")

    @property
    def exponents(self):
        return ()

    def init(self, dtype):
        return jnp.zeros((), dtype), jnp.zeros((), dtype)

    def step(self, state, update):
        return state[0] + update.lr**2, jnp.maximum(state[1], update.lr)

    def observe(self, state):
        return {"squares": state[0], "highest": state[1]}

    def basis(self, row, exponents):
        return jnp.stack([row["squares"], row["highest"]])


jax.tree_util.register_dataclass(Own)


def test_a_law_without_sums_follows_every_update():
    grid = Grid.of(
        total_steps=700,
        peak_lr=[1e-3, 2e-3],
        decay="linear",
        final_lr=0.0,
        anneal_ratio=[0.1, 0.9],
        warmup_steps=300,
        init_lr=0.0,
    )
    kernel = Kernel(Own(), np.array([[1e3, 7.0]]), grid, "float64", Layout.of(grid, 1, "cpu", Own()))
    found = np.concatenate([losses[0] for _, losses in kernel.losses(grid.parts(2))])
    for peak, row in zip((1e-3, 2e-3), found, strict=True):
        for ratio, loss in zip((0.1, 0.9), row, strict=True):
            rates = host_rates(WSD(peak, 700, ratio, "linear", 0.0, 300), np.arange(700))
            np.testing.assert_allclose(loss, 1e3 * np.sum(rates**2) + 7 * rates.max(), rtol=1e-12)


class Squared(LAWS["lr-annealing"]):
    """A law whose effects are others, and do not scale as those of the law it comes from."""

    name = "squared"

    def row_effects(self, updates, at):
        return super().row_effects(updates._replace(lr=updates.lr**2), at)


def test_a_law_with_other_effects_does_not_scale():
    assert Squared.weighted
    assert not Squared.scales


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTED)
@each_decay
@pytest.mark.parametrize(("total", "warmup_steps"), [(20_000, 700), (24_011, 9_000), (1_000_000, 2000)])
def test_long_runs(name, decay, total, warmup_steps):
    ratios = (1 / total, 0.1, 0.7, 1.0) if total < 10**6 else (0.2,)
    grid = {"total_steps": total, "peak_lr": 1e-3, "anneal_ratio": ratios, "final_lr": final_lrs(decay)[:1]}
    assert_as_by_recursion(synthetic_fit(name), grid | {"decay": decay}, warmup_steps, 0.0)


@pytest.mark.parametrize("decay", ["linear", "exponential"])
def test_samples_have_losses_of_their_own(decay):
    """Open exponents are kept by levels, for all samples at once."""
    fit = synthetic_fit("intrinsic-momentum")
    samples = fit.vector * np.random.default_rng(0).uniform(0.9, 1.1, (3, fit.vector.size))
    grid = {"total_steps": 1000, "peak_lr": (5e-4, 2e-3), "anneal_ratio": (0.1, 0.5), "final_lr": 1e-4}
    ramp = {"warmup_steps": 30, "init_lr": 1e-5}
    found = search(fit, **grid, **ramp, decay=decay, samples=samples, keep_losses=True)
    for sample, losses in zip(samples, found.sample_losses, strict=True):
        params = dict(zip(fit.law.parameter_names, sample.tolist(), strict=True))
        exact = by_recursion(dataclasses.replace(fit, params=params), found, **ramp)
        np.testing.assert_allclose(losses, exact, rtol=1e-6)  # levels of exponents against the exponents themselves


# ------------------------------------------------------------------------------------------------ panels


def random_moments(rng):
    rate = float(np.exp(rng.uniform(np.log(1e-6), 0)))
    return None if rng.random() < 0.3 else Moments(rate, bool(rng.random() < 0.5))


def random_counts(rng):
    total = int(np.exp(rng.uniform(0, np.log(2**31 - 1))))
    warmup = int(rng.choice([0, 1, total, min(total, 500), rng.integers(0, total + 1)]))
    start = total - rng.choice([1 / total, 1.0, rng.random(), total ** -rng.random()]) * total
    low = int(rng.integers(int(start), warmup)) if start < warmup else 0
    crossing = (low, min(warmup, low + int(rng.integers(0, NEIGHBOURS + 1)))) if start < warmup else None
    falls = int(rng.choice([0, 0, 3, 7, 14, 30, 100, 700]))
    return Counts(total, warmup, start, falls == 0 and bool(rng.random() < 0.5), falls, crossing, random_moments(rng))


def test_panels_cover_every_update_and_are_no_more_than_there_is_room_for():
    rng = np.random.default_rng(0)
    for counts in (random_counts(rng) for _ in range(3000)):
        sizes = panel_sizes(counts)
        assert sizes.sum() == counts.total_steps
        assert sizes.min() > 0
        assert sizes.size <= most_panels(counts.total_steps, counts.falls, counts.moments), counts


def test_a_longer_run_has_hardly_more_panels():
    short, long = (panel_sizes(Counts(total, 500, 0.7 * total)).size for total in (24_000, 240_000))
    assert short < long <= short + 6


@each_decay
@pytest.mark.parametrize("init_lr", [0.0, 1e-5])
def test_crossings_are_where_the_warmup_meets_the_anneal(decay, init_lr):
    peak, final, warmup, total, start = np.array([1e-3, 2e-3]), np.array([1e-6, 1e-4]), 700, 1000, 99.7
    at = crossings(decay, peak, final, init_lr=init_lr, warmup_steps=warmup, start=start, stop=total)
    for p, f, crossing in zip(peak, final, at, strict=True):
        count = np.arange(int(start), warmup + 1)
        rising = init_lr + (p - init_lr) * count / warmup
        fallen = DECAYS[decay].rate(np.clip((count - start) / (total - start), 0, 1), p, f)
        assert crossing == count[rising <= fallen].max()


def test_groups_hold_every_candidate_once():
    axes = {"peak_lr": np.geomspace(1e-4, 1e-2, 40), "final_lr": (0.0, 1e-5), "anneal_ratio": np.linspace(0.05, 1, 20)}
    grid = Grid.of(total_steps=1000, decay="cosine", warmup_steps=500, init_lr=1e-5, **axes)
    part = grid.part(0, 64)
    for held in (True, False):
        law = make_law("lr-annealing", warmup="as-peak" if held else "without-rise")
        groups = list(groups_of(law, part, grid, 16))
        seen = sorted((row, group.ratio) for group in groups for row in group.rows.tolist())
        assert seen == [(row, ratio) for row in range(64) for ratio in range(20)]
        assert max(group.rows.size for group in groups) <= 16
        overlap = [group.counts.crossing for group in groups if group.counts.crossing]
        assert bool(overlap) != held
        assert all(0 <= high - low <= NEIGHBOURS for low, high in overlap)


def test_only_decays_with_a_steep_start_are_called_steep():
    x = 1e-8
    steep = [name for name, decay in DECAYS.items() if (1 - decay.rate(np.array(x), 1.0, 0.1)) / x > 1e3]
    assert tuple(steep) == STEEP


# ------------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize(
    "name",
    ["intrinsic-momentum", "lr-annealing", "forward-momentum", pytest.param("functional", marks=pytest.mark.slow)],
)
def test_programs_lower_for_accelerators(name, platform):
    grid = Grid.of(
        total_steps=90,
        peak_lr=[1e-3, 2e-3],
        decay="1-sqrt",
        final_lr=0.0,
        anneal_ratio=[0.1, 0.5],
        warmup_steps=9,
        init_lr=0.0,
    )
    law, part = make_law(name), grid.part(0, 2)
    vector = np.array([[synthetic.TRUTH[name][parameter] for parameter in law.parameter_names]], np.float32)
    groups = list(groups_of(law, grid.unit(part) if law.scales else part, grid, 2))
    arguments = (law, vector, kernels.Run(np.int32(90), np.int32(9), np.float32(0)), np.float32(0))
    runs = alike(law, groups, part, grid, (2, 2), "float32")
    options = {"decay": "1-sqrt", "together": 1}
    exported = jax.export.export(kernels.end_losses, platforms=[platform])(*arguments, *runs, **options)
    assert exported.platforms == (platform,)
    assert exported.out_avals[0].shape == (1, 2, 2)
    if law.scales:
        runs = alike(law, groups, grid.unit(part), grid, (2, 1), "float32")
        factor = part.peak_lr.astype("float32")
        exported = jax.export.export(kernels.multiples_losses, platforms=[platform])(
            *arguments, *runs, factor, **options
        )
        assert exported.out_avals[0].shape == (1, 2, 2)
