"""Diverged runs of sweeps are told by their final losses, cell by cell."""

from fmjax import Constant, Cosine, LossCurve, fit
from fmjax.curves.divergence import cells_of, without_diverged


def final(name, loss, steps=100, size=1e7, tokens=1000.0):
    return LossCurve(name, [steps - 1], [loss], Cosine(1e-3, steps), model_size=size, tokens_per_step=tokens)


def test_cells_are_sizes_and_tokens():
    runs = [final("a", 3.0), final("b", 3.0, 33, tokens=3000.0), final("c", 3.0, size=2e7), final("d", 3.0, 200)]
    assert len(set(cells_of(runs))) == 3
    assert cells_of(runs)[0] == cells_of(runs)[1]


def test_a_run_is_compared_with_the_best_of_its_cell():
    runs = [final("best", 2.5), final("poor", 2.6), final("gone", 2.8), final("small", 3.4, size=1e6)]
    kept, (note,) = without_diverged(runs)
    assert [run.name for run in kept] == ["best", "poor", "small"]
    assert note.startswith("1 of 4 runs left out as diverged")


def test_curves_and_sound_sweeps_are_kept():
    curve = LossCurve("curve", [50, 99], [4.0, 4.0], Cosine(1e-3, 100), model_size=1e7, tokens_per_step=1000.0)
    kept, notes = without_diverged([final("best", 2.5), curve])
    assert [run.name for run in kept] == ["best", "curve"]
    assert notes == ()


def test_runs_of_other_schedules_and_cut_runs_are_kept():
    early = LossCurve("early", [9], [4.0], Cosine(1e-3, 100), model_size=1e7, tokens_per_step=1000.0)
    constant = LossCurve("constant", [99], [2.9], Constant(1e-3, 100), model_size=1e7, tokens_per_step=1000.0)
    kept, notes = without_diverged([final("best", 2.5), early, constant])
    assert len(kept) == 3
    assert notes == ()


def test_fits_leave_diverged_runs_out_and_say_so():
    runs = [final(f"{steps}", 2.0 + 5 * steps**-0.5, steps) for steps in (100, 200, 400, 800, 1600)]
    gone = LossCurve("gone", [399], [5.0], Cosine(9e-3, 400), model_size=1e7, tokens_per_step=1000.0)
    found = fit("chinchilla", [*runs, gone], drop_warmup=False)
    assert found.rows == 5
    assert any(note.startswith("1 of 6 runs left out as diverged") for note in found.notes)
    assert found.objective < 1e-6
