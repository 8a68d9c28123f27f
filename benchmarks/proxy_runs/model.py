"""A decoder-only transformer over bytes: pre-norm, rotary positions, squared ReLU, tied embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.proxy_runs.config import ModelConfig

VOCABULARY = 256
Params = dict[str, Any]


def init(config: ModelConfig, seed: int) -> Params:
    """Initial parameters: matrices normal with variance 1 / fan-in, those that end a branch scaled down by depth."""
    embedding_key, *keys = jax.random.split(jax.random.key(seed), 1 + config.depth)
    return {
        "embedding": 0.02 * jax.random.normal(embedding_key, (VOCABULARY, config.width)),
        "blocks": [_init_block(config, key) for key in keys],
        "norm": jnp.ones(config.width),
    }


def _init_block(config: ModelConfig, key: jax.Array) -> Params:
    width, out = config.width, (2 * config.depth) ** -0.5
    shapes = {"qkv": (width, 3 * width), "mix": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    scales = {"qkv": 1.0, "mix": out, "up": 1.0, "down": out}
    matrices = {
        name: scales[name] * shape[0] ** -0.5 * jax.random.normal(jax.random.fold_in(key, i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
    return {**matrices, "attention_norm": jnp.ones(width), "mlp_norm": jnp.ones(width)}


def size(params: Params) -> int:
    """Number of parameters without embeddings."""
    return sum(leaf.size for leaf in jax.tree.leaves({**params, "embedding": ()}))


def loss(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    """Mean cross entropy of the next byte, in nats; ``tokens`` is ``[batch, context + 1]``."""
    tokens = tokens.astype(jnp.int32)
    x = params["embedding"][tokens[:, :-1]]
    for block in params["blocks"]:
        x = x + attention(block, rms_norm(x, block["attention_norm"]), config.heads)
        hidden = jax.nn.relu(rms_norm(x, block["mlp_norm"]) @ block["up"])
        x = x + jnp.square(hidden) @ block["down"]
    return cross_entropy(params, x, tokens[:, 1:])


objective = loss
"""What training minimises."""


def cross_entropy(params: Params, x: jax.Array, following: jax.Array) -> jax.Array:
    """Mean cross entropy of the bytes that follow, ``[batch, context]``, from the last block's output ``x``."""
    logits = rms_norm(x, params["norm"]) @ params["embedding"].T
    target = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0]
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)


def rms_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
    """Root-mean-square normalisation over the last axis."""
    return gain * x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def attention(block: Params, x: jax.Array, heads: int) -> jax.Array:
    """Causal self-attention, ``[batch, context, width]``."""
    batch, context, width = x.shape
    q, k, v = jnp.moveaxis((x @ block["qkv"]).reshape(batch, context, 3, heads, width // heads), 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", _rotate(q), _rotate(k)) * (width // heads) ** -0.5
    scores = jnp.where(jnp.tri(context, dtype=bool), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return mixed.reshape(batch, context, width) @ block["mix"]


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions: turns the pairs (x_i, x_{i + d/2}) of ``[batch, context, heads, d]`` by angles."""
    context, half = x.shape[1], x.shape[3] // 2
    angles = np.outer(np.arange(context), 10000.0 ** (-np.arange(half) / half))[:, None]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
