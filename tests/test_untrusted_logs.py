"""Logs that are broken or hostile: one clear line, nothing run, nothing written, no memory without bound."""

import json
import pickle
import re

import numpy as np
import pytest

from fmjax.cli.commands import run
from fmjax.curves.manifest import load_runs
from fmjax.curves.writing import write_runs
from fmjax.importers import import_logs

GOOD = [{"_step": step, "train/loss": 3 - step / 1000, "train/lr": 1e-3} for step in range(100)]
LINES = "\n".join(map(json.dumps, GOOD))


def parquet(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(GOOD), folder / "a.parquet")
    return (folder / "a.parquet").read_bytes()


class Exploding:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


BROKEN = {
    "cut parquet": ("a.parquet", lambda folder: parquet(folder)[:-100], "expected a Parquet file, but "),
    "text for parquet": ("a.parquet", lambda folder: b"PAR1 is not all", "expected a Parquet file, but "),
    "a line that is no JSON": (
        "a.jsonl",
        lambda folder: LINES.replace("}", "", 1).encode(),
        "line 1: expected JSON, but ",
    ),
    "a list for an object": (
        "a.jsonl",
        lambda folder: ('{"_step": 1}\n[1, 2]\n' + LINES).encode(),
        "line 2: expected a JSON object",
    ),
    "deep": ("trainer_state.json", lambda folder: b"[" * 10**6, "nested too deeply|expected JSON"),
    "cut state": (
        "trainer_state.json",
        lambda folder: json.dumps({"log_history": GOOD})[:-50].encode(),
        "expected JSON, but ",
    ),
    "no rows": ("trainer_state.json", lambda folder: b'{"log_history": [1, null]}', "expected rows in log_history"),
    "other bytes": ("a.csv", lambda folder: b"step,loss,lr\n1,2,\xff\xfe\n", "no learning rate is logged"),
    "zeros": ("a.csv", lambda folder: bytes(1000), "expected"),
    "steps without end": (
        "a.csv",
        lambda folder: b"step,loss,lr\n0,3,1\n1e15,2,1\n",
        "row 2: 'step': expected a count of updates",
    ),
    "infinite steps": ("a.csv", lambda folder: b"step,loss,lr\n0,3,1\n1e999,2,1\n", "row 2: 'step'"),
    "negative steps": (
        "a.csv",
        lambda folder: b"step,loss,lr\n-4,3,1\n1,2,1\n",
        "row 1: 'step': expected a count of updates",
    ),
    "negative losses": (
        "a.csv",
        lambda folder: b"step,loss,lr\n0,3,1\n1,-2,1\n",
        "'loss': expected losses above zero, got -2",
    ),
    "negative rates": (
        "a.csv",
        lambda folder: b"step,loss,lr\n0,3,1\n1,2,-1\n",
        "lr must be a number of at least 0, got -1",
    ),
    "huge numbers": (
        "trainer_state.json",
        lambda folder: b'{"log_history": [{"step": 1' + b"0" * 5000 + b"}]}",
        "expected",
    ),
    "an event file of zeros": ("events.out.tfevents.1.a", lambda folder: bytes(1000), "expected"),
    "pickle": ("a.csv", lambda folder: pickle.dumps(Exploding(folder / "evil")), "expected"),
    "pickle for parquet": ("a.parquet", lambda folder: pickle.dumps(Exploding(folder / "evil")), "expected"),
    "numpy": ("a.npy", lambda folder: pickle.dumps(Exploding(folder / "evil")), "expected logs of a known tool"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_logs_give_one_line(case, tmp_path):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content(tmp_path))
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path))}.*({message})") as error:
        import_logs(tmp_path / name)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_line_cut_off_at_the_end_is_dropped(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES[:-10])
    (found,) = import_logs(tmp_path)
    np.testing.assert_array_equal(found.curve.step, np.arange(99))


def test_names_are_printable_and_stay_in_the_folder(tmp_path):
    names = ["../../up", "/etc/passwd", "..", "\x1b[31mred\x07", "a\nb", "<script>alert(1)</script>", "ä", "x" * 300]
    rows = [",".join(["Step", *('"' + f"{name} - {key}" + '"' for name in names for key in ("loss", "lr"))])]
    rows += [",".join([str(step), *["3.0,0.001"] * len(names)]) for step in range(50)]
    (tmp_path / "chart.csv").write_text("\n".join(rows))
    curves = [one.curve for one in import_logs(tmp_path / "chart.csv")]
    assert all(curve.name.isprintable() for curve in curves)
    write_runs(curves, tmp_path / "deep" / "runs")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "chart.csv"]
    assert {path.parent for path in files} == {tmp_path / "deep" / "runs"}
    assert len(files) == len(names) + 1
    assert [curve.name for curve in load_runs(tmp_path / "deep" / "runs")] == [curve.name for curve in curves]


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret.jsonl").write_text(LINES)
    (inside / "link").symlink_to(outside)
    with pytest.raises(ValueError, match="found none"):
        import_logs(inside)


@pytest.mark.parametrize("case", ["cut parquet", "a line that is no JSON", "steps without end", "negative rates"])
def test_the_command_says_it_in_one_line_and_writes_nothing(case, tmp_path, capsys):
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content(tmp_path))
    assert run(["import", str(tmp_path / name), "-o", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(message, err)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_command_never_overwrites(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "runs").mkdir()
    assert run(["import", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "runs")]) == 2
    assert "expected a folder that does not exist yet" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []
