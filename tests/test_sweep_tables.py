"""Tables with one row a run: read as runs of one row, never as a curve; and what `import --check` shows."""

import json

import numpy as np
import pytest

import fmjax
from fmjax.curves.manifest import load_runs
from fmjax.importers import import_logs, is_sweep, load_sweep

COSINE = 'kind = "cosine", warmup_steps = 100, final_lr = 1e-5'


def written(path, **columns):
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


def sweep(path, **more):
    columns = {
        "model_size": [1e6, 1e6, 4e6],
        "peak_lr": [1e-3, 2e-3, 1e-3],
        "tokens_per_step": [8192, 16384, 8192],
        "total_steps": [1000, 500, 2000],
        "final_loss": [3.1, 3.0, 2.8],
    }
    return written(path, **(columns | more))


def test_a_sweep_table_becomes_runs_of_one_row(tmp_path):
    runs = load_sweep(sweep(tmp_path / "a.csv"), schedule=COSINE)
    assert [run.name for run in runs] == ["a-1", "a-2", "a-3"]
    assert [(run.step.tolist(), run.loss.tolist(), run.final_loss) for run in runs] == [
        ([999], [3.1], 3.1),
        ([499], [3.0], 3.0),
        ([1999], [2.8], 2.8),
    ]
    assert [(run.model_size, run.tokens_per_step) for run in runs] == [(1e6, 8192), (1e6, 16384), (4e6, 8192)]
    assert runs[1].schedule == fmjax.Cosine(2e-3, 500, 1e-5, 100)


def test_the_same_table_as_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"lr": [1e-3, 2e-3], "num_steps": [1000, 1000], "loss": [3.1, 3.0], "seed": [0, 0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert is_sweep(tmp_path / "a.parquet")
    assert [float(run.schedule.peak_lr) for run in load_sweep(tmp_path / "a.parquet", schedule=COSINE)] == [1e-3, 2e-3]


def test_schedules_steps_and_batches_from_columns(tmp_path):
    path = written(
        tmp_path / "a.csv",
        run=["a", "b", "c", "d"],
        lr=[1e-3] * 4,
        tokens=[8_192_000] * 4,
        batch_size=[8, 8, 8, 16],
        seq_len=[1024] * 4,
        schedule=["constant", "cosine", "wsd", "linear"],
        min_lr=[1e-4, 1e-4, 0, 0],
        warmup=[10, 20, 30, 40],
        decay_ratio=["", "", 0.2, ""],
        loss=[3.3, 3.2, 3.1, 3.0],
    )
    schedules = {run.name: run.schedule for run in load_sweep(path)}
    assert schedules == {
        "a": fmjax.Constant(1e-3, 1000, 10),
        "b": fmjax.Cosine(1e-3, 1000, 1e-4, 20),
        "c": fmjax.WSD(1e-3, 1000, 0.2, warmup_steps=30),
        "d": fmjax.WSD(1e-3, 500, 0.92, "linear", warmup_steps=40),
    }


def test_rows_that_cannot_be_read_are_left_out_and_named(tmp_path):
    path = sweep(tmp_path / "a.csv", final_loss=[3.1, "nan", 2.8])
    with pytest.warns(UserWarning, match="row 2: 'final_loss': expected a loss above zero, got nan: left out"):
        assert [run.name for run in load_sweep(path, schedule=COSINE)] == ["a-1", "a-3"]
    short = sweep(tmp_path / "b.csv", total_steps=[50, 500, 60])
    with pytest.warns(UserWarning, match="row 1: schedule: warmup of 100 .* left out, and 1 rows more"):
        assert len(load_sweep(short, schedule=COSINE)) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column has the schedule's kind: give the schedule, such as"),
        ({"schedule": ["cosine"] * 3, "total_steps": ["many"] * 3}, "'total_steps': expected a number, found 'many'"),
        ({"schedule": ["cosine"] * 3, "peak_lr": [0, 0, 0]}, "row 1: schedule: peak_lr"),
    ],
)
def test_what_a_table_lacks_is_said(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        load_sweep(sweep(tmp_path / "a.csv", **columns))


def test_curves_are_no_sweeps_and_sweeps_are_no_curves(tmp_path):
    steps = np.arange(0, 100, 10)
    columns = {"step": steps, "loss": 3 - steps / 100, "lr": [1e-3] * steps.size, "total_steps": [100] * steps.size}
    assert not is_sweep(written(tmp_path / "curve.csv", **columns))
    tokens = {"tokens": (steps + 1) * 4096, "loss": columns["loss"], "lr": columns["lr"]}
    assert not is_sweep(written(tmp_path / "tokens.csv", **tokens))
    assert not is_sweep(written(tmp_path / "epochs.csv", epoch=steps, max_steps=[100] * 10, **tokens))
    assert is_sweep(written(tmp_path / "other.csv", **(tokens | {"tokens": [1e6, 2e6] * 5})))
    assert not is_sweep(written(tmp_path / "runs.csv", run=["a"] * 5 + ["b"] * 5, **columns))
    assert is_sweep(sweep(tmp_path / "sweep.csv"))
    with pytest.raises(ValueError, match="expected a column of steps"):
        import_logs(tmp_path / "sweep.csv")


def test_the_command_reads_sweeps(tmp_path, command_line):
    path = sweep(tmp_path / "a.csv", Name=["x", "y", "z"])
    code, _, err = command_line("import", path, "-o", tmp_path / "runs")
    assert code == 2
    assert "one row a run, and no column has the schedule's kind" in err
    code, out, _ = command_line("import", path, "-o", tmp_path / "runs", "--schedule", COSINE, "--json")
    found = json.loads(out)
    assert (code, [run["name"] for run in found["runs"]], found["runs"][0]["tool"]) == (0, ["x", "y", "z"], "sweep")
    assert [run.final_loss for run in load_runs(tmp_path / "runs")] == [3.1, 3.0, 2.8]


def test_a_public_sweep_of_rates_and_batches(shared):
    table = shared / "data" / "steplaw" / "dense.csv"
    if not table.is_file():
        pytest.skip("no sweep table")
    with pytest.warns(UserWarning, match="warmup of 2000 steps is longer than the run"):
        runs = load_sweep(table, schedule='kind = "cosine", warmup_steps = 2000, final_lr = 1e-5')
    assert len(runs) > 850
    first = runs[0]
    assert (first.model_size, first.tokens_per_step, first.final_loss) == (429260800, 720896, 2.496728)
    assert int(first.schedule.total_steps) == 11097


# ---------------------------------------------------------------------------------------------------------------------
# --check
# ---------------------------------------------------------------------------------------------------------------------


def resumed(folder):
    steps = [*range(0, 200, 10), *range(100, 300, 10)]
    written(folder / "good.csv", step=steps, loss=np.linspace(4, 2, 40), lr=[1e-3] * 40)
    written(folder / "bad.csv", step=range(20), loss=[0] * 20, lr=[1e-3] * 20)
    return folder


def test_check_writes_nothing_and_shows_what_was_read(tmp_path, command_line):
    folder = resumed(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, out, err = command_line("import", folder, "--check")
    assert code == 0
    assert sorted(tmp_path.iterdir()) == before
    assert f"{folder / 'good.csv'}: csv, 1 runs" in out
    assert "good: 30 rows at steps 0 to 290 from steps 'step', losses 'loss', rates 'lr'" in out
    assert "constant, peak 0.001, 291 updates, off by 0.00% at most in the logged rows" in out
    assert "dropped: 10 rows" in out
    assert "note: row 21: steps fall back from 190 to 100: the run was resumed; 10 earlier rows were left out" in out
    assert "run 'bad': row 1: 'loss': expected losses above zero, got 0" in err


def test_check_as_json(tmp_path, command_line):
    code, out, _ = command_line("import", resumed(tmp_path), "--check", "--json")
    found = json.loads(out)
    (one,) = found["runs"]
    assert (code, found["folder"], one["dropped_rows"], one["step"], one["tool"]) == (0, None, 10, "step", "csv")
    assert one["files"] == [str(tmp_path / "good.csv")]
    assert [reason.split(":")[0] for reason in found["refused"]] == ["run 'bad'"]


def test_a_folder_or_check_must_be_named(tmp_path, command_line):
    code, _, err = command_line("import", resumed(tmp_path))
    assert (code, "expected -o FOLDER, or --check" in err) == (2, True)
