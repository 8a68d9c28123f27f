"""Logs of training tools as runs: every tool's shape, and what real logs hold."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.cli.commands import run
from fmjax.curves.manifest import load_runs
from fmjax.curves.writing import write_runs
from fmjax.importers import Columns, import_logs
from fmjax.schedules.kinds import lrs
from fmjax.schedules.tables import schedule_table

T, W = 1000, 50
RATIOS = {"short": 0.15, "long": 0.4}


def schedule(ratio):
    return fmjax.WSD(1e-3, T, ratio, warmup_steps=W)


def logged(ratio, every=10):
    """Steps, losses and rates of the updates that are logged."""
    step = np.append(np.arange(every - 1, T - 1, every), T - 1)
    rate = synthetic.rates(schedule(ratio))
    return (
        step,
        synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], rate, warmup_steps=W)[step],
        rate[step],
    )


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def json_lines(path, keys, ratio, *, nest=lambda row: row):
    rows = (dict(zip(keys, map(float, row), strict=True)) for row in zip(*logged(ratio), strict=True))
    write_lines(path, [json.dumps(nest({**row, keys[0]: int(row[keys[0]])})) for row in rows])


def wandb_chart(folder):
    """One chart of losses and one of rates, both runs in each, with the columns that the page exports."""
    for i, key in ((1, "train/loss"), (2, "train/lr")):
        columns = {name: logged(ratio) for name, ratio in RATIOS.items()}
        header = ["Step", *(f"{name} - {key}{end}" for name in columns for end in ("", "__MIN", "__MAX"))]
        steps = columns["short"][0]
        rows = [[step, *(found[i][k] for found in columns.values() for _ in range(3))] for k, step in enumerate(steps)]
        with (folder / f"chart_{key.replace('/', '_')}.csv").open("w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows])


def wandb_history(folder):
    for name, ratio in RATIOS.items():
        json_lines(folder / f"{name}.jsonl", ("_step", "train/loss", "train/learning_rate"), ratio)


def wandb_parquet(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, ratio in RATIOS.items():
        table = pyarrow.table(dict(zip(("_step", "loss", "lr"), logged(ratio), strict=True)))
        parquet.write_table(table, folder / f"{name}.parquet")


def huggingface(folder):
    for name, ratio in RATIOS.items():
        rows = [
            {"step": int(s) + 1, "loss": x, "learning_rate": r, "epoch": 0.1}
            for s, x, r in zip(*logged(ratio), strict=True)
        ]
        rows += [{"step": T, "eval_loss": 3.0, "eval_runtime": 1.0}, {"step": T, "train_loss": 3.3, "total_flos": 1e9}]
        write_lines(folder / name / "checkpoint-1000" / "trainer_state.json", [json.dumps({"log_history": rows})])


def maxtext(folder):
    for name, ratio in RATIOS.items():
        json_lines(folder / f"{name}.txt", ("step", "learning/loss", "learning/current_learning_rate"), ratio)


def levanter(folder):
    keys = ("global_step", "train/loss", "optim/learning_rate")
    for name, ratio in RATIOS.items():
        json_lines(folder / f"{name}.jsonl", keys, ratio, nest=lambda row: {"tag": "log", "metrics": row})


def megatron(folder):
    for name, ratio in RATIOS.items():
        cells = (
            f" iteration {s + 1:8d}/{T:8d} | consumed samples: {256 * (s + 1):12d} | elapsed time (ms): 310.1 |"
            f" learning rate: {r:.6E} | global batch size:   256 | lm loss: {x:.6E} | loss scale: 1.0 |"
            for s, x, r in zip(*logged(ratio), strict=True)
        )
        write_lines(folder / f"{name}.log", ["> building GPT model ...", *cells, "saving checkpoint"])


def nanochat(folder):
    for name, ratio in RATIOS.items():
        lines = (
            f"step {s:05d}/{T:05d} ({100 * s / T:.2f}%) | loss: {x:.6f} | lrm: {r / 1e-3:.2f} | dt: 310.22ms"
            for s, x, r in zip(*logged(ratio), strict=True)
        )
        write_lines(folder / f"{name}.log", ["This is a banner", *lines])


def events(folder, keys, *, first=1, as_tensors=False):
    """Event files by TensorBoard's own writer."""
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    for name, ratio in RATIOS.items():
        writer = EventFileWriter(str(folder / name))
        for step, *values in zip(*logged(ratio), strict=True):
            for key, value in zip(keys, values, strict=True):
                number = {"tensor": make_tensor_proto(np.float32(value))} if as_tensors else {"simple_value": value}
                summary = Summary(value=[Summary.Value(tag=key, **number)])
                writer.add_event(Event(step=int(step) + first, wall_time=1.0, summary=summary))
        writer.close()


def tensorboard(folder):
    events(folder, ("train/loss", "train/learning_rate"))


def tensors(folder):
    events(folder, ("loss", "learning_rate"), first=0, as_tensors=True)


def torchtitan(folder):
    events(folder, ("loss_metrics/global_avg_loss", "lr"))


def megatron_events(folder):
    events(folder, ("lm loss", "learning-rate"))


def plain(folder):
    for name, ratio in RATIOS.items():
        rows = (f"{s},{x},{r}" for s, x, r in zip(*logged(ratio), strict=True))
        write_lines(folder / f"{name}.csv", ["iter,train_loss,lr", *rows])


TOOLS = {
    "wandb chart": (wandb_chart, "wandb"),
    "wandb history": (wandb_history, "wandb"),
    "wandb parquet": (wandb_parquet, "wandb"),
    "huggingface": (huggingface, "huggingface"),
    "maxtext": (maxtext, "maxtext"),
    "levanter": (levanter, "levanter"),
    "megatron": (megatron, "megatron"),
    "megatron events": (megatron_events, "megatron"),
    "torchtitan": (torchtitan, "torchtitan"),
    "tensorboard": (tensorboard, "tensorboard"),
    "tensorboard tensors": (tensors, "tensorboard"),
    "nanochat": (nanochat, "nanochat"),
    "csv": (plain, "csv"),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
def test_every_tool(tool, named, tmp_path):
    write, source = TOOLS[tool]
    write(tmp_path)
    found = import_logs(tmp_path, source=source if named else None, peak_lr=1e-3 if tool == "nanochat" else None)
    assert {one.curve.name for one in found} == set(RATIOS)
    for one in found:
        ratio = RATIOS[one.curve.name]
        assert isinstance(one.curve.schedule, fmjax.WSD), one.curve.schedule
        assert one.curve.schedule.anneal_ratio == pytest.approx(ratio, abs=0.01)
        assert one.curve.schedule.total_steps == T
        np.testing.assert_array_equal(one.curve.step, logged(ratio)[0])
        np.testing.assert_allclose(one.curve.loss, logged(ratio)[1], rtol=1e-5)
    write_runs([one.curve for one in found], tmp_path / "runs")
    fit = fmjax.fit(fmjax.LRAnnealing(decay=synthetic.DECAY), load_runs(tmp_path / "runs"), starts=2)
    assert fit.ok
    assert fit.params["C"] == pytest.approx(synthetic.TRUTH["lr-annealing"]["C"], rel=0.05)


@pytest.mark.parametrize("validation", [False, True])
def test_the_state_of_a_real_trainer(validation):
    """Written by the Trainer of transformers 5: 400 updates, 20 of warmup, the last 120 annealed, logged every 10."""
    (found,) = import_logs(Path(__file__).parent / "samples", columns=Columns(validation=validation))
    curve, last = found.curve, found.curve.schedule
    assert (found.loss, curve.name) == ("eval_loss" if validation else "loss", "samples")
    assert (last.total_steps, last.warmup_steps, last.decay) == (400, 20, "linear")
    assert last.anneal_ratio == pytest.approx(0.3, abs=1e-6)
    assert last.peak_lr == pytest.approx(3e-3)
    assert found.recognised.error < 1e-6
    assert curve.step.tolist() == list(range(99, 400, 100) if validation else range(9, 400, 10))


MODDED = """\
import os
with open(sys.argv[0]) as f:
step:0/1000 val_loss:10.8258 train_time:0ms step_avg:0.03ms
step:1/1000 train_time:243ms step_avg:243.1ms
{rows}
step:1000/1000 val_loss:3.2782 train_time:166000ms step_avg:95.1ms
peak memory allocated: 31587 MiB reserved: 47086 MiB
"""


def test_lines_without_a_rate_and_a_given_schedule(tmp_path):
    step, loss, _ = logged(0.3)
    rows = (f"step:{s}/1000 val_loss:{x:.4f} train_time:1ms step_avg:95.2ms" for s, x in zip(step, loss, strict=True))
    (tmp_path / "a.txt").write_text(MODDED.format(rows="\n".join(rows)))
    with pytest.raises(ValueError, match=r"run 'a': no learning rate is logged .* give the schedule"):
        import_logs(tmp_path)
    (found,) = import_logs(tmp_path, schedule=schedule(0.3))
    np.testing.assert_array_equal(found.curve.step, [0, *step, 1000])
    np.testing.assert_allclose(found.curve.loss[1:-1], loss, atol=1e-4)


def test_runs_of_one_name_in_two_folders_stay_apart(tmp_path):
    for place, ratio in (("a/run", 0.2), ("b/run", 0.4)):
        keys = ("_step", "train/loss", "train/learning_rate")
        json_lines(tmp_path / f"{place}.jsonl", keys, ratio)
    found = {one.curve.name: one.curve.schedule.anneal_ratio for one in import_logs(tmp_path)}
    assert found == {"a/run": pytest.approx(0.2, abs=1e-3), "b/run": pytest.approx(0.4, abs=1e-3)}


def test_checkpoints_of_a_run_are_one_run(tmp_path):
    huggingface(tmp_path)
    for name in RATIOS:
        state = json.loads((tmp_path / name / "checkpoint-1000" / "trainer_state.json").read_text())
        early = [row for row in state["log_history"] if row["step"] <= 500]
        early[40:] = [row | {"loss": 99.0} for row in early[40:]]  # before the run was resumed at step 400
        write_lines(tmp_path / name / "checkpoint-500" / "trainer_state.json", [json.dumps({"log_history": early})])
    for one in import_logs(tmp_path):
        assert one.curve.step.size == 100
        assert one.curve.loss.max() < 99.0
        assert not any("again" in note for note in one.notes)


def table(path, step, loss, rate=None, **more):
    columns = {"step": step, "loss": loss, **({} if rate is None else {"lr": rate}), **more}
    rows = (",".join(str(x) for x in row) for row in zip(*columns.values(), strict=True))
    write_lines(path, [",".join(columns), *rows])
    return path


def test_a_resumed_run_counts_its_later_rows(tmp_path):
    step, loss, rate = logged(0.3)
    again = slice(40, 60)
    order = np.r_[0:60, again, 60 : step.size]
    wrong = np.where(np.arange(order.size) < 60, loss[order] + (order >= 40), loss[order])
    (found,) = import_logs(table(tmp_path / "a.csv", step[order], wrong, rate[order]))
    np.testing.assert_allclose(found.curve.loss, loss)
    assert any("the run was resumed; 20 earlier rows were left out" in note for note in found.notes)


def test_a_zero_rate_after_the_last_update(tmp_path):
    step, loss, rate = logged(0.3)
    (found,) = import_logs(table(tmp_path / "a.csv", [*step, T], [*loss, loss[-1]], [*rate, 0.0]))
    assert found.curve.schedule.total_steps == T
    assert found.curve.schedule.anneal_ratio == pytest.approx(0.3, abs=0.01)


def test_validation_losses_are_taken_on_request(tmp_path):
    step, loss, rate = logged(0.3)
    sparse = np.where(np.arange(step.size) % 10 == 9, loss + 0.1, np.nan)
    path = table(tmp_path / "a.csv", step, loss, rate, val_loss=["" if np.isnan(x) else x for x in sparse])
    (train,), (validation,) = (import_logs(path, columns=Columns(validation=wanted)) for wanted in (False, True))
    assert (train.loss, validation.loss) == ("loss", "val_loss")
    assert (train.curve.step.size, validation.curve.step.size) == (step.size, 10)
    assert train.notes == ("took the losses 'loss'; there are also 'val_loss'",)


def test_steps_in_tokens(tmp_path):
    step, loss, rate = logged(0.3)
    path = tmp_path / "a.csv"
    rows = (f"{(s + 1) * 4096},{x},{r}" for s, x, r in zip(step, loss, rate, strict=True))
    write_lines(path, ["tokens,loss,lr", *rows])
    (found,) = import_logs(path, tokens_per_step=4096)
    np.testing.assert_array_equal(found.curve.step, step)
    with pytest.raises(ValueError, match="run 'a': column 'tokens' counts tokens: give the tokens per step"):
        import_logs(path)


def test_a_batch_that_begins_smaller_is_named(tmp_path):
    path = table(tmp_path / "a.csv", [], [])
    path.write_text("tokens,loss,lr\n2048,3.0,1e-3\n8192,2.9,1e-3\n")
    with pytest.raises(ValueError, match="row 1: 2048 tokens are less than one update of 4096; the batch was smaller"):
        import_logs(path, tokens_per_step=4096)


def test_smoothed_losses_are_flagged(tmp_path):
    step, loss, rate = logged(0.3, every=2)
    noisy, smooth = loss + 0.02 * np.random.default_rng(0).standard_normal(loss.size), loss.copy()
    for i in range(1, smooth.size):
        smooth[i] = 0.95 * smooth[i - 1] + 0.05 * noisy[i]
    (raw,), (ema,) = (
        import_logs(table(tmp_path / f"{name}.csv", step, x, rate)) for name, x in (("raw", noisy), ("ema", smooth))
    )
    assert not any("smoothed" in note for note in raw.notes)
    assert any("smoothed" in note for note in ema.notes)


def test_parameter_groups(tmp_path):
    step, loss, rate = logged(0.3)
    path = table(tmp_path / "a.csv", step, loss, rate, lr_embed=3 * rate, lr_head=np.full(step.size, 1e-4))
    (found,) = import_logs(path)
    assert found.rate == "lr"
    assert any("3 columns of rates, took 'lr'; of another shape: 'lr_head'" in note for note in found.notes)


def test_a_branch_is_joined_to_its_stem(tmp_path):
    rate = synthetic.rates(fmjax.Constant(1e-3, T, W))
    stem = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], rate, warmup_steps=W)
    table(tmp_path / "stem.csv", np.arange(9, T, 10), stem[9::10], rate[9::10])
    step, loss, rate = logged(0.2)
    late = step >= 800
    table(tmp_path / "branch.csv", step[late], loss[late], rate[late])
    alone = {one.curve.name: one for one in import_logs(tmp_path)}
    assert any("losses start at step 809" in note for note in alone["branch"].notes)
    joined = {one.curve.name: one for one in import_logs(tmp_path, join=True)}
    np.testing.assert_array_equal(joined["branch"].curve.step, step)
    np.testing.assert_allclose(joined["branch"].curve.loss, loss, rtol=1e-9)
    assert joined["branch"].curve.schedule.anneal_ratio == pytest.approx(0.2, abs=0.01)
    assert joined["branch"].curve.schedule.warmup_steps == pytest.approx(W, abs=10)
    np.testing.assert_array_equal(joined["stem"].curve.loss, alone["stem"].curve.loss)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,loss\n1,2\n2,3\n", "run 'a': no learning rate is logged .columns: 'step', 'loss'.; give the schedule"),
        ("a,b\n1,2\n", "expected logs of a known tool with a loss, found none"),
        ("step,loss,lr\n1,2\n", "a.csv: expected CSV rows, but "),
        ("", "expected CSV rows, but|expected logs"),
        ("step,loss,lr\nx,y,z\n", "expected logs of a known tool with a loss, found none"),
    ],
    ids=["no rate", "no loss", "ragged", "empty", "text"],
)
def test_what_cannot_be_read_is_named(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        import_logs(tmp_path / "a.csv")


def test_the_schedule_can_be_given(tmp_path):
    step, loss, _ = logged(0.3)
    (found,) = import_logs(table(tmp_path / "a.csv", step, loss), schedule=schedule(0.3))
    assert (found.rate, found.recognised) == (None, None)
    np.testing.assert_array_equal(lrs(found.curve.schedule), lrs(schedule(0.3)))


def test_run_folders_are_whole_or_not_there(tmp_path, monkeypatch):
    curves = [one.curve for one in import_logs(_named(tmp_path))]
    monkeypatch.setattr("fmjax.curves.writing._table", lambda curve, file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_runs(curves, tmp_path / "runs")
    monkeypatch.undo()
    assert not any(entry.name.endswith(("runs", ".partial")) for entry in tmp_path.iterdir())
    write_runs(curves, tmp_path / "runs")
    assert [curve.name for curve in load_runs(tmp_path / "runs")] == [curve.name for curve in curves]
    with pytest.raises(ValueError, match="expected a folder that does not exist yet"):
        write_runs(curves, tmp_path / "runs")


def _named(folder):
    """A chart whose run names try to leave the folder."""
    names = ["../../evil", "/etc/evil", "a b", "ä<script>", 'quote"\n'.strip()]
    step, loss, rate = logged(0.3)
    for i, key in ((1, "loss"), (2, "lr")):
        with (folder / f"{key}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Step", *(f"{name} - {key}" for name in names)])
            writer.writerows([s, *[(loss, rate)[i - 1][k]] * len(names)] for k, s in enumerate(step))
    return folder


def test_names_do_not_lead_out_of_the_folder(tmp_path):
    inside = tmp_path / "logs"
    inside.mkdir()
    curves = [one.curve for one in import_logs(_named(inside))]
    write_runs(curves, tmp_path / "out" / "runs")
    files = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert files == ["a-b.csv", "etc-evil.csv", "evil.csv", "quote.csv", "runs.toml", "script.csv"]
    assert [curve.name for curve in load_runs(tmp_path / "out" / "runs")] == [curve.name for curve in curves]


def test_charts_of_loss_and_rate_as_two_files(tmp_path):
    wandb_chart(tmp_path)
    found = import_logs(sorted(tmp_path.iterdir()))
    assert {one.curve.name: one.rate for one in found} == dict.fromkeys(RATIOS, "train/lr")


def test_the_command(tmp_path, capsys):
    huggingface(tmp_path / "logs")
    sources, options = ["huggingface", str(tmp_path / "logs")], ["--runs", "long", "--json"]
    assert run(["import", *sources, "-o", str(tmp_path / "runs"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["runs"]
    assert (one["name"], one["rows"], one["total_steps"], one["rate"]) == ("long", 100, T, "learning_rate")
    assert one["schedule"] == {**schedule_table(schedule(0.4)), "anneal_ratio": pytest.approx(0.4), "peak_lr": 1e-3}
    assert one["rate_error"] < 1e-6
    assert [curve.name for curve in load_runs(found["folder"])] == ["long"]


@pytest.mark.parametrize("as_folders", [False, True])
def test_runs_whose_folders_bear_one_name_stay_apart(tmp_path, as_folders):
    files = []
    for experiment, peak in (("first", 1e-3), ("second", 5e-4)):
        folder = tmp_path / experiment / "out"
        folder.mkdir(parents=True)
        rows = [f"{step},{3 + peak},{peak}" for step in range(0, 1000, 10)]
        files.append(folder / "metrics.csv")
        files[-1].write_text("\n".join(["step,loss,lr", *rows]))
    runs = import_logs([file.parent for file in files] if as_folders else files)
    assert [run.curve.name for run in runs] == ["first/out/metrics", "second/out/metrics"]
    assert [float(run.curve.loss[0]) for run in runs] == [3 + 1e-3, 3 + 5e-4]


def test_renamed_states_in_one_folder_are_runs_of_their_own(tmp_path):
    for name, peak in (("one", 1e-3), ("two", 5e-4)):
        rows = [{"step": step, "loss": 3 + peak, "learning_rate": peak} for step in range(10, 1001, 10)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"log_history": rows}))
    runs = import_logs(tmp_path)
    assert {run.curve.name: float(run.curve.loss[0]) for run in runs} == {"one": 3 + 1e-3, "two": 3 + 5e-4}


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", ["split", "type", "phase", "mode"])
def test_rows_of_evaluation_replace_no_rows_of_training(tmp_path, kind, ending):
    rows = [{"step": step, kind: "train", "loss": 3.0, "lr": 1e-3} for step in range(0, 1000, 10)]
    rows += [{"step": step, kind: "val", "loss": 4.0, "lr": 1e-3} for step in range(0, 1000, 50)]
    log = tmp_path / f"log.{ending}"
    cells = [list(rows[0]), *(row.values() for row in rows)]
    lines = [",".join(map(str, row)) for row in cells] if ending == "csv" else map(json.dumps, rows)
    log.write_text("\n".join(lines))
    (train,) = import_logs(log)
    (held_out,) = import_logs(log, columns=Columns(validation=True))
    assert train.curve.loss.tolist() == [3.0] * 100
    assert held_out.curve.loss.tolist() == [4.0] * 20
