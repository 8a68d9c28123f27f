"""Transfer of optima on runs of a known law, whose optima are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import DECAY, cells, curve, final_losses, runs

from fmjax.laws import LRAnnealing
from fmjax.scaling.transfers import PUBLISHED, transfer
from fmjax.schedules.kinds import WSD, Constant

pytestmark = pytest.mark.slow

LAW = LRAnnealing(decay=DECAY)
FINE = np.linspace(0.01, 0.99, 99)


def truth(cell):
    losses = final_losses(FINE, peak_lr=cell.tried.peak_lr, total_steps=cell.tried.total_steps)
    return FINE[np.argmin(losses)]


@pytest.fixture(scope="module")
def curves():
    return cells()


@pytest.fixture(scope="module")
def found(curves):
    return transfer(curves, law=LAW, samples=20)


def test_every_cell_has_its_optimum(found):
    assert [(cell.tried.total_steps, cell.tried.peak_lr) for cell in found.cells] == [
        (steps, peak) for steps in (300, 400, 600) for peak in (5e-4, 1e-3)
    ]
    for cell in found.cells:
        assert abs(cell.predicted.cell.best_ratio - truth(cell)) < 0.011
        assert abs(cell.measured.ratio - truth(cell)) < 0.08  # a parabola over five ratios


def test_longer_cells_are_chosen_for_from_shorter_runs(found):
    for cell in found.cells:
        if cell.tried.total_steps == 300:
            assert (cell.chosen, cell.law_alone, cell.copied) == (None, None, None)
        else:
            assert cell.chosen.regret == cell.law_alone.regret == 0
            assert cell.chosen.ratio in cell.tried.distinct


def test_copying_takes_the_ratio_of_the_longest_shorter_cell(found):
    best = {(c.tried.total_steps, c.tried.peak_lr): c.tried.distinct[np.argmin(c.tried.means)] for c in found.cells}
    for cell in found.cells[2:]:
        before = {400: 300, 600: 400}[cell.tried.total_steps]
        assert cell.copied.ratio == best[before, cell.tried.peak_lr]
        assert cell.copied.regret == cell.tried.regret(cell.copied.ratio)


def test_optima_follow_power_laws(found):
    variables = np.array([[1.0, np.log(c.tried.peak_lr), np.log(c.tried.total_steps)] for c in found.cells])
    expected = np.linalg.lstsq(variables, np.log([truth(cell) for cell in found.cells]), rcond=None)[0]
    exponents = found.predicted.exponents
    assert list(exponents) == ["peak_lr", "total_steps"]
    assert [one.value for one in exponents.values()] == pytest.approx(expected[1:], abs=0.1)
    assert found.measured.points == 6


def test_one_ratio_for_all_cells_costs_what_the_true_losses_say(found):
    ratio, updates = found.one_for_all
    assert (ratio.kept, updates.kept, len(ratio.regrets)) == ("ratio", "updates", len(found.cells))
    for one in (ratio, updates):
        for cell, regret in zip(found.cells, one.regrets, strict=True):
            steps = cell.tried.total_steps
            kept = one.value if one is ratio else min(one.value / steps, FINE[-1])
            losses = final_losses([*FINE, kept], peak_lr=cell.tried.peak_lr, total_steps=steps)
            assert regret == pytest.approx(losses[-1] - losses.min(), abs=2e-4)


def test_a_law_of_no_use_recommends_nothing():
    constants = tuple(curve(f"c{i}", Constant(1e-3, 250, warmup_steps=20), noise=1e-4) for i in range(2))
    found = transfer((*constants, *cells(peak_lrs=(1e-3,), lengths=(300,))), law=LAW, samples=0)
    (cell,) = found.cells
    assert (cell.chosen, cell.copied) == (None, None)
    assert cell.predicted.cell.ratio_interval is None


def test_two_ratios_have_no_measured_optimum():
    found = transfer(cells(peak_lrs=(1e-3,), lengths=(300, 400), ratios=(0.2, 0.6)), law=LAW, samples=0)
    assert [cell.measured for cell in found.cells] == [None, None]
    assert found.measured is None
    assert found.notes == ("2 cells have fewer than three ratios, so no measured optimum",)
    assert found.cells[1].chosen.regret >= 0


def test_the_same_cells_under_another_loss(curves):
    shifted = [replace(run, loss=run.loss * 1.1) for run in curves if "p0.001" in run.name]
    found = transfer(curves, law=LAW, samples=0, against=shifted)
    assert [one.cell for one in found.against] == [1, 3, 5]  # 300, 400 and 600 updates at the higher rate
    for one in found.against:
        assert one.log_ratio == pytest.approx(0, abs=1e-9)
        assert one.interval[0] <= 0 <= one.interval[1]


def sized_runs():
    """Runs whose loss is one of updates for large batches and of tokens for small ones."""
    steps, schedules = np.arange(0, 3000, 10), {5e4: [Constant(1e-3, 3000)], 8e5: [Constant(1e-3, 3000)]}
    schedules[2e5] = [WSD(1e-3, 3000, ratio) for ratio in (0.2, 0.3)]
    for batch, of_batch in schedules.items():
        for schedule in of_batch:
            run = curve(f"b{batch:g}-{schedule.anneal_ratio if batch == 2e5 else 0}", schedule)
            loss = 2 + 5 * ((steps + 1) / (1 + 2e5 / batch)) ** -0.3
            yield replace(run, step=steps, loss=loss, tokens_per_step=batch)


def test_runs_at_several_batch_sizes_tell_the_critical_one():
    found = transfer(list(sized_runs()), law="forward-only", samples=0)
    assert found.batch_size.levels[-1].critical == pytest.approx(2e5, rel=0.01)
    assert "run 'b50000-0': 50 000 tokens an update lie below the critical batch size" in " ".join(found.notes)


def test_why_no_critical_batch_size_is_told(curves):
    found = transfer([curves[0], replace(curves[1], tokens_per_step=1e5), *curves[2:5]], law=LAW, samples=0)
    assert found.batch_size is None
    assert not any("batch" in note for note in found.notes)  # unknown for some runs
    mixed = [replace(run, tokens_per_step=1e5 * (1 + i // 3)) for i, run in enumerate(curves[:5])]
    mixed[4] = replace(mixed[4], step=mixed[4].step[-3:], loss=mixed[4].loss[-3:])
    mix, note = [note for note in transfer(mixed, law=LAW, samples=0).notes if "batch" in note]
    assert mix.startswith("batch sizes of the fitted runs differ, 100000 and 200000 tokens a step")
    assert note.startswith("no critical batch size: run 'p0.0005-t300-r0.8'")


def test_json(found):
    record = json.loads(found.to_json())
    assert len(record["cells"]) == 6
    assert record["cells"][0]["chosen"] is None
    last = record["cells"][-1]
    assert {"ratio", "interval", "at_edge"} == set(last["measured"])
    assert {"ratio", "regret", "expected"} == set(last["chosen"])
    assert last["predicted"]["best_ratio"] == found.cells[-1].predicted.cell.best_ratio
    assert record["measured"]["exponents"]["peak_lr"]["value"] == found.measured.exponents["peak_lr"].value
    assert record["published"] == PUBLISHED


def test_runs_without_cells():
    with pytest.raises(ValueError, match="expected runs that differ in nothing but their annealing ratio, found none"):
        transfer(runs(), law=LAW)


def test_other_runs_without_the_cells(curves):
    with pytest.raises(ValueError, match="against: expected runs of the same cells, found none"):
        transfer(curves[:5], law=LAW, samples=0, against=cells(peak_lrs=(4e-3,)))
