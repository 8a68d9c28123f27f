"""Which runs a log holds: starts anew, resumptions, rows in no order, bad runs beside good ones, labels."""

import json
import warnings

import numpy as np
import pytest

import fmjax
from fmjax.importers import import_logs
from fmjax.importers.restarts import runs_by_steps

EVERY = np.arange(0, 200, 10)


def losses(step, shift=0.0):
    return np.round(2 + 40 / (np.asarray(step, float) + 20) + shift + 1e-4 * np.sin(step), 6)


def write_table(path, **columns):
    rows = [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


def kept(step, value=None):
    """Steps that count, run by run."""
    step = np.asarray(step, float)
    value = np.linspace(3, 2, step.size) if value is None else np.asarray(value, float)
    return [step[run.mask(step)].astype(int).tolist() for run in runs_by_steps(step, value)]


def test_steps_that_begin_anew_are_another_run():
    assert kept([*EVERY, *EVERY, *EVERY]) == [EVERY.tolist()] * 3
    same_first_loss = np.r_[losses(EVERY), 4, losses(EVERY[1:], 0.1)]
    assert kept([*EVERY, *EVERY], same_first_loss) == [EVERY.tolist()] * 2


@pytest.mark.parametrize("again", [range(104, 300, 8), range(105, 300, 10), range(100, 300, 10), (104, 112), (100,)])
def test_rows_that_a_resumed_run_logs_again_do_not_count(again):
    (found,) = kept([*EVERY, *again])
    assert found == [*(step for step in EVERY if step < again[0]), *again]


def test_a_run_that_was_resumed_twice_and_one_that_began_anew():
    step = [*EVERY, *range(104, 150, 10), *range(124, 200, 10), *EVERY]
    first, second = kept(step)
    assert first == [*range(0, 110, 10)[:11], 104, 114, *range(124, 200, 10)]
    assert second == EVERY.tolist()


@pytest.mark.parametrize(
    "order",
    [
        EVERY[::-1],
        np.random.default_rng(0).permutation(EVERY),
        sorted(EVERY, key=str),
        np.r_[0:100:10, 110, 100, 120:200:10],
        np.r_[100:200:10, 0:100:10],
    ],
    ids=["newest first", "shuffled", "as text", "two swapped", "blocks swapped"],
)
def test_rows_in_no_order_are_sorted(order, tmp_path):
    rate = np.full(len(order), 1e-3)
    (found,) = import_logs(write_table(tmp_path / "a.csv", step=order, loss=losses(order), lr=rate))
    np.testing.assert_array_equal(found.curve.step, EVERY)
    np.testing.assert_allclose(found.curve.loss, losses(EVERY))
    assert any("no order" in note for note in found.notes)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (np.random.default_rng(1).permutation(np.r_[EVERY, EVERY]), "no order and step .* has several losses"),
        (np.r_[0:200:20, 10:200:20], "cannot be told whether the run was resumed or rows are unsorted"),
    ],
)
def test_what_cannot_be_told_is_refused(step, message, tmp_path):
    log = write_table(tmp_path / "a.csv", step=step, loss=np.linspace(3, 2, step.size), lr=np.full(step.size, 1e-3))
    with pytest.raises(ValueError, match=rf"run 'a': row \d+: steps fall from .*{message}"):
        import_logs(log)


def test_a_resumed_run_with_an_anneal(tmp_path):
    """As TensorBoard does: nothing of the first start from the point of resumption on, in losses and in rates."""
    schedule = fmjax.WSD(1e-3, 400, 0.5)
    again = np.arange(204, 400, 4)
    first, then = np.arange(0, 300, 10), np.asarray([float(schedule(step)) for step in again])
    log = write_table(
        tmp_path / "a.csv",
        step=[*first, *again],
        loss=[*(losses(first) + 2 * (first >= 250)), *losses(again)],
        lr=[*np.full(first.size, 1e-3), *then],
    )
    (found,) = import_logs(log)
    assert found.curve.step.tolist() == [*range(0, 210, 10)[:21], *again.tolist()]
    assert found.curve.loss[found.curve.step > 240].max() < 2.2
    assert (found.curve.schedule.total_steps, found.curve.schedule.decay) == (400, "linear")
    assert float(found.curve.schedule.anneal_ratio) == pytest.approx(0.5, abs=0.01)
    assert any("row 31: steps fall back from 290 to 204: the run was resumed; 9 earlier" in n for n in found.notes)


def test_several_runs_in_one_log_get_schedules_of_their_own(tmp_path):
    peaks = (1e-3, 5e-4, 2e-4)
    rows = [(step, losses(step, peak), peak * (1 - step / 200)) for peak in peaks for step in EVERY]
    step, loss, rate = zip(*rows, strict=True)
    found = import_logs(write_table(tmp_path / "a.csv", step=step, loss=loss, lr=rate))
    assert {one.curve.name: float(one.curve.schedule.peak_lr) for one in found} == {
        f"a-{i}": pytest.approx(peak) for i, peak in enumerate(peaks, 1)
    }
    assert all("steps begin anew in the log: it holds 3 runs" in one.notes for one in found)


def test_runs_mixed_row_by_row_without_a_label_are_refused(tmp_path):
    rows = [(step, losses(step, peak), peak / (1 + step)) for step in EVERY for peak in (1e-3, 5e-4)]
    step, loss, rate = zip(*rows, strict=True)
    with pytest.raises(ValueError, match="'lr': steps have several rates, as of runs that are mixed"):
        import_logs(write_table(tmp_path / "a.csv", step=step, loss=loss, lr=rate))


def test_rows_of_the_learning_rate_in_lines_of_their_own(tmp_path):
    """As some loggers write them, the rate first; they go with the start that they belong to."""
    rows = []
    for peak in (1e-3, 5e-4):
        for step in EVERY:
            at = {"step": int(step)}
            rows += [at | {"lr": peak * (1 - step / 200)}, at | {"loss": losses(step, peak)}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = import_logs(tmp_path / "a.jsonl")
    assert [float(one.curve.schedule.peak_lr) for one in found] == [pytest.approx(1e-3), pytest.approx(5e-4)]
    assert all(one.recognised.error < 1e-6 for one in found)


def good_and(tmp_path, **bad):
    write_table(tmp_path / "good.csv", step=EVERY, loss=losses(EVERY), lr=np.full(EVERY.size, 1e-3))
    write_table(tmp_path / "bad.csv", **bad)
    return tmp_path


BAD = {
    "zeros": ({"loss": np.where(EVERY < 100, losses(EVERY), 0)}, "row 11: 'loss': expected losses above zero, got 0"),
    "no rate": ({"lr": [""] * EVERY.size}, "no learning rate is logged"),
    "negative step": ({"step": [-1, *EVERY[1:]]}, "row 1: 'step': expected a count of updates"),
    "negative rate": ({"lr": [-1e-3] * EVERY.size}, "row 1: lr must be a number of at least 0, got -0.001"),
    "no loss": ({"loss": ["nan"] * EVERY.size}, "expected a column of losses"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_run_does_not_stop_the_others(case, tmp_path):
    columns, message = BAD[case]
    rows = {"step": EVERY, "loss": losses(EVERY), "lr": np.full(EVERY.size, 1e-3)} | columns
    with pytest.warns(UserWarning, match=f"run 'bad': {message}.*: left out"):
        (found,) = import_logs(good_and(tmp_path, **rows))
    assert found.curve.name == "good"
    with pytest.raises(ValueError, match=f"bad.csv: .*{message}" if case != "no loss" else "with a loss, found none"):
        import_logs(tmp_path / "bad.csv")


def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path):
    rows = {"step": EVERY, "loss": losses(EVERY), "lr": np.full(EVERY.size, 1e-3)}
    folder = good_and(tmp_path, **rows)
    (folder / "bad.csv").write_text("step,loss,lr\n1,2\n")
    with pytest.warns(UserWarning, match=r"bad\.csv: expected CSV rows, but .*: left out"):
        (found,) = import_logs(folder)
    assert found.curve.name == "good"


def test_the_command_goes_on_after_a_bad_run(tmp_path, command_line):
    rows = {"step": EVERY, "loss": np.where(EVERY < 100, losses(EVERY), 0), "lr": np.full(EVERY.size, 1e-3)}
    folder = good_and(tmp_path, **rows)
    with warnings.catch_warnings():
        code, out, err = command_line("import", folder, "-o", tmp_path / "runs", "--json")
    assert (code, [run["name"] for run in json.loads(out)["runs"]]) == (0, ["good"])
    assert "run 'bad': row 11: 'loss': expected losses above zero, got 0" in err
    code, out, err = command_line("import", folder / "bad.csv", "-o", tmp_path / "again")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_losses_that_cease_before_the_rates_are_told(tmp_path):
    loss = [str(x) if step < 100 else "nan" for step, x in zip(EVERY, losses(EVERY), strict=True)]
    (found,) = import_logs(write_table(tmp_path / "a.csv", step=EVERY, loss=loss, lr=np.full(EVERY.size, 1e-3)))
    assert "losses end at step 90, rates go on to 190: later losses are no numbers" in found.notes


def rows_of(labels, *, interleaved=False):
    """Columns of runs with 20 rows each, one a label, one below the other or step by step."""
    rows = [(step, losses(step, i / 10), 1e-3 / (i + 1), label) for i, label in enumerate(labels) for step in EVERY]
    step, loss, rate, label = zip(*(sorted(rows) if interleaved else rows), strict=True)
    return {"step": step, "loss": loss, "lr": rate}, label


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(
    ("column", "labels", "names"),
    [
        ("run", ["a", "b", "c"], ["a", "b", "c"]),
        ("Run ID", ["x1", "x2"], ["x1", "x2"]),
        ("seed", [1, 2], ["seed=1", "seed=2"]),
        ("batch_size", [64, 128], ["batch_size=64", "batch_size=128"]),
    ],
)
def test_a_column_that_names_runs_tells_them_apart(tmp_path, column, labels, names, interleaved):
    columns, label = rows_of(labels, interleaved=interleaved)
    found = import_logs(write_table(tmp_path / "log.csv", **{column: label}, **columns))
    assert [one.curve.name for one in found] == names
    for i, one in enumerate(found):
        np.testing.assert_allclose(one.curve.loss, losses(EVERY, i / 10))
        assert float(one.curve.schedule.peak_lr) == pytest.approx(1e-3 / (i + 1))
        assert f"rows are those of {len(labels)} runs, by the column {column!r}" in one.notes


def test_names_of_runs_in_json_lines_and_in_several_files(tmp_path):
    for file in ("one", "two"):
        columns, label = rows_of(["a", "b"])
        rows = [dict(zip([*columns, "run"], row, strict=True)) for row in zip(*columns.values(), label, strict=True)]
        lines = [json.dumps(row, default=float) for row in rows]
        (tmp_path / f"{file}.jsonl").write_text("\n".join(lines))
    names = [one.curve.name for one in import_logs(tmp_path)]
    assert names == ["one/a", "one/b", "two/a", "two/b"]


def test_two_columns_that_name_runs_and_one_that_adds_nothing(tmp_path):
    columns, label = rows_of([("a", 1), ("a", 2), ("b", 1)])
    run, seed = zip(*label, strict=True)
    path = write_table(tmp_path / "log.csv", run=run, seed=seed, exp=run, **columns)
    assert [one.curve.name for one in import_logs(path)] == ["a seed=1", "a seed=2", "b seed=1"]


def test_a_batch_that_grows_within_a_run_is_one_run(tmp_path):
    batch = np.where(EVERY < 100, 64, 128)
    rate = np.full(EVERY.size, 1e-3)
    (found,) = import_logs(write_table(tmp_path / "a.csv", step=EVERY, batch_size=batch, loss=losses(EVERY), lr=rate))
    assert found.curve.step.size == EVERY.size


def test_a_table_with_one_row_a_run_is_no_curve(tmp_path):
    names = [f"r{i}" for i in range(6)]
    table = {"Name": names, "iter": [5000] * 6, "loss": np.linspace(3, 2, 6), "lr": [1e-3] * 6}
    with pytest.raises(ValueError, match="one row a run"):
        import_logs(write_table(tmp_path / "a.csv", **table))


def test_steps_that_count_within_epochs_are_refused(tmp_path):
    columns = {"epoch": np.repeat([0, 1, 2], EVERY.size), "step": np.tile(EVERY, 3), "lr": [1e-3] * (3 * EVERY.size)}
    log = write_table(tmp_path / "a.csv", loss=losses(np.arange(3 * EVERY.size)), **columns)
    with pytest.raises(ValueError, match="run 'a': steps begin anew in each epoch: name a column"):
        import_logs(log)


def test_text_in_a_column_of_numbers_is_left_out_and_named(tmp_path):
    loss = [str(x) for x in losses(EVERY)]
    loss[7] = "diverged"
    (found,) = import_logs(write_table(tmp_path / "a.csv", step=EVERY, loss=loss, lr=[1e-3] * EVERY.size))
    assert "row 8: 'loss' is 'diverged', no number: left out" in found.notes
    assert found.curve.step.tolist() == [step for step in EVERY if step != 70]
    cells = [x if x == "diverged" else float(x) for x in loss]
    rows = [{"step": int(step), "loss": x, "lr": 1e-3} for step, x in zip(EVERY, cells, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (found,) = import_logs(tmp_path / "a.jsonl")
    assert "row 8: 'loss' is 'diverged', no number: left out" in found.notes
