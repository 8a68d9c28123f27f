"""Manifests and rows from disk: what is read, and the sentence each wrong input is answered with."""

import json
import os
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from fmjax.curves.manifest import load_runs, select_runs
from fmjax.schedules.kinds import WSD, Constant, Cosine, Step, Tabulated, lrs
from fmjax.schedules.tables import KINDS, schedule_from, schedule_table

SHARED = Path(os.environ.get("FMJAX_SHARED", Path(__file__).resolve().parents[2] / "shared"))
needs_shared = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no shared data")

CONSTANT = 'schedule = { kind = "constant", total_steps = 100, peak_lr = 1e-3 }'
ROWS = "step,loss\n0,4.0\n50,3.5\n100,3.0\n"
LOGGED = "step,loss,lr\n0,4.0,1e-3\n10,3.5,1e-3\n20,3.0,0\n"


def manifest(*keys: str, name: str = "a") -> str:
    return "\n".join(["[[runs]]", f'name = "{name}"', 'file = "a.csv"', *keys]) + "\n"


def wsd(*fields: str) -> str:
    return "schedule = { " + ", ".join(['kind = "wsd"', "total_steps = 100", "peak_lr = 1e-3", *fields]) + " }"


@pytest.fixture
def load(tmp_path):
    """Writes a manifest and its rows, and loads them."""

    def write_and_load(toml=None, rows=ROWS, file="a.csv"):
        (tmp_path / "runs.toml").write_text(manifest(CONSTANT) if toml is None else toml, encoding="utf-8")
        if rows is not None:
            data = rows if isinstance(rows, bytes) else rows.encode()
            (tmp_path / file).write_bytes(data)
        return load_runs(tmp_path / "runs.toml")

    return write_and_load


@pytest.fixture
def message(load, tmp_path):
    """The message that loading ends with, checked to be one line that names the manifest."""

    def of(*args, **kwargs):
        with pytest.raises(ValueError, match=r"runs\.toml") as error:
            load(*args, **kwargs)
        text = str(error.value)
        assert text.startswith(str(tmp_path / "runs.toml"))
        assert "\n" not in text
        return text

    return of


# ------------------------------------------------------------------------------------------------ what is read


def test_a_run_with_every_key(load):
    keys = ["model_size = 25_000_000", "tokens_per_step = 4096", "final_loss = 2.9", 'split = "train"']
    keys += ['data_order = "first"', CONSTANT]
    (run,) = load(manifest(*keys))
    assert (run.name, run.model_size, run.tokens_per_step, run.final_loss, run.split) == ("a", 25e6, 4096, 2.9, "train")
    assert run.data_order == "first"
    assert run.schedule == Constant(peak_lr=1e-3, total_steps=100)
    assert run.step.tolist() == [0, 50, 100]
    assert run.loss.tolist() == [4.0, 3.5, 3.0]


def test_missing_optional_keys_are_none(load):
    (run,) = load()
    assert (run.model_size, run.tokens_per_step, run.final_loss, run.split) == (None, None, None, None)


@pytest.mark.parametrize("as_type", [str, Path], ids=["str", "Path"])
@pytest.mark.parametrize("name", ["", "runs.toml"], ids=["folder", "file"])
def test_a_manifest_or_its_folder(load, tmp_path, as_type, name):
    load()
    assert [run.name for run in load_runs(as_type(tmp_path / name))] == ["a"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("kind = 'constant', warmup_steps = 5, init_lr = 1e-5", Constant(1e-3, 100, 5, 1e-5)),
        ("kind = 'cosine', final_lr = 1e-4", Cosine(1e-3, 100, 1e-4)),
        ("kind = 'wsd', anneal_ratio = 0.4", WSD(1e-3, 100, 0.4)),
        ("kind = 'wsd', anneal_ratio = 1", WSD(1e-3, 100, 1.0)),
        ("kind = 'wsd', anneal_steps = 25, decay = '1-sqrt'", WSD(1e-3, 100, 0.25, "1-sqrt")),
        ("kind = 'wsd', anneal_steps = 100, decay = 'cosine'", WSD(1e-3, 100, 1.0, "cosine")),
        (
            "kind = 'wsd', anneal_ratio = 0.5, decay = 'exponential', final_lr = 1e-5",
            WSD(1e-3, 100, 0.5, "exponential", 1e-5),
        ),
        ("kind = 'step', boundaries = [30, 60], lrs = [5e-4, 2e-4]", Step(1e-3, 100, (30, 60), (5e-4, 2e-4))),
        ("kind = 'step'", Step(1e-3, 100)),
    ],
    ids=["constant", "cosine", "wsd-ratio", "wsd-whole", "wsd-steps", "wsd-all", "exponential", "step", "step-bare"],
)
def test_schedule_kinds(load, table, expected):
    (run,) = load(manifest(f"schedule = {{ {table}, total_steps = 100, peak_lr = 1e-3 }}"))
    assert run.schedule == expected
    assert type(run.schedule.total_steps) is int
    np.testing.assert_allclose(lrs(run.schedule), lrs(expected))


def test_each_kind_is_tested():
    assert set(KINDS) == {"constant", "cosine", "wsd", "step", "tabulated"}


def test_a_table_in_the_manifest(load):
    rates = [*[1e-3] * 80, *[5e-4] * 20]
    (run,) = load(manifest(f"schedule = {{ kind = 'tabulated', lrs = {rates}, warmup_steps = 1 }}"))
    assert (run.schedule.total_steps, run.schedule.warmup_steps) == (100, 1)
    np.testing.assert_allclose(lrs(run.schedule), rates)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(1e-3, 10),
        Cosine(1e-3, 100, 1e-5, 10),
        WSD(1e-3, 100, 0.3, "1-sqrt"),
        Step(1e-3, 9, (2, 4), (5e-4, 1e-4)),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_as_a_table(schedule):
    assert schedule_from(json.loads(json.dumps(schedule_table(schedule)))) == schedule


@pytest.mark.parametrize(
    "rows",
    [
        b"\xef\xbb\xbf" + ROWS.encode(),
        ROWS.replace("\n", "\r\n"),
        ROWS.rstrip("\n"),
        "\n" + ROWS.replace("\n50", "\n\n50") + "\n\n",
        "loss,note,step\n4.0,x,0\n3.5,,50\n3.0,nan,100\n",
        "step , loss\n0, 4.0\n50, 3.5\n100, 3.0\n",
        '"step","loss"\n"0","4.0"\n"50","3.5"\n"1e2","3.0"\n',
        "step,loss,lr\n0,4.0,\n50,3.5,\n100,3.0,-1\n",
    ],
    ids=["bom", "crlf", "no-last-newline", "blank-lines", "extra-columns", "spaces", "quotes", "lr-unused"],
)
def test_csv_variants(load, rows):
    (run,) = load(rows=rows)
    assert run.step.tolist() == [0, 50, 100]
    assert run.loss.tolist() == [4.0, 3.5, 3.0]


def test_a_manifest_with_bom_and_unicode_names(load):
    (run,) = load("\ufeff" + manifest(CONSTANT, name="lauf ü"))
    assert run.name == "lauf ü"


@pytest.mark.parametrize("how", ["relative", "absolute", "outside"])
def test_file_paths(load, tmp_path, how):
    place = {"relative": tmp_path / "rows", "absolute": tmp_path / "rows", "outside": tmp_path.parent}[how]
    place.mkdir(exist_ok=True)
    (place / "b.csv").write_text(ROWS)
    file = {"relative": "rows/b.csv", "absolute": place / "b.csv", "outside": "../b.csv"}[how]
    assert load(manifest(CONSTANT).replace("a.csv", str(file)), rows=None)[0].loss.size == 3


def test_repeated_steps_keep_the_last(load):
    with pytest.warns(UserWarning, match="run 'a': 1 repeated steps"):
        (run,) = load(rows="step,loss\n0,4.0\n50,3.5\n50,3.4\n100,3.0\n")
    assert run.step.tolist() == [0, 50, 100]
    assert run.loss.tolist() == [4.0, 3.4, 3.0]


# ------------------------------------------------------------------------------------------------ logged rates


def test_logged_rates_are_interpolated_to_every_update(load):
    (run,) = load(manifest("warmup_steps = 3"), LOGGED)
    assert isinstance(run.schedule, Tabulated)
    assert isinstance(run.schedule.lrs, np.ndarray)
    assert (run.schedule.total_steps, run.schedule.warmup_steps) == (21, 3)
    expected = np.concatenate([np.full(10, 1e-3), 1e-3 * (1 - np.arange(11) / 10)])
    np.testing.assert_allclose(run.schedule.lrs, expected, atol=1e-16)


def test_logged_rates_before_the_first_row_keep_its_rate(load):
    (run,) = load(manifest(), "step,loss,lr\n5,4.0,1e-3\n10,3.5,5e-4\n")
    assert run.schedule.lrs[:6].tolist() == [1e-3] * 6
    assert (run.schedule.total_steps, run.schedule.warmup_steps) == (11, 0)


def test_logged_rates_of_a_repeated_step_are_the_last(load):
    with pytest.warns(UserWarning, match="repeated steps"):
        (run,) = load(manifest(), "step,loss,lr\n0,4.0,1e-3\n2,3.5,9e-4\n2,3.4,5e-4\n4,3.0,0\n")
    np.testing.assert_allclose(run.schedule.lrs, [1e-3, 7.5e-4, 5e-4, 2.5e-4, 0])


def test_a_hundred_thousand_rows_are_read(load):
    n = 100_000
    rows = "step,loss,lr\n" + "".join(f"{i},{4 - i / n:.6f},{1e-3 * (1 - i / n):.9f}\n" for i in range(n))
    (run,) = load(manifest(), rows)
    assert run.loss.size == run.schedule.total_steps == n


# ------------------------------------------------------------------------------------------------ Parquet


def write_parquet(path, **columns):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table(columns), path)


PARQUET = manifest(CONSTANT).replace("a.csv", "a.parquet")


def test_parquet_rows(load, tmp_path):
    write_parquet(tmp_path / "a.parquet", note=["x", "y"], step=[0, 50], loss=[4.0, 3.5])
    (run,) = load(PARQUET, rows=None)
    assert run.step.tolist() == [0, 50]
    assert run.loss.tolist() == [4.0, 3.5]


def test_parquet_rates(load, tmp_path):
    write_parquet(tmp_path / "a.parquet", step=[0, 2], loss=[4.0, 3.5], lr=[1e-3, 0.0])
    (run,) = load(manifest().replace("a.csv", "a.parquet"), rows=None)
    np.testing.assert_allclose(run.schedule.lrs, [1e-3, 5e-4, 0])


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"step": [0, 50]}, ["expected one column 'loss'", "found: step"]),
        ({"step": [0, 50], "loss": [4.0, None]}, ["row 2", "expected a number in column 'loss', found None"]),
        ({"step": [0, 50], "loss": ["4.0", "x"]}, ["row 2", "expected a number in column 'loss', found 'x'"]),
        ({"step": [0, 50], "loss": [4.0, float("nan")]}, ["row 2", "positive", "nan"]),
        ({"step": [], "loss": []}, ["at least one row"]),
    ],
    ids=["missing-column", "null", "text", "nan", "no-rows"],
)
def test_wrong_parquet(message, tmp_path, columns, parts):
    write_parquet(tmp_path / "a.parquet", **columns)
    text = message(PARQUET, rows=None)
    assert all(part in text for part in ["a.parquet", "run 'a'", *parts]), text


def test_parquet_that_is_none(message):
    pytest.importorskip("pyarrow")
    text = message(PARQUET, file="a.parquet")
    assert "a.parquet: run 'a': expected a Parquet file, found other bytes" in text


def test_parquet_that_is_missing(message):
    pytest.importorskip("pyarrow")
    text = message(PARQUET, rows=None)
    assert "a.parquet: run 'a': cannot be read: " in text


def test_parquet_without_pyarrow(message, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    text = message(PARQUET, file="a.parquet")
    assert "run 'a'" in text
    assert "pip install 'fmjax[data]'" in text


# ------------------------------------------------------------------------------------------------ wrong manifests


@pytest.mark.parametrize("name", ["", "none.toml"], ids=["folder", "file"])
def test_missing_manifest(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name or 'runs.toml'}: cannot be read: No such file"):
        load_runs(tmp_path / name)


def test_manifest_of_other_bytes(tmp_path):
    (tmp_path / "runs.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"runs\.toml: expected UTF-8 text"):
        load_runs(tmp_path)


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("step,loss\n0,4.0\n", ["expected a TOML manifest", "line 1"]),
        ("", ["expected [[runs]] tables, found none"]),
        ("runs = []", ["expected [[runs]] tables, found none"]),
        ("[runs]\nname = 'a'", ["expected [[runs]] tables", "'name': 'a'"]),
        ("runs = [1]", ["run 1: expected a table, got 1"]),
        ("[[run]]\nname = 'a'", ["unknown top-level key 'run'; did you mean 'runs'?"]),
        ("title = 'x'\n" + manifest(CONSTANT), ["unknown top-level key 'title'", "known: runs"]),
        (manifest("model_sise = 1", CONSTANT), ["run 'a'", "unknown key 'model_sise'; did you mean 'model_size'?"]),
        ("[[runs]]\nfile = 'a.csv'", ["run 1", "missing key 'name'"]),
        (manifest(CONSTANT) + "[[runs]]\nfile = 'a.csv'", ["run 2", "missing key 'name'"]),
        ("[[runs]]\nname = 'b'", ["run 'b'", "missing key 'file'"]),
        ("[[runs]]\nname = 3\nfile = 'a.csv'", ["run 1", "name: expected a text in quotes, got 3"]),
        ("[[runs]]\nname = ''\nfile = 'a.csv'", ["run 1", "name: expected a text in quotes, got ''"]),
        ("[[runs]]\nname = 'b'\nfile = ['a.csv']", ["run 'b'", "file: expected a text in quotes, got ['a.csv']"]),
        (manifest(CONSTANT, "split = 1"), ["run 'a'", "split: expected a text in quotes, got 1"]),
        (manifest(CONSTANT, "model_size = '25M'"), ["run 'a'", "model_size: expected a number, got '25M'"]),
        (manifest(CONSTANT, "model_size = true"), ["run 'a'", "model_size: expected a number, got True"]),
        (manifest(CONSTANT, "model_size = 0"), ["run 'a'", "model_size: expected a number above zero, got 0"]),
        (manifest(CONSTANT, "tokens_per_step = inf"), ["run 'a'", "tokens_per_step: expected a finite number"]),
        (manifest(CONSTANT, "final_loss = -1"), ["run 'a'", "final_loss: expected a number above zero, got -1"]),
        (manifest(CONSTANT, "warmup_steps = 3"), ["run 'a'", "warmup_steps inside the schedule"]),
        (manifest(CONSTANT) * 2, ["run 2", "name 'a' is already taken by run 1"]),
    ],
    ids=[
        "not-toml", "empty", "no-runs", "runs-a-table", "runs-of-numbers", "misspelt-runs", "unknown-top-key",
        "unknown-run-key", "no-name", "no-name-second", "no-file", "name-number", "name-empty", "file-list",
        "split-number", "size-text", "size-bool", "size-zero", "tokens-inf", "final-loss-negative",
        "warmup-beside-schedule", "same-name",
    ],
)  # fmt: skip
def test_wrong_manifests(message, toml, parts):
    text = message(toml)
    assert all(part in text for part in parts), text


@pytest.mark.parametrize(
    ("schedule", "parts"),
    [
        ("schedule = 'cosine'", ["expected a table with kind and its fields, got 'cosine'"]),
        ("schedule = { total_steps = 100 }", ["missing key 'kind' (known kinds: constant, cosine, wsd, step, tab"]),
        (CONSTANT.replace("constant", "constnt"), ["unknown schedule kind 'constnt'; did you mean 'constant'?"]),
        (CONSTANT.replace('"constant"', "3"), ["unknown schedule kind 3"]),
        (CONSTANT.replace("peak_lr", "peek_lr"), ["unknown schedule key 'peek_lr'; did you mean 'peak_lr'?"]),
        (CONSTANT.replace("peak_lr = 1e-3", "final_lr = 0"), ["unknown schedule key 'final_lr'"]),
        (CONSTANT.replace(", peak_lr = 1e-3", ""), ["missing key 'peak_lr'"]),
        (CONSTANT.replace("1e-3", "'1e-3'"), ["peak_lr: expected a number, got '1e-3'"]),
        (CONSTANT.replace("1e-3", "0"), ["peak_lr: expected a number above zero, got 0"]),
        (CONSTANT.replace("1e-3", "-1e-3"), ["peak_lr: expected a number above zero, got -0.001"]),
        (CONSTANT.replace("1e-3", "nan"), ["peak_lr: expected a finite number, got nan"]),
        (CONSTANT.replace("100", "0"), ["total_steps: expected a whole number >= 1, got 0"]),
        (CONSTANT.replace("100", "99.5"), ["total_steps: expected a whole number", "got 99.5"]),
        (CONSTANT.replace("100", "'100'"), ["total_steps: expected a number, got '100'"]),
        (CONSTANT.replace("peak", "warmup_steps = 101, peak"), ["warmup of 101 steps is longer than the run of 100"]),
        (CONSTANT.replace("peak", "warmup_steps = -1, peak"), ["warmup_steps: expected a whole number >= 0, got -1"]),
        (CONSTANT.replace("peak", "init_lr = -1e-4, peak"), ["init_lr: expected a rate in [0, peak_lr"]),
        (wsd(), ["expected one of anneal_ratio and anneal_steps, found neither"]),
        (wsd("anneal_ratio = 0.5", "anneal_steps = 50"), ["expected one of", "found anneal_ratio and anneal_steps"]),
        (wsd("anneal_ratio = 0"), ["anneal_ratio must lie in (0, 1], got 0"]),
        (wsd("anneal_ratio = 20"), ["anneal_ratio must lie in (0, 1], got 20"]),
        (wsd("anneal_ratio = nan"), ["anneal_ratio: expected a finite number, got nan"]),
        (wsd("anneal_steps = 0"), ["expected anneal_steps above zero and up to total_steps = 100, got 0"]),
        (wsd("anneal_steps = 150"), ["expected anneal_steps above zero and up to total_steps = 100, got 150"]),
        (wsd("anneal_ratio = 0.5", "decay = 'liner'"), ["unknown decay 'liner'; did you mean 'linear'?"]),
        (wsd("anneal_ratio = 0.5", "decay = 1"), ["decay: expected a text in quotes, got 1"]),
        (wsd("anneal_ratio = 0.5", "decay = 'exponential'"), ["exponential decay needs a final_lr above zero, got 0"]),
        (wsd("anneal_ratio = 0.5", "final_lr = -1e-5"), ["final_lr: expected a rate in [0, peak_lr"]),
        (wsd("anneal_ratio = 0.5", "final_lr = 1e-2"), ["final_lr: expected a rate in [0, peak_lr = 0.001], got 0.01"]),
        (CONSTANT.replace("constant", "step").replace("peak", "lrs = [1e-4], peak"), ["expected one of lrs for each"]),
        (
            CONSTANT.replace("constant", "step").replace("peak", "boundaries = [60, 30], lrs = [1e-4, 1e-5], peak"),
            ["boundaries must rise and not be negative, got [60.0, 30.0]"],
        ),
        (
            CONSTANT.replace("constant", "step").replace("peak", "boundaries = [60], lrs = [-1e-4], peak"),
            ["lrs must not be negative, got -0.0001 at index 0"],
        ),
        (CONSTANT.replace("constant", "step").replace("peak", "lrs = 1e-4, peak"), ["lrs: expected a list of numbers"]),
    ],
    ids=[
        "text", "no-kind", "unknown-kind", "kind-number", "unknown-key", "key-of-other-kind", "no-peak", "peak-text",
        "peak-zero", "peak-negative", "peak-nan", "steps-zero", "steps-fraction", "steps-text", "long-warmup",
        "negative-warmup", "negative-init", "no-ratio", "ratio-and-steps", "ratio-zero", "ratio-percent", "ratio-nan",
        "anneal-steps-zero", "anneal-steps-many", "unknown-decay", "decay-number", "exponential-to-zero",
        "final-negative", "final-above-peak", "lrs-without-boundaries", "falling-boundaries", "negative-lrs",
        "lrs-number",
    ],
)  # fmt: skip
def test_wrong_schedules(message, schedule, parts):
    text = message(manifest(schedule))
    assert all(part in text for part in ["run 'a'", *parts]), text


def test_the_wrong_run_among_several_is_named(message):
    text = message(manifest(CONSTANT) + manifest(wsd(), name="b"))
    assert "run 'b'" in text
    assert "run 'a'" not in text


# ------------------------------------------------------------------------------------------------ wrong rows


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (None, ["cannot be read: No such file or directory"]),
        ("", ["expected a header with step, loss, found an empty file"]),
        ("\n\n", ["found an empty file"]),
        ("step,loss\n", ["expected at least one row, found only a header"]),
        (b"\xff\xfe\x00s", ["expected UTF-8 text, found other bytes"]),
        ("step,los\n0,4.0\n", ["expected one column 'loss' in the header, found: step, los"]),
        ("step;loss\n0;4.0\n", ["expected one column 'step' in the header, found: step;loss"]),
        ("0,4.0\n50,3.5\n", ["expected one column 'step' in the header, found: 0, 4.0"]),
        ("step,loss,loss\n0,4.0,4.1\n", ["expected one column 'loss' in the header, found: step, loss, loss"]),
        ("step,loss\n0,4.0\n50,abc\n", ["row 2", "expected a number in column 'loss', found 'abc'"]),
        ("step,loss\nzero,4.0\n", ["row 1", "expected a number in column 'step', found 'zero'"]),
        ("step,loss\n0,4.0\n50,\n", ["row 2", "expected a number in column 'loss', found ''"]),
        ("step,loss\n0,4.0\n50\n", ["row 2", "expected 2 cells as in the header, found 1"]),
        ("step,loss\n0,4.0,1e-3\n", ["row 1", "expected 2 cells as in the header, found 3"]),
        ("step,loss\n0,4.0\n50,nan\n", ["row 2", "loss must be a positive number, got nan"]),
        ("step,loss\n0,inf\n", ["row 1", "loss must be a positive number, got inf"]),
        ("step,loss\n0,4.0\n50,0\n", ["row 2", "loss must be a positive number, got 0"]),
        ("step,loss\n0,4.0\n50,-3\n", ["row 2", "loss must be a positive number, got -3"]),
        ("step,loss\n-5,4.0\n", ["row 1", "step must not be negative, got -5"]),
        ("step,loss\nnan,4.0\n", ["row 1", "step must", "got nan"]),
        ("step,loss\n0.5,4.0\n", ["row 1", "step must be a whole number, got 0.5"]),
        ("step,loss\n0,4.0\n60,3.5\n50,3.4\n", ["row 3", "steps must rise", "got 50"]),
        ("step,loss\n0,4.0\n101,3.5\n", ["row 2", "beyond the schedule's end at 100, got 101"]),
    ],
    ids=[
        "missing", "empty", "blank", "header-only", "other-bytes", "missing-column", "semicolons", "no-header",
        "column-twice", "text", "text-step", "empty-cell", "short-row", "long-row", "nan", "inf", "zero", "negative",
        "negative-step", "nan-step", "fraction-step", "unordered", "beyond-the-end",
    ],
)  # fmt: skip
def test_wrong_rows(message, rows, parts):
    text = message(rows=rows)
    assert all(part in text for part in ["a.csv", "run 'a'", *parts]), text


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (ROWS, ["expected one column 'lr'", "found: step, loss", "without a schedule"]),
        ("step,loss,lr\n0,4.0,1e-3\n10,3.5,-1e-3\n", ["row 2", "lr must be a number of at least 0, got -0.001"]),
        ("step,loss,lr\n0,4.0,nan\n10,3.5,1e-3\n", ["row 1", "lr must be a number of at least 0, got nan"]),
        ("step,loss,lr\n0,4.0,inf\n10,3.5,1e-3\n", ["row 1", "lr must be a number of at least 0, got inf"]),
        ("step,loss,lr\n0,4.0,high\n10,3.5,1e-3\n", ["row 1", "expected a number in column 'lr', found 'high'"]),
        ("step,loss,lr\n0,4.0,0\n10,3.5,0\n", ["expected a rate above zero in column 'lr', found only zeros"]),
        ("step,loss,lr\n0,4.0,1\n1000000000000,3.5,1\n", ["expected fewer than", "last step is 1000000000000"]),
        ("step,loss,lr\n10,4.0,1\n5,3.5,1\n", ["row 2", "steps must rise", "got 5"]),
        ("step,loss,lr\n0,4.0,1\n-1,3.5,1\n", ["row 2", "step must not be negative, got -1"]),
    ],
    ids=["no-lr", "negative", "nan", "inf", "text", "only-zeros", "step-counts-tokens", "unordered", "negative-step"],
)
def test_wrong_logged_rates(message, rows, parts):
    text = message(manifest(), rows)
    assert all(part in text for part in ["a.csv", "run 'a'", *parts]), text


def test_warmup_longer_than_the_logged_run(message):
    assert "run 'a': warmup of 22 steps is longer than the run of 21" in message(manifest("warmup_steps = 22"), LOGGED)


def test_nothing_warns_about_a_clean_run(load):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()
        load(manifest(), LOGGED)


# ------------------------------------------------------------------------------------------------ selections


@pytest.fixture
def curves(load):
    names = {"cosine_24": "train", "wsd_0.1": "test", "wsd_0.2": "train", "Wsd[3]": None}
    tables = [
        manifest(CONSTANT, *([f'split = "{split}"'] if split else []), name=name) for name, split in names.items()
    ]
    return load("".join(tables))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("split:train", ["cosine_24", "wsd_0.2"]),
        ("split:t*", ["cosine_24", "wsd_0.1", "wsd_0.2"]),
        ("wsd_0.1", ["wsd_0.1"]),
        ("wsd_*", ["wsd_0.1", "wsd_0.2"]),
        ("wsd_0.?", ["wsd_0.1", "wsd_0.2"]),
        ("Wsd[3]", ["Wsd[3]"]),
        ("*", ["cosine_24", "wsd_0.1", "wsd_0.2", "Wsd[3]"]),
        ("wsd_0.2, split:test ,cosine_24", ["cosine_24", "wsd_0.1", "wsd_0.2"]),
        ("wsd_*,split:train,wsd_0.1", ["cosine_24", "wsd_0.1", "wsd_0.2"]),
    ],
    ids=["split", "split-glob", "name", "glob", "one-letter", "name-like-a-glob", "all", "order", "each-once"],
)
def test_select(curves, selection, expected):
    assert [curve.name for curve in select_runs(curves, selection)] == expected


@pytest.mark.parametrize(
    ("selection", "parts"),
    [
        ("split:trian", ["'split:trian'", "unknown split 'trian'; did you mean 'train'?", "known: test, train"]),
        ("wsd_0.1,cosin_24", ["'cosin_24'", "did you mean 'cosine_24'?", "known: cosine_24, wsd_0.1, wsd_0.2"]),
        ("split:train,const*", ["'const*'", "known: cosine_24"]),
        ("COSINE_24", ["'COSINE_24'"]),
        ("train", ["'train'"]),
        ("", ["''"]),
        ("wsd_0.1,", ["''"]),
    ],
    ids=["split", "name", "glob", "case", "label-without-split", "empty", "trailing-comma"],
)
def test_selections_that_match_no_run(curves, selection, parts):
    with pytest.raises(ValueError, match="matches no run") as error:
        select_runs(curves, selection)
    assert all(part in str(error.value) for part in parts), error.value


def test_select_without_any_split(load):
    with pytest.raises(ValueError, match="selection 'split:train' matches no run: no run has a split"):
        select_runs(load(), "split:train")


# ------------------------------------------------------------------------------------------------ real runs


@needs_shared
@pytest.mark.parametrize(
    ("folder", "runs"),
    [("mpl_25m", 9), ("mpl_100m", 9), ("cooldown_124m", 56), ("cooldown_33m", 6), ("cooldown_152m", 6)],
)
def test_real_manifests(folder, runs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves = load_runs(SHARED / "data" / folder)
    assert len(curves) == runs
    for curve in curves:
        rows = np.genfromtxt(SHARED / "data" / folder / f"{curve.name}.csv", delimiter=",", names=True)
        np.testing.assert_array_equal(curve.step, np.unique(rows["step"]))
        assert curve.loss[-1] == rows["loss"][-1]
        assert curve.step[-1] <= curve.schedule.total_steps


@needs_shared
def test_real_schedules():
    curves = {curve.name: curve for curve in load_runs(SHARED / "data" / "mpl_25m")}
    expected = {
        "constant_24000": (24_000, 3e-4, 3e-4),
        "cosine_72000": (72_000, 3e-4, 3e-5),
        "wsdld_20000_24000": (24_000, 3e-4, 3e-5),
        "wsd_20000_24000": (24_000, 3e-4, 3e-5),
        "wsdcon_3": (16_000, 3e-4, 3e-5),
    }
    for name, (total, peak, final) in expected.items():
        schedule = curves[name].schedule
        rates = np.asarray(lrs(schedule))
        assert (schedule.total_steps, schedule.warmup_steps) == (total, 2160)
        np.testing.assert_allclose([rates.max(), rates[2160], rates[-1]], [peak, peak, final], rtol=3e-3)
    assert curves["wsdld_20000_24000"].schedule.anneal_ratio == 4000 / 24000
    assert len(select_runs(tuple(curves.values()), "split:train")) == 3
    assert len(select_runs(tuple(curves.values()), "*_72000")) == 2


@needs_shared
@pytest.mark.parametrize("folder", ["mpl_25m", "mpl_100m"])
def test_real_schedules_give_the_logged_rates(folder):
    for curve in load_runs(SHARED / "data" / folder):
        rows = np.genfromtxt(SHARED / "data" / folder / f"{curve.name}.csv", delimiter=",", names=True)
        with jax.enable_x64(True):
            rates = np.asarray(curve.schedule(np.minimum(rows["step"], curve.schedule.total_steps - 1)))
        np.testing.assert_allclose(rates, rows["lr"], rtol=2e-3, err_msg=curve.name)


@needs_shared
def test_real_cooldowns():
    curves = load_runs(SHARED / "data" / "cooldown_124m")
    assert len(select_runs(curves, "wsd-linear-0.4_*")) == 7
    assert {curve.model_size for curve in curves} == {123587328}
    assert {curve.peak_lr for curve in curves} == {1e-4, 5e-4, 1e-3, 2e-3}
    assert {curve.schedule.total_steps for curve in curves} == {15_000, 25_000}
    assert all(curve.final_loss is not None for curve in curves)
