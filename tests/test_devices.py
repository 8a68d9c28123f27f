"""The pool of threads: their precision, and who waits for a program that is compiled."""

import threading

import jax
import jax.numpy as jnp
import pytest

from fmjax import _devices
from fmjax._devices import Pool


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(_devices, "threads", lambda: 2)
    monkeypatch.setattr(_devices, "_compiled", set())


def test_a_single_cpu_device_has_a_thread_for_each_core():
    if jax.local_devices()[0].platform == "cpu" and jax.local_device_count() == 1:
        assert _devices.threads() == _devices.cores()


@pytest.mark.parametrize("x64", [True, False])
def test_threads_compute_in_the_precision_of_the_pool(x64):
    with Pool(x64=x64) as pool:
        assert pool.submit(lambda: jnp.ones(1).dtype).result() == (jnp.float64 if x64 else jnp.float32)


def test_those_who_waited_for_a_program_run_side_by_side(two_threads):
    first_may_end, together, ran_alone = threading.Event(), threading.Barrier(2, timeout=20), []

    def first():
        ran_alone.append("first")
        first_may_end.wait(20)

    with Pool(x64=False) as pool:
        begun = pool.submit(first, program="new")
        waiting = [pool.submit(together.wait, program="new") for _ in range(2)]
        first_may_end.set()
        begun.result()
        assert sorted(call.result() for call in waiting) == [0, 1]  # both passed the barrier: neither held the lock
    assert ran_alone == ["first"]


def test_a_first_call_that_fails_leaves_the_program_to_the_next(two_threads):
    with Pool(x64=False) as pool:
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0, program="new").result()
        assert pool.submit(lambda: "done", program="new").result() == "done"
