"""Measured optima against parabolas whose vertex is known."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import curve

from fmjax.scaling.one_for_all import Foreseen, one_for_all
from fmjax.scaling.optima import Tried, optima, tried
from fmjax.schedules.kinds import WSD, Constant

RATIOS = np.array([0.1, 0.2, 0.4, 0.6, 0.8])


def group(vertex, *, ratios=RATIOS, noise=0.0, rng=None):
    """Losses on a parabola in sqrt(R)."""
    ratios = np.asarray(ratios, float)
    losses = 3.0 + 0.2 * (np.sqrt(ratios) - np.sqrt(vertex)) ** 2
    return Tried(WSD(1e-3, 400), None, None, ratios, losses + (noise * rng.normal(size=ratios.size) if noise else 0.0))


@pytest.fixture(scope="module")
def runs():
    schedules = {f"a-{ratio}": WSD(1e-3, 400, ratio) for ratio in (0.5, 0.2, 0.8)}
    schedules |= {f"b-{ratio}": WSD(2e-3, 300, ratio) for ratio in (0.4, 0.1)}
    schedules |= {"alone": WSD(1e-3, 200, 0.4), "constant": Constant(1e-3, 400)}
    return [curve(name, schedule) for name, schedule in schedules.items()]


def test_runs_that_differ_in_nothing_but_their_ratio_make_a_cell(runs):
    found = tried(runs)
    assert [(cell.total_steps, cell.peak_lr, cell.ratios.tolist()) for cell in found] == [
        (300, 2e-3, [0.1, 0.4]),
        (400, 1e-3, [0.2, 0.5, 0.8]),
    ]
    by_name = {run.name: run.final_loss_measured for run in runs}
    assert found[1].losses.tolist() == [by_name[f"a-{ratio}"] for ratio in (0.2, 0.5, 0.8)]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: replace(run, model_size=1e6),
        lambda run: replace(run, tokens_per_step=1e5),
        lambda run: replace(run, schedule=replace(run.schedule, warmup_steps=10)),
        lambda run: replace(run, schedule=replace(run.schedule, decay="cosine")),
        lambda run: replace(run, step=run.step[:20], loss=run.loss[:20]),
    ],
    ids=["size", "batch", "warmup", "decay", "unfinished"],
)
def test_a_run_that_differs_or_was_not_finished_is_left_out(runs, change):
    (cell,) = [cell for cell in tried([change(runs[0]), *runs[1:]]) if cell.peak_lr == 1e-3]
    assert cell.ratios.tolist() == [0.2, 0.8]


def test_a_final_loss_that_was_given_finishes_a_run(runs):
    short = replace(runs[0], step=runs[0].step[:20], loss=runs[0].loss[:20], final_loss=2.9)
    assert 2.9 in tried([short, *runs[1:]])[1].losses


def test_seeds_are_averaged():
    cell = Tried(WSD(1e-3, 400), None, None, np.array([0.2, 0.4, 0.4]), np.array([3.0, 3.1, 3.3]))
    assert cell.distinct.tolist() == [0.2, 0.4]
    assert cell.means == pytest.approx([3.0, 3.2])
    assert cell.regret(0.45) == pytest.approx(0.2)
    assert cell.regret(0.1) == 0


@pytest.mark.parametrize("vertex", [0.15, 0.3, 0.41, 0.7])
def test_a_parabola_is_met_exactly(vertex):
    (found,) = optima([group(vertex)])
    assert found.ratio == pytest.approx(vertex, rel=1e-9)
    assert found.interval == pytest.approx((vertex, vertex), rel=1e-6)
    assert not found.at_edge


@pytest.mark.parametrize(("vertex", "edge", "end"), [(0.02, 0.1, 0), (0.98, 0.8, 1)], ids=["low", "high"])
def test_an_optimum_beyond_what_was_tried_is_open(vertex, edge, end):
    (found,) = optima([group(vertex)])
    assert found.at_edge
    assert found.ratio == pytest.approx(edge)
    assert found.interval[end] == end


def test_losses_that_bend_downwards_have_their_best_at_an_end():
    (found,) = optima([Tried(WSD(1e-3, 400), None, None, np.array([0.1, 0.4, 0.8]), np.array([3.0, 3.2, 3.1]))])
    assert found.at_edge
    assert found.ratio == pytest.approx(0.1)


def test_too_few_ratios():
    two = group(0.3, ratios=[0.2, 0.4])
    three = group(0.3, ratios=[0.2, 0.4, 0.6])
    none, alone = optima([two, three])
    assert none is None
    assert alone.ratio == pytest.approx(0.3)
    assert np.isnan(alone.interval).all()  # three points leave nothing to tell the noise by


def test_a_seed_that_moves_all_losses_alike_says_nothing_of_the_optimum():
    ratios = np.array([0.05, 0.1, 0.2, 0.4, 0.6])
    alone = group(0.3, ratios=ratios, noise=2e-4, rng=np.random.default_rng(0))
    twice = alone._replace(ratios=np.repeat(ratios, 2), losses=np.repeat(alone.losses, 2) + np.tile([0.0, 0.02], 5))
    once = twice._replace(ratios=twice.ratios[1:], losses=twice.losses[1:])  # one seed lacks the first ratio
    (one,), (two,), (most,) = (optima([cell]) for cell in (alone, twice, once))
    assert two.ratio == pytest.approx(one.ratio) == pytest.approx(most.ratio, abs=0.02)
    assert np.diff(two.interval) == pytest.approx(np.diff(one.interval))
    assert np.diff(most.interval) < 0.1


def test_intervals_cover_the_vertex():
    rng, held = np.random.default_rng(1), []
    for _ in range(150):
        cells = [group(vertex, noise=4e-4, rng=rng) for vertex in (0.25, 0.35, 0.45, 0.55)]
        ends = [found.interval for found in optima(cells)]
        held += [low <= vertex <= high for (low, high), vertex in zip(ends, (0.25, 0.35, 0.45, 0.55), strict=True)]
    assert 0.83 <= np.mean(held) <= 0.95


def test_the_same_seed_gives_the_same_interval():
    cells = [group(0.3, noise=1e-3, rng=np.random.default_rng(2))]
    assert optima(cells, seed=3) == optima(cells, seed=3) != optima(cells, seed=4)


def test_one_choice_for_all_cells_costs_what_trying_each_says():
    ratios, steps, best = np.linspace(0.01, 0.99, 99), (1000, 2000, 4000), (0.2, 0.25, 0.3)
    losses = [3 + (np.sqrt(ratios) - np.sqrt(own)) ** 2 for own in best]
    cells = [Foreseen(i, "linear", one, loss) for i, (one, loss) in enumerate(zip(steps, losses, strict=True))]
    alone = Foreseen(3, "1-sqrt", 1000, losses[0])
    ratio, updates = one_for_all([*cells, alone], ratios)
    assert [(one.kept, one.decay, one.cells) for one in (ratio, updates)] == [
        ("ratio", "linear", (0, 1, 2)),
        ("updates", "linear", (0, 1, 2)),
    ]
    excess = np.array(losses) - 3
    assert ratio.value == ratios[np.argmin(excess.mean(axis=0))]
    assert ratio.regrets == pytest.approx(excess[:, np.argmin(excess.mean(axis=0))], abs=1e-12)
    tried = np.arange(200, 1201)
    costs = [(np.sqrt(tried / one) - np.sqrt(own)) ** 2 for one, own in zip(steps, best, strict=True)]
    assert updates.value == pytest.approx(tried[np.argmin(np.mean(costs, axis=0))], rel=0.03)
    assert updates.mean == pytest.approx(np.min(np.mean(costs, axis=0)), rel=0.02)
    assert updates.worst == max(updates.regrets) > ratio.worst
    assert updates.worst_cell == int(np.argmax(updates.regrets))


def test_updates_beyond_a_cell_are_as_many_as_its_ratios_reach():
    ratios = np.array([0.1, 0.5, 0.9])
    short, long = (
        Foreseen(0, "linear", 100, np.array([2.0, 1.5, 1.0])),
        Foreseen(1, "linear", 9000, np.array([2, 2, 1.0])),
    )
    updates = one_for_all([short, long], ratios)[1]
    assert updates.value == 8100
    assert updates.regrets == (0.0, 0.0)
