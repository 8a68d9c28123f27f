"""Many hosts: two processes on this machine find what one finds; when one fails, the other ends with an error."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import fmjax
from fmjax.cli.commands import run

SEARCH = """
import sys, time
import fmjax
from fmjax import FitResult, hosts, kernels
from fmjax.cli import commands

hosts.JOIN, hosts.SILENT = 8, 5
fit, port, process, trouble, *more = sys.argv[1:]
if trouble == "slow":
    call = kernels.Kernel.call
    kernels.Kernel.call = lambda *a: (print("working", flush=True), time.sleep(60), call(*a))[-1]
if trouble == "full":
    kernels.Kernel.call = lambda *a: (_ for _ in ()).throw(ValueError("runs: cannot be written: disk full"))
cluster = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", process]
sys.exit(commands.run(["search", fit, "--json", *(cluster if port != "none" else []), *more]))
"""
GRID = (
    "--total-steps",
    "300,400",
    "--peak-lr",
    "1e-4:1e-2:9",
    "--decay",
    "linear",
    "--anneal-ratio",
    "0.1:0.9:5",
)


def start(fit, port, process, trouble="none"):
    """A process of a search with four simulated devices."""
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SEARCH, str(fit), str(port), str(process), trouble, *GRID]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A file with a fit."""
    path = tmp_path_factory.mktemp("hosts") / "fit.json"
    path.write_text(fmjax.fit(fmjax.LRAnnealing(decay=0.99), fmjax.datasets.demo_runs()).to_json())
    return path


@pytest.fixture
def port():
    """A free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(fit, port):
    alone, *pair = [start(fit, *at) for at in (("none", 0), (port, 0), (port, 1))]
    (expected, _), *found = [process.communicate(timeout=120) for process in (alone, *pair)]
    assert json.loads(expected)["candidates"] == 90
    assert [out for out, _ in found] == [expected, expected]


@pytest.mark.slow
def test_a_process_that_never_comes_is_missed(fit, port):
    process = start(fit, port, 0)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "not all 2 processes joined 127.0.0.1" in error


@pytest.mark.slow
@pytest.mark.parametrize("dies", [0, 1], ids=["coordinator", "other"])
def test_a_killed_process_ends_the_other(fit, port, dies):
    pair = [start(fit, port, process, "slow") for process in (0, 1)]
    for process in pair:
        while "working" not in process.stdout.readline():
            pass
    pair[dies].send_signal(signal.SIGKILL)
    begun = time.monotonic()
    _, error = pair[1 - dies].communicate(timeout=60)
    assert pair[1 - dies].returncode not in (0, None)
    assert ("coordinat" if dies == 0 else "process 1 has been silent") in error  # JAX may notice process 0 first
    assert time.monotonic() - begun < 60
    pair[dies].communicate()


@pytest.mark.slow
def test_a_failed_process_tells_the_other_why(fit, port):
    pair = [start(fit, port, 0, "slow"), start(fit, port, 1, "full")]
    (_, waiting), (_, failing) = [process.communicate(timeout=90) for process in pair]
    assert "runs: cannot be written: disk full" in failing
    assert "process 0 stops: process 1 failed: runs: cannot be written: disk full" in waiting
    assert [process.returncode for process in pair] == [1, 2]


def test_half_a_description_is_refused(fit, capsys):
    assert run(["search", str(fit), "--coordinator", "a:1", *GRID]) == 2
    assert run(["search", str(fit), "--distributed", "--coordinator", "a:1", *GRID]) == 2
    found = capsys.readouterr().err.splitlines()
    assert "--coordinator: needs --distributed" in found[0]
    assert "give all of coordinator, processes and process, or none of them" in found[1]
