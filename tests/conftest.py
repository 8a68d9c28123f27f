"""Shared fixtures: JAX strictness, and the independent numbers kept outside the repository."""

import os
from pathlib import Path

import jax
import pytest

from fmjax import _devices

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(os.environ.get("FMJAX_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Drops compiled programs after each file.

    XLA maps pages of memory for every program, and Linux allows a process 65 530 maps: a process that keeps the
    thousands of programs of all tests dies of a segmentation fault near the end.
    """
    yield
    jax.clear_caches()
    _devices._compiled.clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real curves and golden numbers; tests that need it skip where it is absent."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no golden numbers at {SHARED}")
    return SHARED


@pytest.fixture
def x64():
    """Runs a test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def command_line(capsys, monkeypatch):
    """Runs a command line: (exit code, stdout, stderr)."""
    from fmjax.cli.commands import run  # the other tests do without what it needs

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "unchanged")

    def call(*arguments):
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call
