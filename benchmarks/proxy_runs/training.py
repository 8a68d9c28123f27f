"""One update of the parameters, and the validation loss."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks.proxy_runs import model
from benchmarks.proxy_runs.config import ModelConfig, Setup

VALIDATION_BATCH = 64


class State(NamedTuple):
    """Everything that training goes on from: parameters, the optimiser's state and the number of updates made."""

    params: model.Params
    moments: Any
    updates: int

    @classmethod
    def initial(cls, setup: Setup) -> "State":
        """The state before the first update."""
        params = model.init(setup.model, setup.seed)
        return cls(params, _optimizer(setup, 0.0).init(params), 0)


def _optimizer(setup: Setup, lr: Any) -> optax.GradientTransformation:
    adamw = optax.adamw(lr, setup.b1, setup.b2, weight_decay=setup.weight_decay, mask=_are_matrices)
    return optax.chain(optax.clip_by_global_norm(setup.clip_norm), adamw)


def _are_matrices(params: model.Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def update(state: State, tokens: np.ndarray, lr: float, setup: Setup) -> State:
    """The state after one more update, at the rate ``lr``."""
    params, moments = _update(state.params, state.moments, tokens, lr, setup)
    return State(params, moments, state.updates + 1)


@partial(jax.jit, static_argnames="setup")
def _update(params: model.Params, moments: Any, tokens: jax.Array, lr: jax.Array, setup: Setup) -> tuple[Any, Any]:
    # the rate is an argument, not a part of the optimiser, so that one program serves all schedules: runs that share
    # their first updates share them to the last bit
    gradients = jax.grad(model.loss)(params, tokens, setup.model)
    changes, moments = _optimizer(setup, lr).update(gradients, moments, params)
    return optax.apply_updates(params, changes), moments


def validation_loss(params: model.Params, sequences: np.ndarray, config: ModelConfig) -> float:
    """Mean loss over the validation sequences."""
    batches = np.split(sequences, range(VALIDATION_BATCH, len(sequences), VALIDATION_BATCH))
    losses = [float(_loss(params, batch, config)) for batch in batches]
    return float(np.average(losses, weights=[len(batch) for batch in batches]))


@partial(jax.jit, static_argnames="config")
def _loss(params: model.Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    return model.loss(params, tokens, config)
