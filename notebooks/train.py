"""A training loop with fmjax in it: a small language model in Flax NNX that says while it trains where it will end.

Flax NNX because it is what most JAX training code is written in, MaxText among it; the lines marked ``fmjax`` are the
same with Equinox or Haiku, as they touch nothing but the Optax optimiser and the logged loss.

    pip install 'fmjax[cli]' flax
    python notebooks/train.py

trains a byte-level transformer on the source of Python's standard library, a minute on a laptop.
"""

import argparse
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import fmjax
from fmjax.effects.tracking import annealing_state
from fmjax.planning.forecasts import Forecast

CONTEXT, BATCH, WIDTH = 64, 16, 64


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each added to the residual stream."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs), nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x[..., 0])
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.down(jax.nn.gelu(self.up(self.norm2(x))))


class Model(nnx.Module):
    """A byte-level transformer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embedding, self.position = nnx.Embed(256, WIDTH, rngs=rngs), nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs), Block(rngs)])
        self.norm, self.head = nnx.RMSNorm(WIDTH, rngs=rngs), nnx.Linear(WIDTH, 256, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embedding(tokens) + self.position(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss_of(model: Model, tokens: jax.Array) -> jax.Array:
    """Mean cross entropy of the next byte."""
    tokens = tokens.astype(jnp.int32)
    return optax.softmax_cross_entropy_with_integer_labels(model(tokens[:, :-1]), tokens[:, 1:]).mean()


@nnx.jit
def train_step(model: Model, optimizer: nnx.Optimizer, tokens: jax.Array) -> None:
    """One update."""
    optimizer.update(model, nnx.grad(loss_of)(model, tokens))


def text() -> np.ndarray:
    """The source of the standard library, as bytes."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return np.frombuffer(b"".join(file.read_bytes() for file in files), np.uint8)


def windows(data: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Sequences from random places, ``[count, CONTEXT + 1]``."""
    starts = rng.integers(len(data) - CONTEXT, size=count)
    return data[starts[:, None] + np.arange(CONTEXT + 1)]


def main(total_steps: int, checkpoint: Path | None) -> None:
    """Trains, and prints what the tracker and the forecaster say."""
    schedule = fmjax.WSD(peak_lr=2.5e-3, total_steps=total_steps, anneal_ratio=0.2, warmup_steps=total_steps // 20)
    model = Model(nnx.Rngs(0))
    chain = optax.chain(optax.adamw(schedule), fmjax.track_annealing(schedule))  # fmjax: S and M in the state
    optimizer = nnx.Optimizer(model, chain, wrt=nnx.Param)

    earlier = fmjax.datasets.proxy_runs("0.1M-lr0.0025-T*")  # fmjax: what is known of runs like this one
    prior = fmjax.fit("intrinsic-momentum", earlier, starts=3)  # fmjax
    forecaster = fmjax.Forecaster(schedule, prior=prior)  # fmjax

    data, rng = text(), np.random.default_rng(0)
    held_out, data = data[: len(data) // 10], data[len(data) // 10 :]
    validation = windows(held_out, rng, 256)
    evaluate = nnx.jit(loss_of)
    for step in range(total_steps):
        train_step(model, optimizer, windows(data, rng, BATCH))
        if (step + 1) % (total_steps // 50) == 0:
            forecaster.log(step, float(evaluate(model, validation)))  # fmjax: a row of the curve
        if (step + 1) % (total_steps // 10) == 0:
            report(step, annealing_state(optimizer.opt_state), forecaster.forecast())
        if checkpoint and step + 1 == total_steps // 2:
            state = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}  # S and M are saved with the rest
            with ocp.StandardCheckpointer() as saver:
                saver.save(checkpoint.resolve(), state)


def report(step: int, tracked: fmjax.effects.TrackAnnealingState, found: Forecast) -> None:
    """Prints one line: where the run stands, where it will end, and what would be better."""
    S, M, lr = float(tracked.S), float(tracked.M), float(tracked.lr)
    low, high = found.planned.interval
    better = f", {found.best.name}: {found.best.excess:+.2%}" if found.best.excess < -1e-4 else ""
    end = f"ends at {found.planned.loss:.4f} ({low:.4f} ... {high:.4f})"
    print(f"{step + 1:5d}  lr {lr:.2e}  S {S:.3f}  M {M:6.3f}  {end}{better}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total-steps", type=int, default=1000)
    parser.add_argument("--checkpoint", type=Path, help="folder to save the state in, halfway")
    arguments = parser.parse_args()
    main(arguments.total_steps, arguments.checkpoint)
