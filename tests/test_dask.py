"""Searches on a Dask cluster of processes on this machine: the bytes of one process, whatever dies on the way."""

import contextlib
import errno
import itertools
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from test_folder import FIT, GRID, assert_same, contents, finished, several_parts  # noqa: F401 fixtures

import fmjax
from fmjax import _dask, search
from fmjax._dask import OnDask, Process
from fmjax.searching import sweeps
from fmjax.searching.parts import Sweep

VERSION = re.escape(fmjax.__version__)
dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed")


@contextlib.contextmanager
def cluster(workers=2, **options):
    """A client of a cluster of processes with one thread each."""
    local = {"host": "127.0.0.1", "dashboard_address": ":0", "memory_limit": 0}
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, **local, **options) as processes,
        distributed.Client(processes, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client():
    with cluster() as found:
        yield found


class Slow(Sweep):
    """A search that takes its time."""

    def results(self, numbers):
        for computed in super().results(numbers):
            time.sleep(0.05)
            yield computed


class Cubes(NamedTuple):
    """Work that needs no device: the cube of each number, after a while."""

    seconds: float = 0.0

    def results(self, numbers):
        for number in numbers:
            time.sleep(self.seconds)
            yield np.float64(number) ** 3


class Fails(NamedTuple):
    """Work whose parts fail from the third on."""

    how: str

    def results(self, numbers):
        for number in numbers:
            if number > 2 and self.how == "exit":
                os._exit(1)
            if number > 2:
                raise {"value": ValueError, "memory": MemoryError}[self.how]("what went wrong\nand more")
            yield number


def cubes(client, count, seconds=0.0):
    return dict(OnDask(client).results(Cubes(seconds), range(count)))


def pids(client):
    return list(client.run(os.getpid).values())


# ------------------------------------------------------------------------------------------------ the same bytes


def test_a_search_on_a_cluster_is_one_here(client, finished, tmp_path):  # noqa: F811
    expected, plain, with_table = finished
    found = search(FIT, **GRID, keep_losses=True, client=client)
    assert_same(found, expected)
    assert found.losses.tobytes() == expected.losses.tobytes()
    search(FIT, **GRID, folder=tmp_path / "plain", client=client)
    search(FIT, **GRID, folder=tmp_path / "table", table=True, client=client)
    assert (contents(tmp_path / "plain"), contents(tmp_path / "table")) == (plain, with_table)


@pytest.mark.slow
def test_intervals_and_progress(client):
    samples = {"samples": FIT.vector * np.random.default_rng(0).uniform(0.9, 1.1, (9, 3))}
    options, seen = GRID | samples | {"decay": "linear", "keep_losses": True}, []
    here, there = search(FIT, **options), search(FIT, **options, client=client, progress=lambda *at: seen.append(at))
    assert_same(there, here)
    assert there.sample_losses.tobytes() == here.sample_losses.tobytes()
    assert seen == [(6 * (number + 1), 54) for number in range(9)]


def test_every_part_comes_once_in_lots_that_grow(client):
    submitted, submit = [], client.map
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "map", lambda call, lots, **named: submitted.extend(lots) or submit(call, lots, **named))
        found = list(OnDask(client).results(Cubes(), range(3000)))
    assert sorted(found) == [(number, number**3) for number in range(3000)]
    sizes = list(map(len, submitted))
    assert sum(sizes) == 3000
    assert sizes[:2] == [1, 1]
    assert len(sizes) < 300
    assert max(sizes) > 100


def test_all_workers_are_given_lots_at_once(client):
    """Lots of a group that depends on itself go to the workers that have the work first, and the others wait long."""
    groups = client.cluster.scheduler.task_groups
    for _ in OnDask(client).results(Cubes(), range(9)):
        own = {name: [each.name for each in group.dependencies] for name, group in groups.items()}
        (lots,) = [name for name, needed in own.items() if needed]
        assert lots not in own[lots]


def test_lots_are_longer_where_many_workers_ask_for_them():
    assert _dask._lot_seconds(1) == _dask._lot_seconds(32) == _dask.LOT_SECONDS
    for workers in (64, 256, 1024):
        assert workers / (_dask._lot_seconds(workers) / _dask.LAST) <= 1 / _dask.TASK_SECONDS
    lots = _dask._Lots(range(10**6))
    lots.measured(1000, 10.0, 10)
    assert [len(lots.take(workers).numbers) for workers in (2, 64, 256)] == [200, 256, 1024]


def test_lots_in_flight_are_bounded(client, monkeypatch):
    most, fill = [], _dask._Flight.fill
    monkeypatch.setattr(_dask._Flight, "fill", lambda flight: [fill(flight), most.append(len(flight._lot_of))][0])
    assert len(cubes(client, 60, 0.01)) == 60
    assert max(most) == 2 * _dask.AHEAD


def test_lots_take_the_time_and_the_bytes_they_should():
    lots = _dask._Lots(range(10**6))
    assert [len(lots.take(4).numbers) for _ in range(3)] == [1, 1, 1]
    for parts in (1, 2, 4):
        lots.measured(parts, 0.01 * parts, 10)
        assert len(lots.take(4).numbers) == _dask.GROWTH * parts
    lots.measured(150, 1.5, 10)
    assert len(lots.take(4).numbers) == 200
    lots.measured(200, 2.0, 2 * _dask.LOT_BYTES)
    assert len(lots.take(4).numbers) == 100
    lots.measured(1, 60.0, 1)
    assert len(lots.take(4).numbers) == 1
    few = _dask._Lots(range(32))
    few.measured(4, 0.0, 1)
    assert [len(lot.numbers) for lot in iter(lambda: few.take(2), None)] == [8, 6, 4, 3, 2, 2, 2, 2, 2, 1]


def test_the_command_line(client, tmp_path, command_line):
    (tmp_path / "fit.json").write_text(FIT.to_json())
    line = ("search", tmp_path / "fit.json", "--total-steps", "60,70", "--peak-lr", "1e-3:1e-2:9", "--json")
    _, expected, _ = command_line(*line)
    assert command_line(*line, "--scheduler", client.scheduler.address) == (0, expected, "")


# ------------------------------------------------------------------------------------------------ what dies


def kill_now_and_then(client, kills, between, over):
    """Kills workers at random moments, with SIGKILL; those that a kill left are restarted by their nannies."""
    draw = random.Random(0)
    while kills and not over.wait(between * draw.uniform(0.5, 1.5)):
        with contextlib.suppress(OSError, ValueError, IndexError):
            workers = client.scheduler_info()["workers"]
            found = pids(client) if len(workers) else []
            os.kill(draw.choice(found), signal.SIGKILL)
            kills -= 1
    over.kills = kills


@contextlib.contextmanager
def killing(client, kills, between):
    over = threading.Event()
    thread = threading.Thread(target=kill_now_and_then, args=(client, kills, between, over))
    thread.start()
    try:
        yield over
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_parts_of_a_killed_worker_run_elsewhere(client):
    with killing(client, 3, 0.3) as over:
        found = cubes(client, 200, 0.02)
    assert over.kills == 0
    assert found == {number: number**3 for number in range(200)}


@pytest.mark.slow
def test_ten_kills_change_nothing(finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sweeps, "Sweep", Slow)
    monkeypatch.setattr(_dask, "LOT_SECONDS", 0.1)
    monkeypatch.setattr(_dask, "JOIN", 600)  # a machine that is busy with other tests starts workers late
    killed = 0
    with cluster(3) as client:
        while killed < 10:
            folder = tmp_path / str(killed)
            with killing(client, 2, 0.3) as over:
                assert_same(search(FIT, **GRID, folder=folder, table=True, client=client), finished[0])
            assert contents(folder) == finished[2]
            shutil.rmtree(folder)
            killed += 2 - over.kills


@pytest.mark.slow
def test_a_part_that_kills_its_workers_ends_in_a_line():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster(1) as client,
        pytest.raises(ValueError, match=r"^every worker that computed part \d+ died; its log has the reason"),
    ):
        list(OnDask(client).results(Fails("exit"), range(9)))


def test_a_killed_worker_in_mid_part(client):
    """The last worker to be at work dies; its nanny starts another, and the other worker goes on."""
    before, kill = set(pids(client)), after(1, lambda: os.kill(pids(client)[0], signal.SIGKILL))
    found = {}
    for number, cube in OnDask(client).results(Cubes(0.02), range(30)):
        found[number] = cube
        kill()
    assert found == {number: number**3 for number in range(30)}
    client.wait_for_workers(2, timeout=60)
    assert len(before - set(pids(client))) == 1


def test_a_scheduler_that_ends_is_a_line_and_its_parts_are_kept(finished, tmp_path):  # noqa: F811
    with cluster(1) as client:
        address = client.scheduler.address
        with pytest.raises(ValueError, match=rf"^scheduler {address} is gone: .*; parts that came back are in the "):
            search(FIT, **GRID, folder=tmp_path, client=client, progress=after(1, client.cluster.close))
    kept = contents(tmp_path)
    assert len(kept) > 1
    assert kept.items() <= finished[1].items()
    assert_same(search(FIT, **GRID, folder=tmp_path), finished[0])
    assert contents(tmp_path) == finished[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_folder_is_a_line(number, client, finished, tmp_path, command_line, monkeypatch):  # noqa: F811
    replace, count = os.replace, itertools.count()

    def refused(source, target):
        if next(count) == 3:
            raise OSError(number, os.strerror(number))
        replace(source, target)

    (tmp_path / "fit.json").write_text(FIT.to_json())
    line = ("search", tmp_path / "fit.json", "--total-steps", "60,70", "--peak-lr", "1e-3:1e-2:9", "--json")
    _, expected, _ = command_line(*line)
    folder = ("--folder", tmp_path / "found", "--scheduler", client.scheduler.address)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        code, out, error = command_line(*line, *folder)
    assert (code, out) == (2, "")
    assert error == f"fmjax: {tmp_path / 'found'}: cannot be written: {os.strerror(number)}\n"
    assert {name.rpartition("/")[2][0] for name in contents(tmp_path / "found")} <= {"0", "s"}  # nothing half-written
    assert command_line(*line, *folder)[:2] == (0, expected)


def start(*command):
    """A scheduler or a worker that finds this file, whose classes are sent to it."""
    paths = os.pathsep.join([os.path.dirname(__file__), os.getcwd(), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen([sys.executable, "-m", "dask", *command], env=env, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_lost_scheduler_is_a_line_and_the_folder_goes_on(finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sweeps, "Sweep", Slow)
    monkeypatch.setattr(_dask, "CONNECT", 30)  # it begins while we call
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-jupyter")
    address = f"tcp://127.0.0.1:{port}"
    worker = start("worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", tmp_path)
    try:
        is_gone = pytest.raises(ValueError, match=f"^scheduler {address} is gone: ")
        with _dask.dask_client(address) as client, is_gone as gone:
            search(FIT, **GRID, folder=tmp_path / "f", client=client, progress=after(3, scheduler.kill))
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert "\n" not in str(gone.value)
    kept = len(list((tmp_path / "f" / "parts").iterdir()))
    assert 3 <= kept < 18
    monkeypatch.undo()
    monkeypatch.setattr("fmjax.searching.kernels.Layout.of", lambda *_, **__: fmjax.searching.kernels.Layout(2, 2, 2))
    assert_same(search(FIT, **GRID, folder=tmp_path / "f"), finished[0])
    assert contents(tmp_path / "f") == finished[1]


def after(parts, call):
    """A progress callback that calls something once, after so many parts."""
    seen = []

    def progress(*at):
        seen.append(at)
        if len(seen) == parts:
            call()

    return progress


# ------------------------------------------------------------------------------------------------ one line each


def test_what_a_part_raises_is_a_line(client):
    with pytest.raises(ValueError, match=r"^what went wrong"):
        list(OnDask(client).results(Fails("value"), range(9)))
    with pytest.raises(ValueError, match=r"^a worker of tcp://\S+ failed: MemoryError: what went wrong$"):
        list(OnDask(client).results(Fails("memory"), range(9)))
    assert cubes(client, 3) == {0: 0, 1: 1, 2: 8}  # the cluster is as it was


def test_other_versions_are_refused(client, monkeypatch):
    monkeypatch.setattr(_dask, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=rf"^worker tcp://\S+ has fmjax {VERSION}, this process has 0\.0\.1; .*$"):
        search(FIT, **GRID, client=client)


def test_a_scheduler_with_another_version_is_refused(client, monkeypatch):
    monkeypatch.setattr(_dask, "_version_here", lambda: "0.0.1")
    with pytest.raises(ValueError, match=rf"^scheduler tcp://\S+ has fmjax 0\.0\.1, this process has {VERSION}$"):
        search(FIT, **GRID, client=client)


def test_a_scheduler_without_fmjax_is_refused(client, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'fmjax'\nand more")

    monkeypatch.setattr(_dask, "_version_here", missing)
    why = "ModuleNotFoundError: No module named 'fmjax'"
    with pytest.raises(ValueError, match=rf"^scheduler tcp://\S+ cannot read what is sent by fmjax {VERSION}: {why}$"):
        search(FIT, **GRID, client=client)


def test_a_worker_that_joins_late_is_asked_too(client):
    other = Process("0.0.1", "0", "0", "cpu")
    with pytest.raises(ValueError, match=rf"has fmjax {VERSION}, this process has 0\.0\.1"):
        client.submit(_dask._computed, [1], Cubes(), other).result()


def test_other_devices_are_refused():
    here = Process("1", "2", "3", "cpu")
    with pytest.raises(ValueError, match=r"^worker a:1 has platform gpu, the other workers run on cpu"):
        _dask._check_same(here._replace(platform="gpu"), here, "a:1")


def test_a_cluster_without_workers(monkeypatch):
    monkeypatch.setattr(_dask, "JOIN", 0.2)
    with cluster(0) as client, pytest.raises(ValueError, match=r"^scheduler tcp://\S+: no worker joined it in 0\.2 s$"):
        search(FIT, **GRID, client=client)


def test_nobody_at_the_address(tmp_path, command_line, monkeypatch):
    monkeypatch.setattr(_dask, "CONNECT", 1)
    (tmp_path / "fit.json").write_text(FIT.to_json())
    line = ("search", tmp_path / "fit.json", "--total-steps", "60", "--peak-lr", "1e-3", "--scheduler")
    for address in ("tcp://127.0.0.1:1", "tls://127.0.0.1:1", "nothing at all"):
        code, out, error = command_line(*line, address)
        assert (code, out) == (2, "")
        (said,) = error.splitlines()
        assert said.startswith(f"fmjax: scheduler {address}: cannot be reached: ")


def test_dask_is_an_extra(tmp_path, command_line, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    (tmp_path / "fit.json").write_text(FIT.to_json())
    line = ("search", tmp_path / "fit.json", "--total-steps", "60", "--peak-lr", "1e-3")
    assert command_line(*line)[0] == 0
    code, _, error = command_line(*line, "--scheduler", "tcp://127.0.0.1:1")
    assert (code, error) == (2, "fmjax: a Dask scheduler needs dask.distributed: pip install 'fmjax[dask]'\n")
