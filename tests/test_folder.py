"""The folder of a search: resumed to the byte, other searches and damage, full disks, tables, and kills."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from test_sweep import synthetic_fit

from fmjax import search
from fmjax.schedules.anneals import DECAYS
from fmjax.searching import kernels
from fmjax.searching.kernels import Kernel, Layout
from fmjax.searching.parts import Reduced
from fmjax.searching.parts_folder import Folder
from fmjax.searching.results import COLUMNS, TOP

FIT = synthetic_fit("forward-only")
GRID = {
    "total_steps": (60, 70, 80),
    "peak_lr": (1e-3, 2e-3, 3e-3),
    "final_lr": (1e-5, 1e-4),
    "anneal_ratio": (0.1, 0.5, 0.9),
    "decay": ("linear", "1-sqrt"),
    "warmup_steps": 7,
}
PARTS, CANDIDATES = 18, 108


@pytest.fixture(autouse=True)
def several_parts(monkeypatch):
    """Two cells a part, and two ratios a call."""
    monkeypatch.setattr(kernels.Layout, "of", lambda *_, **__: Layout(2, 2, 2))


@pytest.fixture
def computed(monkeypatch):
    """Numbers of the parts whose losses are computed."""
    numbers, call = [], Kernel.call

    def counted(kernel, part, ratios):
        numbers.append(part.number)
        return call(kernel, part, ratios)

    monkeypatch.setattr(Kernel, "call", counted)
    return numbers


def contents(folder):
    """Bytes of every file, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def part_of(folder, number):
    return folder / "parts" / f"{number:08d}.npz"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What was found without a folder, and the bytes of a folder and of one with a table, none interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.Layout, "of", lambda *_, **__: Layout(2, 2, 2))
        plain, folder = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("table")
        search(FIT, **GRID, folder=plain)
        search(FIT, **GRID, folder=folder, table=True)
        return search(FIT, **GRID, keep_losses=True), contents(plain), contents(folder)


def assert_same(found, expected):
    assert list(found.cells) == list(expected.cells)
    assert found.top == expected.top
    np.testing.assert_array_equal(found.anneal_ratio, expected.anneal_ratio)


def interrupt_after(parts):
    count = itertools.count(1)

    def progress(done, total):
        if next(count) == parts:
            raise KeyboardInterrupt

    return progress


def interrupted(folder, parts, **options):
    with pytest.raises(KeyboardInterrupt):
        search(FIT, **GRID, folder=folder, progress=interrupt_after(parts), **options)


# ------------------------------------------------------------------------------------------------ resumed


def test_a_search_with_a_folder_is_one_without(finished, tmp_path):
    expected, plain, _ = finished
    assert_same(search(FIT, **GRID, folder=tmp_path / "new" / "folder"), expected)
    assert contents(tmp_path / "new" / "folder") == plain
    assert sorted(plain) == [*(f"parts/{number:08d}.npz" for number in range(PARTS)), "search.json"]


@pytest.mark.parametrize("table", [False, True], ids=["parts", "table"])
@pytest.mark.parametrize("parts", [1, 11, PARTS])
def test_an_interrupted_search_goes_on_to_the_same_bytes(parts, table, finished, tmp_path, computed):
    interrupted(tmp_path, parts, table=table)
    assert len(list((tmp_path / "parts").iterdir())) == parts
    computed.clear()
    seen = []
    found = search(FIT, **GRID, folder=tmp_path, table=table, progress=lambda *at: seen.append(at))
    assert sorted(set(computed)) == list(range(parts, PARTS))
    assert len(computed) == 2 * (PARTS - parts)
    assert seen == [(6 * (number + 1), CANDIDATES) for number in range(PARTS)]
    assert_same(found, finished[0])
    assert contents(tmp_path) == finished[2 if table else 1]


def test_a_search_interrupted_again_and_again(finished, tmp_path, computed):
    for parts in (2, 3, 9, 17):
        interrupted(tmp_path, parts)
    search(FIT, **GRID, folder=tmp_path)
    assert contents(tmp_path) == finished[1]


def test_a_finished_search_computes_nothing(finished, tmp_path, computed):
    search(FIT, **GRID, folder=tmp_path)
    computed.clear()
    assert_same(search(FIT, **GRID, folder=tmp_path), finished[0])
    assert computed == []


def test_a_search_that_ended_before_its_first_part(finished, tmp_path):
    (tmp_path / "search.json").write_bytes(finished[1]["search.json"])
    assert_same(search(FIT, **GRID, folder=tmp_path), finished[0])
    assert contents(tmp_path) == finished[1]


def test_intervals_are_stored(tmp_path):
    options = GRID | {"samples": FIT.vector * np.random.default_rng(0).uniform(0.9, 1.1, (9, 3)), "decay": "linear"}
    with pytest.raises(KeyboardInterrupt):
        search(FIT, **options, folder=tmp_path, progress=interrupt_after(5))
    resumed, plain = search(FIT, **options, folder=tmp_path), search(FIT, **options)
    assert_same(resumed, plain)
    assert all(cell.loss_interval[0] < cell.loss < cell.loss_interval[1] for cell in resumed.cells)


# ------------------------------------------------------------------------------------------------ other searches


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with some finished parts."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels.Layout, "of", lambda *_, **__: Layout(2, 2, 2))
        interrupted(folder, 3)
    return folder


OTHERS = {
    "params": (synthetic_fit("forward-only", rho=None), {"samples": FIT.vector[None]}, "vectors"),
    "options": (synthetic_fit("forward-only", rho=0.5), {}, "options"),
    "law": (synthetic_fit("chinchilla"), {}, "law, options"),
    "law-of-other-parameters": (synthetic_fit("lr-annealing"), {}, "law, options, params, vectors"),
    "grid": (FIT, {"anneal_ratio": (0.1, 0.5, 0.8)}, "grid"),
    "grid-order": (FIT, {"peak_lr": (1e-3, 3e-3, 2e-3)}, "grid"),
    "warmup": (FIT, {"warmup_steps": 8}, "grid"),
    "size": (FIT, {"model_size": 1e6}, "grid"),
    "dtype": (FIT, {"dtype": "float32"}, "dtype"),
    "top": (FIT, {"top": 9}, "top"),
    "table": (FIT, {"table": True}, "table"),
}


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(("fit", "changes", "named"), OTHERS.values(), ids=OTHERS.keys())
def test_a_folder_of_another_search_is_refused_and_untouched(fit, changes, named, begun):
    before, times = contents(begun), stamps(begun)
    with pytest.raises(ValueError, match="belongs to another search, with other ") as refused:
        search(fit, **(GRID | changes), folder=begun)
    names = str(refused.value).rpartition("with other ")[2]
    assert set(named.split(", ")) <= set(names.split(", "))
    assert str(begun) in str(refused.value)
    assert (contents(begun), stamps(begun)) == (before, times)


def test_what_differs_is_named_alone(begun):
    with pytest.raises(ValueError, match=r"with other top$"):
        search(FIT, **GRID, folder=begun, top=9)


def test_another_layout_is_another_search(begun, monkeypatch):
    monkeypatch.setattr(kernels.Layout, "of", lambda *_, **__: Layout(3, 2, 2))
    with pytest.raises(ValueError, match=r"with other layout$"):
        search(FIT, **GRID, folder=begun)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1, 2]", b'{"format": 0}', b"\xff\xfe"], ids=["empty", "cut", "list", "old", "binary"]
)
def test_a_record_that_is_none_is_refused(text, tmp_path):
    (tmp_path / "search.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"not the record of a search|belongs to another search") as refused:
        search(FIT, **GRID, folder=tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert contents(tmp_path) == {"search.json": text}


def test_a_folder_of_strange_files_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("unsaved")
    with pytest.raises(
        ValueError, match=r"expected an empty folder or one of a search, found .*thesis\.tex"
    ) as refused:
        search(FIT, **GRID, folder=tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert contents(tmp_path) == {"thesis.tex": b"unsaved"}


def test_strange_files_in_the_folder_of_the_search_stay(finished, tmp_path):
    (tmp_path / ".hidden").write_text("mine")
    interrupted(tmp_path, 2)
    strange = {"notes.txt": b"mine", "parts/00000009.npz.bak": b"mine", "parts/.4194305.00000003.npz": b"half"}
    for name, text in strange.items():
        (tmp_path / name).write_bytes(text)
    assert_same(search(FIT, **GRID, folder=tmp_path), finished[0])
    assert contents(tmp_path) == finished[1] | strange | {".hidden": b"mine"}


# ------------------------------------------------------------------------------------------------ damage

DAMAGE = {
    "gone": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one-byte-short": lambda data: data[:-1],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"not a part at all",
    "flipped": lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:],
}


@pytest.mark.parametrize("table", [False, True], ids=["parts", "table"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_part_is_computed_anew(damage, table, finished, tmp_path, computed):
    search(FIT, **GRID, folder=tmp_path, table=table)
    for number in (0, 12):
        data = damage(part_of(tmp_path, number).read_bytes())
        part_of(tmp_path, number).unlink()
        if data is not None:
            part_of(tmp_path, number).write_bytes(data)
    computed.clear()
    assert_same(search(FIT, **GRID, folder=tmp_path, table=table), finished[0])
    assert sorted(set(computed)) == [0, 12]
    assert contents(tmp_path) == finished[2 if table else 1]


def test_a_part_without_its_rows_of_the_table_is_computed_anew(finished, tmp_path, computed):
    search(FIT, **GRID, folder=tmp_path, table=True)
    (tmp_path / "table" / "00000005.parquet").unlink()
    computed.clear()
    search(FIT, **GRID, folder=tmp_path, table=True)
    assert set(computed) == {5}
    assert contents(tmp_path) == finished[2]


def test_any_flipped_byte_is_noticed_or_harmless(begun, tmp_path):
    """Every byte of a part inverted in turn: what loads is what was stored."""
    data, folder = part_of(begun, 1).read_bytes(), Folder(tmp_path, False)
    part_of(tmp_path, 1).parent.mkdir()
    part_of(tmp_path, 1).write_bytes(data)
    stored = folder.load(1)
    assert isinstance(stored, Reduced)
    assert (stored.columns.dtype, stored.top.dtype) == (COLUMNS, TOP)
    noticed = 0
    for i in range(len(data)):
        part_of(tmp_path, 1).write_bytes(data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :])
        found = folder.load(1)
        noticed += found is None
        if found is not None:
            for name, ours, theirs in zip(Reduced._fields, found, stored, strict=True):
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}, byte {i}")
    assert noticed > len(data) / 2


# ------------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize("calls", [0, 1, 2, 9, 20], ids=["record", "first-rows", "first-part", "rows", "part"])
def test_a_full_disk_is_named_and_leaves_what_is_finished(calls, finished, tmp_path, monkeypatch, computed):
    replace, count = os.replace, itertools.count()

    def full(source, target):
        if next(count) == calls:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ValueError, match="cannot be written: No space left on device") as refused:
            search(FIT, **GRID, folder=tmp_path, table=True)
    assert str(tmp_path) in str(refused.value)
    left = contents(tmp_path)
    assert left.items() <= finished[2].items()
    done = len(list((tmp_path / "parts").iterdir())) if calls else 0
    assert done == max(0, calls - 1) // 2
    computed.clear()
    assert_same(search(FIT, **GRID, folder=tmp_path, table=True), finished[0])
    assert sorted(set(computed)) == list(range(done, PARTS))
    assert contents(tmp_path) == finished[2]


def test_a_disk_that_fills_while_a_file_is_written(finished, tmp_path, monkeypatch):
    interrupted(tmp_path, 4)
    savez = np.savez

    def full(stream, **arrays):
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match="No space left on device"):
        search(FIT, **GRID, folder=tmp_path)
    assert contents(tmp_path).items() <= finished[1].items()
    monkeypatch.setattr(np, "savez", savez)
    search(FIT, **GRID, folder=tmp_path)
    assert contents(tmp_path) == finished[1]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot be written: ") as refused:
            search(FIT, **GRID, folder=folder)
        assert str(folder) in str(refused.value)
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_read_only_folder(tmp_path, monkeypatch):
    """As root ignores permissions, the file system refuses."""
    opened = Path.open

    def read_only(path, mode="r", *args, **options):
        if "w" in mode:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, mode, *args, **options)

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: read_only(path, "w"))
    with pytest.raises(ValueError, match="cannot be written: Read-only file system") as refused:
        search(FIT, **GRID, folder=tmp_path)
    assert str(tmp_path) in str(refused.value)
    assert contents(tmp_path) == {}


# ------------------------------------------------------------------------------------------------ tables


def test_the_table_has_every_candidate_once(finished, tmp_path):
    found, _, files = finished
    for name in (name for name in files if name.startswith("table/")):
        (tmp_path / name.removeprefix("table/")).write_bytes(files[name])
    table = parquet.read_table(tmp_path)
    assert table.column_names == ["total_steps", "peak_lr", "decay", "final_lr", "anneal_ratio", "loss"]
    assert table.num_rows == CANDIDATES
    rows = {tuple(row.values())[:-1]: row["loss"] for row in table.to_pylist()}
    assert len(rows) == CANDIDATES
    expected = {
        (*cell[:4], ratio): loss
        for cell, losses in zip(found.cells, found.losses, strict=True)
        for ratio, loss in zip(found.anneal_ratio, losses, strict=True)
    }
    assert rows == expected
    assert {key[2] for key in rows} == {"linear", "1-sqrt"} < set(DECAYS)


def test_each_part_has_its_rows(finished, tmp_path):
    files = finished[2]
    for number in range(PARTS):
        path = tmp_path / f"{number}.parquet"
        path.write_bytes(files[f"table/{number:08d}.parquet"])
        assert parquet.read_table(path).num_rows == 6
    record = json.loads(files["search.json"])
    assert (record["law"], record["table"], record["layout"]["rows"]) == ("forward-only", True, 2)


def test_a_table_needs_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="writing a table needs pyarrow"):
        search(FIT, **GRID, folder=tmp_path / "new", table=True)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------ kills

VICTIM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_folder
from test_folder import *
kernels.Layout.of = lambda *_, **__: Layout(2, 2, 2)
search(FIT, **GRID, folder=sys.argv[2], table=True, progress=lambda *_: time.sleep(0.01))
print("finished", flush=True)
"""


def killed(folder, parts, delay, cache):
    """Runs the search in another process and kills it a moment after it has ``parts`` parts; returns how many."""
    command = [sys.executable, "-c", VICTIM, os.path.dirname(__file__), str(folder)]
    env = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as victim:
        until = time.monotonic() + 60
        while victim.poll() is None and len(list(folder.glob("parts/0*.npz"))) < parts:
            assert time.monotonic() < until
            time.sleep(0.001)
        time.sleep(delay)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    assert victim.returncode in (0, -signal.SIGKILL)
    return victim.returncode


@pytest.mark.slow
@pytest.mark.parametrize("kills", [5])
def test_a_search_killed_at_random_moments_ends_with_the_same_bytes(kills, finished, tmp_path):
    random, folder = np.random.default_rng(kills), tmp_path / "folder"
    wanted = np.sort(random.choice(np.arange(PARTS - 2), kills, replace=False))
    codes = [killed(folder, parts, random.uniform(0, 0.03), tmp_path / "cache") for parts in wanted]
    assert -signal.SIGKILL in codes
    assert_same(search(FIT, **GRID, folder=folder, table=True), finished[0])
    leftovers = {name for name in contents(folder) if Path(name).name.startswith(".")}  # of writes cut short
    assert {name: data for name, data in contents(folder).items() if name not in leftovers} == finished[2]
