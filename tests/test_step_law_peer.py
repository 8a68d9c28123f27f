"""The published Step Law as a peer of the benchmark over rates and batches: its formula and its regret, by hand."""

import math

import numpy as np
import pytest

pytest.importorskip("benchmarks.size_and_batch", reason="benchmarks are not installed")

from benchmarks.size_and_batch import judged, step_law, step_law_regret
from fmjax import Cosine, LossCurve


def test_the_published_choice_has_the_exponents_and_units_of_the_paper():
    rate, batch = step_law(1e9, 1e11)
    assert math.log(rate) == pytest.approx(math.log(1.79) - 0.713 * math.log(1e9) + 0.307 * math.log(1e11))
    assert batch == pytest.approx(0.58 * 10 ** (11 * 0.571))  # tokens, about 540 sequences of 2048
    assert 500 < batch / 2048 < 600


def test_the_regret_is_that_of_the_run_nearest_in_log_rate_and_log_batch():
    rate, batch = step_law(2e8, 1e10)
    places = [(rate * 1.3, batch), (rate, batch * 1.2), (rate, batch / 1.4), (rate / 2, batch * 1.1)]
    losses = [2.50, 2.53, 2.48, 2.49]
    cell = [
        LossCurve(str(i), [999], [loss], Cosine(lr, 1000), tokens_per_step=size, final_loss=loss)
        for i, ((lr, size), loss) in enumerate(zip(places, losses, strict=True))
    ]
    assert step_law_regret(2e8, 1e10, cell) == pytest.approx(2.53 / 2.48 - 1)
    assert step_law_regret(2e8, 1e10, cell[:1]) == 0.0


def test_a_law_that_is_blind_to_the_rate_chooses_each_of_a_tie():
    measured = np.array([2.0, 2.2, 2.1])
    predicted = np.array([2.05, 2.05, 2.3])
    assert judged(predicted / measured - 1, measured)[1] == pytest.approx(0.05)
    assert math.isnan(judged(np.full(3, np.nan), measured)[1])
