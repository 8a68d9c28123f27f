"""Shares of a search: in any order, killed and repeated, merged to the bytes of one search; faults in a line."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from test_folder import FIT, GRID, PARTS, assert_same, contents, finished, several_parts  # noqa: F401 fixtures

import fmjax
from fmjax import search
from fmjax.cli.commands import run
from fmjax.searching import shares
from fmjax.searching.grid import Grid
from fmjax.searching.parts_folder import ranges
from fmjax.searching.shares import Share, search_share


def compute(folder, text, **options):
    return search_share(FIT, Share.parse(text), **(GRID | options), folder=folder)


def test_shares_in_any_order_merge_to_one_search(finished, tmp_path):  # noqa: F811
    told = []
    for number in (4, 1, 5, 3):
        done = compute(tmp_path, f"{number}/5")
    assert (done.parts, done.computed, done.missing, done.parts_of_search) == (4, 4, 4, PARTS)
    assert_same(search(FIT, **GRID, folder=tmp_path, notice=told.append), finished[0])
    assert told == [
        f"{tmp_path}: 4 of 18 parts (1, 6, 11, 16) are missing or damaged, and computed now",
    ]
    assert contents(tmp_path) == finished[1]
    told.clear()
    assert_same(search(FIT, **GRID, folder=tmp_path, notice=told.append), finished[0])
    assert (told, compute(tmp_path, "2/5").computed) == ([], 0)


@pytest.mark.parametrize("of", [1, 4, PARTS, PARTS + 3])
def test_every_part_belongs_to_one_share(of):
    parts = [number for i in range(of) for number in Share(i + 1, of).parts(PARTS)]
    assert sorted(parts) == list(range(PARTS))


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 100])
def test_parts_by_number_cover_the_grid(rows):
    axes = {
        "total_steps": (60, 70),
        "peak_lr": (1e-3, 2e-3, 3e-3),
        "final_lr": (0.1, 0.2),
        "decay": ("linear", "1-sqrt"),
    }
    grid = Grid.of(**axes, anneal_ratio=0.5, warmup_steps=0, init_lr=0.0, final_is_share=True)
    parts = list(grid.parts(rows))
    assert [part.number for part in parts] == list(range(grid.count_parts(rows)))
    assert [part.cells.size for part in parts] == [grid.count_rows(part.number, rows) for part in parts]
    assert sorted(np.concatenate([part.cells for part in parts])) == list(range(grid.cells))
    for part in parts:
        rates = zip(part.cells, part.peak_lr, part.final_lr, strict=True)
        assert all(grid.cell(cell) == (part.total_steps, peak, part.decay, final) for cell, peak, final in rates)


VICTIM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_folder import FIT, GRID, Layout, kernels
from fmjax.searching.shares import Share, search_share
kernels.Layout.of = lambda *_, **__: Layout(2, 2, 2)
search_share(FIT, Share(2, 5), **GRID, folder=sys.argv[2], progress=lambda *_: time.sleep(60))
"""


def test_a_killed_share_is_repeated_and_refused_while_it_runs(finished, tmp_path):  # noqa: F811
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, os.path.dirname(__file__), str(tmp_path)])
    while victim.poll() is None and not (tmp_path / "parts" / "00000001.npz").exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"^{tmp_path}: another process is at work on share 2/5$"):
        compute(tmp_path, "2/5")
    for number in (1, 3, 4, 5):  # other shares are not held up
        compute(tmp_path, f"{number}/5")
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    done = compute(tmp_path, "2/5")
    assert (done.computed, done.missing) == (3, 0)
    assert contents(tmp_path) == finished[1]


def test_where_there_are_no_locks_two_processes_share_a_share(finished, tmp_path, monkeypatch):  # noqa: F811
    def unsupported(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(shares.fcntl, "flock", unsupported)
    inner = []
    compute(tmp_path, "1/1", progress=lambda done, total: inner or inner.append(compute(tmp_path, "1/1")))
    assert inner[0].computed == PARTS - 1
    assert contents(tmp_path) == finished[1]


def test_another_version_of_fmjax_is_refused(tmp_path, monkeypatch):
    compute(tmp_path, "1/5")
    monkeypatch.setattr("fmjax.searching.sweeps.__version__", "0.0.1")
    with pytest.raises(ValueError, match="belongs to another search, with other fmjax"):
        compute(tmp_path, "2/5")


def test_a_part_of_another_shape_is_computed_anew(finished, tmp_path):  # noqa: F811
    compute(tmp_path, "1/1")
    parts = tmp_path / "parts"
    with np.load(parts / "00000003.npz") as stored:
        arrays = dict(stored)
    np.savez(parts / "00000003.npz", **(arrays | {"columns": arrays["columns"][:1]}))
    (parts / "00000004.npz").write_bytes((parts / "00000004.npz").read_bytes()[:-40])
    told = []
    assert_same(search(FIT, **GRID, folder=tmp_path, notice=told.append), finished[0])
    assert "2 of 18 parts (3 ... 4) are missing or damaged" in told[0]
    assert contents(tmp_path) == finished[1]


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/0", "1", "a/b", "-1/5", "1/5/2", ""])
def test_shares_that_are_none(text):
    with pytest.raises(ValueError, match="share: expected I/N with I from 1 to N, got "):
        Share.parse(text)


def test_runs_of_parts_in_words():
    assert ranges([]) == "none"
    assert ranges([3, 4, 5, 9]) == "3 ... 5, 9"
    assert ranges(range(0, 20, 2)) == "0, 2, 4, 6 and others"


# ------------------------------------------------------------------------------------------------ command line


LINE = ("--total-steps", "300,400", "--peak-lr", "1e-4:1e-2:9", "--anneal-ratio", "0.1:0.9:5", "--json")


@pytest.fixture(scope="module")
def fit_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("shares") / "fit.json"
    path.write_text(fmjax.fit(fmjax.LRAnnealing(decay=0.99), fmjax.datasets.demo_runs()).to_json())
    return path


def test_shares_from_the_command_line(fit_file, tmp_path, command_line):
    verb = ("search", fit_file, *LINE)
    _, expected, _ = command_line(*verb)
    code, out, error = command_line(*verb, "--share", "2/2", "--folder", tmp_path / "found")
    done = json.loads(out)
    assert (code, error) == (0, "")
    assert (done["share"], done["parts_of_search"]) == ("2/2", done["parts"] + done["missing"])
    code, out, error = command_line(*verb, "--folder", tmp_path / "found")
    assert (code, out) == (0, expected)
    assert error.startswith(f"fmjax: {tmp_path / 'found'}: ")
    assert error.endswith("are missing or damaged, and computed now\n")


REFUSED = {
    "no-folder": (("--share", "1/2"), "--share: needs --folder"),
    "none": (("--share", "3/2", "--folder", "f"), "expected I/N with I from 1 to N, got '3/2'"),
    "plot": (("--share", "1/2", "--folder", "f", "--plot", "a.png"), "--share: has nothing to draw"),
}


@pytest.mark.parametrize(("options", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_do_not_go_together(options, said, fit_file, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["search", str(fit_file), *LINE, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []
