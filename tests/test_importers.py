"""Loaders of published curves: equal to curves prepared by other means, and what wrong or missing files bring."""

import json
import warnings

import numpy as np
import pytest

from fmjax.curves.manifest import load_runs
from fmjax.importers import lr_scheduling, multi_power_law
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, lrs

STEM = "sl_slimpajama_llama_norm_nlayers1_nhead1_lr0.001_sched_wsd_warmup10_iter1000_seed0"
COOLDOWN = "ann0.2_slimpajama_llama_norm_nlayers1_nhead1_lr0.001_sched_wsd_warmup10_iter500_seed0"
CONFIG = {
    "dataset": "slimpajama",
    "model": "llama_norm",
    "scheduler": "wsd",
    "lr": 1e-3,
    "iterations": 1000,
    "warmup_steps": 10,
    "wsd_fract_decay": 0,
    "seed": 0,
    "data_seed": 1337,
    "n_layer": 1,
    "n_embd": 6,
    "vocab_size": 10**6,
    "multiple_of": 4,
    "batch_size": 5,
    "acc_steps": 2,
    "world_size": 2,
    "sequence_length": 64,
}
SIZE = 6 * (10**6 + 1) + 4 * 6 * 6 + 3 * 6 * 16 + 2 * 6


def loss(step):
    return 3 + 100 / (step + 50)


def run(steps, shift=0.0, train=None, final=None, **config):
    """A log with a loss that tells its step; ``shift`` tells runs apart."""
    steps = list(steps)
    history = {"val": {"iter": steps, "val_loss": [loss(step) + shift for step in steps]}}
    if train is not None:
        history["train"] = {"iter": list(train), "train_lr": list(train.values())}
    if final is not None:
        history["final-val"] = {"iter": list(final), "final_val_loss": list(final.values())}
    return {"config": CONFIG | config, "history": history}


def cooldown(steps=range(400, 500, 50), shift=0.5, **fields):
    return run(steps, shift, **{"iterations": 500, "wsd_fract_decay": 0.2} | fields)


@pytest.fixture
def clone(tmp_path):
    """Writes logs by name, and gives the clone's folder."""

    def write(logs):
        (tmp_path / "data").mkdir()
        for name, log in logs.items():
            text = log if isinstance(log, str) else json.dumps(log)
            (tmp_path / "data" / f"{name}.json").write_text(text)
        return tmp_path

    return write


def check_same(curves, prepared):
    prepared = {curve.name: curve for curve in prepared}
    for curve in curves:
        same = prepared[curve.name]
        np.testing.assert_array_equal(curve.step, same.step)
        np.testing.assert_allclose(curve.loss, same.loss, rtol=0, atol=5.1e-7)
        np.testing.assert_allclose(lrs(curve.schedule), lrs(same.schedule), rtol=1e-10)
        assert type(curve.schedule) is type(same.schedule)
        for field in ("model_size", "tokens_per_step", "final_loss", "split"):
            assert getattr(curve, field) == getattr(same, field), (curve.name, field)


# Multi-Power Law


@pytest.fixture
def mpl(tmp_path):
    """Writes CSV files by name, and gives the clone's folder."""

    def write(files, size=25):
        folder = tmp_path / "loss_curve_repo" / f"csv_{size}"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / f"{name}.csv").write_text(text)
        return tmp_path

    return write


ROWS = "step,lr,loss\r\n2176,0.0003,4.1\r\n7936,0.0003,3.5\r\n"


def test_multi_power_law_equals_the_prepared_curves(shared, x64):
    curves = multi_power_law.load(shared / "data/raw_samples/MultiPowerLaw", size=25)
    assert [curve.name for curve in curves] == ["cosine_24000", "wsdcon_9"]
    check_same(curves, load_runs(shared / "data/mpl_25m"))


@pytest.mark.parametrize("size", [25, 100])
def test_every_published_schedule_is_known(shared, mpl, size, x64):
    """The prepared files have the form of the published ones."""
    folder = shared / f"data/mpl_{size}m"
    clone = mpl({path.stem: path.read_text() for path in folder.glob("*.csv")}, size)
    curves, prepared = multi_power_law.load(clone, size=size), load_runs(folder)
    assert [curve.name for curve in curves] == [curve.name for curve in prepared]
    check_same(curves, prepared)


@pytest.mark.parametrize(
    ("name", "schedule", "split"),
    [
        ("constant_24000", Constant(3e-4, 24000, 2160), "train"),
        ("cosine_72000", Cosine(3e-4, 72000, 3e-5, 2160), "test"),
        ("wsd_20000_24000", WSD(3e-4, 24000, 4000 / 24000, "exponential", 3e-5, 2160), "test"),
        ("wsdld_20000_25000", WSD(3e-4, 25000, 0.2, "linear", 3e-5, 2160), "test"),
        ("wsdcon_9", Step(3e-4, 16000, (8000,), (9e-5,), 2160), "train"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_name_of_a_file_gives_its_schedule(mpl, name, schedule, split):
    step = np.array([2176, 9000, 11000])
    rows = zip(step, np.asarray(schedule(step)), [4.0, 3.5, 3.25], strict=True)
    clone = mpl({name: "loss,step,lr\n" + "".join(f"{loss},{step},{lr}\n" for step, lr, loss in rows)}, 400)
    (curve,) = multi_power_law.load(clone, size=400)
    assert (curve.name, curve.schedule, curve.split, curve.model_size) == (name, schedule, split, 4e8)
    assert (curve.step.tolist(), curve.loss.tolist()) == (step.tolist(), [4.0, 3.5, 3.25])


@pytest.mark.parametrize("lr", ["0.0003", "9e-05"])
def test_a_switch_may_be_logged_with_either_rate(mpl, lr):
    (curve,) = multi_power_law.load(mpl({"wsdcon_9": ROWS + f"8000,{lr},3.4\n"}), size=25)
    assert curve.step[-1] == 8000


def test_other_files_are_ignored_with_a_warning(mpl):
    clone = mpl({"constant_24000": ROWS, "wsd_fancy": ROWS})
    with pytest.warns(UserWarning, match="csv_25: ignored curves of unknown schedules: wsd_fancy"):
        (curve,) = multi_power_law.load(clone, size=25)
    assert curve.name == "constant_24000"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns step, lr, loss, found: an empty file"),
        ("step,loss\n1,2\n", "expected the columns step, lr, loss, found: step, loss"),
        ("step,lr,loss\n", "expected at least one row, found only a header"),
        (ROWS + "8064,0.0003,low\n", "row 3: loss: expected a number, got 'low'"),
        (ROWS + "8064,0.0003\n", "row 3: loss: expected a number, got None"),
        (ROWS + "8064.5,0.0003,3\n", "row 3: step: expected a whole number >= 0, got '8064.5'"),
        (ROWS + "8064,0.0003,-3\n", "row 3: loss must be a positive number, got -3"),
        (ROWS + "24064,0.0003,3\n", "row 3: step lies beyond the schedule's end at 24000, got 24064"),
        (ROWS + "8064,0.0001,3\n", "row 3: expected a rate of 0.0003 by the file's name, found 0.0001"),
    ],
)
def test_a_wrong_row_is_named(mpl, text, message):
    clone = mpl({"constant_24000": text})
    with pytest.raises(ValueError, match=r"constant_24000\.csv: ") as error:
        multi_power_law.load(clone, size=25)
    assert message in str(error.value)


def test_a_wrong_folder_or_size_is_named(mpl, tmp_path):
    with pytest.raises(ValueError, match=r"csv_25: expected this folder in a clone of thu-yao-01-luo/MultiPowerLaw"):
        multi_power_law.load(tmp_path, size=25)
    with pytest.raises(ValueError, match=r"unknown size in millions of parameters '30'.*known: 25, 100, 400"):
        multi_power_law.load(tmp_path, size=30)
    with pytest.raises(ValueError, match=r"expected CSV files such as constant_24000\.csv, found none"):
        multi_power_law.load(mpl({}), size=25)


# lr-scheduling


@pytest.mark.slow
def test_lr_scheduling_equals_the_prepared_curves(shared, x64):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves = lr_scheduling.load(shared / "data/raw_samples/lr-scheduling")
    prepared = load_runs(shared / "data/cooldown_33m")
    assert [curve.name for curve in curves] == [curve.name for curve in prepared]
    check_same(curves, prepared)


@pytest.mark.parametrize(
    ("layers", "width", "data"),
    [(8, 384, "33m"), (8, 512, "53m"), (12, 640, "93m"), (12, 768, "124m"), (16, 768, "152m")],
)
def test_sizes_follow_from_the_architecture(shared, layers, width, data):
    config = {"n_layer": layers, "n_embd": width, "vocab_size": 50304, "multiple_of": 256}
    assert lr_scheduling._model_size(config) == load_runs(shared / f"data/cooldown_{data}")[0].model_size


def test_a_cooldown_is_joined_to_its_stem(clone):
    stem = run(range(0, 1000, 50), final={500: 3.4, 1000: 3.2})
    folder = clone({STEM: stem, COOLDOWN: cooldown(final={500: 3.3})})
    constant, joined = lr_scheduling.load(folder, size=6)
    assert (constant.name, joined.name) == ("constant_lr0.001_T1000", "wsd-linear-0.2_lr0.001_T500")
    assert joined.step.tolist() == list(range(0, 500, 50))
    before = joined.step < 400
    np.testing.assert_allclose(joined.loss, loss(joined.step) + np.where(before, 0, 0.5), rtol=1e-12)
    assert joined.schedule == WSD(1e-3, 500, 0.2, "linear", 0.0, 10, 1e-5)
    assert constant.schedule == Constant(1e-3, 1000, 10, 1e-5)
    assert (constant.final_loss, joined.final_loss) == (3.2, 3.3)
    assert (joined.model_size, joined.tokens_per_step) == (SIZE, 5 * 2 * 2 * 64)


def test_a_cooldown_logged_from_the_start_needs_no_stem(clone):
    (curve,) = lr_scheduling.load(clone({COOLDOWN: cooldown(range(0, 500, 50))}))
    assert curve.step[0] == 0


def test_the_stem_it_was_resumed_from_comes_first(clone):
    other = STEM.replace("iter1000", "iter2000")
    stems = {STEM: run(range(0, 1000, 50), 1.0), other: run(range(0, 2000, 50), 2.0, iterations=2000)}
    folder = clone(stems | {COOLDOWN: cooldown(resume_from=f"/somewhere/exps/{STEM}/ckpts/400")})
    assert lr_scheduling.load(folder)[-1].loss[0] == loss(0) + 1
    (folder / "data" / f"{COOLDOWN}.json").write_text(
        json.dumps(cooldown(resume_from=f"/exps/{COOLDOWN}/ckpts/latest"))
    )
    assert lr_scheduling.load(folder)[-1].loss[0] == loss(0) + 2


@pytest.mark.parametrize(
    "stem",
    [
        None,
        run(range(0, 1000, 50), seed=1),
        run(range(0, 1000, 50), lr=2e-3),
        run(range(0, 300, 50), iterations=300),
        run(range(0, 1000, 50), scheduler="cos"),
        run(range(0, 1000, 50), train={500: 5e-4}),
    ],
    ids=["none", "other seed", "other rate", "too short", "not constant", "other rate in fact"],
)
@pytest.mark.filterwarnings("ignore:.*ignored 1 files")
def test_a_missing_stem_is_an_error_that_names_the_run(clone, stem):
    folder = clone({COOLDOWN: cooldown()} | ({STEM: stem} if stem else {}))
    with pytest.raises(ValueError, match=f"{COOLDOWN}.json: run 'wsd-linear-0.2_lr0.001_T500': logged only") as error:
        lr_scheduling.load(folder)
    assert "logged only from step 400 on; expected the run at constant rate that it branches from" in str(error.value)
    assert "lr 0.001" in str(error.value)


def test_of_a_step_logged_twice_the_later_row_counts(clone):
    log = run([0, 50, 100, 150, 50, 100, 200])
    log["history"]["val"]["val_loss"] = [9, 8, 7, 6, 5, 4, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (curve,) = lr_scheduling.load(clone({STEM: log}))
    assert (curve.step.tolist(), curve.loss.tolist()) == ([0, 50, 100, 150, 200], [9, 5, 4, 6, 3])


def test_the_zero_rate_after_the_last_update_is_ignored(clone):
    log = run(range(0, 1000, 50), train={5: 5e-4, 500: 1e-3, 950: 1e-3, 1000: 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (curve,) = lr_scheduling.load(clone({STEM: log}))
    assert curve.schedule == Constant(1e-3, 1000, 10, 1e-5)


@pytest.mark.parametrize(
    ("config", "name", "schedule"),
    [
        ({"scheduler": "cos"}, "cosine-0.1_lr0.001_T1000", Cosine(1e-3, 1000, 1e-4, 10, 1e-5)),
        ({"scheduler": "cos", "cos_final_lr": 1e-7}, "cosine-0_lr0.001_T1000", Cosine(1e-3, 1000, 0.0, 10, 1e-5)),
        ({"scheduler": "cos", "cos_final_lr": 2e-4}, "cosine-0.2_lr0.001_T1000", Cosine(1e-3, 1000, 2e-4, 10, 1e-5)),
        ({"wsd_fract_decay": 0.4}, "wsd-linear-0.4_lr0.001_T1000", WSD(1e-3, 1000, 0.4, "linear", 0.0, 10, 1e-5)),
        (
            {"wsd_fract_decay": 0.1234, "decay_type": "sqrt", "wsd_final_lr_scale": 0.5},
            "wsd-1-sqrt-0.1234_lr0.001_T1000",
            WSD(1e-3, 1000, 0.123, "1-sqrt", 5e-4, 10, 1e-5),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_config_gives_name_and_schedule(clone, config, name, schedule):
    (curve,) = lr_scheduling.load(clone({STEM: run(range(0, 1000, 50), **config)}))
    assert (curve.name, curve.schedule, curve.final_loss) == (name, schedule, None)


def test_files_are_ignored_with_one_warning_that_says_why(clone):
    steps = range(0, 1000, 50)
    a, b, c, d = (f"{prefix}_{STEM}" for prefix in "abcd")
    logs = {
        a: run(steps),
        b: run(steps, scheduler="wsd_twostage"),
        c: run(steps, train={900: 5e-4}),
        d: run(steps, shift=1.0),
        "notes": "{}",
    }
    with pytest.warns(UserWarning, match="data: ignored 4 files") as warned:
        (curve,) = lr_scheduling.load(clone(logs))
    assert curve.loss[0] == loss(0)
    reasons = (
        "notes.json (not named as a run)",
        f"{b}.json (scheduler 'wsd_twostage')",
        f"{c}.json (logged rate 0.0005 at step 900, but 0.001 by its config)",
        f"{d}.json (run 'constant_lr0.001_T1000' is already in {a}.json)",
    )
    assert len(warned) == 1
    assert all(reason in str(warned[0].message) for reason in reasons)


def test_sizes_and_data_sets_are_chosen(clone):
    steps = range(0, 1000, 50)
    logs = {"a": run(steps), "b": run(steps, n_embd=12), "c": run(steps, dataset="openwebtext2")}
    folder = clone({f"{prefix}_{STEM}": log for prefix, log in logs.items()})
    assert [curve.model_size for curve in lr_scheduling.load(folder, size=6)] == [SIZE]
    assert [round(curve.model_size / 1e6) for curve in lr_scheduling.load(folder, size=12)] == [12]
    assert len(lr_scheduling.load(folder, dataset="openwebtext2")) == 1
    with pytest.raises(ValueError, match="data: expected size, one of 6, 12 million parameters"):
        lr_scheduling.load(folder)
    with pytest.raises(ValueError, match=r"unknown size in millions of parameters '7'.*known: 6, 12"):
        lr_scheduling.load(folder, size=7)
    with pytest.raises(
        ValueError, match=r"unknown dataset 'pajama'; did you mean 'slimpajama'\? .known: openwebtext2, sl"
    ):
        lr_scheduling.load(folder, dataset="pajama")


def without(log, *keys):
    table = log
    for key in keys[:-1]:
        table = table[key]
    del table[keys[-1]]
    return log


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("{", "expected JSON, but "),
        ("[]", "expected the key config, found no 'config'"),
        ('{"config": 3}', "config: expected a table, found 3"),
        (without(run([0]), "history"), "expected the key history, found no 'history'"),
        (without(run([0]), "history", "val"), "expected rows in history/val, found none"),
        (without(run([0]), "history", "val", "val_loss"), "expected the key val/val_loss, found no 'val_loss'"),
        (without(run([0]), "config", "lr"), "expected the key lr, found no 'lr'"),
        (without(run([0]), "config", "n_embd"), "expected the key n_embd, found no 'n_embd'"),
        (without(run([0]), "config", "batch_size"), "expected the key batch_size, found no 'batch_size'"),
        (run([0], iterations=0.5), "iterations: expected a whole number >= 0, got 0.5"),
        (run([0], lr=-1), "lr: expected a number above zero, got -1"),
        (run([0], warmup_steps=2000), "warmup of 2000 steps is longer than the run of 1000"),
        (run([0, 1200]), "row 2: step lies beyond the schedule's end at 1000, got 1200"),
        (run([50, 0], shift=-4.5), "history/val, row 1: val_loss: expected a number above zero, got -0.5"),
        (run([0, 0.5]), "history/val, row 2: iter: expected a whole number >= 0, got 0.5"),
        (run([0], train={50: None}), "history/train, row 1: train_lr: expected a number, got None"),
    ],
)
def test_a_wrong_file_is_named(clone, log, message):
    folder = clone({STEM: log})
    with pytest.raises(ValueError, match=STEM) as error:
        lr_scheduling.load(folder)
    assert str(error.value).startswith(str(folder / "data"))
    assert message in str(error.value)


def test_columns_of_different_lengths_are_named(clone):
    log = run([0, 50])
    log["history"]["val"]["iter"].pop()
    with pytest.raises(ValueError, match="history/val: expected lists iter and val_loss of one length"):
        lr_scheduling.load(clone({STEM: log}))


def test_a_wrong_folder_is_named(clone, tmp_path):
    with pytest.raises(
        ValueError, match="data: expected this folder in a clone of fabian-sp/lr-scheduling, found none"
    ):
        lr_scheduling.load(tmp_path)
    with pytest.raises(ValueError, match=r"data: expected files named \.\.\._lr.*, found none"):
        lr_scheduling.load(clone({}))
