"""Files of rows as they are found: separators, decimal commas, thousands, packed, other encodings, kinds of JSON."""

import gzip
import json

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.importers import Columns, import_logs

T = 400
PLAN = fmjax.WSD(3e-3, T, 0.3, warmup_steps=20)
STEP = np.arange(4, T, 5)
RATE = synthetic.rates(PLAN)
LOSS = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], RATE, warmup_steps=20)
ROWS = [{"step": int(s), "loss": float(LOSS[s]), "lr": float(RATE[s])} for s in STEP]


def separated(delimiter, number=repr):
    rows = [[str(row["step"]), number(row["loss"]), number(row["lr"])] for row in ROWS]
    return "\n".join(delimiter.join(row) for row in [list(ROWS[0]), *rows]) + "\n"


def with_commas(number):
    return repr(number).replace(".", ",")


FILES = {
    "commas.csv": separated(",").encode(),
    "semicolons.csv": separated(";").encode(),
    "decimal-commas.csv": separated(";", with_commas).encode(),
    "tabs.csv": separated("\t").encode(),
    "tabs-and-decimal-commas.tsv": separated("\t", with_commas).encode(),
    "tabs.TSV": separated("\t").encode(),
    "mark.csv": separated(",").encode("utf-8-sig"),
    "wide.csv": separated(",").encode("utf-16"),
    "windows.csv": separated(",").replace("\n", "\r\n").encode(),
    "packed.csv.gz": gzip.compress(separated(";").encode()),
    "packed.jsonl.gz": gzip.compress("\n".join(map(json.dumps, ROWS)).encode()),
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2).encode(),
    "packed.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "lines.json": "\n".join(map(json.dumps, ROWS)).encode(),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode(),
    "wide.log": "\n".join(f"step {r['step']} loss {r['loss']} lr {r['lr']}" for r in ROWS).encode("utf-16"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file(name, tmp_path):
    (tmp_path / name).write_bytes(FILES[name])
    for path in (tmp_path, tmp_path / name):
        (one,) = import_logs(path)
        assert one.curve.name == name.partition(".")[0]
        np.testing.assert_array_equal(one.curve.step, STEP)
        np.testing.assert_allclose(one.curve.loss, LOSS[STEP])
        assert float(one.curve.schedule.peak_lr) == pytest.approx(3e-3)


def test_separators_of_thousands(tmp_path):
    rows = [f'"{1000 * i:,}",{3 + 1 / (i + 1)},0.001' for i in range(1200)]
    (tmp_path / "a.csv").write_text("\n".join(["step,loss,lr", *rows]))
    (one,) = import_logs(tmp_path / "a.csv")
    np.testing.assert_array_equal(one.curve.step, 1000 * np.arange(1200))


def test_a_loss_with_a_comma_in_every_cell_is_not_guessed(tmp_path):
    """3,125 may be three and an eighth, or three thousand."""
    rows = [f'{i},"3,{125 + i}",0.001' for i in range(100)]
    (tmp_path / "a.csv").write_text("\n".join(["step,loss,lr", *rows]))
    with pytest.raises(ValueError, match="found none; the columns of numbers are 'step', 'lr'"):
        import_logs(tmp_path / "a.csv")


def test_rows_without_names(tmp_path):
    (tmp_path / "two.csv").write_text("".join(f"{s},{LOSS[s]}\n" for s in STEP))
    (one,) = import_logs(tmp_path / "two.csv", schedule=PLAN)
    np.testing.assert_array_equal(one.curve.step, STEP)
    (tmp_path / "three.csv").write_text("".join(f"{s},{LOSS[s]},{RATE[s]}\n" for s in STEP))
    with pytest.raises(ValueError, match=r"three\.csv: expected a first line with the names of the columns, found '4,"):
        import_logs(tmp_path / "three.csv")


def test_configurations_beside_a_log_are_passed_over(tmp_path):
    (tmp_path / "run.csv").write_text(separated(","))
    (tmp_path / "config.json").write_text('{"layers": [1, 2], "lr": 0.1}')
    (tmp_path / "list.json").write_text("[1, 2, 3]")
    (one,) = import_logs(tmp_path)
    assert one.curve.name == "run"


@pytest.mark.parametrize("text", ["[1, 2]", '{"loss": 3}', '[{"loss": 1}, 2]', '{"a": 1', "null"])
def test_json_that_is_no_table(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: .*expected"):
        import_logs(tmp_path / "a.json", source="csv")


HISTORY = [{"epoch": s / T, "learning_rate": float(RATE[s]), "loss": float(LOSS[s]), "step": int(s) + 1} for s in STEP]


@pytest.mark.parametrize(
    "history",
    [HISTORY, [*HISTORY, {"step": T, "eval_loss": 3.5}], [*HISTORY[:-1], {**HISTORY[-1], "grad_norm": float("nan")}]],
    ids=["rows", "evaluation", "not finite"],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_history_of_the_trainer(history, bare, tmp_path):
    """Read by the parser of arrays, and by Python's where that one refuses numbers or has no rows to begin with."""
    (tmp_path / "a.json").write_text(json.dumps(history if bare else {"log_history": history, "max_steps": T}))
    (one,) = import_logs(tmp_path / "a.json", total_steps=T)
    np.testing.assert_array_equal(one.curve.step, STEP)
    np.testing.assert_array_equal(one.curve.loss, LOSS[STEP])
    assert (one.loss, one.rate) == ("loss", "learning_rate")


@pytest.mark.parametrize("prefix", ["", "2026-05-06T07:08:09 - 0 - levanter.json_logger - INFO :: "])
def test_the_json_tracker_of_levanter(prefix, tmp_path):
    events = [{"event": "hparams", "hparams": {"optimizer": {"learning_rate": 3e-3}, "note": "x" * 9000}}]
    for s in STEP.tolist():
        metrics = {"train/loss": float(LOSS[s]), "optim/learning_rate": float(RATE[s]), "grad": {"hist": {"num": 3}}}
        events.append({"event": "log", "step": s, "metrics": metrics})
    events.append({"event": "log", "step": T - 1, "metrics": {"eval/loss": 3.25}})
    events.append({"event": "finish", "summary": {"train/loss": 1.0}})
    lines = [prefix + json.dumps({"tracker": "json_logger", **event}) for event in events]
    (tmp_path / "a.log").write_text("\n".join(["starting", *lines, "done"]))
    (one,) = import_logs(tmp_path)
    np.testing.assert_array_equal(one.curve.step, STEP)
    np.testing.assert_array_equal(one.curve.loss, LOSS[STEP])
    (held_out,) = import_logs(tmp_path, columns=Columns(validation=True))
    assert (held_out.curve.step.tolist(), held_out.curve.loss.tolist()) == ([T - 1], [3.25])


def test_the_average_of_maxtexts_evaluation(tmp_path):
    """Its ``eval/total_loss`` is a sum over tokens, no loss."""
    keys = ("step", "learning/loss", "learning/current_learning_rate")
    rows = [dict(zip(keys, row.values(), strict=True)) for row in ROWS]
    rows += [{"step": 395, "eval/total_loss": 91000.0, "eval/total_weights": 26000.0, "eval/avg_loss": 3.5}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (one,) = import_logs(tmp_path, columns=Columns(validation=True))
    assert (one.loss, one.curve.loss.tolist()) == ("eval/avg_loss", [3.5])
