"""A transformer whose blocks end in a mixture of experts: a token uses the two experts that its router scores highest.

Every expert computes every token, and what a token does not use is multiplied by zero. So no token is ever dropped, and
no shape depends on the data.
"""

import jax
import jax.numpy as jnp

from benchmarks.proxy_runs import model
from benchmarks.proxy_runs.config import ModelConfig
from benchmarks.proxy_runs.model import Params

USED = 2
"""Experts that a token uses."""

BALANCING = 0.01
"""Weight of the load-balancing loss in what training minimises."""


def init(config: ModelConfig, seed: int) -> Params:
    """Initial parameters; an expert's layer is half as wide as that of a dense model, so that two have its size."""
    params = model.init(config, seed)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), config.depth)
    blocks = [block | _init_experts(config, key) for block, key in zip(params["blocks"], keys, strict=True)]
    return {**params, "blocks": blocks}


def _init_experts(config: ModelConfig, key: jax.Array) -> Params:
    width, hidden, out = config.width, 4 * config.width // USED, (2 * config.depth) ** -0.5
    router, up, down = jax.random.split(key, 3)
    return {
        "router": width**-0.5 * jax.random.normal(router, (width, config.experts)),
        "up": width**-0.5 * jax.random.normal(up, (width, config.experts * hidden)),
        "down": out * hidden**-0.5 * jax.random.normal(down, (config.experts * hidden, width)),
    }


def size(params: Params) -> int:
    """Number of parameters that a token uses, without embeddings."""
    idle = sum(block[name].size for block in params["blocks"] for name in ("up", "down"))
    experts = params["blocks"][0]["router"].shape[1]
    return model.size(params) - idle + idle * USED // experts


def loss(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Mean cross entropy of the next byte, in nats; ``tokens`` is ``[batch, context + 1]``."""
    return _losses(params, tokens, config)[0]


def objective(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """What training minimises: the cross entropy, and a share of the mean load-balancing loss of the blocks."""
    entropy, balance = _losses(params, tokens, config)
    return entropy + BALANCING * balance


def _losses(params: Params, tokens: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    tokens = tokens.astype(jnp.int32)
    x, balance = params["embedding"][tokens[:, :-1]], []
    for block in params["blocks"]:
        x = x + model.attention(block, model.rms_norm(x, block["attention_norm"]), config.heads)
        mixed, loads = experts(block, model.rms_norm(x, block["mlp_norm"]))
        x = x + mixed
        balance.append(loads)
    return model.cross_entropy(params, x, tokens[:, 1:]), jnp.mean(jnp.stack(balance))


def experts(block: Params, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the experts make of ``x[batch, context, width]``, and the load-balancing loss."""
    scores = x @ block["router"]
    shares = gates(scores)
    hidden = jnp.square(jax.nn.relu(x @ block["up"])).reshape(*shares.shape, -1) * shares[..., None]
    return hidden.reshape(*x.shape[:-1], -1) @ block["down"], load_balancing(scores, shares)


def gates(scores: jax.Array) -> jax.Array:
    """Share of each expert in each token, ``[..., experts]``: a softmax over the best two scores, else 0."""
    best, which = jax.lax.top_k(scores, USED)
    chosen = jax.nn.one_hot(which, scores.shape[-1], dtype=scores.dtype)
    return jnp.sum(chosen * jax.nn.softmax(best)[..., None], axis=-2)


def load_balancing(scores: jax.Array, shares: jax.Array) -> jax.Array:
    r"""$E \sum_e f_e p_e$: experts' shares of what is used, times their mean probabilities; 1 if either is uniform.

    Reference: Fedus, Zoph & Shazeer, arXiv 2101.03961, eq. 4.
    """
    axes = tuple(range(scores.ndim - 1))
    used = jnp.mean(shares > 0, axis=axes, dtype=scores.dtype) / USED
    return scores.shape[-1] * jnp.sum(used * jnp.mean(jax.nn.softmax(scores), axis=axes))
