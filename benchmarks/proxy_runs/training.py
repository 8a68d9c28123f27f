"""Updates of the parameters, and the validation loss, of several runs at once.

What runs of one shape (model, batch, optimiser) have of their own is stacked along a leading axis, ``[lanes]``.
"""

from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from benchmarks.proxy_runs import model, moe
from benchmarks.proxy_runs.config import ModelConfig, Setup

VALIDATION_BATCH = 64


def architecture(config: ModelConfig) -> ModuleType:
    """The file that has the model: ``model``, or ``moe`` where there are experts."""
    return moe if config.experts else model


class State(NamedTuple):
    """What training goes on from: parameters and the optimiser's state."""

    params: model.Params
    moments: Any

    @classmethod
    def initial(cls, setup: Setup) -> "State":
        """The state before the first update."""
        params = architecture(setup.model).init(setup.model, setup.seed)
        return cls(params, _optimizer(setup, 0.0).init(params))


def _optimizer(setup: Setup, lr: Any) -> optax.GradientTransformation:
    adamw = optax.adamw(lr, setup.b1, setup.b2, weight_decay=setup.weight_decay, mask=_are_matrices)
    return optax.chain(optax.clip_by_global_norm(setup.clip_norm), adamw)


def _are_matrices(params: model.Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


@partial(jax.jit, static_argnames="setup", donate_argnames="states")
def advance(states: State, tokens: jax.Array, rates: jax.Array, updates: Any, setup: Setup) -> State:
    """The states after some more updates.

    Args:
      states: one state per lane.
      tokens: sequences of every update, ``[lanes, most, batch, context + 1]``.
      rates: learning rate of every update, ``[lanes, most]``. The rates are data, not a part of the optimiser, so that
        one program serves all schedules: runs that share their first updates share them to the last bit.
      updates: how many to make, at most as many as there are data.
      setup: the lanes' setup; its seed is not used.
    """

    def step(i: Any, states: State) -> State:
        return jax.vmap(partial(_update, setup))(states, tokens[:, i], rates[:, i])

    return jax.lax.fori_loop(0, updates, step, states)


def _update(setup: Setup, state: State, tokens: jax.Array, rate: jax.Array) -> State:
    gradients = jax.grad(architecture(setup.model).objective)(state.params, tokens, setup.model)
    changes, moments = _optimizer(setup, rate).update(gradients, state.moments, state.params)
    return State(optax.apply_updates(state.params, changes), moments)


def validation_losses(params: model.Params, sequences: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Mean loss over the sequences of a validation set, ``[lanes]``."""
    batches = np.split(sequences, range(VALIDATION_BATCH, len(sequences), VALIDATION_BATCH))
    losses = [np.asarray(_losses(params, batch, config), np.float64) for batch in batches]
    return np.average(losses, axis=0, weights=[len(batch) for batch in batches])


@partial(jax.jit, static_argnames="config")
def _losses(params: model.Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    return jax.vmap(lambda one: architecture(config).loss(one, tokens, config))(params)
